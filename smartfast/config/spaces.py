"""The feature spaces that metrics may be in, and what an image becomes there."""

from typing import Literal, get_args

FeatureSpace = Literal[
    "inception",
    "digits",
    "classifier",
    "plane",
    "vgg16",
    "clip-rn50",
    "clip-rn101",
    "clip-rn50x4",
    "clip-rn50x16",
    "clip-rn50x64",
    "clip-vit-b-32",
    "clip-vit-b-16",
    "clip-vit-l-14",
    "clip-vit-l-14-336px",
    "dinov2-vit-s-14",
    "dinov2-vit-b-14",
    "dinov2-vit-l-14",
    "dinov2-vit-g-14",
]
"""inception, vgg16, clip-* and dinov2-* are torch-fidelity's extractors, digits, classifier and plane are ours."""

IMAGE_SPACES = tuple(name for name in get_args(FeatureSpace) if name != "plane")
SPACES_WITH_CLASSES = ("inception", "digits", "classifier")
"""Those whose network tells classes apart, which the inception score needs."""

_SIZES = {
    "inception": 299,
    "clip-rn50x4": 288,
    "clip-rn50x16": 384,
    "clip-rn50x64": 448,
    "clip-vit-l-14-336px": 336,
}
"""Pixels of the images that a network sees, where they are not 224."""


def resizing_of(space: str) -> str:
    """What images are brought to before the network of a feature space sees them, in words."""
    if space == "plane":
        return "none"
    if space == "digits":
        return "16 x 16, antialiased bicubic"
    if space == "classifier":
        return "its own, antialiased bicubic"
    size = _SIZES.get(space, 224)
    return f"{size} x {size}, bilinear as in TensorFlow 1"
