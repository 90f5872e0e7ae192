"""Other ways to read a scorer's file, and the images: what loads as well, runs as well, and means something else."""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from smartfast.networks.unets import ADM, Denoiser, reorder_attention
from smartfast.scorers.base import Scorer
from smartfast.scorers.diffusers import UNetScorer
from smartfast.scorers.schedule import NoiseSchedule

SHIFTS = (-2, -1, 1, 2)
_PREDICTIONS = ("eps", "x0", "v")
_PRECONDITIONINGS = ("edm", "vp", "ve", "cm")  # iddpm's network has twice the outputs, which its tensors tell


class Reading(NamedTuple):
    """Options of `smart.scorer_options` and their values as text, and the scorer read with them while it is open."""

    text: str
    opened: Callable[[], AbstractContextManager[None]]


def readings(scorer: Scorer) -> list[Reading]:
    """Every other reading of a scorer that its tensors allow, one option apart, or two that hide each other."""
    found = [_told(scorer, name) for name in _other_schedules(scorer)]
    network = getattr(scorer, "unet", None)
    if isinstance(network, Denoiser) and network.options.preconditioning != "iddpm":
        others = [kind for kind in _PRECONDITIONINGS if kind != network.options.preconditioning]
        found += [
            _assigned(network, "options", replace(network.options, preconditioning=kind), f"preconditioning {kind}")  # type: ignore[arg-type]
            for kind in others
        ]
    if isinstance(scorer, UNetScorer):
        others = [kind for kind in _PREDICTIONS if kind != scorer.parameterization]
        found += [_assigned(scorer, "parameterization", kind, f"prediction {kind}") for kind in others]
    adm = network.model if isinstance(network, Denoiser) else network
    if isinstance(adm, ADM) and adm.has_heads:
        order = _reordered(adm)
        found += [order, *(_both(order, schedule) for schedule in found)]
    return found


def shifts(scorer: Scorer) -> list[Reading]:
    """The readings in which the network counts its timesteps from another number."""
    if not scorer.schedules:
        return []
    timesteps = torch.arange(scorer.num_timesteps, device=scorer.alphas.device)
    usual = int(scorer.told(timesteps[-1:])) - scorer.num_timesteps + 1
    return [
        _assigned(scorer, "times", (timesteps + usual + by).clamp(min=0), f"timestep_shift {usual + by}")
        for by in SHIFTS
    ]


IMAGES: dict[str, Callable[[Tensor], Tensor]] = {
    "negated": torch.neg,
    "turned left": partial(torch.rot90, k=1, dims=(2, 3)),
    "turned right": partial(torch.rot90, k=-1, dims=(2, 3)),
    "upside down": partial(torch.rot90, k=2, dims=(2, 3)),
    "of reversed channels": partial(torch.flip, dims=(1,)),
}
"""What images [N, C, H, W] are mistaken for: no easier to denoise, but for a scorer that has learnt them so."""


def _other_schedules(scorer: Scorer) -> list[str]:
    own = scorer.sigmas.double() / scorer.alphas.double()
    others = {name: _ratios(make(scorer.num_timesteps)).to(own) for name, make in scorer.schedules.items()}
    is_own = {
        name: name == scorer.schedule or torch.allclose(ratios, own, rtol=0.01) for name, ratios in others.items()
    }
    return [name for name in others if not is_own[name]]


def _ratios(schedule: NoiseSchedule) -> Tensor:
    return schedule.sigmas / schedule.alphas


def _told(scorer: Scorer, name: str) -> Reading:
    """The same noise, of which the network is told the timestep that has it in another schedule."""
    own = (scorer.sigmas.double() / scorer.alphas.double()).log()
    other = _ratios(scorer.schedules[name](scorer.num_timesteps)).to(own).log()
    return _assigned(scorer, "times", torch.bucketize(own, (other[1:] + other[:-1]) / 2), f"schedule {name}")


def _reordered(network: ADM) -> Reading:
    is_new = network.options.use_new_attention_order

    @contextmanager
    def opened() -> Iterator[None]:
        reorder_attention(network, is_new=not is_new)
        try:
            yield
        finally:
            reorder_attention(network, is_new=is_new)

    return Reading(f"attention_order {'legacy' if is_new else 'new'}", opened)


def _assigned(owner: Any, attribute: str, value: Any, text: str) -> Reading:
    @contextmanager
    def opened() -> Iterator[None]:
        before = getattr(owner, attribute)
        setattr(owner, attribute, value)
        try:
            yield
        finally:
            setattr(owner, attribute, before)

    return Reading(text, opened)


def _both(first: Reading, second: Reading) -> Reading:
    @contextmanager
    def opened() -> Iterator[None]:
        with first.opened(), second.opened():
            yield

    return Reading(f"{first.text} and {second.text}", opened)
