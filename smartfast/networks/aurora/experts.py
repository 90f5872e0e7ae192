"""Feed-forward layers of Aurora's attention, of one network or of many experts of which each token meets one."""

import math
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from smartfast.kernels import grouped_linear
from smartfast.networks.aurora.layers import Dense, ModulatedConv, at_least_float32
from smartfast.networks.aurora.tokens import as_image, as_tokens

RATIO = 4
"""Width inside a feed-forward layer over that of the tokens."""


class Routing(NamedTuple):
    """How tokens met their experts: of one layer, or of several, see `together`. Scalars.

    balance: Load-balancing loss, 1 where all is even (Fedus et al., "Switch Transformers", arXiv 2101.03961, eq. 4,
    times the experts). z: Mean squared logarithm of the sum of the exponentials of the logits (Zoph et al., "ST-MoE",
    arXiv 2202.08906, eq. 5). busiest, idlest: Tokens of those experts over those of an even load, detached. entropy:
    Of the probabilities, 1 = undecided, mean over the tokens, detached.
    """

    balance: Tensor
    z: Tensor
    busiest: Tensor
    idlest: Tensor
    entropy: Tensor


def together(routings: list[Routing]) -> Routing | None:
    """The sums of the losses, the extremes of the loads and the mean entropy; None of none."""
    if not routings:
        return None
    balance, z, busiest, idlest, entropy = (torch.stack(part) for part in zip(*routings, strict=True))
    return Routing(balance.sum(), z.sum(), busiest.amax(), idlest.amin(), entropy.mean())


class Gated(nn.Module):
    """Linear layer whose halves are value and gate (GEGLU; Shazeer, arXiv 2002.05202)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.proj = Dense(inputs, 2 * outputs)

    def forward(self, x: Tensor) -> Tensor:
        return gate(self.proj(x))


def gate(x: Tensor) -> Tensor:
    """The first half of the last dimension times the GELU of the second."""
    value, by = x.chunk(2, dim=-1)
    return value * F.gelu(by)


def _network(width: int, *, gated: bool) -> nn.Sequential:
    """The middle layer stands where the original has a dropout of nothing."""
    first = Gated(width, RATIO * width) if gated else nn.Sequential(Dense(width, RATIO * width), nn.GELU())
    return nn.Sequential(first, nn.Identity(), Dense(RATIO * width, width))


class FeedForward(nn.Module):
    """One network for all tokens [N, L, C]."""

    def __init__(self, width: int, *, gated: bool) -> None:
        super().__init__()
        self.net = _network(width, gated=gated)

    def forward(self, x: Tensor, w: Tensor, size: tuple[int, int]) -> tuple[Tensor, Routing | None]:
        return self.net(x), None


class Experts(nn.Module):
    """Sparse mixture of experts: each token goes through the one that the router likes best, times its probability.

    Tokens are sorted by expert, so that every shape is the same whatever the router says and nothing is read back from
    the device. The router computes at least in float32.
    """

    def __init__(self, width: int, w_dim: int, experts: int, *, gated: bool) -> None:
        super().__init__()
        self.gated = gated
        self.net = nn.ModuleList(_network(width, gated=gated) for _ in range(experts))
        self.routing = ModulatedConv(width, experts, w_dim, 1, act="lrelu")

    def forward(self, x: Tensor, w: Tensor, size: tuple[int, int]) -> tuple[Tensor, Routing | None]:
        """x: Tokens [N, L, C] of an image of `size`, w: [N, w_dim]."""
        logits = as_tokens(self.routing(as_image(at_least_float32(x), size), w))
        probabilities = logits.softmax(dim=2)
        best, expert = probabilities.max(dim=2)
        y = self._through(x.flatten(0, 1), expert.flatten()).view_as(x)
        return y * best[:, :, None].to(x.dtype), _routing(logits, probabilities, expert)

    def _through(self, x: Tensor, expert: Tensor) -> Tensor:
        """Tokens [T, C] through the experts numbered int64 [T]."""
        order = expert.argsort(stable=True)
        counts = (expert[:, None] == torch.arange(len(self.net), device=x.device)).sum(dim=0)
        offsets = F.pad(counts.cumsum(0), (1, 0))
        first, second = zip(*(self._layers(net) for net in self.net), strict=True)
        h = _grouped(x.index_select(0, order), first, offsets)
        y = _grouped(gate(h) if self.gated else F.gelu(h), second, offsets)
        return torch.zeros_like(y).index_copy(0, order, y)

    def _layers(self, net: Any) -> tuple[Dense, Dense]:
        return net[0].proj if self.gated else net[0][0], net[2]


def _grouped(x: Tensor, layers: tuple[Dense, ...], offsets: Tensor) -> Tensor:
    weights, biases = zip(*(layer.scaled() for layer in layers), strict=True)
    return grouped_linear(x, torch.stack(weights).to(x.dtype), torch.stack(biases).to(x.dtype), offsets)


def _routing(logits: Tensor, probabilities: Tensor, expert: Tensor) -> Routing:
    """logits, probabilities: [N, L, E]. expert: [N, L]."""
    count = logits.shape[2]
    chosen = (expert[:, :, None] == torch.arange(count, device=expert.device)).to(logits.dtype)
    load = chosen.mean(dim=1)  # [N, E]
    balance = (load * probabilities.mean(dim=1)).sum(dim=1).mean() * count
    z = logits.logsumexp(dim=2).square().mean()
    with torch.no_grad():
        entropy = -(probabilities * logits.log_softmax(dim=2)).sum(dim=2).mean() / math.log(count)
        shares = load.mean(dim=0) * count
        return Routing(balance, z, shares.amax(), shares.amin(), entropy)
