"""Golden vectors: cases of the folder SMARTFAST_GOLDEN (default ../shared/golden, seen from the repository root).

A test module names the topic it covers; a test in it that takes `case` runs once per case of the topic and precision:

    GOLDEN_TOPIC = "bias_act"                       # or a tuple of topics

    def test_bias_act(case, compare):
        t = case.inputs                             # {name: tensor}; a grouped entry is a dict {name: tensor}
        compare("y", bias_act(t["x"], t.get("b"), **case.args))                         # against output "y"
        compare("grad_Gmain", {n: p.grad for n, p in generator.named_parameters()})     # grouped: every tensor of it

Floating-point inputs are in `case.dtype` (float32, then float64) and fresh in every test. `compare` holds
max|a - b| <= tolerance * max|b| per tensor and may be called in any order; outputs of the case that no call
mentions are not checked. The worst error of a case is printed (`pytest -rA`) and recorded as the property
`relative_error`. Topics in the manifest that are not in SUPPORTED_TOPICS are skipped by name in test_ops.py.
"""

import json
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from smartfast.kernels import use

FOLDER = Path(os.environ.get("SMARTFAST_GOLDEN", Path(__file__).resolve().parents[3] / "shared" / "golden"))
DEVICE = torch.get_default_device()
SUPPORTED_TOPICS = (
    "upfirdn2d",
    "bias_act",
    "conv2d_resample",
    "modulated_conv2d",
    "stylegan2_generator",
    "stylegan2_discriminator",
    "stylegan2_losses",
    "smart_loss",
    "adm_unet",
    "edm_unet",
    "file_adm",
    "file_edm",
    "file_edm2",
    "file_stylegan2_ada",
    "file_stylegan3",
    "file_smart",
    "file_rosinality",
    "file_r3gan",
    "ada_augment",
    "r3gan_networks",
    "r3gan_losses",
    "aurora_generator",
    "biggan",
    "biggan_losses",
    "biggan_step",
    "file_biggan",
)
TOLERANCE = {torch.float32: 1e-4, torch.float64: 1e-6}
LARGEST_TOLERANCE = 1e-2
KINK_TOLERANCE = 1e-3
"""Of a float32 gradient through ReLUs, which jumps where a rounding turns a sign: on one CPU with two threads a single
input of -5.6e-7, among inputs up to 5.8, came out positive and moved BigGAN's dz by 3e-4."""
"""No difference that a manifest reports inside its own reference loosens a comparison beyond this."""
ZERO = 1e-12
"""References below this fraction of the case's scale are zeros with float64 rounding."""

Entry = dict[str, Any]
Grouped = Tensor | dict[str, Tensor]


@lru_cache(maxsize=1)
def _manifest() -> Entry:
    return json.loads((FOLDER / "manifest.json").read_text())


@lru_cache(maxsize=4)
def _tensors(file: str) -> dict[str, Tensor]:
    return load_file(FOLDER / file)


@dataclass(frozen=True)
class Case:
    """One case of the manifest, to be computed in `dtype`."""

    entry: Entry
    dtype: torch.dtype

    @property
    def name(self) -> str:
        return self.entry["case"]

    @property
    def function(self) -> str:
        """Last part of the reference function's name."""
        return self.entry["function"].split(" ")[0].split(".")[-1]

    @property
    def args(self) -> dict[str, Any]:
        return dict(self.entry["args"])

    @property
    def inputs(self) -> dict[str, Grouped]:
        return {name: self._load(entry) for name, entry in self.entry["inputs"].items()}

    @property
    def outputs(self) -> dict[str, Grouped]:
        return {name: self._load(entry) for name, entry in self.entry["outputs"].items()}

    @property
    def weights(self) -> dict[str, Tensor]:
        """The state dict that the case shares with others."""
        file, weights = (self.entry["weights"][name] for name in ("file", "id"))
        entry = _manifest()["weights"][file][weights]
        stored = _tensors(file)
        return {name: self._cast(stored[entry["prefix"] + name]) for name in entry["tensors"]}

    def tolerance(self, output: str) -> float:
        """Largest relative error allowed: in float32, ten times the reference's own where that is above the limit."""
        limit = TOLERANCE[self.dtype]
        reported = self.entry.get("float32_vs_float64", {})
        error = reported.get(output) or reported.get(f"{output}/*")
        if self.dtype == torch.float64 or not error:
            return limit
        relative = error.get("worst_tensor_rel") or error["max_abs"] / max(error["max_ref"], 1e-30)
        return min(10 * relative, LARGEST_TOLERANCE) if relative > limit else limit

    def scale(self, output: str) -> float:
        """Largest magnitude in the group of an output, or of any output of the case."""
        entry = self.entry["outputs"][output]
        groups = [self._load(entry)] if "prefix" in entry else list(self.outputs.values())
        tensors = [t for group in groups for t in (group.values() if isinstance(group, dict) else [group])]
        return max((t.abs().max().item() for t in tensors if t.numel()), default=0.0)

    def _load(self, entry: Entry) -> Grouped:
        stored = _tensors(self.entry["file"])
        if "prefix" in entry:
            return {name: self._cast(stored[entry["prefix"] + name]) for name in entry["tensors"]}
        return self._cast(stored[entry["key"]])

    def _cast(self, tensor: Tensor) -> Tensor:
        return tensor.to(DEVICE, self.dtype if tensor.is_floating_point() else tensor.dtype, copy=True)


