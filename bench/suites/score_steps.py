"""The score term, from the paper's recipe to ours, one change at a time.

The recipe runs eagerly in float32: a generator pass of its own, noise tensors, a diffusion model with attention written
out, a backward pass to the generator's weights. Ours takes the images that the generator's phase has made anyway and
adds a gradient to theirs; that addition is all the term does there.
"""

from collections.abc import Callable
from copy import deepcopy
from dataclasses import dataclass, replace
from typing import Any, Literal, cast

import torch
from diffusers import UNet2DModel
from diffusers.models.attention_processor import Attention, AttnProcessor
from torch import Tensor, nn

from bench.base.family import image_source
from bench.base.scorer_architectures import ARCHITECTURES, float32_scorer, scorer_of
from bench.base.ways import Captured, Compiled, float32_products
from bench.count.counter import count_eager
from smartfast.config.schedule import value_at
from smartfast.config.schema import Config
from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.errors import UserError
from smartfast.kernels import noise_like
from smartfast.scorers import UNetScorer, timestep_range
from smartfast.scorers.schedule import NoiseSchedule
from smartfast.scorers.term import ScoreTerm

PURPOSE = int(Purpose.SCORE_NOISE)
Gradients = Tensor | tuple[Tensor, ...]


@dataclass(frozen=True)
class Way:
    """How the term is computed; the defaults are the paper's recipe.

    shared_fakes: On the phase's images. tf32: Of float32 products and convolutions. dtype, channels_last, attention: Of
    the scorer. fused: ScoreTerm with its two ops, noise and distance, instead of noise tensors; on a CPU the ops are
    plain PyTorch too. compiled, captured: torch.compile, a CUDA graph. through_network: See smart.through_network.
    """

    shared_fakes: bool = False
    tf32: bool = False
    dtype: torch.dtype = torch.float32
    channels_last: bool = False
    attention: Literal["written out", "sdpa", "xformers"] = "written out"
    fused: bool = False
    compiled: bool = False
    captured: bool = False
    through_network: bool = True

    @property
    def arithmetic(self) -> str:
        """Kind of matrix product, of bench.base.limits.DTYPES."""
        return {torch.bfloat16: "bf16", torch.float16: "fp16"}.get(self.dtype, "tf32" if self.tf32 else "fp32")


@dataclass(frozen=True)
class Step:
    """A named way. keeps_gradient: Whether it computes the recipe's gradient, up to rounding."""

    name: str
    way: Way
    keeps_gradient: bool = True


RECIPE = "the paper's recipe"
FUSED = "fused noise and distance"
_ON_GPU = {"TF32", "half precision (bf16)", "CUDA graph"}
_CHANGES: tuple[tuple[str, dict[str, Any]], ...] = (
    ("shared fakes", dict(shared_fakes=True)),
    ("TF32", dict(tf32=True)),
    ("half precision (bf16)", dict(dtype=torch.bfloat16)),
    ("channels last", dict(channels_last=True)),
    ("attention by SDPA", dict(attention="sdpa")),
    (FUSED, dict(fused=True)),
    ("compiled", dict(compiled=True)),
    ("CUDA graph", dict(captured=True)),
)


def waterfall(device_type: str) -> list[Step]:
    """Every step is the one before it and one change more; a CPU has those that smartfast takes there."""
    steps = [Step(RECIPE, Way())]
    for name, change in _CHANGES:
        if device_type == "cuda" or name not in _ON_GPU:
            steps.append(Step(name, replace(steps[-1].way, **change)))
    return steps


def swept(device_type: str) -> list[Step]:
    """The recipe and ours; on a CPU, where a compilation takes a minute or more, ours is not compiled."""
    steps = waterfall(device_type)
    return [steps[0], steps[-1] if device_type == "cuda" else next(step for step in steps if step.name == FUSED)]


