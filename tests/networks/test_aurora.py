"""Aurora's layers against formulas, the generator against itself, and its size."""

import dataclasses
from itertools import pairwise
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode

from smartfast.kernels import use
from smartfast.networks.aurora import AuroraOptions, Generator
from smartfast.networks.aurora.deformable import deformable_columns
from smartfast.networks.aurora.experts import Experts
from smartfast.networks.aurora.layers import ModulatedConv

TINY = AuroraOptions(
    kernels=[1, 2],
    blocks=[2, 1],
    attention=[0, 1],
    experts=[0, 3],
    z_dim=6,
    w_dim=8,
    classes=4,
    mapping_layers=2,
    mapping_width=8,
    embedding=5,
    channel_base=256,
    channel_max=32,
    heads=2,
    head_dim=8,
)
PUBLISHED = AuroraOptions([1, 1, 2, 4, 8], [3, 3, 3, 2, 2], [0, 2, 2, 2, 1], [0, 4, 8, 16, 16], classes=1000)
SMALL = dataclasses.replace(
    PUBLISHED,
    blocks=[2] * 5,
    attention=[0, 1, 1, 1, 0],
    experts=[0, 4, 4, 4, 0],
    channel_max=512,
    w_dim=512,
    embedding=512,
    deformable=False,
)


def randomized(options: AuroraOptions, seed: int = 0) -> Generator:
    """A generator of which no tensor is at its start, where parts of it have no effect."""
    torch.manual_seed(seed)
    g = Generator(options)
    with torch.no_grad():
        for parameter in g.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    return g


def inputs(n: int, options: AuroraOptions = TINY) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(1)
    z = torch.randn(n, options.z_dim, generator=generator)
    return z, torch.nn.functional.one_hot(torch.arange(n) % options.classes, options.classes).float()


@pytest.mark.parametrize("size", [(1, 1), (3, 5), (4, 4)])
def test_deformable_columns_are_those_of_torchvision(size: tuple[int, int]) -> None:
    """Places between pixels, on pixels, at the edge and far outside; values and gradients."""
    ops = pytest.importorskip("torchvision.ops")
    generator = torch.Generator().manual_seed(0)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    x, offsets, mask = normal(2, 3, *size), 2 * normal(2, 18, *size), normal(2, 9, *size)
    offsets[0, :6] = offsets[0, :6].round()
    offsets[1, :2] = 0
    offsets[1, 2:4] *= 1e4
    weight, upstream = normal(5, 3, 3, 3), normal(2, 5, *size)
    leaves = [t.requires_grad_() for t in (x, offsets, mask)]
    expected = ops.deform_conv2d(x, offsets, weight, padding=1, mask=mask)
    columns = deformable_columns(x, offsets, mask)
    found = (weight.flatten(1) @ columns.flatten(1, 2)).unflatten(2, size)
    torch.testing.assert_close(found, expected)
    for a, b in zip(*(torch.autograd.grad(y, leaves, upstream) for y in (found, expected)), strict=True):
        torch.testing.assert_close(a, b)


def test_a_deformable_convolution_begins_as_a_plain_one() -> None:
    torch.manual_seed(0)
    plain, deformable = (ModulatedConv(6, 5, 4, 3, deformable=on, act="lrelu", clamp=1.0) for on in (False, True))
    deformable.load_state_dict(plain.state_dict(), strict=False)
    x, w = torch.randn(2, 6, 5, 7), torch.randn(2, 4)
    torch.testing.assert_close(deformable(x, w), plain(x, w))


