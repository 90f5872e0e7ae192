"""The bundled digit classifier."""

import pytest
import torch

from smartfast.data.sources.digits import load_digits
from smartfast.metrics.digits.classifier import accuracy, held_out_mask, train_classifier
from smartfast.metrics.digits.features import EXTRACTOR_NAME, WEIGHTS_FILE, DigitFeatures, classifier_input


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
