"""`smartfast interpolate`: a path through the images of several seeds, as GIF, MP4 or a PNG strip."""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch

from smartfast.config.ranges import Count, CountOrZero, FilePath, FramesPerSecond, Ratio, Steps, Truncation, in_range
from smartfast.core.grids import save_grid
from smartfast.errors import UserError
from smartfast.families.sampling import Look, draw_path
from smartfast.families.saved import open_sampler
from smartfast.tools.animation import check_animation, save_animation
from smartfast.tools.generate import MAX_SEED, choose_device, class_indices, parse_numbers, seed_labels
from smartfast.tools.output import check_writable, writing

FORMATS = (".gif", ".mp4", ".png")


@dataclass(frozen=True)
class InterpolateOptions:
    """A path through the images of several seeds."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), RUN@best, checkpoint folder or generator_ema.safetensors."""
    out: FilePath = "interpolation.gif"
    """File to write: .gif, .mp4 (needs the extra `video`), or .png for a strip with one row per pair of seeds."""
    seeds: str = "0-7"
    """Seeds of the images that the path visits, in this order, such as `0-7` or `3,1,4`."""
    steps: Steps = 16
    """Images from one seed to just before the next."""
    space: Literal["auto", "z", "w"] = "auto"
    """Where to interpolate: on the sphere of latents (z) or linearly in the mapping network's output (w); auto takes w
    where there is one."""
    loop: bool = True
    """Return from the last seed to the first."""
    classes: str | None = None
    """One class (index, or name where the data had them) for all seeds, or one per seed such as `0,1,2`. Unset: seed s
    gets class s mod classes."""
    truncation_psi: Truncation = 1.0
    """Truncation: 1 = none, 0 = the mean image."""
    truncation_cutoff: CountOrZero | None = None
    """Number of leading layers that truncation acts on; unset = all."""
    truncation_threshold: Ratio | None = None
    """Values of the seeds' latents beyond this are drawn again, as BigGAN truncates; unset = none, 0.5 is strong."""
    noise: Literal["const", "none"] = "const"
    """Per-pixel noise: the stored one, the same in every image, or none."""
    fps: FramesPerSecond = 24
    """Images per second of a GIF or MP4; a GIF rounds the time per image to 10 ms."""
    batch: Count = 32
    """Images computed at a time."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


def interpolate(options: InterpolateOptions) -> Path:
    """Draw the path and write it.

    Returns:
        The file written.

    Raises:
        UserError: An option that cannot be understood or does not suit the checkpoint, or the extra `video` is missing.
    """
    options = in_range(options)
    out = Path(options.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"out: found {options.out!r}, expected a file name that ends in {', '.join(FORMATS)}")
    seeds = parse_numbers(options.seeds, "seeds", MAX_SEED)
    if len(seeds) < 2:
        raise UserError(f"seeds: found {options.seeds!r}, expected at least two")
    check_animation(out)
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    labels = seed_labels(sampler, seeds, class_indices(options.classes, options.checkpoint))
    check_writable(out.parent, f"out: {out}")
    images = draw_path(
        sampler,
        torch.tensor(seeds),
        labels,
        steps=options.steps,
        loop=options.loop,
        space=options.space,
        look=Look(options.truncation_psi, options.truncation_cutoff, options.noise, options.truncation_threshold),
        batch=options.batch,
    )
    with writing(f"out: {out}"):
        if out.suffix.lower() == ".png":
            save_grid(images, out, columns=options.steps)
        else:
            save_animation(images, out, fps=options.fps, loop=options.loop)
    note = "; alpha is laid on white, a .png keeps it" if images.shape[1] == 4 and out.suffix.lower() != ".png" else ""
    print(f"{len(images)} images along {len(seeds)} seeds: {out}{note}")
    return out
