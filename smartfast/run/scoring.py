"""The scorer of a run: loaded as configured, checked against the data, and what is said of it."""

from collections.abc import Callable
from dataclasses import replace

import torch
import torch.nn.functional as F

from smartfast.config.schedule import in_words
from smartfast.config.schema import Config, SmartConfig
from smartfast.core.draws import are_vectors
from smartfast.core.pixels import to_float
from smartfast.data import ImageDataset
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.base import Family
from smartfast.scorers import Scorer, TimestepRange, check_predictions, check_scorer, load_scorer, timestep_range
from smartfast.scorers.interval import whole_range
from smartfast.scorers.loading import is_at_hand, missing_file
from smartfast.scorers.settings import described, options_in_use

_TRIED_IMAGES = 32


def open_scorer(
    config: Config, dataset: ImageDataset, device: torch.device, *, say: Callable[[str], None] | None = None
) -> tuple[Scorer | None, TimestepRange | None]:
    """The scorer that the configuration names and the timesteps of its term, None where there is none.

    A family that distils the scorer has it without a term too.

    say: Is told what smart.self_check finds; None = readings of the scorer are not compared.

    Raises:
        UserError: There is no such scorer, it does not fit the data or the device, or it cannot score.
    """
    has_term = config.smart.frequency > 0
    if not (has_term or FAMILIES[config.gan.family].distils):
        return None, None
    if config.run.dry_run and (config.smart.scorer is None or not is_at_hand(config.smart.scorer)):
        return None, None
    if config.smart.scorer is None:
        without = "" if FAMILIES[config.gan.family].distils else " (or smart.frequency 0 to train without)"
        raise UserError(f"smart.scorer is not set, expected a diffusion model{without}")
    scorer = load_scorer(
        config.smart.scorer,
        device=device,
        precision=config.smart.precision,
        attention="auto" if config.run.dry_run else config.perf.attention,
        null_class=config.smart.null_class,
        resolution=dataset.resolution // config.smart.downscale,
        options=config.smart.scorer_options,
    )
    crop, has_vectors = config.smart.crop, are_vectors(dataset.labels)
    if has_vectors and scorer.num_classes and scorer.null_class is None:
        raise UserError(
            f"smart.scorer: {config.smart.scorer!r} has {scorer.num_classes} classes, {dataset.name} has label "
            "vectors; expected a scorer without classes, or smart.null_class"
        )
    check_scorer(
        scorer,
        resolution=crop if scorer.resolution == crop else dataset.resolution,
        channels=dataset.channels,
        num_classes=0 if has_vectors else dataset.num_classes,
        class_names=None if has_vectors else dataset.class_names,
        name=config.smart.scorer,
        downscale=config.smart.downscale,
    )
    timesteps = timestep_range(scorer, config.smart) if has_term else whole_range(scorer)
    chosen = [i * len(dataset) // _TRIED_IMAGES for i in range(_TRIED_IMAGES)]
    images = to_float(torch.stack([dataset.image(i) for i in chosen]).to(device))
    lines = check_predictions(
        scorer,
        timesteps,
        _middle(images, crop) if crop else F.avg_pool2d(images, config.smart.downscale),
        None if dataset.labels is None or has_vectors else dataset.labels[chosen].to(device),
        name=config.smart.scorer,
        compare_readings=config.smart.self_check and say is not None,
    )
    if say is not None:
        for line in lines:
            say(line)
    return scorer, timesteps if has_term else None


def _middle(images: torch.Tensor, size: int) -> torch.Tensor:
    top, left = ((length - size) // 2 for length in images.shape[2:])
    return images[:, :, top : top + size, left : left + size]


def not_described(smart: SmartConfig) -> str:
    """What a dry run says of the score term where it has no scorer."""
    if not smart.frequency:
        return "off"
    if smart.scorer is None:
        return "not described, smart.scorer is not set"
    if is_at_hand(smart.scorer):
        return "not described without the data"
    get = missing_file(smart.scorer)
    return f"not described, smart.scorer {smart.scorer} is not there" + (f"; get {get}" if get else "")


def as_read(config: Config, scorer: Scorer | None) -> Config:
    """The same configuration with every option that the scorer's file was read with, whatever it comes from."""
    if scorer is None:
        return config
    return replace(config, smart=replace(config.smart, scorer_options=options_in_use(scorer.settings)))


def score_lines(
    smart: SmartConfig, family: Family, scorer: Scorer | None, timesteps: TimestepRange | None
) -> list[str]:
    """What a run opens with about its scorer."""
    if scorer is None:
        return ["score term: off"] if family.has_score_term() else []
    if timesteps is None:
        first = f"teacher: {smart.scorer}; score term: off"
    elif family.has_score_term():
        first = _term_line(smart, scorer, timesteps.beside_the_papers(scorer.resolution))
    else:
        first = f"teacher: {smart.scorer}, {timesteps.beside_the_papers(scorer.resolution)}"
    dtype = str(scorer.dtype).removeprefix("torch.")
    size = f"{scorer.resolution}x{scorer.resolution}"
    if not scorer.states_resolution:
        size += " (the images', its sample_size is null)"
    return [
        first,
        f"scorer: {size} in {dtype}, attention {scorer.attention}",
        *([f"scorer read with: {described(scorer.settings)}"] if scorer.settings else []),
    ]


def _term_line(smart: SmartConfig, scorer: Scorer, interval: str) -> str:
    switches = {
        f"on {smart.batch_fraction:g} of the fakes": smart.batch_fraction < 1,
        f"on random squares of {smart.crop} pixels": smart.crop is not None,
        "past the network": not smart.through_network,
        f"at 1/{smart.downscale} of the resolution": smart.downscale > 1,
    }
    distance = f"distance {smart.distance} ({scorer.parameterization} network)"
    weight = f"lambda {in_words(smart.weight)}"
    if smart.balance is not None:
        weight += f", which moves until the term has {smart.balance:g} of the gradient at the images"
    parts = [smart.scorer, weight, f"every {smart.frequency} steps", interval, distance]
    parts += [text for text, is_on in switches.items() if is_on]
    return f"score term: {', '.join(str(part) for part in parts)}"
