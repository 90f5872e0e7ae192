"""A diffusers UNet2DModel, frozen: class-conditional or not, with or without a learned variance."""

import logging
import re
from functools import partial
from pathlib import Path
from typing import Any, Self, get_type_hints

import torch
from diffusers import UNet2DModel
from safetensors import SafetensorError
from torch import Tensor, nn

from smartfast.core.tensors import Shape, weight_shapes, without_memory
from smartfast.errors import UserError
from smartfast.scorers.attention import AttentionSetting, set_attention
from smartfast.scorers.base import Scorer, ScorerFormat
from smartfast.scorers.fields import check_fields, read_json
from smartfast.scorers.schedule import (
    NoiseSchedule,
    Parameterization,
    parameterization_of,
    schedule_from_config,
    shifted,
)
from smartfast.scorers.settings import USUAL, Settings

NAMES = {"linear": "linear", "scaled_linear": "scaled_linear", "squaredcos_cap_v2": "cosine"}
"""Schedules as diffusers calls them, and as `smart.scorer_options` does."""
SCHEDULER_FILE = "scheduler_config.json"
PIPELINE_FILE = "model_index.json"
_WEIGHTS = "diffusion_pytorch_model.safetensors"
_NAMES = {".query.": ".to_q.", ".key.": ".to_k.", ".value.": ".to_v.", ".proj_attn.": ".to_out.0."}
"""Of attention's layers in older files, and now."""
_OLDER_NAME = re.compile("|".join(map(re.escape, _NAMES)))


def _usual_schedule(name: str, num_timesteps: int) -> NoiseSchedule:
    return schedule_from_config({"beta_schedule": name, "num_train_timesteps": num_timesteps}, name)


class UNetScorer(Scorer):
    """A frozen UNet2DModel with its noise schedule.

    Runs in `dtype` and channels-last, whatever arrives, but embeds time and class in float32. In bfloat16 the noised
    images enter as the sum of two numbers: at sigma_t = 0.1 the rounding of one would be a hundredth of the noise that
    the network is asked for.

    Args:
        unet: The network; it is moved to `device`, converted and frozen in place.
        schedule: alpha_t and sigma_t of every timestep.
        parameterization: What the network was trained to predict.
        null_class: The last class embedding where it stands for any class, which the network does not say; None = none.
        resolution: Height and width of the images, for a network that states none.
        device: Where it runs.
        dtype: Precision of weights and activations, of the embeddings at least float32.
        attention: What computes attention, see `set_attention`.
        where: Name of the model, for messages.

    Raises:
        UserError: The network is not square or states no size, has another kind of conditioning, of images or of output
            channels, or another null class; attention that does not run on the device.
    """

    schedules = {ours: partial(_usual_schedule, theirs) for theirs, ours in NAMES.items()}

    def __init__(
        self,
        unet: UNet2DModel,
        schedule: NoiseSchedule,
        *,
        parameterization: Parameterization,
        null_class: int | None = None,
        resolution: int | None = None,
        device: torch.device | str = "cpu",
        dtype: torch.dtype = torch.float32,
        attention: AttentionSetting = "auto",
        where: str = "scorer",
    ) -> None:
        config = unet.config
        if config.out_channels not in (config.in_channels, 2 * config.in_channels):
            raise UserError(
                f"{where}: out_channels is {config.out_channels}, "
                f"expected in_channels ({config.in_channels}) or, with a learned variance, twice that"
            )
        if config.class_embed_type is not None:
            raise UserError(f"{where}: class_embed_type is {config.class_embed_type!r}, expected null")
        if config.center_input_sample:
            raise UserError(f"{where}: center_input_sample is True, expected false: its images lie in 0..1, not -1..1")
        embeddings = config.num_class_embeds or 0
        if null_class is not None and not 0 < null_class == embeddings - 1:
            last = f"{embeddings - 1}, the last of its class embeddings" if embeddings else "null: it has no classes"
            raise UserError(f"smart.null_class is {null_class}, expected of {where} {last}")
        most = len(schedule.alphas) if schedule.times is None else int(schedule.times.max()) + 1
        if config.time_embedding_type == "learned" and unet.time_proj.num_embeddings < most:
            found = f"embeds {unet.time_proj.num_embeddings} timesteps"
            raise UserError(f"{where}: {found}, expected the {most} of its scheduler")
        size = _square_size(resolution if config.sample_size is None else config.sample_size, where)
        super().__init__(
            schedule,
            image_shape=(config.in_channels, size, size),
            num_classes=embeddings - (null_class is not None),
            null_class=null_class,
            parameterization=parameterization,
            dtype=dtype,
        )
        self.states_resolution = config.sample_size is not None
        self.unet = _convert(unet, device, dtype)
        if dtype == torch.bfloat16 and not any(hasattr(block, "skip_conv") for block in self.unet.down_blocks):
            self.unet.conv_in = _TwoTermConv.of(self.unet.conv_in)
        self.attention = str(set_attention(self.unet, attention, device=device, dtype=dtype))
        self.to(device).freeze()

    def network(self, x_t: Tensor, t: Tensor, labels: Tensor | None) -> Tensor:
        dtype = torch.float32 if isinstance(self.unet.conv_in, _TwoTermConv) else self.dtype
        x_t = x_t.to(dtype, memory_format=torch.channels_last)
        output = self.unet(x_t, self.told(t), class_labels=self.known_classes(labels, t), return_dict=False)[0]
        return output[:, : self.channels]


