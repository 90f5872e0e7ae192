"""The networks of a configuration, as arguments of their classes."""

from typing import Any

import torch

from smartfast.config.families import StyleGan2Gan
from smartfast.networks.stylegan2 import Discriminator, Generator

_HALF_DTYPES = {"fp16": torch.float16, "bf16": torch.bfloat16}


def generator_options(gan: StyleGan2Gan, *, resolution: int, channels: int, num_classes: int) -> dict[str, Any]:
    """Arguments of `Generator`, all of which JSON can hold; precision is left out, it is a property of the run."""
    return dict(
        z_dim=gan.z_dim,
        c_dim=num_classes,
        w_dim=gan.w_dim,
        resolution=resolution,
        channels=channels,
        mapping_layers=gan.mapping_layers,
        mapping_lr_multiplier=gan.mapping_lr_multiplier,
        architecture=gan.architecture_g,
        channel_base=gan.channel_base,
        channel_max=gan.channel_max,
        use_noise=gan.noise,
        conv_clamp=gan.conv_clamp,
    )


def discriminator_options(gan: StyleGan2Gan, *, resolution: int, channels: int, num_classes: int) -> dict[str, Any]:
    """Arguments of `Discriminator`, all of which JSON can hold."""
    return dict(
        c_dim=num_classes,
        resolution=resolution,
        channels=channels,
        mapping_layers=gan.d_mapping_layers,
        mapping_lr_multiplier=gan.mapping_lr_multiplier,
        architecture=gan.architecture_d,
        channel_base=gan.channel_base,
        channel_max=gan.channel_max,
        mbstd_group=gan.mbstd_group,
        mbstd_channels=gan.mbstd_channels,
        conv_clamp=gan.conv_clamp,
    )


def half_precision_options(gan: StyleGan2Gan, precision: str) -> dict[str, Any]:
    """The arguments of both networks that `perf.precision` adds; none in fp32 and tf32."""
    if precision not in _HALF_DTYPES:
        return {}
    return dict(half_resolutions=gan.half_resolutions, half_dtype=_HALF_DTYPES[precision])


def build_networks(
    gan: StyleGan2Gan, *, resolution: int, channels: int, num_classes: int, precision: str, seed: int
) -> tuple[Generator, Discriminator]:
    """Both networks on the CPU, initialised from `seed` without touching the global generator's state.

    What gan.freeze_d says of the discriminator requires no gradient.

    Raises:
        ValueError: The resolution is not a power of two.
    """
    shape = dict(resolution=resolution, channels=channels, num_classes=num_classes)
    half = half_precision_options(gan, precision)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        generator = Generator(**generator_options(gan, **shape), **half)
        discriminator = Discriminator(**discriminator_options(gan, **shape), **half)
    for layer in discriminator.image_layers()[: gan.freeze_d]:
        layer.requires_grad_(False)
    return generator, discriminator