@pytest.mark.parametrize("up", [1, 2])
@pytest.mark.parametrize("demodulate", [True, False])
def test_mixed_kernels_are_those_of_each_image(up: int, demodulate: bool) -> None:
    """A mixture is an ordinary convolution with the mixed kernel."""
    torch.manual_seed(0)
    mixing = ModulatedConv(6, 5, 4, 3, kernels=3, up=up, demodulate=demodulate).double()
    one = ModulatedConv(6, 5, 4, 3, up=up, demodulate=demodulate).double()
    x, w = torch.randn(2, 6, 4, 4).double(), torch.randn(2, 4).double()
    shares = mixing.filter_weight(w).softmax(dim=1)
    for i in range(2):
        state = {k: v for k, v in mixing.state_dict().items() if not k.startswith("filter_weight")}
        one.load_state_dict(state | {"weight": torch.einsum("k,koiab->oiab", shares[i], mixing.weight)[None]})
        torch.testing.assert_close(mixing(x, w)[i], one(x[i : i + 1], w[i : i + 1])[0])


@pytest.mark.parametrize("favourite", [None, 2])
def test_experts_are_those_that_the_router_likes_best(favourite: int | None) -> None:
    """Against a loop over the tokens, with all tokens at one expert too; losses and loads from their definitions."""
    torch.manual_seed(0)
    experts = Experts(8, 4, 3, gated=True).double()
    if favourite is not None:
        with torch.no_grad():
            experts.routing.bias[favourite] = 50
    x, w = torch.randn(2, 6, 8).double().requires_grad_(), torch.randn(2, 4).double()
    y, routing = experts(x, w, (2, 3))
    logits = experts.routing(x.transpose(1, 2).reshape(2, 8, 2, 3), w).flatten(2).transpose(1, 2)
    p = logits.softmax(dim=2)
    best = p.argmax(dim=2)
    rows = [[p[n, t, best[n, t]] * experts.net[best[n, t]](x[n, t]) for t in range(6)] for n in range(2)]
    expected = torch.stack([torch.stack(row) for row in rows])
    torch.testing.assert_close(y, expected)
    upstream = torch.randn(2, 6, 8).double()
    pairs = [(*experts.parameters(), x)] * 2
    for a, b in zip(
        *(
            torch.autograd.grad(z, p, upstream, retain_graph=True, materialize_grads=True, allow_unused=True)
            for z, p in zip((y, expected), pairs, strict=True)
        ),
        strict=True,
    ):
        torch.testing.assert_close(a, b)
    assert routing is not None
    load = torch.stack([(best == e).double().mean(dim=1) for e in range(3)], dim=1)
    torch.testing.assert_close(routing.balance, 3 * (load * p.mean(dim=1)).sum() / 2)
    torch.testing.assert_close(routing.z, logits.exp().sum(dim=2).log().square().mean())
    torch.testing.assert_close(routing.busiest, 3 * load.mean(dim=0).max())
    torch.testing.assert_close(routing.idlest, 3 * load.mean(dim=0).min())
    torch.testing.assert_close(routing.entropy, -(p * p.log()).sum(dim=2).mean() / torch.tensor(3.0).double().log())
    if favourite is not None:
        assert routing.busiest == 3 and routing.idlest == 0


@pytest.mark.parametrize("changes", [{}, {"l2_attention": False, "gated": False, "context": 7, "fourier": False}])
def test_an_image_depends_on_its_own_latent_alone(changes: dict[str, Any]) -> None:
    g = randomized(dataclasses.replace(TINY, **changes)).double()
    z, c = (t.double() for t in inputs(3))
    together = g(z, c)
    for i in range(3):
        torch.testing.assert_close(together[i : i + 1], g(z[i : i + 1], c[i : i + 1]))


def test_truncation_pulls_the_leading_layers_to_the_mean() -> None:
    g = randomized(TINY)
    g.w_avg.copy_(torch.arange(8.0))
    z, c = inputs(2)
    plain, truncated = g.latents(z, c), g.latents(z, c, 0.25, 2)
    torch.testing.assert_close(truncated[:, :2], g.w_avg + 0.25 * (plain[:, :2] - g.w_avg))
    assert torch.equal(truncated[:, 2:], plain[:, 2:])
    assert torch.equal(g.latents(z, c, 0.0), g.w_avg.expand(2, g.options.num_ws, 8))


