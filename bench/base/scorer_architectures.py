"""The diffusion models of SMaRt's experiments as networks of random weights: what they cost depends on shapes alone.

ADM's are diffusers' form of guided-diffusion's networks, layer by layer, but for the heads of the one of 128 pixels: of
128 channels, instead of four, which is the same work. EDM's differs from its original by wider first and last layers
(256 channels instead of 128), which is 3 % more work.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DModel

from smartfast.errors import UserError
from smartfast.scorers import Scorer, UNetScorer, load_scorer
from smartfast.scorers.loading import BUNDLED
from smartfast.scorers.schedule import NoiseSchedule, edm_schedule, schedule_from_config

SEED = 0
_PLAIN, _ATTENTION = "ResnetDownsampleBlock2D", "AttnDownBlock2D"


@dataclass(frozen=True)
class Architecture:
    """A scorer's network.

    name: For people. unet: Arguments of diffusers' UNet2DModel. schedule: edm or a DDPMScheduler's. gflop: Of a forward
    pass for one image, 10^9 multiplications and additions, counted on the original network (design.md, section 2).
    batch: Images that fit on an 80 GB GPU in float32 with attention written out.
    """

    name: str
    gflop: float
    batch: int
    unet: dict[str, Any] = field(repr=False)
    schedule: str = "linear"


def _unet(down: tuple[str, ...], up: tuple[str, ...] | None = None, **options: Any) -> dict[str, Any]:
    """Residual blocks change the resolution; attention at the resolutions below that mirror each other."""
    mirrored = tuple(block.replace("Down", "Up").replace("down", "up") for block in reversed(down))
    return dict(
        in_channels=3,
        down_block_types=down,
        up_block_types=up or mirrored,
        downsample_type="resnet",
        upsample_type="resnet",
        **options,
    )


ARCHITECTURES = {
    32: Architecture(
        "EDM CIFAR-10",
        gflop=42,
        batch=64,
        unet=_unet(
            (_PLAIN, _ATTENTION, _PLAIN),
            ("ResnetUpsampleBlock2D",) * 3,
            out_channels=3,
            block_out_channels=(256, 256, 256),
            layers_per_block=4,
            attention_head_dim=256,
            num_class_embeds=10,
        ),
        schedule="edm",
    ),
    64: Architecture(
        "ADM ImageNet 64",
        gflop=219,
        batch=32,
        unet=_unet(
            (_PLAIN, _ATTENTION, _ATTENTION, _ATTENTION),
            out_channels=6,
            block_out_channels=(192, 384, 576, 768),
            layers_per_block=3,
            attention_head_dim=64,
            num_class_embeds=1000,
            resnet_time_scale_shift="scale_shift",
        ),
        schedule="squaredcos_cap_v2",
    ),
    128: Architecture(
        "ADM ImageNet 128",
        gflop=614,
        batch=16,
        unet=_unet(
            (_PLAIN, _PLAIN, _ATTENTION, _ATTENTION, _ATTENTION),
            out_channels=6,
            block_out_channels=(256, 256, 512, 768, 1024),
            layers_per_block=2,
            attention_head_dim=128,
            num_class_embeds=1000,
            resnet_time_scale_shift="scale_shift",
        ),
    ),
    256: Architecture(
        "ADM LSUN 256",
        gflop=2240,
        batch=8,
        unet=_unet(
            (_PLAIN, _PLAIN, _PLAIN, _ATTENTION, _ATTENTION, _ATTENTION),
            out_channels=6,
            block_out_channels=(256, 256, 512, 512, 1024, 1024),
            layers_per_block=2,
            attention_head_dim=64,
            resnet_time_scale_shift="scale_shift",
        ),
    ),
}
"""By the resolution of the data set."""


def architecture_for(data_resolution: int) -> Architecture:
    """That of a data set; raises UserError where there is none."""
    if data_resolution not in ARCHITECTURES:
        known = ", ".join(map(str, ARCHITECTURES))
        raise UserError(f"data.resolution is {data_resolution}, expected {known}, or the bundled scorer `digits`")
    return ARCHITECTURES[data_resolution]


def random_unet(architecture: Architecture, resolution: int, device: torch.device) -> UNet2DModel:
    """The network in float32 with random weights, the same ones every time."""
    with torch.random.fork_rng(devices=[device] if device.type == "cuda" else []), device:
        torch.manual_seed(SEED)
        return UNet2DModel(sample_size=resolution, **architecture.unet)


def random_scorer(architecture: Architecture, resolution: int, device: torch.device) -> UNetScorer:
    """A float32 scorer that predicts nothing in particular, as expensively as the real one."""
    return scorer_of(random_unet(architecture, resolution, device), paper_schedule(architecture), device)


def paper_schedule(architecture: Architecture) -> NoiseSchedule:
    """The noise schedule that the network was trained with."""
    if architecture.schedule == "edm":
        return edm_schedule()
    return schedule_from_config({"beta_schedule": architecture.schedule}, architecture.name)


def scorer_of(unet: UNet2DModel, schedule: NoiseSchedule, device: torch.device, **options: Any) -> UNetScorer:
    """A scorer that predicts eps; options as those of UNetScorer."""
    return UNetScorer(unet, schedule, parameterization="eps", device=device, **options)


def float32_scorer(name: str | None, data_resolution: int, resolution: int, device: torch.device) -> tuple[str, Scorer]:
    """What a configuration's scorer is in a measurement: the bundled one, or its data set's with random weights.

    Args:
        name: smart.scorer.
        data_resolution: Of the data set, which decides the architecture.
        resolution: Of the images that it scores.
        device: Where it runs.

    Returns:
        A name for people, and the scorer.

    Raises:
        UserError: There is no architecture for the resolution.
    """
    if name is not None and name in BUNDLED:
        return f"bundled {name}", load_scorer(name, device=device, precision="fp32")
    architecture = architecture_for(data_resolution)
    return f"{architecture.name}, random weights", random_scorer(architecture, resolution, device)
