"""The feature extractors behind the metrics, and how they get their weights.

`inception` is torch-fidelity's InceptionV3 (the network that published FIDs are measured with), `digits` the bundled
classifier, `classifier` one of its kind that was trained on the user's images, `plane` the coordinates of points, all
others are in smartfast/metrics/published.py. Weights are never unpickled with code: the file is read as plain tensors
and handed on as such.
"""

import socket
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity import register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.utils import create_feature_extractor

from smartfast.config.schema import MetricsConfig
from smartfast.config.spaces import SPACES_WITH_CLASSES
from smartfast.core.files import sha256
from smartfast.core.tensors import check_weights
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.metrics.digits.features import (
    EXTRACTOR_NAME,
    WEIGHTS_FILE,
    DigitFeatures,
    classifier_input,
    load_classifier,
)
from smartfast.metrics.published import SOURCES, as_file, published_extractor
from smartfast.metrics.reference import published_statistics

INCEPTION_NAME = "inception-v3-compat"
_INCEPTION_FILE = Path(urlparse(URL_INCEPTION_V3).path).name
_INCEPTION_SHA256_START = Path(_INCEPTION_FILE).stem.rsplit("-", 1)[1]
_CONNECT_TIMEOUT_SEC = 10.0

register_feature_extractor(EXTRACTOR_NAME, DigitFeatures)


class MetricUnavailable(Exception):
    """A metric cannot be computed here. Its message is one line: why, and how to fix it. Training can go on."""


@dataclass(frozen=True)
class Extractor:
    """A feature extractor on a device, ready to call.

    module: Returns (features, logits) or (features,), as torch-fidelity's extractors do. tag: names the network and its
    weights, for caches. channels: what the images are brought to; None = the extractor takes any.
    """

    module: Callable[[Tensor], tuple[Tensor, ...]]
    tag: str
    channels: int | None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features float32 [N, D] and class logits float32 [N, K], K = 0 where the network knows no classes.

        images: uint8 [N, C, H, W], C = 1, 3 or 4, or points float [N, 2, 1, 1].
        """
        images = without_alpha(images)
        if self.channels is not None:
            images = images.expand(-1, self.channels, -1, -1)
        # Metrics must not depend on the precision that training runs in.
        with full_float32(), torch.autocast(images.device.type, enabled=False):
            features, *of_classes = self.module(images)
        logits = of_classes[0] if of_classes else features.new_empty(len(features), 0)
        return features.float(), logits.float()

    def num_features(self, device: torch.device) -> int:
        """Length of an image's features."""
        shape = (1, 2, 1, 1) if self.module is coordinates else (1, 3, 32, 32)
        return self(torch.zeros(shape, dtype=torch.uint8, device=device))[0].shape[1]


def coordinates(points: Tensor) -> tuple[Tensor, Tensor]:
    """Points float [N, 2, 1, 1] as features [N, 2], and no logits [N, 0]."""
    return points.flatten(1), points.new_empty(len(points), 0)


def check_features(config: MetricsConfig, dataset: ImageDataset) -> None:
    """Raises UserError, one line, where the data have no such features, or a metric is not of them."""
    has_points = dataset.channels == 2
    if has_points != (config.features == "plane"):
        expected = "plane for points" if has_points else "inception, digits or another space of images"
        raise UserError(f"metrics.features is {config.features}, expected {expected}, as {dataset.name} has")
    if "manifold" in config.names and not has_points:
        raise UserError("metrics.names has manifold, expected it with metrics.features plane alone")
    if "isc" in config.names and config.features not in SPACES_WITH_CLASSES:
        others = " or ".join(SPACES_WITH_CLASSES)
        raise UserError(f"metrics.names has isc, expected it with metrics.features {others} alone")


@contextmanager
def full_float32() -> Iterator[None]:
    """No TF32 in convolutions and matrix products."""
    precision = torch.get_float32_matmul_precision()
    torch.set_float32_matmul_precision("highest")
    try:
        with torch.backends.cudnn.flags(enabled=True, allow_tf32=False):
            yield
    finally:
        torch.set_float32_matmul_precision(precision)


def without_alpha(images: Tensor) -> Tensor:
    """Lays RGBA images uint8 [N, 4, H, W] on white, so that only visible colours count; others pass unchanged."""
    if images.shape[1] != 4:
        return images
    colour, alpha = images[:, :3].float(), images[:, 3:].float() / 255
    return (colour * alpha + 255 * (1 - alpha)).round().to(torch.uint8)


def build_extractor(config: MetricsConfig, device: torch.device) -> Extractor:
    """The extractor that the configuration asks for.

    Raises:
        MetricUnavailable: The Inception weights are neither on this machine nor to be downloaded.
        UserError: metrics.weights is not a file with the weights of the features.
    """
    if config.features == "plane":
        return Extractor(coordinates, "coordinates", channels=None)
    if config.features == "digits":
        module = create_feature_extractor(EXTRACTOR_NAME, ["64", "logits"], cuda=False, verbose=False)
        return Extractor(module.to(device), f"{EXTRACTOR_NAME}-{sha256(WEIGHTS_FILE)[:8]}", channels=None)
    if config.features == "classifier":
        return _own_classifier(config, device)
    if config.features != "inception":
        return _published(config, device)
    path = _inception_weights(config)
    try:
        module = create_feature_extractor(
            INCEPTION_NAME,
            ["2048", "logits_unbiased"],
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=as_file(_tensors(path, "the InceptionV3 weights")),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"metrics.weights: {path} does not fit torch-fidelity's InceptionV3: {reason}") from error
    return Extractor(module.to(device), f"{INCEPTION_NAME}-{sha256(path)[:8]}", channels=3)


