"""The networks beyond the golden vectors: options, noise, precision, derivatives of compiled code."""

import pytest
import torch

from smartfast.networks.stylegan2 import Discriminator, Generator
from smartfast.networks.stylegan2.discriminator import minibatch_std
from smartfast.networks.stylegan2.layers import block_resolutions


def tiny_generator(**options) -> Generator:
    defaults = dict(
        z_dim=6, c_dim=0, w_dim=7, resolution=16, channels=2, mapping_layers=2, channel_base=64, channel_max=8
    )
    return Generator(**(defaults | options))


@pytest.mark.parametrize("group", [1, 2, 3, 6, None])
@pytest.mark.parametrize("channels", [1, 2])
def test_minibatch_std_against_loops(group: int | None, channels: int) -> None:
    n, c, h, w = 6, 4, 3, 2
    x = torch.randn(n, c, h, w, dtype=torch.float64)
    y = minibatch_std(x, group, channels)
    assert torch.equal(y[:, :c], x)
    size = group or n
    for sample in range(n):
        members = [m for m in range(n) if m % (n // size) == sample % (n // size)]
        for f in range(channels):
            part = x[members][:, f * c // channels : (f + 1) * c // channels]
            expected = (part.var(dim=0, unbiased=False) + 1e-8).sqrt().mean()
            assert torch.allclose(y[sample, c + f], expected.expand(h, w))


@pytest.mark.parametrize("mbstd", [(1, 1), (2, 2), (3, 1), (6, 1), (4, 0), (None, 1), (8, 1)])
@pytest.mark.parametrize("c_dim", [0, 3])
def test_one_pass_over_fakes_and_reals_equals_two(mbstd: tuple[int | None, int], c_dim: int) -> None:
    group, channels = mbstd
    options = dict(c_dim=c_dim, resolution=8, channels=2, channel_base=64, channel_max=8, mapping_layers=1)
    d = Discriminator(mbstd_group=group, mbstd_channels=channels, **options).double()
    fakes, reals = torch.randn(2, 6, 2, 8, 8, dtype=torch.float64)
    labels = torch.randn(2, 6, c_dim, dtype=torch.float64) if c_dim else (None, None)
    results, expected = d.compare(fakes, labels[0], reals, labels[1]), (d(fakes, labels[0]), d(reals, labels[1]))
    torch.testing.assert_close(results, expected, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("resolution", [0, 2, 12, 100])
def test_resolution_must_be_a_power_of_two(resolution: int) -> None:
    with pytest.raises(ValueError, match=f"resolution is {resolution}, expected a power of two"):
        block_resolutions(resolution)


@pytest.mark.parametrize("architecture", ["skip", "resnet", "orig"])
def test_noise_modes(architecture: str) -> None:
    g = tiny_generator(architecture=architecture)
    for name, parameter in g.named_parameters():
        if name.endswith("noise_strength"):
            parameter.data.fill_(0.3)
    ws = g.mapping(torch.randn(3, 6))
    given = [torch.randn(3, 1, *shape) for shape in g.synthesis.noise_shapes]
    assert torch.equal(g.synthesis(ws, given), g.synthesis(ws, given))
    assert not torch.equal(g.synthesis(ws, "random"), g.synthesis(ws, "random"))
    assert not torch.equal(g.synthesis(ws, "const"), g.synthesis(ws, "none"))
    constants = [m.noise_const for m in g.modules() if hasattr(m, "noise_const")]
    assert torch.equal(g.synthesis(ws, "const"), g.synthesis(ws, constants))
    with pytest.raises(ValueError, match="noise is 'loud'"):
        g.synthesis(ws, "loud")


def test_truncation_moves_toward_the_mean() -> None:
    g = tiny_generator()
    g.mapping.w_avg.normal_()
    z = torch.randn(4, 6)
    w = g.mapping(z)
    assert torch.allclose(g.mapping(z, truncation_psi=0.0), g.mapping.w_avg.expand_as(w))
    half = g.mapping(z, truncation_psi=0.5, truncation_cutoff=2)
    assert torch.allclose(half[:, :2], (w[:, :2] + g.mapping.w_avg) / 2, atol=1e-6)
    assert torch.equal(half[:, 2:], w[:, 2:])


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_in_the_top_resolutions(dtype: torch.dtype) -> None:
    options = dict(conv_clamp=256.0)
    g, half = tiny_generator(**options), tiny_generator(**options, half_resolutions=2, half_dtype=dtype)
    half.load_state_dict(g.state_dict())
    z = torch.randn(4, 6)
    exact, rounded = g(z, noise="none"), half(z, noise="none")
    assert rounded.dtype == torch.float32
    assert 0 < (exact - rounded).norm() / exact.norm() < (2e-2 if dtype == torch.bfloat16 else 3e-3)
    d = Discriminator(c_dim=0, resolution=16, channels=2, channel_base=64, channel_max=8)
    half_d = Discriminator(
        c_dim=0, resolution=16, channels=2, channel_base=64, channel_max=8, half_resolutions=4, half_dtype=dtype
    )
    half_d.load_state_dict(d.state_dict())
    assert half_d(exact).dtype == torch.float32
    assert torch.allclose(half_d(exact), d(exact), atol=0.05)


def test_empty_batch() -> None:
    assert tiny_generator()(torch.randn(0, 6)).shape == (0, 2, 16, 16)


def test_initial_activations_have_unit_scale() -> None:
    """Equalized learning rate and demodulation: at initialisation no layer amplifies or loses the signal."""
    g = tiny_generator(channel_base=1024, channel_max=64, z_dim=64, w_dim=64)
    moments = []
    for module in g.synthesis.modules():
        if hasattr(module, "noise_strength"):
            module.register_forward_hook(lambda _, __, y: moments.append(y.square().mean().item()))
    g(torch.randn(64, 64), noise="none")
    assert len(moments) == 5 and all(0.1 < m < 2 for m in moments)
