"""`smartfast project`: the styles whose image is nearest to a photo, and how they were found."""

import io
import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from matplotlib.figure import Figure
from PIL import Image
from safetensors.torch import save_file
from torch import Tensor
from tqdm import tqdm

from smartfast.config.ranges import Count, FilePath, LabelNumber, LongSeed, Ratio, Samples, Weight, in_range
from smartfast.core.files import appears_complete, user_path, write_atomically
from smartfast.core.grids import save_grid
from smartfast.core.pixels import to_float, to_uint8
from smartfast.data.sources.encoded import decode_image
from smartfast.errors import UserError
from smartfast.families.features import open_features
from smartfast.families.sampling import PLAIN, Sampler
from smartfast.families.saved import open_sampler
from smartfast.tools.animation import check_animation, save_animation
from smartfast.tools.fit import Crop, fit
from smartfast.tools.generate import choose_device, class_indices, one_label
from smartfast.tools.output import check_writable, writing
from smartfast.tools.perceptual import Distance, FeatureDistance, Vgg16Distance, pixel_distance
from smartfast.tools.projection import Search, Step, search_styles, style_statistics

LATENT_FILE = "projected_w.safetensors"
_STRIP_IMAGES = 8
_MOST_FRAMES = 120
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


@dataclass(frozen=True)
class ProjectOptions:
    """The styles of an image, for a network with style layers, found by Adam."""

    image: FilePath
    """Photo to find, of any size. (stylegan2-ada: --target)"""
    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), RUN@best, checkpoint folder, folder of `smartfast convert` or
    generator_ema.safetensors; the first three may have a discriminator. (stylegan2-ada: --network)"""
    out: FilePath = "projection"
    """Folder to write: projected.png, target.png, way.png, the video, curve.png, projection.json, and the styles as
    projected_w.safetensors, which `smartfast generate --styles` draws. (stylegan2-ada: --outdir)"""
    space: Literal["w", "w+"] = "w"
    """One style for all layers, whose images look like the network's, or one for each layer, which come nearer."""
    steps: Count = 1000
    """Steps of Adam. (stylegan2-ada: --num-steps)"""
    seed: LongSeed = 0
    """Of the latents behind the mean style and of the noise on the way. (stylegan2-ada: --seed)"""
    lr: Ratio = 0.1
    """Adam's learning rate at its highest; it rises in the first 5 % and falls in the last 25 %. Default: StyleGAN2."""
    noise: Weight = 0.05
    """Standard deviation of the noise on the styles at the first step, over their spread; it is gone after 75 %.
    Default: StyleGAN2."""
    mean_samples: Samples = 10000
    """Random latents whose mean style is the start. Default: StyleGAN2."""
    classes: str | None = None
    """Class (index, or name where the data had them) whose mean is the start. Unset: the mean of all."""
    label: tuple[LabelNumber, ...] | None = None
    """Label vector such as `0.2,0.8` in place of a class."""
    crop: Crop = "center"
    """What to do about another shape than a square: cut its middle out, pad it, stretch it, or (none) stop."""
    discriminator: bool = True
    """Compare what the checkpoint's discriminator sees, where it has one, beside the pixels."""
    vgg: FilePath | None = None
    """torchvision's weights of VGG16 (vgg16-397923af.pth), whose features are compared too; nothing is downloaded."""
    lpips: FilePath | None = None
    """LPIPS's weights for them (vgg.pth of lpips, weights-vgg16-lpips.pth of torch-fidelity)."""
    video: Literal["gif", "mp4", "none"] = "gif"
    """The way as GIF or MP4 (needs the extra `video`), the photo beside it. (stylegan2-ada: --save-video)"""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


def project(options: ProjectOptions) -> Path:
    """Find the styles of an image and write them; on a CPU the same bits for the same options.

    Returns:
        The file of the styles: `w` float32 [1, style_layers, F].

    Raises:
        UserError: An option that cannot be understood or does not suit the checkpoint, or an image that cannot be read.
    """
    options = in_range(options)
    out = Path(options.out)
    if out.suffix or out.is_file():
        raise UserError(f"out: found {options.out!r}, expected a folder")
    if options.lpips is not None and options.vgg is None:
        raise UserError("lpips: given without vgg, whose features it weighs, expected both")
    video = None if options.video == "none" else out / f"way.{options.video}"
    if video is not None:
        check_animation(video)
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    classes = class_indices(options.classes, options.checkpoint)
    label = one_label(sampler, classes, options.label)
    target = read_target(options.image, sampler, options.crop)
    distances = _distances(options, sampler)
    check_writable(out, f"out: {out}")
    statistics = style_statistics(sampler, label, options.mean_samples, options.seed)
    search = Search(options.space, options.steps, options.lr, options.noise, options.seed)
    way = _Way(search)
    with tqdm(total=options.steps, desc="project", unit="step", leave=False, disable=None) as bar:
        styles = search_styles(sampler, target, statistics, distances, search, lambda step: way.add(step, bar))
    projected = to_uint8(sampler.styled(styles, PLAIN)).cpu()
    shown = to_uint8(target).cpu()
    with writing(f"out: {out}"):
        _write(out, options, styles, shown, projected, way)
        if video is not None:
            save_animation(torch.cat([shown.expand_as(way.frames), way.frames], dim=3), video, fps=24, loop=False)
    first, last = way.curve["total"][0], way.curve["total"][-1]
    print(f"distance ({' + '.join(distances)}) {first:.4g} -> {last:.4g} in {options.steps} steps: {out}")
    return out / LATENT_FILE


