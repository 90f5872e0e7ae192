"""Distances between images for projection: of pixels at several scales, of a discriminator's features, of VGG16's."""

from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torchvision.models.vgg import cfgs, make_layers

from smartfast.errors import UserError

Distance = Callable[[Tensor, Tensor], Tensor]
"""Images float [N, C, H, W] in [-1, 1] and others like them -> a distance for each pair, [N], differentiable."""

_SMALLEST_SCALE = 4  # pixels
_VGG_TAPS = (3, 8, 15, 22, 29)  # the last ReLU before each pooling
_VGG_WIDTHS = (64, 128, 256, 512, 512)
_VGG_PIXELS = (64, 256)  # smaller images leave too little of its last maps, larger ones are not what it was trained on
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet's colours in [0, 1]
_EPS = 1e-10


def pixel_distance(images: Tensor, others: Tensor) -> Tensor:
    """Mean squared difference of the pixels, averaged over the scales that halving gives down to 4 pixels."""
    difference, found = images - others, []
    while True:
        found.append(difference.square().mean(dim=(1, 2, 3)))
        if min(difference.shape[2:]) < 2 * _SMALLEST_SCALE:
            return torch.stack(found).mean(dim=0)
        difference = F.avg_pool2d(difference, 2)


class FeatureDistance:
    """Squared difference of features of unit length at each place, averaged over places and layers.

    Args:
        features: From images to features [N, C, H, W] of several layers.
    """

    def __init__(self, features: Callable[[Tensor], Sequence[Tensor]]) -> None:
        self.features = features

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        pairs = zip(self.features(images), self.features(others), strict=True)
        return torch.stack([_unit_difference(a, b).sum(dim=1).mean(dim=(1, 2)) for a, b in pairs]).mean(dim=0)


class Vgg16Distance:
    """LPIPS with VGG16 (Zhang et al., arXiv 1801.03924), or, without its weights, the sum of its layers' distances.

    Args:
        vgg: torchvision's weights of VGG16, a .pth or .safetensors.
        lpips: LPIPS's weights of VGG16's channels (lpips' vgg.pth, torch-fidelity's weights-vgg16-lpips.pth), or None.
        device: Where it computes.

    Raises:
        UserError: A file cannot be read or holds other weights.
    """

    def __init__(self, vgg: Path, lpips: Path | None, device: torch.device) -> None:
        with torch.device("meta"):
            self.layers: nn.Module = make_layers(cfgs["D"])
        names = {f"features.{name}": name for name in self.layers.state_dict()}
        weights = _weights(vgg, "vgg", {name: self.layers.state_dict()[own].shape for name, own in names.items()})
        self.layers.load_state_dict({own: weights[name] for name, own in names.items()}, assign=True)
        self.layers = self.layers.eval().requires_grad_(False).to(device)
        self.mean, self.std = (torch.tensor(value, device=device)[:, None, None] for value in (_MEAN, _STD))
        self.channels: list[Tensor] | None = None
        if lpips is not None:
            shapes = {f"lin{i}.model.1.weight": torch.Size([1, width, 1, 1]) for i, width in enumerate(_VGG_WIDTHS)}
            found = _weights(lpips, "lpips", shapes)
            self.channels = [found[name].to(device)[0] for name in shapes]

    def __call__(self, images: Tensor, others: Tensor) -> Tensor:
        pairs = zip(self.features(images), self.features(others), strict=True)
        differences = [_unit_difference(a, b) for a, b in pairs]
        if self.channels is not None:
            differences = [d * weight for d, weight in zip(differences, self.channels, strict=True)]
        return torch.stack([d.sum(dim=1).mean(dim=(1, 2)) for d in differences]).sum(dim=0)

    def features(self, images: Tensor) -> list[Tensor]:
        """Features [N, C, H, W] before each pooling, of images of 1, 3 or 4 channels, alpha left out."""
        x = images[:, :3].expand(-1, 3, -1, -1)
        smallest, largest = _VGG_PIXELS
        if x.shape[2] > largest:
            x = F.interpolate(x, (largest, largest), mode="area")
        elif x.shape[2] < smallest:
            x = F.interpolate(x, (smallest, smallest), mode="bilinear", align_corners=False)
        x, found = ((x + 1) / 2 - self.mean) / self.std, []
        for number, layer in enumerate(self.layers.children()):
            x = layer(x)
            if number in _VGG_TAPS:
                found.append(x)
                x = x.clone()  # the next layer may write to it
            if number == _VGG_TAPS[-1]:
                break
        return found


def _unit_difference(a: Tensor, b: Tensor) -> Tensor:
    return (_unit(a) - _unit(b)).square()


def _unit(features: Tensor) -> Tensor:
    features = features.float()
    return features / (features.square().sum(dim=1, keepdim=True) + _EPS).sqrt()


def _weights(path: Path, option: str, shapes: dict[str, torch.Size]) -> dict[str, Tensor]:
    """Those tensors of a file that have these names, in float32; nothing in it is run."""
    try:
        found = load_file(path) if path.suffix == ".safetensors" else torch.load(path, "cpu", weights_only=True)
        tensors = {name: found[name].float() for name in shapes}
    except Exception as error:  # unpickling raises nearly anything
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(
            f"{option}: {path} is not a file of these weights ({reason}), expected {next(iter(shapes))}, ..."
        ) from error
    for name, shape in shapes.items():
        if tensors[name].shape != shape or not tensors[name].isfinite().all():
            found_shape = list(tensors[name].shape)
            raise UserError(f"{option}: {path}: {name} is {found_shape}, expected {list(shape)} finite numbers")
    return tensors
