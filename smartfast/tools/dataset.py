"""`smartfast dataset`: makes images alike and packs them into a .zip that trains fast.

The .zip is the format of stylegan2-ada-pytorch and stylegan3: uncompressed PNGs named
00000/img00000000.png and so on, and dataset.json with the labels.
"""

import hashlib
import io
import json
import re
import warnings
import zipfile
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, NamedTuple, NoReturn

from PIL import Image

from smartfast.config.ranges import Count, FilePath, Threads, in_range
from smartfast.core.files import appears_complete, user_path
from smartfast.core.parallel import ordered_map
from smartfast.core.text import printable
from smartfast.data.dataset import open_source, warn_of_frames
from smartfast.data.sources.base import CHANNELS, ImageInfo, Mode, Source
from smartfast.data.sources.labels import LABEL_FILE, Classes, read_classes
from smartfast.errors import UserError
from smartfast.tools.fit import Crop, fit

_MIB = 2**20
_LARGEST_SIDE = 2**14
_NAMED = 10
"""Bad images that an error names."""


@dataclass
class DatasetOptions:
    """Packs images into a .zip for training."""

    source: FilePath
    """`digits`, a folder, a .zip, an .npz, `hf:owner/name[:split]`, CIFAR's `cifar-10-python.tar.gz` (or 100), or
    MNIST's `train-images-idx3-ubyte` (plain or .gz)."""
    dest: FilePath
    """The .zip to write."""
    resolution: str | None = None
    """Size in pixels, `N` for NxN or `WxH`; unset keeps the size, which must then be the same for all images."""
    crop: Crop = "none"
    """What happens to images of another shape. `none`: refused. `center`: cut to the largest central part. `pad`: black
    borders. `stretch`: distorted. `adm`: cut like `center`, but scaled as for the ADM diffusion models."""
    mode: Literal["auto", "L", "RGB", "RGBA"] = "auto"
    """Grey, colour or colour with alpha; auto takes the least that loses nothing (alpha that is opaque everywhere is
    nothing). L and RGB lay alpha on white."""
    labels: bool = True
    """Write class labels if the source has them."""
    max_images: Count | None = None
    """Pack at most this many images, taken at even distances; unset packs all."""
    skip_bad: bool = False
    """Leave out images that cannot be read, and list them."""
    workers: Threads | None = None
    """Threads; unset takes one per core and four more."""
    overwrite: bool = False
    """Replace `dest` if it exists."""


class _Target(NamedTuple):
    size: tuple[int, int]
    """Width, height."""
    resize: bool
    """False: an image of another size is refused."""
    mode: Mode
    crop: Crop


class _Checked(NamedTuple):
    indices: list[int]
    """Of the images that can be read."""
    infos: list[ImageInfo]
    problems: list[str]
    """One line for each of the others."""


class _Packed(NamedTuple):
    png: bytes
    digest: bytes
    enlarged: bool


@dataclass
class _Findings:
    enlarged: int = 0
    first_seen: dict[bytes, int] = field(default_factory=dict)
    duplicates: list[tuple[int, int]] = field(default_factory=list)


def convert(options: DatasetOptions) -> None:
    """Pack a data set into a .zip and print what it holds. The file appears complete or not at all.

    Args:
        options: What to pack and how.

    Raises:
        UserError: An option, an image or a label is unusable; names the first one. Nothing is written then.
    """
    options = in_range(options)
    dest = user_path(options.dest, "dest")
    size = _check_options(options, dest)
    source = open_source(options.source)
    found = _found_classes(source) if options.labels else None  # decodes nothing, and may refuse all
    checked = _check_images(source, options)
    classes = None if found is None else _of_chosen(source, found, checked.indices)
    mode = _least_mode(source, checked, options.workers) if options.mode == "auto" else options.mode
    target = _Target(size or source.decode(checked.indices[0]).size, size is not None, mode, options.crop)
    _warn_if_untrainable(target.size)
    try:
        with appears_complete(dest) as temporary, zipfile.ZipFile(temporary, "w", zipfile.ZIP_STORED) as archive:
            findings = _write_images(archive, source, checked.indices, target, options.workers)
            archive.writestr(zipfile.ZipInfo(LABEL_FILE), json.dumps(_label_table(classes)))
        size_mib = dest.stat().st_size / _MIB
    except OSError as error:  # what is wrong with an image is a UserError
        reason = f"cannot be written ({error.strerror or error})"
        raise UserError(f"dest: {options.dest}: {reason}, expected a folder with room that can be") from error
    summary = f"{len(checked.indices)} images {target.size[0]}x{target.size[1]} {mode}, {_describe(classes)}"
    print(f"{printable(str(dest))}: {summary}, {size_mib:.1f} MiB")
    _print_findings(findings, source)
    if checked.problems:
        print("\n".join([f"{len(checked.problems)} images are bad and left out:", *checked.problems]))


