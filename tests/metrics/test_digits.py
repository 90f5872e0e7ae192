"""The bundled digit classifier."""

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from smartfast.config.schema import MetricsConfig
from smartfast.data.sources.digits import load_digits
from smartfast.errors import UserError
from smartfast.metrics.digits.classifier import accuracy, held_out_mask, load_images, main, train_classifier
from smartfast.metrics.digits.features import (
    EXTRACTOR_NAME,
    WEIGHTS_FILE,
    DigitFeatures,
    classifier_input,
    load_classifier,
)
from smartfast.metrics.extractors import build_extractor, without_alpha


def test_bundled_file_is_small():
    assert WEIGHTS_FILE.stat().st_size < 500_000


@pytest.mark.parametrize("resolution", [8, 16, 32])
def test_held_out_accuracy(resolution):
    images, labels = load_digits(resolution)
    held_out = held_out_mask(labels)
    assert held_out.sum() == 359
    classifier = DigitFeatures(EXTRACTOR_NAME, ["64"]).classifier
    found = accuracy(classifier, classifier_input(images[held_out]), labels[held_out])
    print(f"held-out accuracy at {resolution}x{resolution}: {found:.4f}")
    assert found >= 0.98


def test_features_have_unit_mean_variance_on_the_training_images():
    images, labels = load_digits(16)
    (features,) = DigitFeatures(EXTRACTOR_NAME, ["64"])(images[~held_out_mask(labels)])
    assert features.var(dim=0).mean().item() == pytest.approx(1.0, rel=5e-3)


def test_layers_come_in_the_order_asked_for():
    images = load_digits(16)[0][:3]
    features, logits = DigitFeatures(EXTRACTOR_NAME, ["64", "logits"])(images)
    assert features.shape == (3, 64) and logits.shape == (3, 10)
    swapped = DigitFeatures(EXTRACTOR_NAME, ["logits", "64"])(images)
    assert torch.equal(swapped[0], logits) and torch.equal(swapped[1], features)


def test_training_is_deterministic():
    images, labels = load_digits(16)
    inputs = classifier_input(images[:200])
    first, second = (train_classifier(inputs, labels[:200], epochs=2).state_dict() for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)


def test_a_classifier_learns_from_what_metrics_show_it_of_rgba(tmp_path):
    rgba = np.random.default_rng(0).integers(0, 256, (6, 8, 8, 4), dtype=np.uint8)
    np.savez(tmp_path / "rgba.npz", images=rgba, labels=[0, 1] * 3)
    found, _ = load_images(str(tmp_path / "rgba.npz"), 8)
    assert torch.equal(found, without_alpha(torch.from_numpy(rgba).movedim(3, 1)))
    assert found.shape == (6, 3, 8, 8)


def test_a_classifier_of_other_images_gives_their_features(tmp_path, monkeypatch):
    images, labels = load_digits(8)
    images, labels = images[labels < 3], labels[labels < 3]
    np.savez(tmp_path / "three.npz", images=images[:, 0].numpy(), labels=labels.numpy())
    out = tmp_path / "made" / "classifier.safetensors"
    command = [
        "classifier",
        "--data",
        str(tmp_path / "three.npz"),
        "--resolution",
        "8",
        "--epochs",
        "2",
        "--out",
        str(out),
    ]
    monkeypatch.setattr("sys.argv", command)
    main()
    config = MetricsConfig(features="classifier", weights=str(out))
    features, logits = build_extractor(config, torch.device("cpu"))(images)
    assert features.shape == (len(images), 64) and logits.shape == (len(images), 3)
    assert features.var(dim=0).mean().item() == pytest.approx(1.0, rel=0.2)
    assert accuracy(load_classifier(load_file(out)), classifier_input(images, 8), labels) > 0.9
    with pytest.raises(UserError, match="metrics.weights is not set, expected with metrics.features classifier"):
        build_extractor(MetricsConfig(features="classifier"), torch.device("cpu"))
    save_file({"other": torch.zeros(2)}, out)
    with pytest.raises(UserError, match="does not fit classifier: .*expected a file of `python -m") as error:
        build_extractor(config, torch.device("cpu"))
    assert len(str(error.value).splitlines()) == 1
