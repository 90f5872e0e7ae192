"""Feature spaces beside InceptionV3: weight files of stand-ins, and what the networks make of them."""

from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor
from torch_fidelity.feature_extractor_clip import CLIPVisual
from torch_fidelity.metric_fid import fid_statistics_to_metric

from smartfast.config.schema import MetricsConfig
from smartfast.config.spaces import IMAGE_SPACES, resizing_of
from smartfast.errors import UserError
from smartfast.metrics import evaluate, published
from smartfast.metrics.collect import RunningStatistics
from smartfast.metrics.dinov2 import DinoV2
from smartfast.metrics.extractors import build_extractor

CPU = torch.device("cpu")
WIDTH, DEPTH, GRID = 128, 2, 5


def tensors_of(module: torch.nn.Module) -> dict[str, Tensor]:
    """Its state with random numbers in place of what its construction leaves."""
    rng = torch.Generator("cpu").manual_seed(0)
    return {name: 0.1 * torch.randn(x.shape, generator=rng) for name, x in module.state_dict().items()}


def dinov2_tensors(*, is_gated: bool = False) -> dict[str, Tensor]:
    return tensors_of(DinoV2(WIDTH, DEPTH, GRID, is_gated=is_gated))


def dinov2_in_float64(tensors: dict[str, Tensor], images: Tensor) -> Tensor:
    """The paper's network with PyTorch's own attention layer, image by image."""
    t = {name: x.double() for name, x in tensors.items()}
    results = []
    for image in images.double():
        patches = F.conv2d(image[None], t["patch_embed.proj.weight"], t["patch_embed.proj.bias"], stride=14)[0]
        x = torch.cat([t["cls_token"][0], patches.reshape(WIDTH, -1).T]) + t["pos_embed"][0]
        for block in (f"blocks.{i}." for i in range(DEPTH)):
            layer = torch.nn.MultiheadAttention(WIDTH, WIDTH // 64, batch_first=True, dtype=torch.float64)
            for part in ("weight", "bias"):
                getattr(layer, f"in_proj_{part}").data = t[f"{block}attn.qkv.{part}"]
                getattr(layer.out_proj, part).data = t[f"{block}attn.proj.{part}"]
            y = F.layer_norm(x, (WIDTH,), t[f"{block}norm1.weight"], t[f"{block}norm1.bias"], 1e-6)
            x = x + t[f"{block}ls1.gamma"] * layer(y[None], y[None], y[None])[0][0]
            y = F.layer_norm(x, (WIDTH,), t[f"{block}norm2.weight"], t[f"{block}norm2.bias"], 1e-6)
            if f"{block}mlp.w12.weight" in t:
                y = y @ t[f"{block}mlp.w12.weight"].T + t[f"{block}mlp.w12.bias"]
                gate, value = y[:, : y.shape[1] // 2], y[:, y.shape[1] // 2 :]
                y = gate * torch.sigmoid(gate) * value @ t[f"{block}mlp.w3.weight"].T + t[f"{block}mlp.w3.bias"]
            else:
                y = y @ t[f"{block}mlp.fc1.weight"].T + t[f"{block}mlp.fc1.bias"]
                y = y * 0.5 * (1 + torch.erf(y / 2**0.5)) @ t[f"{block}mlp.fc2.weight"].T + t[f"{block}mlp.fc2.bias"]
            x = x + t[f"{block}ls2.gamma"] * y
        results.append(F.layer_norm(x[0], (WIDTH,), t["norm.weight"], t["norm.bias"], 1e-6))
    return torch.stack(results)


@pytest.mark.parametrize("is_gated", [False, True])
def test_dinov2_is_the_papers_network(is_gated: bool) -> None:
    tensors = dinov2_tensors(is_gated=is_gated)
    images = torch.randn(2, 3, 14 * GRID, 14 * GRID, generator=torch.Generator("cpu").manual_seed(1))
    with torch.no_grad():
        found = DinoV2.of(tensors)(images)
        torch.testing.assert_close(found.double(), dinov2_in_float64(tensors, images), rtol=1e-4, atol=1e-5)


def test_dinov2_takes_more_patches_than_it_has_positions_for() -> None:
    """The published files are of 37 x 37 patches, the images have 16 x 16."""
    network = DinoV2.of(dinov2_tensors())
    assert network._positions(GRID, GRID) is network.pos_embed
    found = network._positions(16, 16)
    assert found.shape == (1, 1 + 16 * 16, WIDTH) and torch.equal(found[:, 0], network.pos_embed[:, 0])
    constant = torch.full_like(network.pos_embed, 3.0)
    network.pos_embed.data = constant
    torch.testing.assert_close(network._positions(16, 16), torch.full_like(found, 3.0))


def clip_tensors() -> dict[str, Tensor]:
    """CLIP's image side of eight channels at 32 pixels, with what the text's side shares."""
    visual = CLIPVisual(16, 32, 2, 64, 8)
    return tensors_of(visual) | {"text_projection": torch.zeros(5, 16), "logit_scale": torch.zeros([])}


STAND_INS = {
    "clip-vit-b-32": (clip_tensors, "CLIP_SHAPES", (64, 8, 17, 16), 16),
    "dinov2-vit-s-14": (dinov2_tensors, "DINOV2_SHAPES", (WIDTH, DEPTH), WIDTH),
}


@pytest.mark.parametrize("space", STAND_INS)
@pytest.mark.parametrize("suffix", [".pth", ".safetensors"])
def test_a_local_file_gives_features(space: str, suffix: str, tmp_path: Path, monkeypatch) -> None:
    make, table, shape, size = STAND_INS[space]
    monkeypatch.setitem(getattr(published, table), space, shape)
    path = tmp_path / f"weights{suffix}"
    (save_file if suffix == ".safetensors" else torch.save)(make(), path)
    extractor = build_extractor(MetricsConfig(features=space, weights=str(path)), CPU)
    grey = torch.randint(0, 256, (2, 1, 9, 9), dtype=torch.uint8, generator=torch.Generator("cpu").manual_seed(0))
    features, logits = extractor(grey)
    assert features.shape == (2, size) and features.dtype == torch.float32 and logits.shape == (2, 0)
    assert torch.equal(extractor(grey.expand(-1, 3, -1, -1))[0], features)
    assert extractor.num_features(CPU) == size


@pytest.mark.parametrize("space", STAND_INS)
def test_a_file_of_another_network_is_refused(space: str, tmp_path: Path) -> None:
    """Both networks could be built from it: the name decides what it has to be."""
    path = tmp_path / "weights.safetensors"
    save_file(STAND_INS[space][0](), path)
    with pytest.raises(UserError, match=f"does not fit {space}: it is of an unknown network, expected {space}"):
        build_extractor(MetricsConfig(features=space, weights=str(path)), CPU)


@pytest.mark.parametrize("space", [space for space in IMAGE_SPACES if space not in ("inception", "digits")])
def test_weights_are_asked_for_and_must_fit(space: str, tmp_path: Path) -> None:
    with pytest.raises(UserError, match=f"metrics.weights is not set, expected with metrics.features {space}: "):
        build_extractor(MetricsConfig(features=space), CPU)
    path = tmp_path / "weights.safetensors"
    save_file({"fc.bias": torch.zeros(3)}, path)
    with pytest.raises(UserError, match=f"^metrics.weights: .*does not fit {space}: ") as caught:
        build_extractor(MetricsConfig(features=space, weights=str(path)), CPU)
    assert "\n" not in str(caught.value)


def test_every_space_says_how_it_resizes() -> None:
    sizes = {int(resizing_of(space).split(" x ")[0]) for space in IMAGE_SPACES if space != "classifier"}
    assert sizes == {16, 224, 288, 299, 336, 384, 448}


@pytest.mark.parametrize("layout", ["edm", "adm"])
def test_a_published_reference_takes_the_place_of_the_images(layout, digits, make_dataset, showing, tmp_path) -> None:
    images, labels = digits
    dataset = make_dataset(images[:300], labels[:300])
    extractor = build_extractor(MetricsConfig(features="digits"), CPU)
    statistics = [RunningStatistics(), RunningStatistics()]
    for found, some in zip(statistics, (images[300:500], images[500:600]), strict=True):
        found.add(extractor(some)[0])
    reference, fakes = (found.result() for found in statistics)
    more = {"arr_0": images[:4].movedim(1, 3).numpy(), "mu_s": np.zeros(3), "sigma_s": np.eye(3)}
    np.savez(tmp_path / "reference.npz", **reference, **(more if layout == "adm" else {}))
    config = MetricsConfig(features="digits", samples=100, names=("fid",), reference=str(tmp_path / "reference.npz"))
    sample = showing(images[500:600], labels[500:600])
    values = evaluate(sample, dataset, config, device="cpu", progress=False)
    expected = fid_statistics_to_metric(fakes, reference, False)["frechet_inception_distance"]
    assert values["fd_digits"] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize(
    ("arrays", "reason"),
    [
        ({"mu": np.zeros(64)}, "cannot be read"),
        ({"mu": np.zeros(2048), "sigma": np.eye(2048)}, r"has mu \(2048,\) and sigma \(2048, 2048\)"),
        ({"mu": np.full(64, np.nan), "sigma": np.eye(64)}, "not finite"),
        ({"mu": np.array([{}] * 64), "sigma": np.eye(64)}, "cannot be read"),
        (None, "no file"),
    ],
)
def test_a_wrong_reference_is_one_line(arrays, reason, digits, make_dataset, showing, tmp_path) -> None:
    images, labels = digits
    if arrays is not None:
        np.savez(tmp_path / "reference.npz", **arrays)
    config = MetricsConfig(features="digits", samples=4, names=("fid",), reference=str(tmp_path / "reference.npz"))
    with pytest.raises(UserError, match=rf"^metrics.reference: .*{reason}.*expected an .npz with mu \[64\]"):
        evaluate(showing(images, labels), make_dataset(images, labels), config, device="cpu", progress=False)