def alternatives(device_type: str) -> list[tuple[Step, Step]]:
    """Steps of the waterfall, each with one more change that it does not have."""
    steps = {step.name: step for step in waterfall(device_type)}
    fused = steps[FUSED]
    half = torch.float16 if device_type == "cuda" else torch.bfloat16
    changes: list[tuple[Step, str, dict[str, Any]]] = [
        (fused, "attention by xformers", dict(attention="xformers")),
        (fused, f"half precision ({'fp16' if half == torch.float16 else 'bf16'})", dict(dtype=half)),
        (fused, "past the network", dict(through_network=False)),
    ]
    if device_type == "cuda":  # a CPU takes minutes to compile, and has no fused ops
        changes.append((steps["compiled"], "compiled without fused ops", dict(fused=False)))
    return [
        (base, Step(name, replace(base.way, **change), keeps_gradient="through_network" not in change))
        for base, name, change in changes
    ]


def default_batch(config: Config) -> int:
    """Images of one term on one GPU: optim.batch_gpu, or else optim.batch where the recipe's memory allows it."""
    architecture = ARCHITECTURES.get(config.data.resolution or 0)
    largest = config.optim.batch if architecture is None else min(architecture.batch, config.optim.batch)
    return config.optim.images_at_a_time(largest)


class Setting:
    """A configuration's generator in float32, its scorer, and the inputs of one score term.

    Args:
        config: Of the trainer.
        device: Where it runs.
        batch: Images; None = what fits on one GPU.
        enlarge: Factor of the resolution, of generator and scorer.

    Raises:
        UserError: data.resolution is not set or has no known scorer; smart.timesteps does not fit it.
    """

    def __init__(self, config: Config, device: torch.device, *, batch: int | None = None, enlarge: float = 1) -> None:
        data_resolution = config.data.resolution
        if data_resolution is None:
            raise UserError("data.resolution is not set, expected one")
        self.config, self.device = config, device
        self.resolution = int(data_resolution * enlarge)
        self.scorer_name, self.source = float32_scorer(config.smart.scorer, data_resolution, self.resolution, device)
        self.batch = batch or default_batch(config)
        self._scorers: dict[tuple[Any, ...], UNetScorer] = {}
        self._flops: dict[tuple[bool, bool], float] = {}
        self._compiled: dict[Way, Compiled] = {}
        self._recipe_gradient: Tensor | None = None
        self._draw()

    def _draw(self) -> None:
        smart = self.config.smart
        torch.manual_seed(self.config.run.seed)
        self.labels = torch.randint(max(self.source.num_classes, 1), (self.batch,), device=self.device)
        generator, self.images = image_source(self.config, self.source, self.labels, resolution=self.resolution)
        self.weights = list(generator.parameters())
        self.stream = torch.arange(self.batch, device=self.device)
        interval = timestep_range(self.source, smart)
        self.t = draw_timesteps(self.config.run.seed, self.stream, interval.first, interval.last)
        with torch.no_grad():
            self.fakes = self.images().requires_grad_()
        # Zeros, which cost the same as the adversarial gradient, so that the result is the term's alone.
        self.adversarial = torch.zeros_like(self.fakes)
        self.eps = noise_like(self.fakes.detach(), self.config.run.seed, self.stream, PURPOSE)

    def weight_gradients(self, output: Tensor, upstream: Tensor | None = None) -> tuple[Tensor, ...]:
        """Gradients of the generator's weights, of a scalar or of an output with `upstream` behind it."""
        return torch.autograd.grad(output, self.weights, upstream, allow_unused=True, materialize_grads=True)

    def scorer(self, way: Way) -> UNetScorer:
        """The scorer as a way needs it; ways that need the same share one."""
        key = (way.dtype, way.channels_last, way.attention)
        if key not in self._scorers:
            schedule = NoiseSchedule(self.source.schedule, self.source.alphas, self.source.sigmas)
            library: Literal["sdpa", "xformers"] = "xformers" if way.attention == "xformers" else "sdpa"
            scorer = scorer_of(
                deepcopy(cast(UNet2DModel, self.source.unet)), schedule, self.device, dtype=way.dtype, attention=library
            )
            if not way.channels_last:
                nn.Module.to(scorer.unet, memory_format=torch.contiguous_format)
            if way.attention == "written out":
                for layer in (module for module in scorer.modules() if isinstance(module, Attention)):
                    layer.set_processor(AttnProcessor())
            self._scorers[key] = scorer
        return self._scorers[key]

    def compiled(self, way: Way, compute: Callable[[Tensor, Tensor], Gradients]) -> Compiled:
        """A way's computation, compiled once for the call and its CUDA graph."""
        return self._compiled.setdefault(replace(way, captured=False), Compiled("the score term", compute))

    def recipe_gradient(self) -> Tensor:
        """The gradient of the generator's weights [parameters] by the paper's recipe, with the setting's noise."""
        if self._recipe_gradient is None:
            self._recipe_gradient = Term(self, Way()).generator_gradient()
        return self._recipe_gradient

    def flops(self, way: Way) -> float:
        """Of one term's matrix products, convolutions and attention: what has to be computed, however it is."""
        key = (way.shared_fakes, way.through_network)
        if key not in self._flops:
            term = Term(self, Way(shared_fakes=key[0], fused=not key[1], through_network=key[1]))
            self._flops[key] = count_eager(term.compute, self.fakes, self.eps).flops
        return self._flops[key]


