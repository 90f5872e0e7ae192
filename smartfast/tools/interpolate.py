"""`smartfast interpolate`: a path through the images of several seeds, as GIF, MP4 or a PNG strip."""

import io
import math
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from smartfast.core.files import write_atomically
from smartfast.core.grids import save_grid, to_pillow
from smartfast.errors import UserError
from smartfast.families.sampling import Look, draw_path
from smartfast.families.saved import open_sampler
from smartfast.tools.generate import MAX_SEED, choose_device, class_indices, parse_numbers

FORMATS = (".gif", ".mp4", ".png")


@dataclass(frozen=True)
class InterpolateOptions:
    """A path through the images of several seeds."""

    checkpoint: str
    """Run folder (its newest checkpoint is used), checkpoint folder or generator_ema.safetensors."""
    out: str = "interpolation.gif"
    """File to write: .gif, .mp4 (needs the extra `video`), or .png for a strip with one row per pair of seeds."""
    seeds: str = "0-7"
    """Seeds of the images that the path visits, in this order, such as `0-7` or `3,1,4`."""
    steps: int = 16
    """Images from one seed to just before the next."""
    space: Literal["auto", "z", "w"] = "auto"
    """Where to interpolate: on the sphere of latents (z) or linearly in the mapping network's output (w); auto takes w
    where there is one."""
    loop: bool = True
    """Return from the last seed to the first."""
    classes: str | None = None
    """One class (index, or name where the data had them) for all seeds, or one per seed such as `0,1,2`. Unset: seed s
    gets class s mod classes."""
    truncation_psi: float = 1.0
    """Truncation: 1 = none, 0 = the mean image."""
    truncation_cutoff: int | None = None
    """Number of leading layers that truncation acts on; unset = all."""
    noise: Literal["const", "none"] = "const"
    """Per-pixel noise: the stored one, the same in every image, or none."""
    fps: int = 24
    """Images per second of a GIF or MP4; a GIF rounds the time per image to 10 ms."""
    batch: int = 32
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
    out = Path(options.out)
    if out.suffix.lower() not in FORMATS:
        raise UserError(f"out: found {options.out!r}, expected a file name that ends in {', '.join(FORMATS)}")
    seeds = parse_numbers(options.seeds, "seeds", MAX_SEED)
    if len(seeds) < 2:
        raise UserError(f"seeds: found {options.seeds!r}, expected at least two")
    for name in ("steps", "fps", "batch"):
        if getattr(options, name) < 1:
            raise UserError(f"{name}: found {getattr(options, name)}, expected at least 1")
    if out.suffix.lower() == ".mp4":
        _video_writer()
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    labels = _key_labels(sampler.num_classes, seeds, class_indices(options.classes, options.checkpoint))
    images = draw_path(
        sampler,
        torch.tensor(seeds),
        labels,
        steps=options.steps,
        loop=options.loop,
        space=options.space,
        look=Look(options.truncation_psi, options.truncation_cutoff, options.noise),
        batch=options.batch,
    )
    match out.suffix.lower():
        case ".png":
            save_grid(images, out, columns=options.steps)
        case ".gif":
            _save_gif(images, out, options)
        case ".mp4":
            _save_mp4(images, out, options.fps)
    print(f"{len(images)} images along {len(seeds)} seeds: {out}")
    return out


def _key_labels(num_classes: int, seeds: list[int], classes: str | None) -> Tensor | None:
    if not num_classes:
        if classes is not None:
            raise UserError(f"classes: found {classes!r}, expected none: the generator was trained without labels")
        return None
    if classes is None:
        return torch.tensor(seeds) % num_classes
    labels = parse_numbers(classes, "classes", num_classes - 1)
    if len(labels) not in (1, len(seeds)):
        raise UserError(f"classes: found {len(labels)} classes, expected 1 or as many as seeds ({len(seeds)})")
    return torch.tensor(labels).expand(len(seeds))


def _pictures(images: Tensor) -> list[Image.Image]:
    """RGB pictures of at least 256 pixels, on white; small images are enlarged with square pixels."""
    if images.shape[1] == 4:
        print("alpha is laid on white, since GIF and MP4 cannot hold it; a .png strip can")
    pictures = [to_pillow(image[None], min_pixels=256).convert("RGBA") for image in images]
    white = Image.new("RGBA", pictures[0].size, "white")
    return [Image.alpha_composite(white, picture).convert("RGB") for picture in pictures]


def _save_gif(images: Tensor, out: Path, options: InterpolateOptions) -> None:
    first, *others = _pictures(images)
    repeat = {"loop": 0} if options.loop else {}
    duration_ms = max(20, math.floor(100 / options.fps + 0.5) * 10)  # viewers slow GIFs down below 20 ms
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=duration_ms, **repeat)
    write_atomically(out, buffer.getvalue())


def _save_mp4(images: Tensor, out: Path, fps: int) -> None:
    pictures = _pictures(images)
    out.parent.mkdir(parents=True, exist_ok=True)
    options = dict(fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="error")
    writer = _video_writer()(str(out), pictures[0].size, **options)
    writer.send(None)
    for picture in pictures:
        writer.send(np.ascontiguousarray(picture))
    writer.close()


def _video_writer() -> Callable[..., Any]:
    try:
        from imageio_ffmpeg import write_frames
    except ImportError as error:
        raise UserError(
            "out: .mp4 needs the extra `video`, which is not installed; `pip install smartfast[video]`, or write a .gif"
        ) from error
    return write_frames
