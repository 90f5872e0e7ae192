"""Checks of StyleGAN2's settings, all of them before anything is trained."""

import torch

from smartfast.config.families import StyleGan2Gan, StyleGan2Loss
from smartfast.config.schema import Config
from smartfast.core.draws import are_vectors
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families.stylegan2.networks import discriminator_options
from smartfast.networks.stylegan2 import Discriminator
from smartfast.networks.stylegan2.layers import feature_maps


def check_settings(config: Config, images_at_a_time: int) -> None:
    """Raise UserError, one line, for the first setting that cannot work whatever the data."""
    gan, loss = config.gan, config.loss
    assert isinstance(gan, StyleGan2Gan) and isinstance(loss, StyleGan2Loss)
    if loss.path_length_shrink > config.optim.batch:
        raise UserError(
            f"loss.path_length_shrink is {loss.path_length_shrink}, expected at most optim.batch {config.optim.batch}"
        )
    maps = feature_maps(4, gan.channel_base, gan.channel_max)
    if gan.mbstd_channels and maps % gan.mbstd_channels:
        raise UserError(
            f"gan.mbstd_channels is {gan.mbstd_channels}, expected a divisor of the {maps} feature maps at 4x4"
        )
    if gan.mbstd_channels and images_at_a_time % min(gan.mbstd_group, images_at_a_time):
        raise UserError(
            f"gan.mbstd_group is {gan.mbstd_group}, expected a divisor of the {images_at_a_time} images at a time"
        )


def check_data(config: Config, dataset: ImageDataset) -> None:
    """Raise UserError, one line, for the first setting that does not fit the data."""
    gan, resolution = config.gan, dataset.resolution
    assert isinstance(gan, StyleGan2Gan)
    if resolution < 8 or resolution & (resolution - 1):
        raise UserError(
            f"data.path {config.data.path}: images are {resolution} pixels wide, expected a power of two of at least 8 "
            "(`smartfast dataset` resizes)"
        )
    if gan.channel_base < resolution:
        raise UserError(f"gan.channel_base is {gan.channel_base}, expected at least the resolution {resolution}")
    if gan.freeze_d:
        with torch.device("meta"):
            shape = dict(resolution=resolution, channels=dataset.channels, num_classes=dataset.num_classes)
            most = len(Discriminator(**discriminator_options(gan, **shape)).image_layers())
        if gan.freeze_d > most:
            raise UserError(
                f"gan.freeze_d is {gan.freeze_d}, expected at most {most}, the discriminator's layers above 4x4 pixels "
                f"with gan.architecture_d {gan.architecture_d} at {resolution} pixels"
            )
    if gan.mbstd_by_class and not dataset.num_classes:
        raise UserError(
            "gan.mbstd_by_class is true, expected data.labels true with it, or false for images without classes"
        )
    if gan.mbstd_by_class and are_vectors(dataset.labels):
        raise UserError("gan.mbstd_by_class is true, expected false: the labels of the images are vectors, not classes")
    if gan.mbstd_by_class and config.optim.batch % gan.mbstd_group:
        raise UserError(f"gan.mbstd_group is {gan.mbstd_group}, expected a divisor of optim.batch {config.optim.batch}")
