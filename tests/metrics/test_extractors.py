"""Images as the extractors take them, and where InceptionV3's weights come from, without any network."""

import hashlib
import os
import pickle
import random
import socket
import urllib.error
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch_fidelity import feature_extractor_inceptionv3
from torch_fidelity.feature_extractor_inceptionv3 import FeatureExtractorInceptionV3

from smartfast.config.schema import MetricsConfig
from smartfast.errors import UserError
from smartfast.metrics import MetricUnavailable, check_metrics, evaluate
from smartfast.metrics.digits.features import WEIGHTS_FILE
from smartfast.metrics.extractors import build_extractor, without_alpha

CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def inception_weights() -> dict[str, torch.Tensor]:
    """A state dictionary of torch-fidelity's InceptionV3 with random weights."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(feature_extractor_inceptionv3, "load_state_dict_from_url", lambda *args, **kwargs: {})
        patch.setattr(FeatureExtractorInceptionV3, "load_state_dict", lambda self, state: None)
        torch.manual_seed(0)
        return FeatureExtractorInceptionV3("inception-v3-compat", ["2048"]).state_dict()


@pytest.fixture
def no_network(monkeypatch, tmp_path):
    """An empty weights folder and a download that fails; returns the timeouts that the attempts ran under."""
    timeouts = []

    def fail(url, dst, **kwargs):
        timeouts.append(socket.getdefaulttimeout())
        raise urllib.error.URLError("Name or service not known")

    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path / "hub"))
    monkeypatch.setattr(torch.hub, "download_url_to_file", fail)
    return timeouts


def test_rgba_is_laid_on_white():
    rgba = torch.tensor([[200, 100, 0, 255], [200, 100, 0, 0], [200, 100, 0, 51]], dtype=torch.uint8)[:, :, None, None]
    assert without_alpha(rgba).flatten(1).tolist() == [[200, 100, 0], [255, 255, 255], [244, 224, 204]]


@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_local_inception_weights(inception_weights, tmp_path, suffix):
    path = tmp_path / f"inception{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(inception_weights, path)
    with pytest.warns(UserWarning, match="not weights-inception-2015-12-05-6726825d.pth byte for byte"):
        extractor = build_extractor(MetricsConfig(weights=str(path)), CPU)
    assert extractor.tag.endswith(hashlib.sha256(path.read_bytes()).hexdigest()[:8]), "caches must tell weights apart"
    generator = torch.Generator().manual_seed(0)
    grey = torch.randint(0, 256, (2, 1, 9, 9), dtype=torch.uint8, generator=generator)
    features, logits = extractor(grey)
    assert features.shape == (2, 2048) and logits.shape == (2, 1008)
    assert torch.equal(extractor(grey.expand(-1, 3, -1, -1))[0], features)
    opaque = torch.cat([grey.expand(-1, 3, -1, -1), torch.full_like(grey, 255)], dim=1)
    assert torch.equal(extractor(opaque)[0], features)
    torch.testing.assert_close(logits, features @ inception_weights["fc.weight"].T)


def test_weights_saved_on_a_gpu_are_read_where_there_is_none(tmp_path, monkeypatch):
    path = tmp_path / "classifier.pth"
    monkeypatch.setattr(torch.serialization, "location_tag", lambda storage: "cuda:0")
    torch.save(load_file(WEIGHTS_FILE), path)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    extractor = build_extractor(MetricsConfig(features="classifier", weights=str(path)), CPU)
    assert extractor(torch.zeros(2, 1, 16, 16, dtype=torch.uint8))[0].shape == (2, 64)


class Malicious:
    """Runs a command when it is unpickled."""

    def __init__(self, command: str) -> None:
        self.command = command

    def __reduce__(self):
        return os.system, (self.command,)


@pytest.mark.filterwarnings("ignore:metrics.weights")
def test_code_in_a_weights_file_does_not_run(tmp_path):
    path, trace = tmp_path / "weights.pth", tmp_path / "trace"
    torch.save({"fc.bias": Malicious(f"touch {trace}")}, path)
    with pytest.raises(UserError, match="not a file of tensors"):
        build_extractor(MetricsConfig(weights=str(path)), CPU)
    assert not trace.exists()


@pytest.mark.filterwarnings("ignore:metrics.weights")
@pytest.mark.parametrize(
    "content, message",
    [
        (b"<html>404</html>", "not a file of tensors"),
        (b"", "not a file of tensors"),
        (pickle.dumps({"a": 1}, protocol=2), "not a file of tensors"),
        (pickle.dumps([1], protocol=0), "not a file of tensors"),
        (b"\x80\x02.", "not a file of tensors"),
        (b"0" * 64, "not a file of tensors"),
        (b"\x89PNG\r\n\x1a\n" + bytes(64), "not a file of tensors"),
        (b"PK\x03\x04" + bytes(64), "not a file of tensors"),
        ([torch.zeros(2)], "no dictionary of tensors"),
        ({"fc.bias": torch.zeros(1008)}, "does not fit torch-fidelity's InceptionV3"),
        ({"fc.bias": "zeros"}, "no dictionary of tensors"),
    ],
)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_wrong_weights_files_are_found_before_training(tmp_path, content, message, suffix):
    path = tmp_path / f"wrong{suffix}"
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)
    with pytest.raises(UserError) as caught:
        check_metrics(MetricsConfig(weights=str(path)))
    text = str(caught.value)
    assert text.startswith("metrics.weights: ") and str(path) in text and "\n" not in text
    assert message in text if suffix == ".pth" else "not a file of tensors" in text


MUTATIONS = 300


@pytest.mark.filterwarnings("ignore:metrics.weights")
def test_whatever_lies_in_a_weights_file_is_one_line(tmp_path):
    """Random mutations of three valid kinds of file; some still hold the tensors, none may be a traceback."""
    tensors = {"fc.bias": torch.arange(9.0), "fc.weight": torch.ones(2, 3)}
    seeds = []
    for name, save in (("a.pth", torch.save), ("a.safetensors", save_file)):
        save(tensors, tmp_path / name)
        seeds.append((Path(name).suffix, (tmp_path / name).read_bytes()))
    torch.save(tensors, tmp_path / "old.pth", _use_new_zipfile_serialization=False)
    seeds.append((".pth", (tmp_path / "old.pth").read_bytes()))
    seeds.append((".pth", pickle.dumps({"a": [1, 2.0, "text"]})))
    generator = random.Random(0)
    for number in range(MUTATIONS):
        suffix, content = seeds[number % len(seeds)]
        path = tmp_path / f"mutated{suffix}"
        path.write_bytes(mutated(content, generator))
        with pytest.raises(UserError) as caught:
            build_extractor(MetricsConfig(weights=str(path)), CPU)
        assert str(caught.value).startswith(f"metrics.weights: {path} ") and "\n" not in str(caught.value)


def mutated(content: bytes, generator: random.Random) -> bytes:
    """The content cut, with bytes overwritten, or with bytes put in."""
    data, place = bytearray(content), generator.randrange(len(content))
    match generator.randrange(3):
        case 0:
            return bytes(data[:place])
        case 1:
            for _ in range(generator.randrange(1, 9)):
                data[generator.randrange(len(data))] = generator.randrange(256)
            return bytes(data)
        case _:
            return bytes(data[:place]) + generator.randbytes(generator.randrange(1, 9)) + bytes(data[place:])


def test_missing_weights_file(tmp_path):
    with pytest.raises(UserError, match=r"metrics.weights: no file .*nowhere.pth, expected .* https://") as caught:
        build_extractor(MetricsConfig(weights=str(tmp_path / "nowhere.pth")), CPU)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded(no_network, digits, make_dataset, showing):
    dataset = make_dataset(*digits)
    before = socket.getdefaulttimeout()
    with pytest.raises(
        MetricUnavailable, match="could not be downloaded .*Name or service not known.* metrics.weights"
    ) as e:
        evaluate(showing(*digits), dataset, MetricsConfig(samples=10), device="cpu", progress=False)
    assert "\n" not in str(e.value)
    assert no_network and all(timeout is not None and timeout <= 10 for timeout in no_network)
    assert socket.getdefaulttimeout() == before


def test_one_process_without_weights_stops_all(digits, make_dataset, showing):
    config = MetricsConfig(names=("fid",), samples=10, features="digits")
    other_failed = lambda x: torch.cat([x, torch.zeros_like(x)])  # noqa: E731
    with pytest.raises(MetricUnavailable, match="another process"):
        evaluate(showing(*digits), make_dataset(*digits), config, device="cpu", num_processes=2, gather=other_failed)


def test_check_warns_of_unavailable_weights_and_lets_training_go_on(no_network):
    with pytest.warns(UserWarning, match="^metrics: the InceptionV3 weights .* training goes on without them$"):
        check_metrics(MetricsConfig())


@pytest.mark.parametrize(
    "config", [MetricsConfig(every_ticks=0), MetricsConfig(names=()), MetricsConfig(features="digits")]
)
def test_check_fetches_nothing_that_is_not_needed(no_network, config):
    check_metrics(config)
    assert not no_network


@pytest.mark.parametrize("field, value", [("samples", 1), ("batch", 0), ("every_ticks", -1)])
def test_check_names_the_wrong_value(field, value):
    with pytest.raises(UserError, match=rf"^metrics\.{field}: found {value}, expected "):
        check_metrics(MetricsConfig(**{"features": "digits", field: value}))
