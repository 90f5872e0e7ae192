"""Brings an image to a wanted size."""

from typing import Literal

from PIL import Image, ImageOps

from smartfast.errors import UserError

Crop = Literal["none", "center", "pad", "stretch", "adm"]
_LANCZOS = Image.Resampling.LANCZOS


def fit(image: Image.Image, size: tuple[int, int], crop: Crop, item_name: str) -> Image.Image:
    """Resize an image (Lanczos, unless `adm`), with crop or borders where its shape differs.

    Args:
        image: Any size, mode L, RGB or RGBA.
        size: Wanted width and height in pixels.
        crop: What to do about another aspect ratio; see `DatasetOptions.crop`.
        item_name: For the message.

    Raises:
        UserError: The aspect ratio differs and `crop` is "none".
    """
    if crop == "adm":
        return _fit_as_adm(image, size[0])
    if image.size == size:
        return image
    if crop == "center":
        return ImageOps.fit(image, size, _LANCZOS)
    if crop == "pad":
        if min(image.width * size[1] / image.height, image.height * size[0] / image.width) <= 0.5:
            raise UserError(f"{item_name}: {image.width}x{image.height} pixels, expected no such strip with --crop pad")
        return ImageOps.pad(image, size, _LANCZOS)
    if crop == "none" and image.width * size[1] != image.height * size[0]:
        found = f"{image.width}x{image.height} pixels, another shape than {size[0]}x{size[1]}"
        raise UserError(f"{item_name}: {found}, expected the same shape (or --crop center, pad or stretch)")
    return image.resize(size, _LANCZOS)


def _fit_as_adm(image: Image.Image, side: int) -> Image.Image:
    """The preprocessing of ImageNet in Dhariwal and Nichol, "Diffusion Models Beat GANs", 2021 (arXiv 2105.05233).

    Scorers trained on ImageNet saw images made this way.
    """
    while min(image.size) >= 2 * side:
        image = image.resize((image.width // 2, image.height // 2), Image.Resampling.BOX)
    scale = side / min(image.size)
    image = image.resize((round(image.width * scale), round(image.height * scale)), Image.Resampling.BICUBIC)
    left, top = (image.width - side) // 2, (image.height - side) // 2
    return image.crop((left, top, left + side, top + side))
