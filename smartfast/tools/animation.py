"""Images one after another: GIF, or MP4 with the extra `video`."""

import io
import math
from pathlib import Path
from types import ModuleType

import numpy as np
from PIL import Image
from torch import Tensor

from smartfast.core.files import appears_complete, write_atomically
from smartfast.core.grids import to_pillow
from smartfast.errors import UserError


def pictures(images: Tensor) -> list[Image.Image]:
    """RGB pictures of at least 256 pixels, alpha laid on white; small images are enlarged with square pixels."""
    pictures = (to_pillow(image[None], min_pixels=256).convert("RGBA") for image in images)
    return [
        Image.alpha_composite(Image.new("RGBA", picture.size, "white"), picture).convert("RGB") for picture in pictures
    ]


def save_animation(images: Tensor, out: Path, *, fps: int, loop: bool) -> None:
    """Write images uint8 [N, C, H, W] as .gif or .mp4, whichever `out` ends in; a GIF rounds the time per image.

    Raises:
        UserError: The extra `video` is missing.
        OSError: It cannot be written.
    """
    if out.suffix.lower() == ".mp4":
        _save_mp4(images, out, fps)
    else:
        _save_gif(images, out, fps, loop)


def check_animation(out: Path) -> None:
    """Raise UserError if the extra `video` is missing and `out` needs it."""
    if out.suffix.lower() == ".mp4":
        _ffmpeg()


def _save_gif(images: Tensor, out: Path, fps: int, loop: bool) -> None:
    first, *others = pictures(images)
    repeat = {"loop": 0} if loop else {}
    duration_ms = max(20, math.floor(100 / fps + 0.5) * 10)  # viewers slow GIFs down below 20 ms
    buffer = io.BytesIO()
    first.save(buffer, format="GIF", save_all=True, append_images=others, duration=duration_ms, **repeat)
    write_atomically(out, buffer.getvalue())


def _save_mp4(images: Tensor, out: Path, fps: int) -> None:
    frames = pictures(images)
    options = dict(fps=fps, quality=8, macro_block_size=2, ffmpeg_log_level="error", output_params=["-f", "mp4"])
    with appears_complete(out) as partial:
        ffmpeg = _ffmpeg()
        writer = ffmpeg.write_frames(str(partial), frames[0].size, **options)
        writer.send(None)
        for picture in frames:
            writer.send(np.ascontiguousarray(picture))
        writer.close()  # which does not ask how ffmpeg ended
        try:
            written, _ = ffmpeg.count_frames_and_secs(str(partial))
        except RuntimeError:
            written = 0
        if written != len(frames):
            raise OSError(f"ffmpeg wrote {written} of {len(frames)} images")


def _ffmpeg() -> ModuleType:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise UserError(
            "out: .mp4 needs the extra `video`, which is not installed; `pip install imageio-ffmpeg`, or write a .gif"
        ) from error
    return imageio_ffmpeg
