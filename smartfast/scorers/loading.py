"""Finding and loading a scorer by name, and checking that it fits the GAN."""

import json
from pathlib import Path
from typing import Any, Literal

import torch
from diffusers import UNet2DModel
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from smartfast.errors import UserError
from smartfast.scorers.attention import AttentionSetting
from smartfast.scorers.base import Scorer
from smartfast.scorers.diffusers import UNetScorer
from smartfast.scorers.schedule import parameterization_of, schedule_from_config

# `digits` is runs/digits_scorer/scorer of `smartfast train-scorer --config configs/scorers/digits.yaml`.
BUNDLED = {"digits": Path(__file__).with_name("digits")}
SCHEDULER_FILE = "scheduler_config.json"
_WEIGHTS = ("diffusion_pytorch_model.safetensors*", "diffusion_pytorch_model-*.safetensors")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_scorer(
    name: str,
    *,
    device: torch.device | str = "cpu",
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    attention: AttentionSetting = "auto",
) -> Scorer:
    """Load a frozen diffusion model. Only JSON and safetensors are read, so loading executes nothing.

    Args:
        name: `digits` (bundled); a folder, or else a hub id, that holds a UNet2DModel and its scheduler config,
            side by side or in the sub-folders unet/ and scheduler/ of a diffusers pipeline.
        device: Where it runs.
        precision: `auto` is bf16 on a GPU that computes in it, else fp32.
        attention: `perf.attention`, see `set_attention`.

    Raises:
        UserError: Nothing there, no scheduler config, no readable safetensors weights, or a scheduler, prediction
            type or network that is not supported; attention that does not run on the device.
    """
    folder = _find(name)
    weights = folder / "unet" if (folder / "unet").is_dir() else folder
    places = [folder / "scheduler" / SCHEDULER_FILE, folder / SCHEDULER_FILE]
    config_file = next((place for place in places if place.is_file()), None)
    if config_file is None:
        raise UserError(f"smart.scorer: {name!r} has no {SCHEDULER_FILE}, expected one in it or in its scheduler/")
    config = _read_json(config_file)
    return UNetScorer(
        _load_unet(weights),
        schedule_from_config(config, str(config_file)),
        parameterization=parameterization_of(config, str(config_file)),
        device=device,
        dtype=scorer_dtype(device, precision),
        attention=attention,
        where=name,
    )


def check_scorer(
    scorer: Scorer, *, resolution: int, channels: int, num_classes: int, name: str, downscale: int = 1
) -> None:
    """Compare a scorer with the GAN that it is to regularize.

    A scorer without classes fits a conditional GAN too: it then scores the images whatever their class.

    Args:
        scorer: The scorer.
        resolution: Of the GAN, in pixels.
        channels: Of the GAN.
        num_classes: Of the GAN, 0 = unconditional.
        name: Of the scorer, for messages.
        downscale: Factor by which the GAN's images are reduced before they are scored.

    Raises:
        UserError: Resolution, channels or classes differ.
    """
    if scorer.resolution * downscale != resolution:
        reduced = f" divided by smart.downscale {downscale}" if downscale > 1 else ""
        raise UserError(
            f"smart.scorer: {name!r} has resolution {scorer.resolution}, expected the GAN's {resolution}{reduced}"
        )
    if scorer.channels != channels:
        raise UserError(f"smart.scorer: {name!r} has {scorer.channels} image channels, expected the GAN's {channels}")
    if scorer.num_classes not in (0, num_classes):
        raise UserError(
            f"smart.scorer: {name!r} has {scorer.num_classes} classes, expected the GAN's {num_classes} "
            "(set data.labels to train with classes)"
        )


def scorer_dtype(device: torch.device | str, precision: Literal["auto", "fp32", "fp16", "bf16"]) -> torch.dtype:
    """The dtype that `smart.precision` means on a device."""
    if precision != "auto":
        return _DTYPES[precision]
    on_gpu = torch.device(device).type == "cuda"
    return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def _find(name: str) -> Path:
    """The local folder of a scorer, downloaded if `name` is a hub id."""
    folder = BUNDLED.get(name, Path(name).expanduser())
    if folder.is_dir():
        return folder
    expected = "expected `digits`, a diffusers folder or a hub id owner/name"
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"smart.scorer: {name!r} is no folder, {expected}")
    files = ["config.json", SCHEDULER_FILE, f"scheduler/{SCHEDULER_FILE}", "unet/config.json"]
    files += [f"{place}{pattern}" for place in ("", "unet/") for pattern in _WEIGHTS]
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        raise UserError(
            f"smart.scorer: {name!r} is no folder and no hub download ({_line(error)}), {expected}"
        ) from error


def _read_json(file: Path) -> dict[str, Any]:
    try:
        return json.loads(file.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        raise UserError(f"{file}: not readable ({_line(error)}), expected a diffusers scheduler config") from error


def _load_unet(folder: Path) -> UNet2DModel:
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder}: no config.json, expected a diffusers UNet2DModel")
    try:
        unet, report = UNet2DModel.from_pretrained(folder, use_safetensors=True, output_loading_info=True)
    # diffusers and safetensors raise many kinds for weights that are missing, truncated or of another model.
    except Exception as error:
        raise UserError(f"{folder}: {_line(error)}; expected a UNet2DModel with safetensors weights") from error
    if report["missing_keys"]:
        raise UserError(f"{folder}: the weights lack {report['missing_keys'][0]}, expected all that config.json needs")
    return unet


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