class Term:
    """The score term of a setting, computed in one way; a call is one term, with noise of its own.

    Attributes:
        captured: The call in its CUDA graph, for a way that has one.

    Raises:
        UserError: The way's attention does not run here.
    """

    def __init__(self, setting: Setting, way: Way) -> None:
        self.setting, self.way = setting, way
        self.scorer = setting.scorer(way)
        smart = setting.config.smart
        self.weight = value_at(smart.weight, 0)
        self.fused_term = ScoreTerm(self.scorer, setting.config.run.seed, PURPOSE, way.through_network)
        self.captured: Captured | None = None
        self._run: Callable[[Tensor, Tensor], Gradients] | None = None

    def __call__(self) -> Gradients:
        """The images' gradient [N, C, H, W] where they are shared, else those of the generator's weights."""
        return self._call(self.setting.eps if self.way.fused else torch.randn_like(self.setting.eps))

    def generator_gradient(self) -> Tensor:
        """The gradient of the generator's weights [parameters], with the setting's noise."""
        result = self._call(self.setting.eps)
        if isinstance(result, Tensor):
            with float32_products(tf32=False):
                result = self.setting.weight_gradients(self.setting.images(), result)
        return torch.cat([gradient.flatten() for gradient in result])

    def scorer_bytes(self) -> int:
        """Memory of the scorer's weights."""
        return sum(x.numel() * x.element_size() for x in self.scorer.parameters())

    def compute(self, fakes: Tensor, eps: Tensor) -> Gradients:
        """As a call, neither compiled nor captured; eps [N, C, H, W] is the noise, which fused ops draw themselves."""
        if not self.way.shared_fakes:
            return self.setting.weight_gradients(self._loss(self.setting.images(), eps))
        (gradient,) = torch.autograd.grad(self._loss(fakes, eps), fakes)
        return self.setting.adversarial + gradient

    def _call(self, eps: Tensor) -> Gradients:
        with float32_products(tf32=self.way.tf32):
            if self._run is None:
                self._run = self._prepare()
            return self._run(self.setting.fakes, eps)

    def _prepare(self) -> Callable[[Tensor, Tensor], Gradients]:
        run = self.setting.compiled(self.way, self.compute) if self.way.compiled else self.compute
        if not self.way.captured:
            return run
        setting = self.setting
        replay = self.captured = Captured(lambda: run(setting.fakes, setting.eps), setting.device)
        return lambda fakes, eps: replay()

    def _loss(self, images: Tensor, eps: Tensor) -> Tensor:
        setting = self.setting
        if self.way.fused:
            return self.weight * self.fused_term(images, setting.labels, setting.t, setting.stream).mean()
        alpha, sigma = (
            level[:, None, None, None] for level in (self.scorer.alpha(setting.t), self.scorer.sigma(setting.t))
        )
        prediction = self._predict(alpha * images + sigma * eps)
        return self.weight * (prediction - eps).square().mean()

    def _predict(self, x_t: Tensor) -> Tensor:
        """The network's eps; its first layer takes float32 in bf16 too, see UNetScorer."""
        setting, scorer = self.setting, self.scorer
        if self.way.channels_last:
            return scorer.network(x_t, setting.t, setting.labels)
        labels = setting.labels if scorer.num_classes else None
        return scorer.unet(x_t, setting.t, class_labels=labels, return_dict=False)[0][:, : scorer.channels]