class Compare:
    """Collects relative errors of a case's outputs and fails at the first that is too large."""

    def __init__(self, case: Case) -> None:
        self.case = case
        self.errors: dict[str, float] = {}

    def __call__(self, output: str, actual: Tensor | Mapping[str, Tensor], *, has_kinks: bool = False) -> None:
        expected, limit = self.case.outputs[output], self.case.tolerance(output)
        if has_kinks and self.case.dtype == torch.float32:
            limit = max(limit, KINK_TOLERANCE)
        if not isinstance(expected, dict):
            self._one(output, output, actual, expected, limit)
            return
        for name, tensor in expected.items():
            assert name in actual, f"{output}/{name} is missing"
            self._one(output, f"{output}/{name}", actual[name], tensor, limit)

    @property
    def worst(self) -> tuple[float, str]:
        return max(((error, name) for name, error in self.errors.items()), default=(0.0, "nothing compared"))

    def _one(self, output: str, name: str, actual: Tensor, expected: Tensor, limit: float) -> None:
        assert actual.shape == expected.shape, f"{name} has shape {tuple(actual.shape)}, not {tuple(expected.shape)}"
        if not expected.numel():
            return
        actual, expected = actual.detach().double(), expected.double()
        reference = expected.abs().max().item()
        if reference <= ZERO * self.case.scale(output):
            reference = self.case.scale(output)
        difference = (actual - expected).abs().max().item()
        error = difference / reference if reference else difference
        self.errors[name] = error
        assert error <= limit, f"{name}: relative error {error:.2e}, allowed {limit:.0e}"


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "case" in metafunc.fixturenames:
        topics = metafunc.module.GOLDEN_TOPIC
        metafunc.parametrize("case", _cases((topics,) if isinstance(topics, str) else topics))
    if "unsupported_topic" in metafunc.fixturenames:
        topics = {entry["topic"] for entry in _manifest()["cases"]} if _is_present() else set()
        metafunc.parametrize("unsupported_topic", sorted(topics - set(SUPPORTED_TOPICS)))


def _cases(topics: tuple[str, ...]) -> list[Any]:
    if not _is_present():
        reason = f"no golden vectors: {FOLDER} has no manifest.json (set SMARTFAST_GOLDEN)"
        return [pytest.param(None, marks=pytest.mark.skip(reason=reason), id="no golden vectors")]
    return [
        pytest.param(Case(entry, dtype), id=f"{entry['topic']}-{entry['case']}-{str(dtype).removeprefix('torch.')}")
        for entry in _manifest()["cases"]
        if entry["topic"] in topics
        for dtype in TOLERANCE
    ]


def _is_present() -> bool:
    return (FOLDER / "manifest.json").is_file()


@pytest.fixture(params=["aten", "triton"])
def implementation(request: pytest.FixtureRequest) -> Iterator[str]:
    """Runs a test once with each implementation of the ops, Triton in its interpreter or on a GPU."""
    with use(request.param):
        yield request.param


@pytest.fixture
def compare(case: Case, record_property: Callable[[str, object], None]) -> Iterator[Compare]:
    """Compare a tensor (or, for a grouped output, a dict of tensors) with the case's output of that name."""
    comparison = Compare(case)
    yield comparison
    error, name = comparison.worst
    record_property("relative_error", error)
    print(f"{case.entry['topic']} {case.name} {case.dtype}: worst relative error {error:.1e} ({name})")