def read_target(image: str, sampler: Sampler, crop: Crop) -> Tensor:
    """A photo as float [1, C, H, W] in [-1, 1], of the shape of the sampler's images; alpha is laid on white.

    Raises:
        UserError: It cannot be read, or `crop` is none and it is no square.
    """
    path, (channels, height, width) = user_path(image, "image"), sampler.image_shape
    if channels not in _MODES:
        raise UserError(f"checkpoint: draws {channels} numbers a point, expected a network that draws images")
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UserError(f"image: {image}: {error.strerror}, expected a file of an image") from error
    photo = decode_image(content, f"image: {image}")
    if photo.mode == "RGBA" and channels != 4:
        photo = Image.alpha_composite(Image.new("RGBA", photo.size, "white"), photo)
    photo = fit(photo.convert(_MODES[channels]), (width, height), crop, f"image: {image}")
    pixels = torch.from_numpy(np.array(photo)).view(height, width, channels)
    return to_float(pixels.permute(2, 0, 1)[None]).to(sampler.device)


def _distances(options: ProjectOptions, sampler: Sampler) -> dict[str, Distance]:
    """What is summed, by name."""
    found: dict[str, Distance] = {"pixels": pixel_distance}
    features = open_features(options.checkpoint, sampler) if options.discriminator else None
    if features is not None:
        found["discriminator"] = FeatureDistance(features)
    if options.vgg is not None:
        lpips = None if options.lpips is None else Path(options.lpips)
        found["vgg" if lpips is None else "lpips"] = Vgg16Distance(Path(options.vgg), lpips, sampler.device)
    return found


class _Way:
    """What is kept of the steps: every distance, and images at even distances, the last one among them."""

    def __init__(self, search: Search) -> None:
        count = min(search.steps, _MOST_FRAMES)
        self._kept = {round((frame + 1) * search.steps / count) - 1 for frame in range(count)}
        self._frames: list[Tensor] = []
        self.curve: dict[str, list[float]] = {}

    def add(self, step: Step, bar: tqdm) -> None:
        for name, value in step.distances.items():
            self.curve.setdefault(name, []).append(value)
        if step.number in self._kept:
            self._frames.append(to_uint8(step.image).cpu())
            bar.set_postfix_str(f"distance {step.distances['total']:.4g}", refresh=False)
        bar.update()

    @property
    def frames(self) -> Tensor:
        """uint8 [F, C, H, W]."""
        return torch.cat(self._frames)

    def strip(self) -> Tensor:
        """A few of the frames, the first and the last among them; the way is quick at first, so most are of there."""
        last = len(self._frames) - 1
        chosen = sorted({round(last * (place / (_STRIP_IMAGES - 1)) ** 2) for place in range(_STRIP_IMAGES)})
        return self.frames[chosen]


def _write(out: Path, options: ProjectOptions, styles: Tensor, target: Tensor, projected: Tensor, way: _Way) -> None:
    save_grid(target, out / "target.png", columns=1, min_pixels=0)
    save_grid(projected, out / "projected.png", columns=1, min_pixels=0)
    strip = torch.cat([way.strip(), projected, target])
    save_grid(strip, out / "way.png", columns=len(strip))
    write_atomically(out / "curve.png", _plot(way.curve))
    with appears_complete(out / LATENT_FILE) as partial:
        save_file({"w": styles.cpu()}, partial, metadata={"space": options.space})
    record = {"options": asdict(options), "distances": way.curve}
    write_atomically(out / "projection.json", f"{json.dumps(record)}\n".encode())


def _plot(curve: dict[str, list[float]]) -> bytes:
    drawing = Figure(figsize=(6, 4), layout="constrained")
    axis = drawing.subplots()
    for name, values in curve.items():
        axis.plot(values, label=name, linewidth=1.4)
    axis.set(xlabel="step", ylabel="distance to the photo", yscale="log")
    axis.grid(alpha=0.25)
    axis.legend(frameon=False)
    buffer = io.BytesIO()
    drawing.savefig(buffer, format="png", metadata={"Software": None})
    return buffer.getvalue()
