"""`smartfast explore`: seeds, truncation, classes, interpolation and style mixing by hand, on a page served here."""

import io
import math
import shlex
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch

from smartfast.config.ranges import CountOrZero, FilePath, Fraction, Port, Ratio, Truncation, in_range
from smartfast.core.draws import are_vectors
from smartfast.core.grids import grid_shape, to_pillow
from smartfast.core.pixels import to_uint8
from smartfast.errors import UserError
from smartfast.families.sampling import (
    PLAIN,
    Look,
    Places,
    Sampler,
    label_vectors,
    seeded_latents,
    usual_labels,
)
from smartfast.families.saved import open_sampler, saved_class_names
from smartfast.report.webpage import EXPLORE_SCRIPTS, web_page
from smartfast.tools.generate import MAX_SEED, choose_device, drawn, make_request, parse_numbers, seed_labels
from smartfast.tools.serving import Answer, open_server, serve
from smartfast.tools.style_mix import images_of, layer_numbers, mix_grid, mixed_styles, seed_styles

MOST_IMAGES = 100
"""Of one answer, so that a slip of the finger does not keep the machine for an hour."""
_BATCH = 16


@dataclass(frozen=True)
class ExploreOptions:
    """A page that draws images of a checkpoint as one asks for them, on this machine alone."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), checkpoint folder or generator_ema.safetensors; it may stand alone
    before the options."""
    port: Port = 6011
    """Port of 127.0.0.1; 0 = any that is free."""
    device: str = "auto"
    """Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one."""


@dataclass(frozen=True)
class Asked:
    """What the page asks for: values of a query. Those that a picture does not need are ignored."""

    seeds: str = "0-15"
    rows: str = "0-3"
    columns: str = "4-9"
    layers: str | None = None
    classes: str | None = None
    label: str | None = None
    psi: Truncation = 1.0
    cutoff: CountOrZero | None = None
    threshold: Ratio | None = None
    noise: Literal["const", "random", "none"] = "const"
    at: Fraction = 0.0
    space: Literal["w", "z"] | None = None

    @property
    def look(self) -> Look:
        return Look(self.psi, self.cutoff, self.noise, self.threshold)

    @property
    def vector(self) -> tuple[float, ...] | None:
        """The label vector."""
        if self.label is None:
            return None
        try:
            numbers = tuple(float(part) for part in self.label.split(","))
        except ValueError:
            numbers = ()
        if not numbers or not all(map(math.isfinite, numbers)):
            raise UserError(f"label is {self.label!r}, expected numbers such as 0.2,0.8")
        return numbers


def explore(options: ExploreOptions) -> None:
    """Serve the page until Ctrl-C.

    Raises:
        UserError: The checkpoint draws no images, or the port is taken.
    """
    options = in_range(options)
    sampler = open_sampler(options.checkpoint, choose_device(options.device))
    explorer = Explorer(sampler, options.checkpoint, saved_class_names(options.checkpoint))
    serve(open_server(explorer.answer, options.port), f"{Path(options.checkpoint).name} on {sampler.device}")


