"""Other ways to read a scorer's file, and the images: what loads as well, runs as well, and means something else."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import replace
from functools import partial
from typing import Any, NamedTuple, get_args

import torch
from torch import Tensor

from smartfast.networks.unets import ADM, Denoiser, reorder_attention
from smartfast.networks.unets.options import Preconditioning
from smartfast.scorers.base import Scorer
from smartfast.scorers.diffusers import UNetScorer
from smartfast.scorers.schedule import NoiseSchedule, Parameterization

OPTION = "smart.scorer_options."
NEAR, FAR = (-2, -1, 1, 2), (-50, -10, 10, 50)
# iddpm's network has twice the outputs, which its tensors tell.
_PRECONDITIONINGS: tuple[Preconditioning, ...] = ("edm", "vp", "ve", "cm")


class Reading(NamedTuple):
    """Options of `smart.scorer_options` and their values as text, and the scorer read with them while it is open."""

    text: str
    opened: Callable[[], AbstractContextManager[None]]


def readings(scorer: Scorer) -> list[Reading]:
    """Every other reading of a scorer that its tensors allow, one option apart, or two that hide each other."""
    found = [_told(scorer, name) for name in _other_schedules(scorer)]
    network = getattr(scorer, "unet", None)
    if isinstance(network, Denoiser) and network.options.preconditioning != "iddpm":
        for kind in _PRECONDITIONINGS:
            options = replace(network.options, preconditioning=kind)
            if options != network.options:
                found.append(_assigned(network, "options", options, f"{OPTION}preconditioning {kind}"))
    if isinstance(scorer, UNetScorer):
        others = [kind for kind in get_args(Parameterization) if kind != scorer.parameterization]
        found += [_assigned(scorer, "parameterization", kind, f"{OPTION}prediction {kind}") for kind in others]
    adm = network.model if isinstance(network, Denoiser) else network
    if isinstance(adm, ADM) and adm.has_heads:
        order = _reordered(adm)
        found += [order, *(_both(order, schedule) for schedule in found)]
    return found


def shifts(scorer: Scorer, numbers: Sequence[int]) -> list[Reading]:
    """The readings in which the network counts its timesteps from numbers other than now."""
    if not scorer.schedules:
        return []
    timesteps = torch.arange(scorer.num_timesteps, device=scorer.alphas.device)
    usual = int(scorer.told(timesteps[-1:])) - scorer.num_timesteps + 1
    return [
        _assigned(scorer, "times", (timesteps + usual + by).clamp(min=0), f"{OPTION}timestep_shift {usual + by}")
        for by in numbers
    ]


def changes_of(images: Tensor) -> dict[str, Callable[[Tensor], Tensor]]:
    """What images [N, C, H, W] are mistaken for: no easier to denoise, but for a scorer that has learnt them so."""
    changes: dict[str, Callable[[Tensor], Tensor]] = {
        "negated": torch.neg,
        "turned left": partial(torch.rot90, k=1, dims=(2, 3)),
        "turned right": partial(torch.rot90, k=-1, dims=(2, 3)),
        "upside down": partial(torch.rot90, k=2, dims=(2, 3)),
    }
    return changes | ({"of reversed channels": partial(torch.flip, dims=(1,))} if images.shape[1] > 1 else {})


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
    return _assigned(scorer, "times", torch.bucketize(own, (other[1:] + other[:-1]) / 2), f"{OPTION}schedule {name}")


def _reordered(network: ADM) -> Reading:
    is_new = network.options.use_new_attention_order

    @contextmanager
    def opened() -> Iterator[None]:
        reorder_attention(network, is_new=not is_new)
        try:
            yield
        finally:
            reorder_attention(network, is_new=is_new)

    return Reading(f"{OPTION}attention_order {'legacy' if is_new else 'new'}", opened)


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