def _convert(unet: UNet2DModel, device: torch.device | str, dtype: torch.dtype) -> UNet2DModel:
    """Move a network to `device`, channels-last, and to `dtype` but for its embeddings, in place.

    They are of no cost, and the phases of Fourier features reach hundreds of turns, of which bfloat16 keeps none.
    """
    at_least_float32 = torch.promote_types(dtype, torch.float32)
    for name, part in unet.named_children():
        is_embedding = name in ("time_proj", "time_embedding", "class_embedding")
        # torch's hints lack this form of `to`.
        part.to(device, at_least_float32 if is_embedding else dtype, memory_format=torch.channels_last)  # type: ignore[call-overload]
    if dtype != at_least_float32:
        unet.time_embedding = _InFloat32(unet.time_embedding)
    return unet


class _InFloat32(nn.Module):
    """A float32 part of a half-precision network: what comes in and goes out is of the network's precision."""

    def __init__(self, part: nn.Module) -> None:
        super().__init__()
        self.part = part

    def forward(self, x: Tensor) -> Tensor:
        return self.part(x.float()).to(x.dtype)


class _TwoTermConv(nn.Conv2d):
    """A half-precision convolution of float32 images [N, C, H, W], which it takes as 2 C channels: x = high + low."""

    @classmethod
    def of(cls, conv: nn.Conv2d) -> Self:
        """What computes the same as `conv`, of images with more digits than its precision holds."""
        # torch's hints say of a convolution's sizes only that they are tuples, and take pairs.
        wide = cls(2 * conv.in_channels, conv.out_channels, conv.kernel_size, padding=conv.padding, device="meta")  # type: ignore[arg-type]
        weight = torch.cat([conv.weight, conv.weight], dim=1).to(memory_format=torch.channels_last)
        wide.weight, wide.bias = nn.Parameter(weight), conv.bias
        return wide

    def forward(self, x: Tensor) -> Tensor:
        high = x.detach().to(self.weight.dtype)
        # The gradient flows through this term alone, whose weight is the other's.
        low = (x - high).to(self.weight.dtype)
        return super().forward(torch.cat([high, low], dim=1))


def _is_diffusers_folder(path: Path) -> bool:
    names = ("config.json", SCHEDULER_FILE, f"scheduler/{SCHEDULER_FILE}", "unet")
    return path.is_dir() and any((path / name).exists() for name in names)


def _load(path: Path, *, where: str, settings: Settings, **options: Any) -> UNetScorer:
    """Only JSON and safetensors are read, so loading executes nothing."""
    places = [path / "scheduler" / SCHEDULER_FILE, path / SCHEDULER_FILE]
    config_file = next((place for place in places if place.is_file()), None)
    if config_file is None:
        raise UserError(f"smart.scorer: {where!r} has no {SCHEDULER_FILE}, expected one in it or in its scheduler/")
    _check_pipeline((path.parent if path.name == "unet" else path) / PIPELINE_FILE)
    config = read_json(config_file)
    schedule = schedule_from_config(_with_settings(config, settings, str(config_file)), str(config_file))
    predicted = settings.take("prediction", parameterization_of(config, str(config_file)), config_file.name)
    shift = settings.take("timestep_shift", 0, USUAL)
    unet = load_unet(path)
    return UNetScorer(unet, shifted(schedule, shift), parameterization=predicted, where=where, **options)


