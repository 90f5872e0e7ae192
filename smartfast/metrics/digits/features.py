"""The feature extractor for the bundled digits: a small classifier that torch-fidelity can call like Inception.

Its weights are bundled, so every metric runs offline. `python -m smartfast.metrics.digits.classifier` trains them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from safetensors.torch import load_file
from torch import Tensor, nn
from torch_fidelity import FeatureExtractorBase

WEIGHTS_FILE = Path(__file__).with_name("features.safetensors")
EXTRACTOR_NAME = "smartfast-digits"
INPUT_RESOLUTION = 16
NUM_FEATURES = 64
NUM_CLASSES = 10
FEATURES, LOGITS = str(NUM_FEATURES), "logits"


class DigitClassifier(nn.Module):
    """Three convolutions and two linear layers, about 90,000 parameters at 16 pixels.

    Takes grey images float32 [N, 1, R, R] in [-1, 1]; returns features [N, 64] and class logits [N, classes]. The
    features are multiplied by `feature_scale`, which gives them a mean variance of 1 over the training images.

    Args:
        resolution: R, a multiple of 4.
        classes: Of the images.
    """

    feature_scale: Tensor

    def __init__(self, resolution: int = INPUT_RESOLUTION, classes: int = NUM_CLASSES) -> None:
        super().__init__()
        self.resolution = resolution
        self.conv1 = nn.Conv2d(1, 16, 3, padding=1)
        self.conv2 = nn.Conv2d(16, 32, 3, padding=1, stride=2)
        self.conv3 = nn.Conv2d(32, 64, 3, padding=1, stride=2)
        self.hidden = nn.Linear(64 * (resolution // 4) ** 2, NUM_FEATURES)
        self.output = nn.Linear(NUM_FEATURES, classes)
        self.register_buffer("feature_scale", torch.ones(()))

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        for conv in (self.conv1, self.conv2, self.conv3):
            x = F.silu(conv(x))
        features = F.silu(self.hidden(x.flatten(1)))
        return features * self.feature_scale, self.output(features)


def load_classifier(tensors: Mapping[str, Tensor]) -> DigitClassifier:
    """The classifier with these weights, whose shapes say resolution and classes; frozen, in evaluation mode.

    Raises:
        KeyError, RuntimeError, ValueError: They are of another network.
    """
    hidden, output = tensors["hidden.weight"], tensors["output.weight"]
    side = math.isqrt(hidden.shape[1] // 64)
    classifier = DigitClassifier(4 * side, len(output))
    classifier.load_state_dict(dict(tensors))
    return classifier.eval().requires_grad_(False)


def classifier_input(images: Tensor, resolution: int = INPUT_RESOLUTION) -> Tensor:
    """Images uint8 [N, C, H, W] as the classifier takes them: channels averaged, resized (antialiased bicubic),
    float32 [N, 1, resolution, resolution] in [-1, 1]."""
    grey = images.to(torch.float32).mean(dim=1, keepdim=True) / 127.5 - 1
    if grey.shape[-2:] == (resolution, resolution):
        return grey
    return F.interpolate(grey, size=(resolution, resolution), mode="bicubic", antialias=True).clamp(-1, 1)


class DigitFeatures(FeatureExtractorBase):
    """torch-fidelity's extractor interface around the bundled classifier; provides the layers "64" and "logits".

    Args:
        name: The name that the class is registered under.
        features_list: Layers to return, in this order.
    """

    def __init__(self, name: str, features_list: list[str], **_: Any) -> None:
        super().__init__(name, features_list)
        self.classifier = load_classifier(load_file(WEIGHTS_FILE))
        self.requires_grad_(False)
        self.eval()

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """The requested layers, float32 [N, 64 or 10], of images uint8 [N, C, H, W]."""
        layers = dict(zip((FEATURES, LOGITS), self.classifier(classifier_input(images)), strict=True))
        return tuple(layers[name] for name in self.features_list)

    @staticmethod
    def get_provided_features_list() -> tuple[str, ...]:
        return FEATURES, LOGITS

    @staticmethod
    def get_default_feature_layer_for_metric(metric: str) -> str:
        return LOGITS if metric == "isc" else FEATURES

    @staticmethod
    def can_be_compiled() -> bool:
        return True

    @staticmethod
    def get_dummy_input_for_compile() -> Tensor:
        return torch.zeros(1, 1, INPUT_RESOLUTION, INPUT_RESOLUTION, dtype=torch.uint8)