@pytest.mark.parametrize(("dtype", "most"), [(torch.bfloat16, 0.05), (torch.float16, 0.005)])
def test_half_precision_is_near(dtype: torch.dtype, most: float) -> None:
    """Without experts, where a token between two of them may change over."""
    options = dataclasses.replace(TINY, experts=[0, 0])
    full, half = randomized(options), Generator(dataclasses.replace(options, half_resolutions=1, half_dtype=dtype))
    half.load_state_dict(full.state_dict())
    a, b = (g(*inputs(4)) for g in (full, half))
    assert b.dtype == torch.float32 and (a - b).norm() < most * a.norm()


def test_a_router_is_not_in_half_precision() -> None:
    g, seen = randomized(dataclasses.replace(TINY, half_resolutions=1, half_dtype=torch.bfloat16)), []
    experts = g.synthesis.net[-1][0].attn_blocks[0].ff
    experts.routing.register_forward_hook(lambda module, x, y: seen.append(y.dtype))
    experts.register_forward_hook(lambda module, x, y: seen.append(y[0].dtype))
    g(*inputs(2))
    assert seen == [torch.float32, torch.bfloat16]


def test_the_published_size() -> None:
    """1,083 M parameters and 23 copies of w (../shared/facts.md, counted on the original); the small one has 195 M."""
    with torch.device("meta"):
        g, small = Generator(PUBLISHED), Generator(SMALL)
    millions = [round(sum(p.numel() for p in one.parameters()) / 1e6) for one in (g, small)]
    assert millions == [1083, 195] and g.options.num_ws == 23
    parts = {
        part: sum(p.numel() for n, p in g.named_parameters() if part in n) / 1e6 for part in ("mapping", ".ff.net.")
    }
    assert {part: round(count) for part, count in parts.items()} == {"mapping": 5, ".ff.net.": 529}


def counted_flops(options: AuroraOptions) -> float:
    """Of an image, without the memory of the weights."""
    with torch.device("meta"):
        g = Generator(options)
    with FakeTensorMode(), FlopCounterMode(display=False) as counter, use("aten"):
        for module in g.modules():
            for tensors in (module._parameters, module._buffers):
                tensors |= {name: torch.empty(t.shape, device="cpu") for name, t in tensors.items() if t is not None}
        g(torch.empty(1, options.z_dim), torch.empty(1, options.classes))
    return float(counter.get_total_flops())


@pytest.mark.parametrize(("options", "giga"), [(PUBLISHED, 309), (SMALL, 80)])
def test_the_published_cost(options: AuroraOptions, giga: int) -> None:
    """../shared/facts.md counts upsampling convolutions by their output, in which three quarters are of zeros, and
    leaves out those that give the offsets of the taps."""
    total = counted_flops(options)
    for (before, after), blocks in zip(pairwise(options.resolutions), options.blocks[1:], strict=True):
        total += 3 * 2 * 9 * options.width(before) * options.width(after) * before**2
        if options.deformable and after < 32:
            total -= blocks * 2 * 27 * 9 * options.width(after) * after**2
    if options.deformable:
        total -= options.blocks[0] * 2 * 27 * 9 * options.width(4) * 4**2
    assert total / 1e9 == pytest.approx(giga, abs=0.5)


@pytest.mark.parametrize(
    ("changes", "line"),
    [
        (dict(kernels=[1]), "kernels has 1 numbers, expected 2, as many as blocks"),
        (dict(blocks=[0, 1]), r"blocks is \[0, 1\], expected numbers of at least 1"),
        (dict(channel_max=24), "attention at 8 pixels has 24 feature maps, .*, expected a multiple of 32"),
        (dict(heads=5, head_dim=None), "heads is 5, expected a divisor of the 32 feature maps"),
        (dict(channel_base=4), "channel_base is 4, expected at least 8"),
    ],
)
def test_options_that_do_not_fit(changes: dict[str, Any], line: str) -> None:
    with pytest.raises(ValueError, match=line):
        dataclasses.replace(TINY, **changes)
