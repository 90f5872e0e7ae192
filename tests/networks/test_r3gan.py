"""How R3GAN's networks begin, which no file of weights shows."""

import math

import pytest
import torch

from smartfast.networks.r3gan import Discriminator, Generator, R3GanOptions

EMBEDDING, CLASSES = 256, 40


@pytest.fixture(scope="module")
def options() -> R3GanOptions:
    torch.manual_seed(0)
    return R3GanOptions((16, 8), (4, 2), (1, 1), channels=1, classes=CLASSES, embedding=EMBEDDING)


@pytest.mark.parametrize("network", ["g", "d"])
def test_the_embedding_of_classes_begins_as_the_original(network: str, options: R3GanOptions) -> None:
    """Variance gain^2 / classes, the gain of the discriminator's being 1 / sqrt(embedding) (R3GAN's public code)."""
    made = Generator(8, options) if network == "g" else Discriminator(options)
    expected = 1 / math.sqrt(CLASSES * (EMBEDDING if network == "d" else 1))
    assert made.Model.EmbeddingLayer.weight.std().item() == pytest.approx(expected, rel=0.03)


def test_a_conditional_logit_begins_at_the_size_of_one_feature(options: R3GanOptions) -> None:
    """Up to 1 / sqrt(classes), the length of the embedding of one: not sqrt(embedding) times as large."""
    d, features = Discriminator(options), []
    d.Model.MainLayers[-1].register_forward_hook(lambda module, inputs, output: features.append(output.detach()))
    logits = d(torch.randn(CLASSES * 8, 1, 8, 8), torch.eye(CLASSES).repeat(8, 1))
    size = logits.square().mean().sqrt() * math.sqrt(CLASSES)
    assert size.item() == pytest.approx(features[0].square().mean().sqrt().item(), rel=0.3)
