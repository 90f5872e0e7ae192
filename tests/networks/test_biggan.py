"""BigGAN's networks: published sizes, how weights begin, synchronised statistics, half precision."""

import copy

import pytest
import torch
from torch import nn

from smartfast.networks.biggan import BatchStatistics, BigGanOptions, Discriminator, Generator, latent_slots
from smartfast.networks.biggan.layers import ConditionalBatchNorm, LayerOptions
from smartfast.networks.biggan.spectral import SNConv

PUBLISHED = {
    # resolution, width, z, classes, options of G, attention: millions of parameters and tensors, of G and D
    "cifar10": (32, 64, 128, 10, {}, (), (4.30, 4.21), (72, 47)),
    "imagenet128": (128, 96, 120, 1000, dict(shared_dim=128, hierarchical=True), (64,), (70.43, 87.98), (166, 88)),
}


def millions(module: nn.Module) -> float:
    return sum(p.numel() for p in module.parameters()) / 1e6


@pytest.mark.parametrize("name", PUBLISHED)
def test_published_sizes(name: str) -> None:
    resolution, width, z_dim, classes, of_g, attention, parameters, tensors = PUBLISHED[name]
    with torch.device("meta"):
        g = Generator(z_dim, BigGanOptions(resolution, width, classes, attention=attention, **of_g))
        d = Discriminator(BigGanOptions(resolution, width, classes, attention=attention))
    assert (round(millions(g), 2), round(millions(d), 2)) == parameters
    assert (len(g.state_dict()), len(d.state_dict())) == tensors


@pytest.mark.parametrize("resolution", [16, 32, 64, 128, 256])
def test_shapes_and_attention(resolution: int) -> None:
    options = BigGanOptions(resolution, 8, 3, channels=1, attention=(16,), shared_dim=4, hierarchical=True)
    g, d = Generator(2 * latent_slots(resolution, hierarchical=True), options), Discriminator(options)
    c = torch.eye(3)[:2]
    images = g(torch.randn(2, g.z_dim), c)
    assert images.shape == (2, 1, resolution, resolution) and d(images, c).shape == (2, 1)
    assert [len(block) for block in g.blocks] == [1, 2] + [1] * (len(g.blocks) - 2)
    counted = {16: [1] * 3, 32: [2] * 4, 64: [1, 2, 1, 1, 1], 128: [1, 1, 2, 1, 1, 1], 256: [1, 1, 1, 2, 1, 1, 1]}
    assert [len(block) for block in d.blocks] == counted[resolution]


def test_sizes_that_cannot_be() -> None:
    with pytest.raises(ValueError, match="resolution is 48, expected one of 16, 32, 64, 128, 256"):
        BigGanOptions(48, 8, 3)
    with pytest.raises(ValueError, match="expected a shared_dim"):
        BigGanOptions(32, 8, 3, hierarchical=True)
    with pytest.raises(ValueError, match="z_dim is 6, expected a multiple of the 4 pieces"):
        Generator(6, BigGanOptions(32, 8, 3, shared_dim=4, hierarchical=True))
    with pytest.raises(ValueError, match="attention has 4 channels, expected at least 8"):
        Generator(4, BigGanOptions(32, 1, 3, attention=(16,)))


def test_how_weights_begin() -> None:
    torch.manual_seed(0)
    options = dict(resolution=32, width=16, classes=40, shared_dim=20)
    orthogonal, normal = (Generator(24, BigGanOptions(**options, start=start)) for start in ("orthogonal", "normal"))
    for name, weight in orthogonal.named_parameters():
        if weight.ndim >= 2:
            rows = weight.flatten(1)
            products = rows @ rows.t() if len(rows) <= rows.shape[1] else rows.t() @ rows
            assert torch.allclose(products, torch.eye(len(products)), atol=1e-5), name
    weights = {name: weight for name, weight in normal.named_parameters() if weight.ndim >= 2}
    values = torch.cat([weight.flatten() for weight in weights.values()])
    assert values.std().item() == pytest.approx(0.02, rel=0.02) and values.mean().abs() < 1e-3
    bias = normal.blocks[0][0].conv1.bias.detach()
    assert 0.5 < bias.abs().max() * (9 * 64) ** 0.5 <= 1  # as PyTorch's convolutions begin
    assert normal.shared.weight.shape == (40, 20) and "shared.weight" not in {
        name for name, p in weights.items() if any(p is w for w in normal.penalised_weights())
    }