def _with_settings(config: Any, settings: Settings, where: str) -> Any:
    """A scheduler's config with the schedule and the number of timesteps that the user names."""
    usual = schedule_from_config(config, where)
    name = settings.take("schedule", NAMES.get(usual.name), SCHEDULER_FILE, among=tuple(NAMES.values()))
    steps = settings.take("steps", len(usual.alphas), SCHEDULER_FILE)
    if usual.name == "trained_betas" and name is None and steps != len(usual.alphas):
        raise UserError(
            f"smart.scorer_options.steps is {steps}, expected unset: {where} lists {len(usual.alphas)} betas"
        )
    if settings.given.schedule is not None:
        by_name = {ours: theirs for theirs, ours in NAMES.items()}
        config = {**config, "beta_schedule": by_name[name], "trained_betas": None}
    return {**config, "num_train_timesteps": steps}


def _check_pipeline(file: Path) -> None:
    """Any part of a pipeline but these may stand between the UNet and the pixels, as a decoder of latents does."""
    if not file.is_file():
        return
    index = read_json(file)
    check_fields(index, {}, str(file))
    for name, component in index.items():
        is_component = isinstance(component, list) and any(component)
        if name not in ("unet", "scheduler") and (is_component or name in ("vae", "vqvae", "movq")):
            found = component[-1] if is_component else component
            raise UserError(f"{file}: names {name} ({found}), expected unet and scheduler alone: a scorer of pixels")


FORMAT = ScorerFormat(_is_diffusers_folder, _load)
"""A folder with a UNet2DModel and its scheduler config, side by side or in unet/ and scheduler/ of a pipeline."""


def load_unet(path: Path) -> UNet2DModel:
    """The network of a folder with a UNet2DModel or its unet/, in float32 on the CPU; loading executes nothing.

    Raises:
        UserError: Another network, or config and weights do not fit each other.
    """
    folder = path / "unet" if (path / "unet").is_dir() else path
    file = folder / "config.json"
    if not file.is_file():
        raise UserError(f"{folder}: no config.json, expected a diffusers UNet2DModel")
    config = read_json(file)
    check_fields(config, get_type_hints(UNet2DModel.__init__) | {"_class_name": str}, str(file))
    if (kind := config.get("_class_name", UNet2DModel.__name__)) != UNet2DModel.__name__:
        raise UserError(f"{file}: _class_name is {kind}, expected {UNet2DModel.__name__}")
    logging.getLogger("diffusers.models.modeling_utils").setLevel(logging.ERROR)  # what it warns of is an error here
    _check_sizes(folder, config, file)
    try:
        return UNet2DModel.from_pretrained(folder, use_safetensors=True)
    # diffusers and safetensors raise many kinds for weights that are missing, truncated or of another model.
    except Exception as error:
        raise UserError(
            f"{folder}: {_line(error)}; expected a UNet2DModel with safetensors weights (of .bin: "
            "UNet2DModel.from_pretrained(F, use_safetensors=False).save_pretrained(F))"
        ) from error


def _check_sizes(folder: Path, config: dict[str, Any], where: Path) -> None:
    """Compare the headers of the weights with their config, before either takes memory."""
    shapes: dict[str, Shape] = {}
    for file in _weight_files(folder):
        try:
            shapes |= weight_shapes(file)
        except ValueError as error:
            raise UserError(f"{file}: {error}") from error
        except (OSError, SafetensorError) as error:
            raise UserError(f"{file}: {_line(error)}; expected a UNet2DModel with safetensors weights") from error
    if not shapes:
        return
    shapes = {_OLDER_NAME.sub(lambda found: _NAMES[found[0]], name): shape for name, shape in shapes.items()}
    try:
        without_memory(lambda: UNet2DModel.from_config(config), shapes)
    except Exception as error:  # whatever a config that fits no network leads to
        raise UserError(f"{where}: {_line(error)}; expected the config of the weights beside it") from error


def _weight_files(folder: Path) -> list[Path]:
    """One file, or else those that its index names, as diffusers reads them."""
    file, index = folder / _WEIGHTS, folder / f"{_WEIGHTS}.index.json"
    if file.exists() or not index.exists():
        return [file] if file.exists() else []
    content = read_json(index)
    check_fields(content, {"weight_map": dict}, str(index))
    return [folder / str(name) for name in sorted(set(map(str, content.get("weight_map", {}).values())))]


def _line(error: Exception) -> str:
    return " ".join(str(error).split())[:200]


def _square_size(sample_size: int | tuple[int, int] | list[int] | None, where: str) -> int:
    sizes = {sample_size} if isinstance(sample_size, int) else set(sample_size or ())
    if len(sizes) != 1 or min(sizes) < 1:
        raise UserError(f"{where}: sample_size is {sample_size}, expected one number or a square, its resolution")
    return sizes.pop()
