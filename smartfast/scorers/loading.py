"""Finding and loading a scorer by name, and checking that it fits the GAN."""

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch
from huggingface_hub import snapshot_download
from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

from smartfast.config.scorer import ScorerOptions
from smartfast.errors import UserError
from smartfast.scorers import analytic, converted, diffusers, files, plane
from smartfast.scorers.attention import AttentionSetting
from smartfast.scorers.base import Scorer, ScorerFormat
from smartfast.scorers.class_names import CLASS_NAMES_FILE, read_class_names
from smartfast.scorers.diffusers import PIPELINE_FILE, SCHEDULER_FILE
from smartfast.scorers.distilled import DISTILLED_FILE, read_learnt_interval
from smartfast.scorers.fingerprint import fingerprint_of
from smartfast.scorers.published import PUBLISHED_MODELS, how_to_get
from smartfast.scorers.settings import Settings

FORMATS: dict[str, ScorerFormat] = {
    "diffusers": diffusers.FORMAT,
    "analytic": analytic.FORMAT,
    "converted": converted.FORMAT,
    "adm": files.ADM_FORMAT,
    "edm": files.EDM_FORMAT,
    plane.KIND: plane.FORMAT,
}
# `digits` is runs/digits_scorer/scorer of `smartfast train-scorer --config digits`.
BUNDLED = {"digits": Path(__file__).with_name("digits")}
_WEIGHTS = ("diffusion_pytorch_model.safetensors*", "diffusion_pytorch_model-*.safetensors")
_DTYPES = {"fp32": torch.float32, "fp16": torch.float16, "bf16": torch.bfloat16}


def load_scorer(
    name: str,
    *,
    device: torch.device | str = "cpu",
    precision: Literal["auto", "fp32", "fp16", "bf16"] = "auto",
    attention: AttentionSetting = "auto",
    null_class: int | None = None,
    resolution: int | None = None,
    options: ScorerOptions | None = None,
) -> Scorer:
    """Load a frozen diffusion model. Loading executes nothing that a file says.

    Args:
        name: `digits` (bundled), a file or folder, or else a hub id, of one of FORMATS; `diffusers:path` names the
            format instead of having it recognised. `plane:ring` is no file: the exact scorer of that distribution.
        device: Where it runs.
        precision: `auto` is bf16 on a GPU that computes in it, else fp32.
        attention: `perf.attention`, see `set_attention`.
        null_class: `smart.null_class`, see `Scorer`.
        resolution: Of the images that it is to score, in pixels, for a model that does not state its own.
        options: `smart.scorer_options`.

    Raises:
        UserError: Nothing there or of no known format, incomplete or unreadable, or a schedule, prediction type or
            network that is not supported; options that its format does not read; attention that does not run on the
            device.
    """
    kind, _, rest = name.partition(":")
    path = Path(rest) if kind == plane.KIND else _find(rest if kind in FORMATS else name)
    kinds = [kind] if kind in FORMATS else [kind for kind, format in FORMATS.items() if format.recognises(path)]
    if not kinds:
        inner = f"; did you mean {name.rstrip('/')}/scorer?" if (path / "scorer").is_dir() else ""
        raise UserError(f"smart.scorer: {name!r} is of no known format, expected one of {', '.join(FORMATS)}{inner}")
    settings = Settings(options, name)
    scorer = FORMATS[kinds[0]].load(
        path,
        where=name,
        settings=settings,
        device=device,
        dtype=scorer_dtype(device, precision),
        attention=attention,
        null_class=null_class,
        resolution=resolution,
    )
    settings.check_all_taken(kinds[0])
    scorer.settings = tuple(settings.taken)
    scorer.class_names = read_class_names(path, scorer.num_classes)
    scorer.learnt_interval = read_learnt_interval(path)
    scorer.fingerprint = fingerprint_of(path) if path.exists() else name
    return scorer


