"""Sample grids of a diffusion model in training, by DDIM (Song et al., arXiv 2010.02502) from fixed noise."""

from pathlib import Path

import torch
from diffusers import DDIMScheduler, DDPMScheduler
from torch import Tensor
from torchvision.utils import save_image

from smartfast.core.draws import Purpose
from smartfast.kernels import philox_normal
from smartfast.scorers.base import Scorer

_MOST_COLUMNS = 16


@torch.no_grad()
def ddim_samples(scorer: Scorer, scheduler: DDPMScheduler, labels: Tensor | None, noise: Tensor, steps: int) -> Tensor:
    """Deterministic samples, float32 [N, C, H, W] in about [-1, 1].

    Args:
        scorer: The model.
        scheduler: Its noise schedule.
        labels: int64 [N] or None.
        noise: float32 [N, C, H, W], unit normal: where the samples start.
        steps: DDIM steps, at most the timesteps of the schedule.
    """
    ddim = DDIMScheduler.from_config(scheduler.config, clip_sample=True)
    ddim.set_timesteps(steps)
    x = noise
    for t in ddim.timesteps:
        batch_t = torch.full((len(x),), int(t), device=x.device)
        x = ddim.step(scorer.network(x, batch_t, labels).to(torch.float32), t, x).prev_sample
    return x


def save_sample_grid(path: Path, scorer: Scorer, scheduler: DDPMScheduler, *, rows: int, steps: int, seed: int) -> None:
    """Write a PNG of `rows` rows of samples; with classes, one column per class, up to 16."""
    device = scorer.alphas.device
    columns = min(scorer.num_classes, _MOST_COLUMNS) or rows
    stream = torch.arange(rows * columns, device=device)
    shape = (scorer.channels, scorer.resolution, scorer.resolution)
    noise = philox_normal(seed, stream, scorer.channels * scorer.resolution**2, Purpose.SAMPLE).unflatten(1, shape)
    labels = stream % columns if scorer.num_classes else None
    images = ddim_samples(scorer, scheduler, labels, noise, min(steps, scorer.num_timesteps))
    save_image(images, path, nrow=columns, padding=0, normalize=True, value_range=(-1, 1))
