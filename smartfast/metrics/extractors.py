"""The two feature extractors behind the metrics, and how they get their weights.

`inception` is torch-fidelity's InceptionV3 (the network that published FIDs are measured with), `digits` the bundled
classifier. Weights are never unpickled with code: the file is read as plain tensors and handed on as such.
"""

import io
import socket
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlparse

import torch
from safetensors.torch import load_file
from torch import Tensor
from torch_fidelity import FeatureExtractorBase, register_feature_extractor
from torch_fidelity.feature_extractor_inceptionv3 import URL_INCEPTION_V3
from torch_fidelity.utils import create_feature_extractor

from smartfast.config.schema import MetricsConfig
from smartfast.core.files import sha256
from smartfast.core.tensors import check_weights
from smartfast.errors import UserError
from smartfast.metrics.digits.features import EXTRACTOR_NAME, WEIGHTS_FILE, DigitFeatures

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

    module: torch-fidelity extractor that returns (features, logits). tag: names the network and its weights, for
    caches. channels: what the images are brought to; None = the extractor takes any.
    """

    module: FeatureExtractorBase
    tag: str
    channels: int | None

    @torch.no_grad()
    def __call__(self, images: Tensor) -> tuple[Tensor, Tensor]:
        """Features float32 [N, D] and class logits float32 [N, K] of images uint8 [N, C, H, W], C = 1, 3 or 4."""
        images = without_alpha(images)
        if self.channels is not None:
            images = images.expand(-1, self.channels, -1, -1)
        # Metrics must not depend on the precision that training runs in.
        with _full_float32(), torch.autocast(images.device.type, enabled=False):
            features, logits = self.module(images)
        return features.float(), logits.float()


@contextmanager
def _full_float32() -> Iterator[None]:
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
        UserError: metrics.weights is not a file with the InceptionV3 weights.
    """
    if config.features == "digits":
        module = create_feature_extractor(EXTRACTOR_NAME, ["64", "logits"], cuda=False, verbose=False)
        return Extractor(module.to(device), f"{EXTRACTOR_NAME}-{sha256(WEIGHTS_FILE)[:8]}", channels=None)
    path = _inception_weights(config)
    try:
        module = create_feature_extractor(
            INCEPTION_NAME,
            ["2048", "logits_unbiased"],
            cuda=False,
            verbose=False,
            feature_extractor_weights_path=_as_plain_tensors(path),
        )
    except RuntimeError as error:
        reason = " ".join(str(error).split())[:200]
        raise UserError(f"metrics.weights: {path} does not fit torch-fidelity's InceptionV3: {reason}") from error
    return Extractor(module.to(device), f"{INCEPTION_NAME}-{sha256(path)[:8]}", channels=3)


def check_metrics(config: MetricsConfig) -> None:
    """Checks the configuration before training, and fetches and verifies the extractor's weights.

    Weights that cannot be had here give a warning, since training can go on without metrics. With several processes
    on a machine, call it in one of them first: it may download a file of 91 MiB.

    Raises:
        UserError: A value cannot work, or metrics.weights is not a file with the InceptionV3 weights.
    """
    if config.samples < 2:
        raise UserError(f"metrics.samples: found {config.samples}, expected at least 2 generated images")
    if config.batch < 1:
        raise UserError(f"metrics.batch: found {config.batch}, expected at least 1 image at a time")
    if config.every_ticks < 0:
        raise UserError(f"metrics.every_ticks: found {config.every_ticks}, expected 0 (never) or more")
    if config.names and config.every_ticks:
        try:
            build_extractor(config, torch.device("cpu"))
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


def _as_plain_tensors(path: Path) -> io.BytesIO:
    """The file's tensors, written anew in memory: torch-fidelity would unpickle a file with whatever code it holds."""
    try:
        tensors = load_file(path) if path.suffix == ".safetensors" else torch.load(path, weights_only=True)
    except Exception as error:  # a file that is none of the two leads the readers anywhere
        raise UserError(f"metrics.weights: {path} is not a file of tensors (.pth or .safetensors)") from error
    if not isinstance(tensors, dict) or not all(
        isinstance(k, str) and isinstance(v, Tensor) for k, v in tensors.items()
    ):
        raise UserError(f"metrics.weights: {path} holds no dictionary of tensors, expected the InceptionV3 weights")
    try:
        check_weights({name: values for name, values in tensors.items() if not name.endswith(".num_batches_tracked")})
    except ValueError as error:
        raise UserError(f"metrics.weights: {path}: {error}, expected the InceptionV3 weights") from error
    buffer = io.BytesIO()
    torch.save(tensors, buffer)
    buffer.seek(0)
    return buffer