class Explorer:
    """What the server answers of one network.

    Args:
        sampler: Draws the images.
        checkpoint: As a command takes it.
        class_names: What the data called class 0, 1, ..., empty if unknown.

    Raises:
        UserError: It draws no images.
    """

    def __init__(self, sampler: Sampler, checkpoint: str, class_names: list[str]) -> None:
        self._sampler = sampler
        self._lock = threading.Lock()  # one network, one picture at a time
        vectors = sampler.data_labels is not None and are_vectors(sampler.data_labels)
        self._draw_one(PLAIN)
        data = {
            "name": Path(checkpoint).resolve().name,
            "command": f"--checkpoint {shlex.quote(checkpoint)}",
            "classes": 0 if vectors else sampler.num_classes,
            "classNames": class_names,
            "labelSize": sampler.num_classes if vectors else 0,
            "spaces": list(sampler.spaces),
            "styleLayers": sampler.style_layers,
            "coarse": len(layer_numbers(None, sampler.style_layers)) if sampler.style_layers else 0,
            "truncates": self._takes(Look(psi=0.5)),
            "thresholds": self._takes(Look(threshold=0.5)),
            "noises": self._takes(Look(noise="random")),
        }
        self._page = web_page(f"Explore {data['name']}", EXPLORE_SCRIPTS, data)
        self._pictures: dict[str, Callable[[Asked], tuple[torch.Tensor, int]]] = {
            "/images.png": self._images,
            "/between.png": self._between,
            "/mixed.png": self._mixed,
        }

    def answer(self, path: str, query: Mapping[str, str]) -> Answer | None:
        """See `Route`: the page, or a picture of what the query asks for."""
        if path == "/":
            return Answer(self._page, "text/html; charset=utf-8")
        if path not in self._pictures:
            return None
        asked = asked_for(query)
        with self._lock, torch.no_grad():
            images, columns = self._pictures[path](asked)
        buffer = io.BytesIO()
        to_pillow(images, columns, min_pixels=64 if columns > 1 else 256).save(buffer, format="PNG")
        return Answer(buffer.getvalue(), "image/png")

    def _images(self, asked: Asked) -> tuple[torch.Tensor, int]:
        seeds = _some_seeds(asked.seeds, "seeds")
        request = make_request(self._sampler, seeds, asked.classes, asked.vector)
        _check_count(len(request.seeds))
        images = torch.cat(list(drawn(self._sampler, request, [asked.look], _BATCH)))
        return images, min(len(images), grid_shape(self._sampler.image_shape[2], 0).columns // 2)

    def _between(self, asked: Asked) -> tuple[torch.Tensor, int]:
        """One image on the way from the first of two seeds to the second."""
        _check_noise(asked)
        seeds = _some_seeds(asked.seeds, "seeds")
        if len(seeds) != 2:
            raise UserError(f"seeds: found {len(seeds)}, expected two")
        sampler, numbers = self._sampler, torch.tensor(seeds)
        space = asked.space or sampler.spaces[0]
        if space not in sampler.spaces:
            raise UserError(f"space: found {space}, expected one of {', '.join(sampler.spaces)} for this network")
        labels = self._labels(asked, seeds)
        z = sampler.keys(numbers, asked.look)
        c = label_vectors(labels, sampler.num_classes, sampler.device)
        start, end = torch.tensor([[0], [1]], device=sampler.device)
        places = Places(start, end, torch.tensor([asked.at], device=sampler.device))
        return to_uint8(sampler.mix(z, c, places, space=space, look=asked.look)).cpu(), 1

    def _mixed(self, asked: Asked) -> tuple[torch.Tensor, int]:
        """The grid of `smartfast style-mix`."""
        _check_noise(asked)
        rows, columns = (_some_seeds(getattr(asked, name), name) for name in ("rows", "columns"))
        _check_count((len(rows) + 1) * (len(columns) + 1))
        seeds = [*rows, *columns]
        own = seed_styles(self._sampler, torch.tensor(seeds), self._labels(asked, seeds), asked.look)
        mixed = mixed_styles(own, len(rows), layer_numbers(asked.layers, self._sampler.style_layers))
        images = images_of(self._sampler, torch.cat([own, mixed]), asked.look, _BATCH)
        return mix_grid(images, len(rows)), len(columns) + 1

    def _labels(self, asked: Asked, seeds: list[int]) -> torch.Tensor | None:
        """Of each seed, int64 [N] or vectors [N, F]; None without labels."""
        if asked.vector is not None:
            return make_request(self._sampler, seeds, asked.classes, asked.vector).labels
        return seed_labels(self._sampler, seeds, asked.classes)

    @torch.no_grad()
    def _draw_one(self, look: Look) -> None:
        sampler, seed = self._sampler, torch.tensor([0])
        z = seeded_latents(seed, sampler.z_shape).to(sampler.device)
        c = label_vectors(usual_labels(sampler, seed), sampler.num_classes, sampler.device)
        sampler.images(z, c, seed, look)

    def _takes(self, look: Look) -> bool:
        try:
            self._draw_one(look)
        except UserError:
            return False
        return True


def asked_for(query: Mapping[str, str]) -> Asked:
    """The values of a query; empty ones count as not given.

    Raises:
        UserError: A name or a value that is none.
    """
    given: dict[str, Any] = {name: value for name, value in query.items() if value}
    unknown = [name for name in given if name not in Asked.__dataclass_fields__]
    if unknown:
        raise UserError(f"{unknown[0]}: there is no such value, expected {', '.join(Asked.__dataclass_fields__)}")
    for name, allowed in (("noise", ("const", "random", "none")), ("space", ("w", "z"))):
        if given.get(name, allowed[0]) not in allowed:
            raise UserError(f"{name} is {given[name]!r}, expected one of {', '.join(allowed)}")
    return in_range(Asked(**given))


def _check_noise(asked: Asked) -> None:
    if asked.noise == "random":
        raise UserError("noise is random, expected const or none: an image between two seeds has no seed to draw it")


def _some_seeds(text: str, name: str) -> list[int]:
    seeds = parse_numbers(text, name, MAX_SEED)
    _check_count(len(seeds))
    return seeds


def _check_count(count: int) -> None:
    if count > MOST_IMAGES:
        raise UserError(f"found {count} images, expected at most {MOST_IMAGES} here; `smartfast generate` draws more")
