"""`smartfast generate`: images from a checkpoint, one per seed and class.

A seed alone fixes its image: neither the other seeds nor the batch size change it. Its latent is the one that
stylegan2-ada-pytorch's and stylegan3's generate scripts use for the same seed.
"""

import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, NamedTuple

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from smartfast.config.ranges import Count, CountOrZero, FilePath, LabelNumber, Ratio, Truncation, in_range
from smartfast.core.draws import are_vectors
from smartfast.core.grids import grid_shape, save_grid
from smartfast.core.pixels import to_uint8
from smartfast.errors import UserError
from smartfast.families.sampling import PLAIN, Look, Sampler, label_vectors, seeded_latents, usual_labels
from smartfast.families.saved import open_sampler, saved_class_names
from smartfast.run.verdicts import switch_off_known
from smartfast.tools.output import check_writable, writing

MAX_SEED = 2**32 - 1
MAX_NUMBERS = 10**6
_LONGEST_RANGE = 40
_SHOWN_NAMES = 20


@dataclass(frozen=True)
class GenerateOptions:
    """Images from a checkpoint."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), RUN@best, checkpoint folder or generator_ema.safetensors.
    (stylegan2-ada: --network)"""
    out: FilePath = "fakes.png"
    """A .png file for one sheet of all images, or a folder for one file per image (`seed0000_class3.png`).
    (stylegan2-ada: --outdir)"""
    seeds: str = "0-15"
    """Seeds such as `7`, `0-15` or `0-15,20`; each one fixes an image. (stylegan2-ada: --seeds)"""
    classes: str | None = None
    """Class indices such as `3` or `0-9`, or names such as `cat,dog` where the data had them; every seed is drawn in
    each. Unset: seed s gets class s mod classes. (stylegan2-ada: --class)"""
    label: tuple[LabelNumber, ...] | None = None
    """The label vector of every image, such as `0.2,0.8`, in place of classes: several at a time, shares of each, or
    continuous labels where the data had them. Unset, with such data: a few of the training images' in turn."""
    truncation_psi: Truncation | tuple[Truncation, ...] = 1.0
    """Truncation: 1 = none, 0 = the mean image; 0.7 is StyleGAN's usual trade of variety for quality. Several, such as
    `0.5,0.7,1`, give each image with each of them, side by side in the sheet. (stylegan2-ada: --trunc)"""
    truncation_cutoff: CountOrZero | None = None
    """Number of leading layers that truncation acts on; unset = all."""
    truncation_threshold: Ratio | None = None
    """Values of the latent beyond this are drawn again, as BigGAN truncates; unset = none, 0.5 is strong."""
    noise: Literal["const", "random", "none"] = "const"
    """Per-pixel noise: the stored one, one drawn from the seed, or none. (stylegan2-ada: --noise-mode)"""
    styles: FilePath | None = None
    """File of styles, such as `smartfast project` writes, to draw in place of seeds, whatever classes and truncation
    say. (stylegan2-ada: --projected-w)"""
    columns: Count | None = None
    """Images per row of the sheet; unset chooses by number of truncations, or of classes, and size."""
    batch: Count = 32
    """Images computed at a time; changes nothing but speed and memory."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


class Request(NamedTuple):
    """The images to draw: seeds int64 [N], and class indices int64 [N] or label vectors float [N, F]; labels is None
    for unconditional generators."""

    seeds: Tensor
    labels: Tensor | None


def generate(options: GenerateOptions) -> list[Path]:
    """Draw the images and write them.

    Returns:
        The files written.

    Raises:
        UserError: An option that cannot be understood or does not suit the checkpoint.
    """
    options = in_range(options)
    seeds = parse_numbers(options.seeds, "seeds", MAX_SEED)
    out = Path(options.out)
    is_sheet = out.suffix.lower() == ".png"
    if not is_sheet and (out.suffix or out.is_file()):
        raise UserError(f"out: found {options.out!r}, expected a .png file or a folder")
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    if options.styles is not None:
        return _draw_styles(sampler, options, out)
    request = make_request(sampler, seeds, class_indices(options.classes, options.checkpoint), options.label)
    looks = _looks(options)
    check_writable(out.parent if is_sheet else out, f"out: {out}")
    images = drawn(sampler, request, looks, options.batch)
    if is_sheet:
        classes = 1 if request.labels is None or are_vectors(request.labels) else len(request.labels.unique())
        columns = options.columns or min(len(request.seeds), grid_shape(sampler.image_shape[2], classes).columns)
        if len(looks) > 1:
            columns = options.columns or len(looks)
        return _write_sheet(torch.cat(list(images)), out, columns)
    return _write_files(images, [out / name for name in _names(request, looks)])


def _write_sheet(images: Tensor, out: Path, columns: int) -> list[Path]:
    with writing(f"out: {out}"):
        save_grid(images, out, columns)
    print(f"{len(images)} images: {out}")
    return [out]


def _write_files(batches: Iterable[Tensor], files: list[Path]) -> list[Path]:
    for path, image in zip(files, (image for batch in batches for image in batch), strict=True):
        with writing(f"out: {path}"):
            save_grid(image[None], path, columns=1, min_pixels=0)
    print(f"{len(files)} images in {files[0].parent}: {files[0].name} to {files[-1].name}")
    return files


def make_request(
    sampler: Sampler, seeds: Sequence[int], classes: str | None, label: tuple[float, ...] | None
) -> Request:
    """Which images to draw: every seed with the label vector, or the first seed in every wanted class, then the second.

    Raises:
        UserError: Classes or a label that the generator does not have.
    """
    numbers = torch.tensor(seeds)
    if label is not None:
        _check_label(sampler.num_classes, classes, label)
        return Request(numbers, torch.tensor([label], dtype=torch.float32).expand(len(seeds), -1))
    if classes is None:
        return Request(numbers, usual_labels(sampler, numbers))
    _check_conditional(sampler.num_classes, classes)
    wanted = parse_numbers(classes, "classes", sampler.num_classes - 1)
    return Request(numbers.repeat_interleave(len(wanted)), torch.tensor(wanted).repeat(len(seeds)))


def seed_labels(sampler: Sampler, seeds: Sequence[int], classes: str | None) -> Tensor | None:
    """The class of each seed, int64 [N]: the one of `classes`, one for each, or s mod classes; None without classes.

    Raises:
        UserError: Classes that the generator does not have, or another number of them.
    """
    if classes is None:
        return usual_labels(sampler, torch.tensor(seeds))
    _check_conditional(sampler.num_classes, classes)
    labels = parse_numbers(classes, "classes", sampler.num_classes - 1)
    if len(labels) not in (1, len(seeds)):
        raise UserError(f"classes: found {len(labels)} classes, expected 1 or as many as seeds ({len(seeds)})")
    return torch.tensor(labels).expand(len(seeds))


def one_label(sampler: Sampler, classes: str | None, label: tuple[float, ...] | None) -> Tensor | None:
    """The label of all images, a class int64 [1] or vector [1, F]; None where neither is given.

    Raises:
        UserError: Not one that the generator has.
    """
    if label is None and classes is None:
        return None
    labels = make_request(sampler, [0], classes, label).labels
    if labels is None or len(labels) != 1:
        raise UserError(f"classes: found {classes!r}, expected one class")
    return labels


def _check_conditional(num_classes: int, classes: str) -> None:
    if not num_classes:
        raise UserError(f"classes: found {classes!r}, expected none: the generator was trained without labels")


def _check_label(num_classes: int, classes: str | None, label: tuple[float, ...]) -> None:
    if classes is not None:
        raise UserError(f"label: found {list(label)} beside classes {classes!r}, expected one of the two")
    if not num_classes:
        raise UserError(f"label: found {list(label)}, expected none: the generator was trained without labels")
    if len(label) != num_classes:
        raise UserError(f"label: found {len(label)} numbers, expected the generator's {num_classes}")


def class_indices(text: str | None, checkpoint: str) -> str | None:
    """An option `classes` with indices in place of the names that the checkpoint's data gave its classes.

    Raises:
        UserError: Something is neither an index nor a name, and there are names.
    """
    names = saved_class_names(checkpoint) if text else []
    if text is None or not names:
        return text
    parts = [part.strip() for part in text.split(",")]
    for place, part in enumerate(parts):
        if part in names and not part.isdecimal():
            parts[place] = str(names.index(part))
        elif re.fullmatch(r"\d+(-\d+)?", part) is None:
            known = ", ".join(names[:_SHOWN_NAMES]) + (", ..." if len(names) > _SHOWN_NAMES else "")
            raise UserError(f"classes: found {part!r}, expected indices such as 0-9, or names out of {known}")
    return ",".join(parts)


def parse_numbers(text: str, name: str, largest: int) -> list[int]:
    """Numbers of a list such as `0-15,20`, in that order.

    Args:
        name: Of the option, for the message.
        largest: Largest number allowed.

    Raises:
        UserError: Anything else.
    """
    numbers: list[int] = []
    for part in text.split(","):
        first, dash, last = part.strip().partition("-")
        if len(part) > _LONGEST_RANGE or not (first.isdecimal() and (last.isdecimal() if dash else True)):
            raise UserError(f"{name}: found {text!r}, expected numbers and ranges such as 0-15,20")
        low, high = int(first), int(last or first)
        if low > high or high > largest:
            raise UserError(f"{name}: found {part.strip()!r}, expected rising numbers from 0 to {largest}")
        if len(numbers) + high - low >= MAX_NUMBERS:
            raise UserError(f"{name}: found {text!r}, expected at most {MAX_NUMBERS} numbers")
        numbers += range(low, high + 1)
    return numbers


def choose_device(name: str) -> torch.device:
    """The device of an option `device`; `auto` takes a GPU where there is one. Kernels that are wrong there are off.

    Raises:
        UserError: No such device on this machine.
    """
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    try:
        device = torch.empty(0, device=name).device
        switch_off_known(device)
        return device
    except (RuntimeError, AssertionError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(f"device: found {name!r}, expected auto, cpu or a GPU such as cuda:0 ({reason})") from error


def _draw_styles(sampler: Sampler, options: GenerateOptions, out: Path) -> list[Path]:
    """The images of a file of styles."""
    assert options.styles is not None
    if options.noise == "random":
        raise UserError("noise is random, expected const or none with styles, which have no seed")
    styles = read_styles(options.styles, sampler).to(sampler.device)
    check_writable(out if not out.suffix else out.parent, f"out: {out}")
    look = Look(noise=options.noise)
    with torch.no_grad():
        images = [to_uint8(sampler.styled(part, look)).cpu() for part in styles.split(options.batch)]
    if out.suffix:
        columns = options.columns or grid_shape(sampler.image_shape[2], 1).columns
        return _write_sheet(torch.cat(images), out, min(columns, len(styles)))
    return _write_files(images, [out / f"style{number:04d}.png" for number in range(len(styles))])


def read_styles(path: str, sampler: Sampler) -> Tensor:
    """Styles float32 [N, style_layers, F] of a safetensors file with one tensor.

    Raises:
        UserError: It is no such file, or of another network.
    """
    z = torch.zeros(1, *sampler.z_shape, device=sampler.device)
    wanted = sampler.styles(z, _no_label(sampler), PLAIN).shape[1:]
    try:
        (styles,) = load_file(path).values()
    except (OSError, ValueError, SafetensorError) as error:
        raise UserError(f"styles: {path}: {error}, expected a .safetensors file with one tensor") from error
    if styles.ndim != 3 or styles.shape[1:] != wanted or not len(styles) or not styles.isfinite().all():
        found = f"{str(styles.dtype).removeprefix('torch.')} {list(styles.shape)}"
        raise UserError(
            f"styles: {path} is {found}, expected finite numbers [N, {wanted[0]}, {wanted[1]}] for this network"
        )
    return styles.float()


def _no_label(sampler: Sampler) -> Tensor | None:
    return torch.zeros(1, sampler.num_classes, device=sampler.device) if sampler.num_classes else None


def _looks(options: GenerateOptions) -> list[Look]:
    """One per truncation."""
    wanted = options.truncation_psi
    psis = wanted if isinstance(wanted, tuple) else (wanted,)
    if not psis or len(set(psis)) < len(psis):
        raise UserError(f"truncation_psi is {list(psis)}, expected one or several, each once")
    threshold = options.truncation_threshold
    return [Look(psi, options.truncation_cutoff, options.noise, threshold) for psi in psis]


@torch.no_grad()
def drawn(sampler: Sampler, request: Request, looks: Sequence[Look], batch: int) -> Iterator[Tensor]:
    """uint8 [n * looks, C, H, W] on the CPU, batch by batch, each image in every look before the next."""
    for start in range(0, len(request.seeds), batch):
        part = slice(start, start + batch)
        seeds = request.seeds[part]
        labels = None if request.labels is None else request.labels[part]
        z = seeded_latents(seeds, sampler.z_shape).to(sampler.device)
        c = label_vectors(labels, sampler.num_classes, sampler.device)
        drawn = [to_uint8(sampler.images(z, c, seeds, look)).cpu() for look in looks]
        yield torch.stack(drawn, dim=1).flatten(0, 1)


def _names(request: Request, looks: Sequence[Look]) -> list[str]:
    """The files of single images."""
    seeds = [f"seed{seed:04d}" for seed in request.seeds.tolist()]
    labels = [""] * len(seeds)
    if request.labels is not None and not are_vectors(request.labels):
        labels = [f"_class{label}" for label in request.labels.tolist()]
    ends = [f"_psi{look.psi:g}" for look in looks] if len(looks) > 1 else [""]
    return [f"{seed}{label}{end}.png" for seed, label in zip(seeds, labels, strict=True) for end in ends]