def test_statistics_of_several_processes_are_those_of_the_whole_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two processes in one: what each gives to the mean over processes is seen by the other."""
    x = torch.randn(6, 3, 5, 4, dtype=torch.float64, requires_grad=True)
    whole = BatchStatistics(3, 1e-5, own_norm=False).double()
    expected = whole.normalised(x)
    upstream = torch.randn_like(x)
    (gradient,) = torch.autograd.grad(expected, x, upstream)
    halves = x.detach().split(3)
    mean = torch.stack([half.mean(dim=(0, 2, 3)) for half in halves]).mean(dim=0)
    variance = torch.stack([(half - mean[:, None, None]).square().mean(dim=(0, 2, 3)) for half in halves]).mean(dim=0)
    found = [(half - mean[:, None, None]) * (variance + 1e-5).rsqrt()[:, None, None] for half in halves]
    assert torch.allclose(torch.cat(found), expected.detach(), atol=1e-12)

    norm = BatchStatistics(3, 1e-5, own_norm=False).double()
    norm.is_synchronised = True
    monkeypatch.setattr("torch.distributed.is_initialized", lambda: True)
    monkeypatch.setattr("torch.distributed.get_world_size", lambda: 2)
    monkeypatch.setattr("smartfast.networks.biggan.layers.mean_over_processes", torch.clone)
    both = norm.normalised(x)  # each process has all six images
    assert torch.allclose(both, expected, atol=1e-12)
    assert torch.allclose(torch.autograd.grad(both, x, upstream)[0], gradient, atol=1e-10)
    assert torch.allclose(norm.stored_mean, whole.stored_mean, atol=1e-12)
    count = 6 * 5 * 4
    unbiased = x.detach().var(dim=(0, 2, 3), correction=0) * (2 * count / (2 * count - 1))
    assert torch.allclose(norm.stored_var, 0.9 + 0.1 * unbiased, atol=1e-12)


def test_layers_compile_as_one_graph_that_moves_their_buffers_once() -> None:
    torch.manual_seed(0)
    layers = LayerOptions(shared=True, condition=5)
    eager = nn.ModuleList([SNConv(8, 16, 3, layers.spectral, bias=False), ConditionalBatchNorm(16, layers)])
    compiled = copy.deepcopy(eager)

    def loss(conv: nn.Module, norm: nn.Module, x: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        return (norm(conv(x), condition) * upstream).sum()

    x, condition, upstream = torch.randn(3, 8, 6, 4), torch.randn(3, 5), torch.randn(3, 16, 6, 4)
    traced = torch.compile(loss, fullgraph=True, backend="aot_eager", dynamic=False)
    gradients = [
        torch.autograd.grad(function(*module, x, condition), list(module.parameters()))
        for function, module in ((loss, eager), (traced, compiled))
    ]
    for gradient, other in zip(*gradients, strict=True):
        assert gradient.norm() > 0 and torch.allclose(gradient, other, rtol=1e-4, atol=1e-5)
    for (name, buffer), other in zip(eager.named_buffers(), compiled.buffers(), strict=True):
        assert torch.allclose(buffer, other, rtol=1e-4, atol=1e-5) and not (buffer == 1).all(), name


def test_half_precision_is_near_and_leaves_its_ends_in_full() -> None:
    torch.manual_seed(0)
    options = BigGanOptions(32, 8, 3, attention=(16,), shared_dim=4)
    g, d = Generator(8, options, half_dtype=torch.bfloat16), Discriminator(options, half_dtype=torch.bfloat16)
    full_g, full_d = Generator(8, options), Discriminator(options)
    full_g.load_state_dict(g.state_dict())
    full_d.load_state_dict(d.state_dict())
    z, c = torch.randn(4, 8), torch.eye(3)[[0, 1, 2, 0]]
    images, full = g(z, c), full_g(z, c)
    assert images.dtype == torch.float32 and (images - full).norm() < 0.02 * full.norm()
    logits, full_logits = d(full, c), full_d(full, c)
    assert logits.dtype == torch.float32 and not torch.equal(logits, full_logits)
    assert (logits - full_logits).norm() < 0.02 * full_logits.norm()
    for norm, full_norm in zip(g.norms().values(), full_g.norms().values(), strict=True):
        assert torch.allclose(norm.stored_var, full_norm.stored_var, rtol=0.05)


def test_a_mixed_label_is_between_two_classes_and_memory_order_changes_nothing() -> None:
    torch.manual_seed(1)
    g = Generator(8, BigGanOptions(32, 8, 2, attention=(16,))).eval()
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.add_(0.1 * torch.randn_like(parameter))
        z = torch.randn(1, 8).expand(3, -1)
        images = g(z, torch.tensor([[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]]))
        assert not torch.allclose(images[0], images[1]) and not torch.allclose(images[2], images[1])
        assert torch.equal(g(z, torch.eye(2)[[0, 0, 1]])[0], images[0])
        assert torch.allclose(
            g.to(memory_format=torch.channels_last)(z, torch.eye(2)[[0, 0, 1]])[2], images[2], atol=1e-5
        )
