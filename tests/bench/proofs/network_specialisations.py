"""A program that prints which specialisations the networks launch, forward and backward, and shapes.py lacks."""

import json
from functools import partial

import torch

from bench.base.shapes import CLAMP, CONFIGS, HALF_RESOLUTIONS, IMAGE_CHANNELS, Config, cases
from bench.count.tracing import trace
from bench.proofs.ahead_of_time import specialise
from smartfast import kernels
from smartfast.networks.stylegan2 import Discriminator, Generator


def of_networks(config: Config) -> set:
    """What a generator step launches, in fp16 as NCHW: the discriminator's logits of fakes, and all gradients."""
    options = dict(
        c_dim=0,
        resolution=config.resolution,
        channels=IMAGE_CHANNELS,
        channel_base=config.channel_base,
        conv_clamp=CLAMP,
        half_resolutions=HALF_RESOLUTIONS,
    )
    with torch.device("meta"):
        generator = Generator(z_dim=512, w_dim=512, **options)
        discriminator = Discriminator(architecture=config.architecture_d, **options)
        z = torch.empty(config.batch, 512)
    parameters = [*generator.parameters(), *discriminator.parameters()]
    with kernels.use("triton"):
        traced = trace(lambda: discriminator(generator(z, noise="random")), parameters, order=1)
    return {specialise(launch) for launch in traced.launches}


def of_shapes(config: Config) -> set:
    """What bench.base.shapes lists for the same."""
    found = set()
    for dtype in (torch.float16, torch.float32):
        for case in cases(config, dtype, channels_last=False):
            found |= {specialise(launch) for launch in trace(partial(case.run, "triton"), case.leaves, 1).launches}
    return found


if __name__ == "__main__":
    config = next(config for config in CONFIGS if config.resolution == 64)
    networks, shapes = of_networks(config), of_shapes(config)
    print(json.dumps({"launched": len(networks), "missing": sorted(str(s) for s in networks - shapes)}))
