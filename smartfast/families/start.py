"""Weights from elsewhere at the start of a run: what fits by name and shape is taken, the rest starts anew."""

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor

from smartfast.config.augment import AugmentConfig
from smartfast.core.text import format_table, printable
from smartfast.errors import UserError

AVERAGE = "average"
"""The averaged network, beside the names that a family gives to its trained ones."""
ROLES = {"generator": "g", "discriminator": "d", "generator_ema": AVERAGE}
"""What files of GANs call their networks, ours and converted ones."""
_SHOWN_TENSORS, _SHOWN_LETTERS = 8, 60

Outcome = Literal["loaded", "re-initialised", "skipped"]


@dataclass(frozen=True)
class StartWeights:
    """Weights of a trained model.

    where: Names them in messages.
    family: Key of `smartfast.families.FAMILIES`.
    options: Arguments of `Family.build` for the averaged network, as far as they are known.
    networks: State dicts by the family's names of its networks, and AVERAGE; at least one.
    notes: What else is to be said of them, one line each.
    augment_p: Probability of augmentation that ada had reached, None = unknown.
    """

    where: str
    family: str
    options: Mapping[str, Any]
    networks: Mapping[str, Mapping[str, Tensor]]
    notes: Sequence[str] = ()
    augment_p: float | None = None

    def source_of(self, network: str, averaged: str) -> str | None:
        """Which of the networks one starts from: `averaged` and AVERAGE stand in for each other; None = from none."""
        substitutes = {AVERAGE: averaged, averaged: AVERAGE}
        return next((name for name in (network, substitutes.get(network)) if name in self.networks), None)


class Match(NamedTuple):
    """What becomes of a tensor: its network and name, and its shape in the source and in the run, None = not in it."""

    network: str
    tensor: str
    found: tuple[int, ...] | None
    wanted: tuple[int, ...] | None

    @property
    def outcome(self) -> Outcome:
        """Loaded where name and shape are the same; re-initialised where only the run has it so, else skipped."""
        if self.found == self.wanted:
            return "loaded"
        return "skipped" if self.wanted is None else "re-initialised"


def match(weights: StartWeights, wanted: Mapping[str, Mapping[str, Tensor]], averaged: str) -> list[Match]:
    """Compare weights with the networks of a run, by name and shape.

    Args:
        weights: From elsewhere.
        wanted: State dicts of the run's networks, and of what the average does not share with the trained one.
        averaged: The trained network that AVERAGE follows.
    """
    matches = []
    for network, here in wanted.items():
        source = weights.source_of(network, averaged)
        there = weights.networks[source] if source else {}
        # The average has less in a run than in a file: buffers are the trained network's.
        names = here if network == AVERAGE else dict.fromkeys([*here, *there])
        matches += [Match(network, name, _shape(there.get(name)), _shape(here.get(name))) for name in names]
    return matches


@torch.no_grad()
def take(weights: StartWeights, wanted: Mapping[str, Mapping[str, Tensor]], averaged: str) -> list[Match]:
    """Copy what fits into `wanted`, arguments as `match`.

    Raises:
        UserError: One of the numbers to copy is not finite; nothing is changed then.
    """
    matches, pairs = match(weights, wanted, averaged), []
    for network, name, *_ in (one for one in matches if one.outcome == "loaded"):
        source = weights.source_of(network, averaged)
        assert source is not None, "what is loaded comes from somewhere"
        target = wanted[network][name]
        value = weights.networks[source][name].to(target.device, target.dtype)
        if not value.isfinite().all():
            found = f"{source} {printable(name)} has numbers that are not finite"
            raise UserError(f"run.init_from {weights.where}: {found}, expected weights that training can go on from")
        pairs.append((target, value))
    for target, value in pairs:
        target.copy_(value)
    return matches


def initial_p(weights: StartWeights, matches: Iterable[Match], augment: AugmentConfig) -> float | None:
    """Where ada begins: at the probability that its discriminator has learnt with, None = as the settings say.

    stylegan2-ada-pytorch begins at 0 again, and what its discriminator knows is new to it for as long as p rises.
    """
    found = weights.augment_p
    if augment.mode != "ada" or augment.p is not None or found is None or not found >= 0:
        return None
    is_loaded = any(m.network == ROLES["discriminator"] and m.outcome == "loaded" for m in matches)
    return min(found, augment.max_p) if is_loaded else None


def summary(weights: StartWeights, matches: Sequence[Match], averaged: str, options: Mapping[str, Any]) -> str:
    """What became of the weights, in lines for people; few, however many tensors there are.

    Args:
        weights, averaged: As `match`.
        matches: Of all networks.
        options: Arguments of `Family.build` in the run; those that differ change what the same numbers mean.
    """
    rows = []
    for network in dict.fromkeys(one.network for one in matches):
        counts = Counter(one.outcome for one in matches if one.network == network)
        source = weights.source_of(network, averaged) or "none, starts anew"
        rows.append([network, source, *(str(counts[o]) for o in ("loaded", "re-initialised", "skipped"))])
    lines = [f"start: {weights.where}", *map(printable, weights.notes)]
    lines += format_table(["tensors of", "from", "loaded", "re-initialised", "skipped"], rows).splitlines()
    for network in dict.fromkeys(one.network for one in matches if one.outcome == "loaded"):
        if network != AVERAGE:  # it repeats what is said of the network that it follows
            lines += _others([one for one in matches if one.network == network and one.outcome != "loaded"])
    if differing := list(_differences(weights.options, options)):
        lines.append(f"options that differ (there -> here): {', '.join(differing)}")
    return "\n".join(lines)


def complete_table(matches: Iterable[Match]) -> str:
    """Every tensor with its shapes, there and here, and what became of it."""
    header = ["network and tensor", "there", "here", "outcome"]
    rows = [
        [printable(f"{one.network} {one.tensor}"), _words(one.found), _words(one.wanted), one.outcome]
        for one in matches
    ]
    return format_table(header, rows)


def _others(matches: list[Match]) -> list[str]:
    """A line for each tensor of a network that is not loaded, those of other shapes first, and one for many more."""
    matches.sort(key=lambda one: None in (one.found, one.wanted))
    lines = [
        f"  {one.network} {printable(one.tensor)[:_SHOWN_LETTERS]}: "
        f"{_words(one.found)} -> {_words(one.wanted)}, {one.outcome}"
        for one in matches[:_SHOWN_TENSORS]
    ]
    more = len(matches) - _SHOWN_TENSORS
    return [*lines, f"  {matches[0].network}: and {more} more"] if more > 0 else lines


def _shape(tensor: Tensor | None) -> tuple[int, ...] | None:
    return None if tensor is None else tuple(tensor.shape)


def _words(shape: tuple[int, ...] | None) -> str:
    return "none" if shape is None else str(list(shape))


def _differences(there: Mapping[str, Any], here: Mapping[str, Any], prefix: str = "") -> Iterator[str]:
    for name in (name for name in here if name in there):
        old, new = (list(value) if isinstance(value, tuple) else value for value in (there[name], here[name]))
        if isinstance(old, Mapping) and isinstance(new, Mapping):
            yield from _differences(old, new, f"{prefix}{name}.")
        elif old != new:
            yield printable(f"{prefix}{name} {old} -> {new}"[: 2 * _SHOWN_LETTERS])