def check_scorer(
    scorer: Scorer,
    *,
    resolution: int,
    channels: int,
    num_classes: int,
    class_names: Sequence[str] | None = None,
    name: str,
    downscale: int = 1,
) -> None:
    """Compare a scorer with the GAN that it is to regularize.

    A scorer without classes fits a conditional GAN too: it then scores the images whatever their class. One with a null
    class fits a GAN without labels too, and is then told that class.

    Args:
        scorer: The scorer.
        resolution: Of the GAN, in pixels.
        channels: Of the GAN.
        num_classes: Of the GAN, 0 = unconditional.
        class_names: Of the GAN's data, None = unknown. They are compared with the scorer's where it has any.
        name: Of the scorer, for messages.
        downscale: Factor by which the GAN's images are reduced before they are scored.

    Raises:
        UserError: Resolution, channels or classes differ, or the same number means another class.
    """
    if scorer.resolution * downscale != resolution:
        reduced = f" divided by smart.downscale {downscale}" if downscale > 1 else ""
        factor, rest = divmod(resolution, scorer.resolution)
        fits = f" (smart.downscale {factor} makes it fit)" if factor and not rest else ""
        raise UserError(
            f"smart.scorer: {name!r} has resolution {scorer.resolution}, expected the GAN's {resolution}{reduced}{fits}"
        )
    if scorer.channels != channels:
        raise UserError(f"smart.scorer: {name!r} has {scorer.channels} image channels, expected the GAN's {channels}")
    does_without = num_classes == 0 and scorer.null_class is not None
    if scorer.num_classes not in (0, num_classes) and not does_without:
        none = f", {scorer.num_classes} to tell it no class" if scorer.takes_no_class else ""
        raise UserError(
            f"smart.scorer: {name!r} has {scorer.num_classes} classes, expected the GAN's {num_classes} (data.labels "
            f"to train with classes, smart.null_class {scorer.num_classes - 1} where the last is none{none})"
        )
    for number, (theirs, ours) in enumerate(zip(scorer.class_names or (), class_names or (), strict=False)):
        if theirs != ours:
            raise UserError(
                f"smart.scorer: {name!r} calls class {number} {theirs!r} ({CLASS_NAMES_FILE}), expected "
                f"{ours!r} as the GAN's data do: the same names in the same order"
            )


def scorer_dtype(device: torch.device | str, precision: Literal["auto", "fp32", "fp16", "bf16"]) -> torch.dtype:
    """The dtype that `smart.precision` means on a device."""
    if precision != "auto":
        return _DTYPES[precision]
    on_gpu = torch.device(device).type == "cuda"
    return torch.bfloat16 if on_gpu and torch.cuda.is_bf16_supported(including_emulation=False) else torch.float32


def missing_file(name: str) -> str | None:
    """How to get the published file that smart.scorer names; None where it names none, or one that is there."""
    kind, _, rest = name.partition(":")
    path = rest if kind in FORMATS else name
    is_there = path in BUNDLED or path in PUBLISHED_MODELS or Path(path).expanduser().exists()
    return None if is_there else how_to_get(path)


def is_at_hand(name: str) -> bool:
    """Whether what smart.scorer names is here, or can be downloaded without asking anybody."""
    kind, _, rest = name.partition(":")
    path = rest if kind in FORMATS else name
    if kind == plane.KIND or path in BUNDLED or Path(path).expanduser().exists():
        return True
    return missing_file(name) is None and _may_be_hub_id(path)


def _may_be_hub_id(name: str) -> bool:
    return name.count("/") == 1 and not name.startswith((".", "/", "~"))


def _find(name: str) -> Path:
    """The local path of a scorer, downloaded if `name` is a hub id."""
    path = BUNDLED.get(name, Path(name).expanduser())
    if path.exists():
        return path
    expected = "expected `digits`, a diffusers folder or a hub id owner/name"
    if get := missing_file(name):
        raise UserError(f"smart.scorer: {name} does not exist; get {get}")
    if not _may_be_hub_id(name):
        raise UserError(f"smart.scorer: {name!r} is no folder, {expected}")
    files = [
        "config.json",
        CLASS_NAMES_FILE,
        DISTILLED_FILE,
        PIPELINE_FILE,
        SCHEDULER_FILE,
        f"scheduler/{SCHEDULER_FILE}",
        "unet/config.json",
    ]
    files += [f"{place}{pattern}" for place in ("", "unet/") for pattern in _WEIGHTS]
    try:
        return Path(snapshot_download(name, allow_patterns=files))
    except (HfHubHTTPError, HFValidationError, LocalEntryNotFoundError, OSError) as error:
        get = how_to_get(name)
        expected = f"expected a folder; elsewhere get {get}" if get else expected
        raise UserError(
            f"smart.scorer: {name!r} is no folder and no hub download ({_line(error)}), {expected}"
        ) from error


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]