def _check_options(options: DatasetOptions, dest: Path) -> tuple[int, int] | None:
    """The wanted width and height, None to keep the images' own."""
    if dest.suffix.lower() != ".zip":
        raise UserError(f"dest: {options.dest}, expected a file name that ends in .zip")
    if dest.exists() and not options.overwrite:
        raise UserError(f"dest: {options.dest} exists, expected a new file (or --overwrite true)")
    if options.resolution is None:
        if options.crop != "none":
            raise UserError(f"resolution: unset with crop {options.crop}, expected N or WxH pixels")
        return None
    parsed = re.fullmatch(r"([1-9]\d*)(?:x([1-9]\d*))?", options.resolution)
    if parsed is None:
        raise UserError(f"resolution: {options.resolution}, expected N or WxH pixels, e.g. 256 or 256x128")
    width, height = int(parsed[1]), int(parsed[2] or parsed[1])
    if max(width, height) > _LARGEST_SIDE:
        raise UserError(f"resolution: {options.resolution}, expected at most {_LARGEST_SIDE} pixels a side")
    if options.crop == "adm" and width != height:
        raise UserError(f"resolution: {options.resolution}, expected a square with crop adm")
    return width, height


def _check_images(source: Source, options: DatasetOptions) -> _Checked:
    """Inspects the images that are wanted, all of them, so that every bad one is named at once."""
    available = len(source)
    count = min(available, options.max_images or available)
    chosen = [place * available // count for place in range(count)]

    def inspect(index: int) -> ImageInfo | str:
        try:
            return source.inspect(index)
        except UserError as error:
            return str(error)

    title = f"Checking {source.name}"
    found = dict(
        zip(chosen, ordered_map(inspect, chosen, total=count, title=title, workers=options.workers), strict=True)
    )
    infos = {index: info for index, info in found.items() if not isinstance(info, str)}
    problems = {index: info for index, info in found.items() if isinstance(info, str)}
    if problems and (not options.skip_bad or not infos):
        _refuse(source, problems, count)
    warn_of_frames(source, [index for index, info in infos.items() if info.several_frames])
    return _Checked(list(infos), list(infos.values()), list(problems.values()))


def _refuse(source: Source, problems: dict[int, str], count: int) -> NoReturn:
    indices = list(problems)
    named = ", ".join(source.item_name(index) for index in indices[:_NAMED])
    more = f" and {len(indices) - _NAMED} more" if len(indices) > _NAMED else ""
    summary = f"{len(indices)} of {count} images are bad: {named}{more}; --skip_bad true leaves them out"
    raise UserError(f"{problems[indices[0]]}; {summary}")


def _least_mode(source: Source, checked: _Checked, workers: int | None) -> Mode:
    """The mode that loses nothing; only images with alpha are decoded for that, up to the first that needs it."""
    veiled = [index for index, info in zip(checked.indices, checked.infos, strict=True) if info.mode == "RGBA"]

    def needs_alpha(index: int) -> bool:
        return source.decode(index).getchannel("A").getextrema() != (255, 255)

    title = f"Looking for alpha in {source.name}"
    if any(ordered_map(needs_alpha, veiled, total=len(veiled), title=title, workers=workers)):
        return "RGBA"
    modes: list[Mode] = ["RGB" if info.mode == "RGBA" else info.mode for info in checked.infos]
    return max(modes, key=CHANNELS.__getitem__)


def _found_classes(source: Source) -> Classes | None:
    """The classes of all images; a single class is as good as none."""
    try:
        classes = read_classes(source)
    except UserError as error:
        raise UserError(f"{error} (or --labels false)") from error
    return None if classes is None or len(set(classes.numbers)) < 2 else classes


def _of_chosen(source: Source, classes: Classes, chosen: list[int]) -> Classes:
    kept = classes.of(chosen)
    largest = max(kept.numbers)
    if not kept.vectors and largest >= len(chosen):  # as a training would
        raise UserError(
            f"{source.name}: {len(chosen)} images are packed and their labels go up to {largest}, expected more than "
            f"{largest} images (classes keep their numbers)"
        )
    return kept


def _label_table(classes: Classes | None) -> dict[str, object]:
    """The content of dataset.json; other programs read the labels alone."""
    if classes is None:
        return {"labels": None}
    labels = [[_name(place), label] for place, label in enumerate(classes.vectors or classes.numbers)]
    return {"labels": labels} | ({"class_names": classes.names} if classes.names else {})


def _describe(classes: Classes | None) -> str:
    if classes is None:
        return "no labels"
    if classes.vectors:
        return f"label vectors of {classes.num_classes}"
    empty = classes.empty
    gaps = f" ({len(empty)} of them without an image, e.g. {empty[0]})" if empty else ""
    return f"{classes.num_classes} classes{gaps}"


def _warn_if_untrainable(size: tuple[int, int]) -> None:
    width, height = size
    if width != height or width & (width - 1):
        nearest = 1 << (max(width, height) - 1).bit_length()
        expected = f"training needs squares with a power of two as side, such as --resolution {nearest} makes them"
        warnings.warn(f"{width}x{height} pixels: {expected}", stacklevel=3)


def _write_images(
    archive: zipfile.ZipFile, source: Source, chosen: list[int], target: _Target, workers: int | None
) -> _Findings:
    def pack(index: int) -> _Packed:
        return _pack(source, index, target)

    findings = _Findings()
    packed_images = ordered_map(pack, chosen, total=len(chosen), title=f"Packing {source.name}", workers=workers)
    for place, packed in enumerate(packed_images):
        # ZipInfo without a date: the same images give the same file, byte for byte
        archive.writestr(zipfile.ZipInfo(_name(place)), packed.png)
        findings.enlarged += packed.enlarged
        twin = findings.first_seen.setdefault(packed.digest, place)
        if twin != place:
            findings.duplicates.append((chosen[twin], chosen[place]))
    return findings


def _pack(source: Source, index: int, target: _Target) -> _Packed:
    original = source.decode(index)
    if not target.resize and original.size != target.size:
        found, first = (f"{width}x{height}" for width, height in (original.size, target.size))
        raise UserError(f"{source.item_name(index)}: {found} pixels, expected {first} as the first (or --resolution)")
    if original.mode == "RGBA" and target.mode != "RGBA":
        original = Image.alpha_composite(Image.new("RGBA", original.size, "white"), original)
    image = fit(original.convert(target.mode), target.size, target.crop, source.item_name(index))
    encoded = io.BytesIO()
    image.save(encoded, format="png", compress_level=0)
    enlarged = original.width < target.size[0] or original.height < target.size[1]
    return _Packed(encoded.getvalue(), hashlib.sha256(image.tobytes()).digest(), enlarged)


def _name(place: int) -> str:
    return f"{place // 1000:05d}/img{place:08d}.png"


def _print_findings(findings: _Findings, source: Source) -> None:
    if findings.enlarged:
        print(f"{findings.enlarged} images were smaller than that and have been enlarged")
    if findings.duplicates:
        first, second = (source.item_name(index) for index in findings.duplicates[0])
        print(f"{len(findings.duplicates)} images are exact copies of others, e.g. {second} of {first}")
