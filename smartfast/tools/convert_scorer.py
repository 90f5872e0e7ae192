"""A diffusion model of another project as a folder that smart.scorer takes."""

import shutil
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any, NamedTuple

import torch
from safetensors.torch import load_file
from torch import Tensor

from smartfast.config.scorer import ScorerOptions
from smartfast.core.checkpoint import CONVERSION
from smartfast.core.files import appear_complete
from smartfast.errors import UserError
from smartfast.interop import Network, read_untrusted
from smartfast.interop.recognise import networks_in, rest_of
from smartfast.interop.records import printable
from smartfast.networks.unets import ADMOptions, EDM2Options, EDMOptions
from smartfast.scorers import load_scorer
from smartfast.scorers.converted import WEIGHTS_FILE, save_scorer
from smartfast.scorers.diffusers import SCHEDULER_FILE
from smartfast.scorers.distilled import DISTILLED_FILE
from smartfast.scorers.loading import FORMATS
from smartfast.tools.conversion import Conversion, Read, Source, write_json

PROJECTS = {
    "adm unet": ("adm", "guided-diffusion"),
    "consistency_models unet": ("adm", "consistency_models"),
    "edm unet": ("edm", "EDM"),
    "edm2 unet": ("edm", "EDM2"),
}
"""Format of smart.scorer and project, by the kind of a file's network."""
_OF_NETWORK = ("image_size", "heads", "head_channels", "attention_order", "preconditioning")
_WEIGHTS = "diffusion_pytorch_model"


class ScorerParts(NamedTuple):
    """A network of ours: its tensors by the names it has here, of ADM's its schedule, and where they come from."""

    options: ADMOptions | EDMOptions | EDM2Options
    tensors: dict[str, Tensor]
    schedule: Any
    name: str
    project: str
    left_out: dict[str, str]


def is_scorer(networks: Mapping[str, Network]) -> bool:
    """Whether one of a file's networks is a scorer that can be read."""
    return any(network.kind in PROJECTS for network in networks.values())


def parts_of(path: Path, options: ScorerOptions) -> ScorerParts:
    """The scorer in a file of another project, or in a converted folder.

    options: What the file does not tell; those that are of the network, for a folder holds no others.

    Raises:
        UserError: As `load_scorer`, which checks all of it.
    """
    if path.is_dir():
        scorer = _loaded(path, "converted", options)
        return ScorerParts(scorer.unet.options, load_file(path / WEIGHTS_FILE), _schedule(scorer), "", "", {})
    content = read_untrusted(path)
    networks = networks_in(content, path)
    scorers = [(name, found) for name, found in networks.items() if found.kind in PROJECTS]
    if not scorers:
        held = ", ".join(f"{found.kind} {printable(name)}".strip() for name, found in networks.items())
        raise UserError(f"{path}: holds {held}, expected a scorer: {', '.join(PROJECTS)}")
    name, network = scorers[0]
    format, project = PROJECTS[network.kind]
    scorer = _loaded(path, format, options)
    prefix = "model." if project == "consistency_models" else ""
    tensors = {prefix + key: value for key, value in network.tensors.items()}
    left_out = {other: f"a {found.kind}" for other, found in networks.items() if other != name}
    return ScorerParts(
        scorer.unet.options, tensors, _schedule(scorer), name, project, left_out | rest_of(content, networks)
    )


def _loaded(path: Path, format: str, options: ScorerOptions) -> Any:
    """The scorer in a file, with its options written down for the user of this command."""
    try:
        scorer: Any = load_scorer(f"{format}:{path}", precision="fp32", options=options)
    except UserError as error:
        raise UserError(str(error).replace("smart.scorer_options", "scorer_options")) from error
    kept = _OF_NETWORK if _schedule(scorer) is None else (*_OF_NETWORK, "schedule")
    for option, value in asdict(options).items():
        if value is not None and option not in kept:
            raise UserError(
                f"scorer_options.{option} is {value}, expected unset: what is converted holds {', '.join(kept)} alone; "
                f"it is smart.scorer_options.{option} of the run"
            )
    return scorer


def _schedule(scorer: Any) -> str | None:
    """Of ADM's networks."""
    return scorer.schedule if isinstance(getattr(scorer.unet, "options", None), ADMOptions) else None


def scorer_folder(source: Path, out: Path, options: ScorerOptions) -> Conversion:
    """Convert a file or a diffusers folder into the folder `out`; options: See `parts_of`.

    Raises:
        UserError: It holds no scorer that can be loaded.
        OSError: Something cannot be written.
    """
    if source.is_dir():
        return _diffusers_folder(source, out, options)
    parts = parts_of(source, options)
    read = Read.of(parts.name, WEIGHTS_FILE, parts.tensors, _kind(parts))
    conversion = Conversion(parts.project, str(out), [Source.of(source)], [read], parts.left_out)
    are_half = all(tensor.dtype == torch.float16 for tensor in parts.tensors.values() if tensor.ndim > 1)
    save_scorer(
        out,
        parts.options,
        parts.tensors,
        schedule=parts.schedule,
        dtype=torch.float16 if are_half else torch.float32,
        **conversion.record(),
    )
    return conversion


def _diffusers_folder(source: Path, out: Path, options: ScorerOptions) -> Conversion:
    """Its network and scheduler side by side, whatever pipeline they came with."""
    if not FORMATS["diffusers"].recognises(source):
        raise UserError(f"{source}: expected a file, or a diffusers folder with config.json and {SCHEDULER_FILE}")
    scorer = _loaded(source, "diffusers", options)
    channels, height, width = scorer.image_shape
    kind = f"UNet2DModel, {height}x{width}x{channels}, {scorer.num_classes or 'no'} classes, {scorer.schedule} schedule"
    files = list(_diffusers_files(source))
    read = Read.of("unet", f"{_WEIGHTS}.safetensors", scorer.state_dict(), kind)
    conversion = Conversion("diffusers", str(out), [Source.of(file) for file in files], [read])
    with appear_complete(out) as partial:
        for file in files:
            shutil.copyfile(file, partial / file.name)
        write_json(partial / CONVERSION, conversion.record())
    return conversion


def _diffusers_files(source: Path) -> Iterator[Path]:
    unet = source / "unet" if (source / "unet").is_dir() else source
    yield unet / "config.json"
    whole = unet / f"{_WEIGHTS}.safetensors"
    yield from [whole] if whole.is_file() else sorted(unet.glob(f"{_WEIGHTS}*.safetensors*"))
    if (learnt := source / DISTILLED_FILE).is_file():
        yield learnt
    yield next(file for file in (source / "scheduler" / SCHEDULER_FILE, source / SCHEDULER_FILE) if file.is_file())


def _kind(parts: ScorerParts) -> str:
    channels, height, width = parts.options.image_shape
    schedule = f", {parts.schedule} schedule" if parts.schedule else ""
    model = getattr(parts.options, "model", parts.options)
    inner = f" {model.network}" if model is not parts.options else ""
    classes = parts.options.classes or "no"
    return f"{parts.options.network}{inner}, {height}x{width}x{channels}, {classes} classes{schedule}"
