"""A generator as a program without SmartFast: torch.export's .pt2 and ONNX, checked against the network."""

import importlib.util
import warnings
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from smartfast import kernels
from smartfast.core.draws import one_hot
from smartfast.errors import UserError
from smartfast.families.sampling import Look, Sampler, usual_labels

Kind = Literal["torch", "onnx"]
FILES: dict[Kind, str] = {"torch": "generator.pt2", "onnx": "generator.onnx"}
TOLERANCE = 1e-4
"""Largest difference from the network's images, which are about -1 to 1."""
_NEEDED = ("onnx", "onnxscript", "onnxruntime")
_TRACED, _CHECKED = 2, (1, 3)  # images at a time


class Inputs(NamedTuple):
    """Of a program: latents z [N, *z_shape] and label vectors c [N, classes], None without labels."""

    z: Tensor
    c: Tensor | None

    def given(self) -> tuple[Tensor, ...]:
        return (self.z,) if self.c is None else (self.z, self.c)


class Program(nn.Module):
    """Images [N, C, H, W] of latents and label vectors, as a sampler draws them."""

    def __init__(self, sampler: Sampler, look: Look) -> None:
        super().__init__()
        self.network = sampler.module
        self._sampler, self._look = sampler, look

    def forward(self, z: Tensor, c: Tensor | None = None) -> Tensor:
        seeds = torch.zeros(z.shape[0], dtype=torch.int64)  # of noise that a seed draws, of which a program has none
        return self._sampler.images(z, c, seeds, self._look)


@torch.no_grad()
def write_program(sampler: Sampler, look: Look, kind: Kind, folder: Path) -> float:
    """Write a program for any number of images into a folder, and run what was written beside the network.

    Args:
        sampler: On the CPU.
        look: Truncation, which the program keeps.
        kind: Key of FILES.
        folder: Takes the file.

    Returns:
        The largest difference between its images and the network's.

    Raises:
        UserError: The network has no such look or form, a package is missing, or the difference is above TOLERANCE.
    """
    if kind == "onnx":
        check_onnx()
    network, path = Program(sampler, look).eval(), folder / FILES[kind]
    network(*_inputs(sampler, 1).given())  # says what is wrong with the look, and computes what is computed once
    try:
        with kernels.use("aten"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # of the exporters about themselves
            _write(network, _inputs(sampler, _TRACED), kind, path)
    except Exception as error:  # each exporter has errors of its own for what it cannot express
        reason = " ".join(str(error.__cause__ or error).split())[:200] or type(error).__name__
        raise UserError(f"{FILES[kind]}: this network has no such form ({reason}), expected one that has") from error
    difference = max(_difference(network, _inputs(sampler, count), kind, path) for count in _CHECKED)
    if not difference <= TOLERANCE:
        raise UserError(f"{FILES[kind]}: differs by {difference:.2g} from the network, expected at most {TOLERANCE:g}")
    return difference


def check_onnx() -> None:
    """Raise UserError where a package for ONNX is missing."""
    missing = [name for name in _NEEDED if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f"programs: onnx needs {', '.join(missing)}, expected them: pip install {' '.join(missing)}")


def _inputs(sampler: Sampler, count: int) -> Inputs:
    z = torch.randn(count, *sampler.z_shape, generator=torch.Generator().manual_seed(count))
    return Inputs(z, one_hot(usual_labels(sampler, torch.arange(count)), sampler.num_classes))


def _write(network: Program, inputs: Inputs, kind: Kind, path: Path) -> None:
    images = torch.export.Dim("images", min=1)
    shapes = tuple({0: images} for _ in inputs.given())
    program = torch.export.export(network, inputs.given(), dynamic_shapes=shapes)
    if kind == "torch":
        torch.export.save(program, path)
        return
    names = ["z", "c"][: len(shapes)]
    exported = torch.onnx.export(program, input_names=names, output_names=["images"], dynamo=True, verbose=False)
    assert exported is not None
    exported.save(str(path))


def _difference(network: Program, inputs: Inputs, kind: Kind, path: Path) -> float:
    given = inputs.given()
    if kind == "torch":
        found = torch.export.load(path).module()(*given)
    else:
        import onnxruntime

        session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
        named = {of.name: value.numpy() for of, value in zip(session.get_inputs(), given, strict=True)}
        found = torch.from_numpy(session.run(None, named)[0])
    return float((found - network(*given)).abs().max())
