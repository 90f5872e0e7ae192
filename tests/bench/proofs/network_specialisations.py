"""A program that prints which specialisations the networks launch, forward and backward, and the report lacks."""

import json

import torch

from bench.count.sizes import suite_config
from bench.count.tracing import trace
from bench.proofs.ahead_of_time import specialise
from bench.proofs.specialisations import calls_of, collect
from smartfast import kernels
from smartfast.families.stylegan2.networks import build_networks

NAME, CLASSES = "imagenet64", 0


def of_networks() -> set:
    """What a generator step launches, in fp16 as NCHW: the discriminator's logits of fakes, and all gradients."""
    config = suite_config(NAME, "cuda")
    with torch.device("meta"):
        g, d = build_networks(config.gan, resolution=64, channels=3, num_classes=CLASSES, precision="fp16", seed=0)
        z = torch.empty(config.optim.batch, config.gan.z_dim)
    with kernels.use("triton"):
        traced = trace(lambda: d(g(z, noise="random")), [*g.parameters(), *d.parameters()], order=1)
    return {specialise(launch) for launch in traced.launches}


if __name__ == "__main__":
    networks = of_networks()
    reported = {specialisation for specialisation, _ in collect(calls_of(NAME, "fp16"), (90,))}
    print(json.dumps({"launched": len(networks), "missing": sorted(str(s) for s in networks - reported)}))
