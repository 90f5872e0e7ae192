"""Feature extractors of torch-fidelity made of a local weight file's tensors, which are read without running code.

`vgg16` takes torchvision's file, `clip-*` OpenAI's tensors, `dinov2-*` the authors' files.
"""

import io
from collections.abc import Mapping

import torch
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase
from torch_fidelity.feature_extractor_clip import FeatureExtractorCLIP, build_model
from torch_fidelity.utils import create_feature_extractor
from torchvision.models import vgg16

from smartfast.metrics.dinov2 import LocalDinoV2

SOURCES = {
    "vgg16": "torchvision's vgg16-397923af.pth (https://download.pytorch.org/models)",
    "clip": "the tensors of OpenAI's CLIP: torch.jit.load(FILE).state_dict(), saved as .safetensors or .pth",
    "dinov2": "dinov2_vit?14_pretrain.pth of https://github.com/facebookresearch/dinov2",
}
"""By the first word of a space's name, what its weight file is."""

CLIP_SHAPES = {
    "clip-rn50": (32, 3, 50, 1024),
    "clip-rn101": (32, 3, 50, 512),
    "clip-rn50x4": (40, 3, 82, 640),
    "clip-rn50x16": (48, 3, 145, 768),
    "clip-rn50x64": (64, 3, 197, 1024),
    "clip-vit-b-32": (768, 32, 50, 512),
    "clip-vit-b-16": (768, 16, 197, 512),
    "clip-vit-l-14": (1024, 14, 257, 768),
    "clip-vit-l-14-336px": (1024, 14, 577, 768),
}
"""Channels and size of the first convolution, positions, features: a file of another network would fit as well."""
DINOV2_SHAPES = {
    "dinov2-vit-s-14": (384, 12),
    "dinov2-vit-b-14": (768, 12),
    "dinov2-vit-l-14": (1024, 24),
    "dinov2-vit-g-14": (1536, 40),
}
"""Width and blocks, for the same reason."""


def published_extractor(space: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    """torch-fidelity's extractor of a space, called with images uint8 [N, 3, H, W], of a file's tensors.

    Raises:
        KeyError, RuntimeError, ValueError: They are of another network.
    """
    kind = space.partition("-")[0]
    if kind == "vgg16":
        return _vgg16(tensors)
    return _clip(space, tensors) if kind == "clip" else _dinov2(space, tensors)


def as_file(tensors: Mapping[str, Tensor]) -> io.BytesIO:
    """Tensors as torch-fidelity reads them: it would unpickle a file with whatever code that holds."""
    buffer = io.BytesIO()
    torch.save(dict(tensors), buffer)
    buffer.seek(0)
    return buffer


def _vgg16(tensors: Mapping[str, Tensor]) -> nn.Module:
    with torch.device("meta"):  # torch-fidelity would draw initial weights first, for seconds
        expected = {name: value.shape for name, value in vgg16().state_dict().items()}
    wrong = next((name for name in expected | dict(tensors) if _shape(tensors, name) != expected.get(name)), None)
    if wrong is not None:
        raise ValueError(f"{wrong} is {_shape(tensors, wrong)}, expected {expected.get(wrong)}")
    file = as_file(tensors)
    return create_feature_extractor(
        "vgg16", ["fc2_relu"], cuda=False, verbose=False, feature_extractor_weights_path=file
    )


def _shape(tensors: Mapping[str, Tensor], name: str) -> torch.Size | None:
    return tensors[name].shape if name in tensors else None


class _LocalClip(FeatureExtractorCLIP):
    """torch-fidelity's own would load a file as TorchScript, which is a program."""

    def __init__(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        FeatureExtractorBase.__init__(self, name, ["clip"])
        self.feature_extractor_internal_dtype = torch.float32
        self.model = build_model(dict(tensors), torch.float32)
        self.resolution = self.model.visual.input_resolution
        self.requires_grad_(False)


def _clip(space: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    first = tensors["visual.conv1.weight"].shape
    is_transformer = "visual.proj" in tensors
    positions = tensors[f"visual.{'' if is_transformer else 'attnpool.'}positional_embedding"]
    found = (first[0], first[-1], len(positions), tensors["text_projection"].shape[1])
    _check_shape(space, found, CLIP_SHAPES)
    return _LocalClip(space, tensors)


def _dinov2(space: str, tensors: Mapping[str, Tensor]) -> nn.Module:
    blocks = {name.split(".")[1] for name in tensors if name.startswith("blocks.")}
    _check_shape(space, (tensors["cls_token"].shape[-1], len(blocks)), DINOV2_SHAPES)
    return LocalDinoV2(space, tensors)


def _check_shape(space: str, found: tuple[int, ...], shapes: Mapping[str, tuple[int, ...]]) -> None:
    if found != shapes[space]:
        other = next((name for name, shape in shapes.items() if shape == found), "an unknown network")
        raise ValueError(f"it is of {other}, expected {space}")
