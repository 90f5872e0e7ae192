"""Everything one training run consists of, and one iteration of it."""

import functools
from collections.abc import Callable

import torch
from torch import Tensor

from smartfast.config.schema import Config
from smartfast.core.distributed import average_over_processes_
from smartfast.core.draws import LatentSampler, Purpose, batch_positions
from smartfast.data import ImageDataset, RealBatch
from smartfast.engine.compiling import Compiler
from smartfast.engine.graphs import WARM_UP_RUNS, CapturedStep, CudaGraphs, Step
from smartfast.engine.phase import (
    AveragedGenerator,
    Network,
    Phase,
    Statistics,
    TrainedNetwork,
    accumulate,
    run_phase,
    update,
    with_gradients,
)
from smartfast.families.stylegan2_networks import build_networks
from smartfast.families.stylegan2_phases import PhaseResult
from smartfast.families.stylegan2_recipe import Recipe, Round
from smartfast.run.status import PhaseTimer
from smartfast.scorers import Scorer, TimestepRange
from smartfast.scorers.term import ScoreTerm


class Training:
    """State of a run and what computes the next iteration.

    Args:
        config: Checked configuration.
        dataset: Training images.
        scorer: Frozen diffusion model, None when smart.frequency is 0.
        timesteps: Interval of the score term, None when there is none.
        device: Where everything lives.
        process_index, num_processes: This process among those that share a batch.
        say: Receives a line before and after each compilation.
    """

    def __init__(
        self,
        config: Config,
        dataset: ImageDataset,
        *,
        scorer: Scorer | None = None,
        timesteps: TimestepRange | None = None,
        device: torch.device,
        process_index: int = 0,
        num_processes: int = 1,
        say: Callable[[str], None] = print,
    ) -> None:
        self.config, self.device = config, device
        self.num_processes = num_processes
        self.images = 0
        generator, discriminator = build_networks(
            config.gan,
            resolution=dataset.resolution,
            channels=dataset.channels,
            num_classes=dataset.num_classes,
            precision=config.perf.precision,
            seed=config.run.seed,
        )
        self.g = self._trained(generator, config.optim.lr_g, config.loss.path_length_interval or None)
        self.d = self._trained(discriminator, config.optim.lr_d, config.loss.r1_interval or None)
        self.ema = AveragedGenerator(self.g, half_life_kimg=config.optim.ema_kimg, rampup=config.optim.ema_rampup)
        self.path_mean = torch.zeros([], device=device)
        self.compiler = Compiler(config.perf.compile, say)
        self.statistics = Statistics()
        self.timer = PhaseTimer(device, compile_sec=lambda: self._compile_sec)
        self.latents = LatentSampler(
            seed=config.run.seed,
            z_dim=generator.z_dim,
            num_ws=generator.num_ws,
            noise_shapes=generator.synthesis.noise_shapes,
            data_labels=None if dataset.labels is None else dataset.labels.to(device),
            num_classes=dataset.num_classes,
            style_mixing_prob=config.loss.style_mixing_prob,
        )
        self.image_shape = (dataset.channels, dataset.resolution, dataset.resolution)
        self.batch, self.rounds = self._static_batch(self._places(process_index))
        assert (scorer is None) == (timesteps is None), "a scorer and its timesteps come together"
        score_term = None if scorer is None or timesteps is None else (self._score_term(scorer), timesteps)
        self.recipe = Recipe(
            config, generator, discriminator, self.latents, self.path_mean, score_term, self.num_processes
        )
        self.phases = self._phases()
        self.graphs = CudaGraphs(device) if config.perf.cuda_graphs else None
        self.steps = self._steps()
        self._taken_sec = 0.0

    def _trained(self, module: Network, lr: float, lazy_interval: int | None) -> TrainedNetwork[Network]:
        return TrainedNetwork(
            module.to(self.device).train(),
            lr=lr,
            optim=self.config.optim,
            lazy_interval=lazy_interval,
            carried=1 + self.config.gan.w_dim,
            channels_last=self.config.perf.channels_last,
        )

    def _score_term(self, scorer: Scorer) -> ScoreTerm:
        smart = self.config.smart
        return ScoreTerm(
            scorer,
            weight=smart.weight,
            seed=self.config.run.seed,
            purpose=int(Purpose.SCORE_NOISE),
            through_network=smart.through_network,
            downscale=smart.downscale,
            distance=smart.distance,
        )

    def _places(self, process_index: int) -> list[Tensor]:
        """Places in the global batch of this process's rounds of gradient accumulation."""
        optim, num_processes = self.config.optim, self.num_processes
        rounds = optim.batch // (num_processes * (optim.batch_gpu or optim.batch // num_processes))
        parts = batch_positions(optim.batch, num_processes * rounds, self.mbstd_group)
        return [part.to(self.device) for part in parts[process_index * rounds : (process_index + 1) * rounds]]

    def _static_batch(self, places: list[Tensor]) -> tuple[Round, list[Round]]:
        """Memory for the images of an iteration, and its parts, one per round, whose images are leaves of autograd."""
        self.offsets = torch.cat(places)
        images = torch.zeros(len(self.offsets), *self.image_shape, device=self.device)
        labels = None if self.latents.data_labels is None else torch.zeros_like(self.offsets)
        batch = Round(self.offsets.clone(), images, labels)
        pieces = [[None] * len(places) if value is None else value.chunk(len(places)) for value in batch]
        return batch, [Round(s, i.detach().requires_grad_(True), c) for s, i, c in zip(*pieces, strict=True)]

    def _phases(self) -> dict[str, Phase]:
        loss, recipe = self.config.loss, self.recipe
        path_gain, r1_gain = float(loss.path_length_interval), float(loss.r1_interval)
        phases = [
            self._phase(recipe.g_main, self.g, carried="w_mean", after=self._move_w_avg),
            self._phase(recipe.g_score, self.g, carried="w_mean", after=self._move_w_avg),
            self._phase(recipe.g_path, self.g, gain=path_gain, carried="path_mean", after=self._set_path_mean),
            self._phase(recipe.d_main, self.d),
            self._phase(recipe.d_r1, self.d, gain=r1_gain),
        ]
        return {phase.name: phase for phase in phases}

    def _phase(
        self, loss_function: Callable[[Round], PhaseResult], network: TrainedNetwork, *, gain: float = 1.0, **carried
    ) -> Phase:
        name = loss_function.__name__
        return Phase(name, network, self.compiler(name, with_gradients(loss_function, network, gain=gain)), **carried)

    def _steps(self) -> dict[str, Step]:
        """What runs each phase on the static batch, and what moves the averaged generator."""
        graphs = self.graphs
        steps = {name: self._step(phase, graphs) for name, phase in self.phases.items()}
        return steps | {"ema": self.ema.move if graphs is None else CapturedStep("ema", self.ema.move, graphs)}

    def _step(self, phase: Phase, graphs: CudaGraphs | None) -> Step:
        whole = functools.partial(run_phase, phase, self.rounds, self.statistics)
        if graphs is None:
            return whole
        if self.num_processes == 1:
            return CapturedStep(phase.name, whole, graphs)
        # Averages over processes stay between graphs, and g_path has one inside: what NCCL can capture depends on its
        # version and on other threads.
        gradient: Step = functools.partial(accumulate, phase, self.rounds, self.statistics)
        if phase.name != "g_path":
            gradient = CapturedStep(f"{phase.name}, gradient", gradient, graphs)
        step = CapturedStep(f"{phase.name}, optimizer", functools.partial(update, phase), graphs)

        def run() -> None:
            gradient()
            average_over_processes_(phase.network.buffer)
            step()

        return run

    @property
    def mbstd_group(self) -> int:
        """Group size of the minibatch standard deviation, 1 when it is off."""
        return self.config.gan.mbstd_group if self.config.gan.mbstd_channels else 1

    @property
    def settling_iterations(self) -> int:
        """Iterations of this process after which nothing is compiled or captured any more."""
        loss, smart = self.config.loss, self.config.smart
        runs = WARM_UP_RUNS + 1 if self.config.perf.cuda_graphs else 1
        return 1 + runs * max(loss.r1_interval, loss.path_length_interval, smart.frequency, 1)

    def run_iteration(self, reals: RealBatch) -> None:
        """One step of every phase that is due, then the averaged generator; `reals` are the images at `offsets`."""
        config, index = self.config, self.images // self.config.optim.batch
        self.load(reals)

        self._run("g_score" if _due(index, config.smart.frequency) else "g_main")
        if config.loss.path_length_weight and _due(index, config.loss.path_length_interval):
            self._run("g_path")
        self._run("d_main")
        if _due(index, config.loss.r1_interval):
            self._run("d_r1")

        self.ema.set_decay(images=self.images, batch=config.optim.batch)
        self.steps["ema"]()
        self.images += config.optim.batch

    def load(self, reals: RealBatch) -> None:
        """Make `reals` and the numbers of the images that come next the batch that every phase works on."""
        torch.add(self.offsets, self.images, out=self.batch.stream)
        self.batch.images.copy_(reals.images)
        if self.batch.labels is not None:
            assert reals.labels is not None, "a run with classes needs the labels of its reals"
            self.batch.labels.copy_(reals.labels)

    def _run(self, name: str) -> None:
        with self.timer(name):
            self.steps[name]()

    def _move_w_avg(self, w_mean: Tensor, bad: Tensor) -> None:
        w_avg = self.g.module.mapping.w_avg
        w_avg.copy_(torch.where(bad > 0, w_avg, w_mean.lerp(w_avg, self.config.gan.w_avg_beta)))

    def _set_path_mean(self, path_mean: Tensor, bad: Tensor) -> None:
        self.path_mean.copy_(torch.where(bad > 0, self.path_mean, path_mean[0]))

    @property
    def _compile_sec(self) -> float:
        """Seconds spent on compiling and capturing."""
        return self.compiler.total_sec + (self.graphs.total_sec if self.graphs else 0.0)

    def take_compile_sec(self) -> float:
        """Seconds spent on compiling and capturing since it was last asked."""
        sec = self._compile_sec - self._taken_sec
        self._taken_sec += sec
        return sec

    def state(self) -> dict[str, Tensor]:
        """Every tensor that the next iterations depend on, by name; aliases, not copies."""
        tensors = {"path_mean": self.path_mean}
        for prefix, network in (("g", self.g), ("d", self.d)):
            tensors |= {f"{prefix}/{name}": value for name, value in network.state().items()}
        return tensors | {f"ema/{name}": value for name, value in self.ema.module.named_parameters()}

    def restore(self, tensors: dict[str, Tensor], *, images: int) -> None:
        """Continue after `images` images from tensors that `state` returned; raises KeyError for a missing name."""
        for name, value in self.state().items():
            with torch.no_grad():
                value.copy_(tensors[name])
        self.images = images


def _due(index: int, interval: int) -> bool:
    return interval > 0 and index % interval == 0