def _own_classifier(config: MetricsConfig, device: torch.device) -> Extractor:
    """The user's classifier, which smartfast.metrics.digits.classifier trained."""
    made = "a file of `python -m smartfast.metrics.digits.classifier --data DATA --out FILE`"
    path = _weights_file(config, made)
    try:
        classifier = load_classifier(_tensors(path, made)).to(device)
    except (KeyError, IndexError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"metrics.weights: {path} does not fit classifier: {reason}; expected {made}") from error
    return Extractor(
        lambda images: classifier(classifier_input(images, classifier.resolution)),
        f"classifier-{sha256(path)[:8]}",
        channels=None,
    )


def _published(config: MetricsConfig, device: torch.device) -> Extractor:
    space, source = config.features, SOURCES[config.features.partition("-")[0]]
    path = _weights_file(config, f"the weights of {space}: {source}")
    tensors = _tensors(path, f"the weights of {space}")
    try:
        module = published_extractor(space, tensors)
    except (KeyError, RuntimeError, ValueError) as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"metrics.weights: {path} does not fit {space}: {reason}; expected {source}") from error
    return Extractor(module.to(device), f"{space}-{sha256(path)[:8]}", channels=3)


def _weights_file(config: MetricsConfig, expected: str) -> Path:
    """The file that metrics.weights names, where the features have no other source."""
    if config.weights is None:
        raise UserError(f"metrics.weights is not set, expected with metrics.features {config.features}: {expected}")
    path = Path(config.weights).expanduser()
    if not path.is_file():
        raise UserError(f"metrics.weights: no file {path}, expected {expected}")
    return path


def check_metrics(config: MetricsConfig) -> None:
    """Checks the configuration before training, and fetches and verifies the extractor's weights.

    Weights that cannot be had here give a warning, since training can go on without metrics. With several processes
    on a machine, call it in one of them first: it may download a file of 91 MiB.

    Raises:
        UserError: A value cannot work, or metrics.weights or metrics.reference is not the file that it should be.
    """
    if config.samples < 2:
        raise UserError(f"metrics.samples: found {config.samples}, expected at least 2 generated images")
    if config.batch < 1:
        raise UserError(f"metrics.batch: found {config.batch}, expected at least 1 image at a time")
    if config.every_ticks < 0:
        raise UserError(f"metrics.every_ticks: found {config.every_ticks}, expected 0 (never) or more")
    if config.names and config.every_ticks:
        try:
            extractor = build_extractor(config, torch.device("cpu"))
            if config.reference is not None:
                published_statistics(Path(config.reference).expanduser(), extractor.num_features(torch.device("cpu")))
        except MetricUnavailable as error:
            warnings.warn(f"metrics: {error}; training goes on without them", stacklevel=2)


def _inception_weights(config: MetricsConfig) -> Path:
    """The weights file: the configured one, the one already downloaded, or a fresh download."""
    if config.weights is not None:
        path = Path(config.weights).expanduser()
        if not path.is_file():
            raise UserError(f"metrics.weights: no file {path}, expected the InceptionV3 weights of {URL_INCEPTION_V3}")
        if not sha256(path).startswith(_INCEPTION_SHA256_START):
            warnings.warn(
                f"metrics.weights: {path} is not {_INCEPTION_FILE} byte for byte; "
                "its scores may not be comparable with published ones",
                stacklevel=2,
            )
        return path
    path = Path(torch.hub.get_dir()) / "checkpoints" / _INCEPTION_FILE
    if not path.is_file():
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            with _connect_timeout():
                torch.hub.download_url_to_file(URL_INCEPTION_V3, str(path), hash_prefix=_INCEPTION_SHA256_START)
        except (OSError, RuntimeError) as error:
            raise MetricUnavailable(
                f"the InceptionV3 weights could not be downloaded ({error}); copy {URL_INCEPTION_V3} to this machine "
                "and set metrics.weights to it, or set metrics.features to digits for the bundled digits"
            ) from error
    return path


@contextmanager
def _connect_timeout() -> Iterator[None]:
    """torch.hub opens connections without a timeout and would wait for minutes behind a silent firewall."""
    before = socket.getdefaulttimeout()
    socket.setdefaulttimeout(_CONNECT_TIMEOUT_SEC)
    try:
        yield
    finally:
        socket.setdefaulttimeout(before)


def _tensors(path: Path, expected: str) -> dict[str, Tensor]:
    """The tensors of a file, .pth or .safetensors, by name; `expected` names them in errors."""
    try:
        if path.suffix == ".safetensors":
            tensors = load_file(path)
        else:  # on the CPU, wherever they were saved from
            tensors = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # a file that is none of the two leads the readers anywhere
        raise UserError(f"metrics.weights: {path} is not a file of tensors (.pth or .safetensors)") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        raise UserError(f"metrics.weights: {path} holds no dictionary of tensors, expected {expected}")
    try:
        check_weights({name: values for name, values in tensors.items() if not name.endswith(".num_batches_tracked")})
    except ValueError as error:
        raise UserError(f"metrics.weights: {path}: {error}, expected {expected}") from error
    return tensors
