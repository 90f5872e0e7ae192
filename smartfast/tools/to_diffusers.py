"""A scorer of ours, ADM's, or EDM's with DhariwalUNet, as a diffusers folder: UNet2DModel and a scheduler."""

import shutil
from pathlib import Path
from typing import Any

import torch
from diffusers import DDPMScheduler, EDMEulerScheduler, UNet2DModel

from smartfast.config.scorer import ScorerOptions
from smartfast.core.checkpoint import CONVERSION
from smartfast.core.files import appear_complete
from smartfast.errors import UserError
from smartfast.networks.unets import ADMOptions, DhariwalOptions
from smartfast.scorers.distilled import DISTILLED_FILE
from smartfast.tools.conversion import Conversion, Read, Source, write_json
from smartfast.tools.convert_scorer import ScorerParts, parts_of
from smartfast.tools.unet2d import structure_of, unet2d_config, unet2d_tensors

_BETAS: dict[str, dict[str, Any]] = {
    "linear": dict(beta_schedule="linear", beta_start=1e-4, beta_end=0.02),
    "cosine": dict(beta_schedule="squaredcos_cap_v2"),
}
_INNER = "model."


def diffusers_folder(source: Path, out: Path, options: ScorerOptions) -> Conversion:
    """Write the scorer in a file of another project, or in a converted folder, to the folder `out`.

    options: See `parts_of`.

    Raises:
        UserError: It is no scorer, or not one that UNet2DModel and a scheduler of diffusers compute alike.
        OSError, SafetensorError: Something cannot be written.
    """
    parts = parts_of(source, options)
    try:
        network, scheduler = _network(parts), _scheduler(parts)
    except ValueError as error:
        raise UserError(f"{source}: as diffusers' UNet2DModel it cannot be written: {error}") from error
    files = [source] if source.is_file() else sorted(file for file in source.iterdir() if file.is_file())
    read = Read.of(parts.name, "diffusion_pytorch_model.safetensors", network.state_dict(), "UNet2DModel")
    conversion = Conversion(parts.project, str(out), [Source.of(file) for file in files], [read], parts.left_out)
    with appear_complete(out) as partial:
        network.save_pretrained(partial)
        scheduler.save_config(partial)
        for file in files:
            if file.name == DISTILLED_FILE:
                shutil.copyfile(file, partial / file.name)
        write_json(partial / CONVERSION, conversion.record())
    return conversion


def _network(parts: ScorerParts) -> UNet2DModel:
    options = getattr(parts.options, "model", parts.options)
    if not isinstance(options, ADMOptions | DhariwalOptions):
        raise ValueError(f"its network is of the kind {options.network}, expected adm or dhariwal")
    structure = structure_of(options)
    tensors = {name.removeprefix(_INNER): tensor.float() for name, tensor in parts.tensors.items()}
    out = tensors["out.2.weight" if isinstance(options, ADMOptions) else "out_conv.weight"]
    config = unet2d_config(structure, len(out))
    with torch.device("meta"):
        network = UNet2DModel(**config)
    network.load_state_dict(unet2d_tensors(structure, tensors), assign=True)
    return network


def _scheduler(parts: ScorerParts) -> Any:
    options = parts.options
    if isinstance(options, ADMOptions):
        is_learned = options.out_channels > options.in_channels
        return _ddpm(str(parts.schedule), is_learned=is_learned)
    preconditioning = getattr(options, "preconditioning", "")
    if preconditioning == "edm":
        return EDMEulerScheduler(sigma_data=options.sigma_data)
    if preconditioning == "iddpm":
        return _ddpm("cosine", is_learned=True)
    raise ValueError(f"its preconditioning is {preconditioning}, no scheduler has it, expected edm or iddpm")


def _ddpm(schedule: str, *, is_learned: bool) -> DDPMScheduler:
    variance = "learned_range" if is_learned else "fixed_small"
    return DDPMScheduler(variance_type=variance, **_BETAS[schedule])
