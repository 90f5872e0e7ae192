"""From the settings to what builds the network, kept as JSON beside the weights."""

from typing import Any

from diffusers import DDPMScheduler

from smartfast.config.families import DenoiserGan, DenoiserLoss
from smartfast.config.small_families import ConsistencyGan
from smartfast.errors import UserError
from smartfast.families.denoiser.continuous import EDMDenoiser
from smartfast.families.denoiser.discrete import ADM_SCHEDULES, ADMDenoiser, DiffusersDenoiser
from smartfast.families.denoiser.network import Denoiser
from smartfast.networks.unets import (
    ADMOptions,
    DhariwalOptions,
    EDMOptions,
    SongOptions,
    options_from_json,
    options_to_json,
)

EDM_NETWORKS = ("edm", "edm_dhariwal")
DHARIWAL_HEAD_DIM = 64
# What a network has no choice of, and what its kind of noise has no use for.
_FIXED: dict[str, dict[str, tuple]] = {
    "unet2d": {},
    "adm": {
        "gan.norm_groups": (32,),
        "loss.num_timesteps": (1000,),
        "loss.beta_schedule": tuple(ADM_SCHEDULES),
        "loss.prediction_type": ("epsilon",),
    },
    "edm": {
        "gan.attention_head_dim": (DHARIWAL_HEAD_DIM,),
        "gan.norm_groups": (32,),
        "loss.num_timesteps": (1000,),
        "loss.beta_schedule": ("linear",),
        "loss.prediction_type": ("epsilon",),
    },
}
_FIXED["edm_dhariwal"] = _FIXED["edm"]
_CONTINUOUS_ONLY = {"loss.ln_sigma_mean": (-1.2,), "loss.ln_sigma_std": (1.2,), "loss.label_dropout": (0.0,)}


def check_fixed(gan: DenoiserGan, loss: DenoiserLoss) -> None:
    """Raise UserError for the first setting that has another value than the only ones that the network has."""
    only = _FIXED[gan.network] | ({} if gan.network in EDM_NETWORKS else _CONTINUOUS_ONLY)
    for name, choices in only.items():
        group, _, field = name.partition(".")
        value = getattr({"gan": gan, "loss": loss}[group], field)
        if value not in choices:
            expected = " or ".join(map(str, choices))
            raise UserError(f"{name} is {value}, expected {expected} with gan.network {gan.network}")


def check_widths(gan: DenoiserGan) -> None:
    """Raise UserError for the first number of feature maps that no image makes right."""
    if not gan.block_out_channels:
        raise UserError("gan.block_out_channels is [], expected the feature maps of one resolution or more")
    first, groups = gan.block_out_channels[0], gan.norm_groups
    edm = {"4": 4, f"the first, {first}": first}
    for what, unit in (edm if gan.network in EDM_NETWORKS else {f"the {groups} groups": groups}).items():
        for channels in gan.block_out_channels:
            if channels % unit:
                raise UserError(f"gan.block_out_channels has {channels}, expected multiples of {what}")


def attention_unit(gan: DenoiserGan) -> int:
    """What divides the feature maps that attend: the channels of a head, 1 where there is one head."""
    return 1 if gan.network == "edm" else gan.attention_head_dim


def options_of(gan: DenoiserGan, loss: DenoiserLoss, image_shape: tuple[int, int, int], classes: int) -> dict[str, Any]:
    """The arguments of `build_denoiser`."""
    scheduler = {
        "_class_name": DDPMScheduler.__name__,
        "num_train_timesteps": loss.num_timesteps,
        "beta_schedule": loss.beta_schedule,
        "prediction_type": loss.prediction_type,
    }
    noise = {} if gan.network in EDM_NETWORKS else {"scheduler": scheduler}
    if gan.network == "unet2d":
        unet = unet2d_arguments(gan, image_shape, classes) | {"dropout": gan.dropout}
    else:
        unet = options_to_json(_original_options(gan, image_shape, classes))
    return {"unet": unet, **noise, "sample_steps": loss.sample_steps}


def build_denoiser(unet: dict[str, Any], **more: Any) -> Denoiser:
    """The denoiser of these options.

    Args:
        unet: Arguments of `UNet2DModel`, or with `network` the options of a network of smartfast/networks/unets.
        more: The other arguments of the denoiser.

    Raises:
        TypeError, ValueError, UserError: Options that do not fit.
    """
    if "network" not in unet:
        return DiffusersDenoiser(unet, **more)
    options = options_from_json(unet)
    if isinstance(options, ADMOptions):
        return ADMDenoiser(options, **more)
    if isinstance(options, EDMOptions):
        return EDMDenoiser(options, **more)
    raise ValueError(f"network is {options.network}, expected adm or edm")


def unet2d_arguments(
    gan: DenoiserGan | ConsistencyGan, image_shape: tuple[int, int, int], classes: int
) -> dict[str, Any]:
    """The arguments of diffusers' `UNet2DModel` for images of a shape, with as many class embeddings as classes."""
    channels, resolution, _ = image_shape
    attends = [resolution >> level in gan.attention for level in range(len(gan.block_out_channels))]
    return {
        "sample_size": resolution,
        "in_channels": channels,
        "out_channels": channels,
        "block_out_channels": list(gan.block_out_channels),
        "layers_per_block": gan.layers_per_block,
        "down_block_types": ["AttnDownBlock2D" if here else "DownBlock2D" for here in attends],
        "up_block_types": ["AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)],
        "attention_head_dim": gan.attention_head_dim,
        "norm_num_groups": gan.norm_groups,
        "num_class_embeds": classes or None,
    }


def _original_options(gan: DenoiserGan, image_shape: tuple[int, int, int], classes: int) -> ADMOptions | EDMOptions:
    channels, resolution, _ = image_shape
    first = gan.block_out_channels[0]
    if gan.network == "adm":
        return ADMOptions(
            resolution,
            in_channels=channels,
            out_channels=channels,
            model_channels=first,
            num_res_blocks=gan.layers_per_block,
            channel_mult=tuple(width / first for width in gan.block_out_channels),
            attention_resolutions=tuple(gan.attention),
            num_classes=classes or None,
            num_head_channels=gan.attention_head_dim,
        )
    kind = SongOptions if gan.network == "edm" else DhariwalOptions
    model = kind(
        resolution,
        img_channels=channels,
        label_dim=classes,
        model_channels=first,
        channel_mult=tuple(width // first for width in gan.block_out_channels),
        num_blocks=gan.layers_per_block,
        attn_resolutions=tuple(gan.attention),
    )
    return EDMOptions(model)
