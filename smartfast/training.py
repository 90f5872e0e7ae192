"""Everything one training run consists of, and one iteration of it."""

import functools
from typing import NamedTuple

import torch
from torch import Tensor

from smartfast.config import Config
from smartfast.data import ImageDataset, RealBatch
from smartfast.draws import Latents, LatentSampler, Purpose, batch_positions, draw_timesteps, one_hot
from smartfast.engine import (
    AveragedGenerator,
    Phase,
    Statistics,
    TrainedNetwork,
    mean_over_processes,
    run_phase,
    with_gradients,
)
from smartfast.kernels.philox import philox_normal
from smartfast.models.build import build_networks
from smartfast.phases import ScoreBatch, d_main, d_r1, g_main, g_path
from smartfast.scorers import Scorer, TimestepRange
from smartfast.status import PhaseTimer


class Round(NamedTuple):
    """The images of one round of gradient accumulation in one process.

    stream: their numbers int64 [N]; images [N, C, H, W]; c: label vectors [N, classes] and labels int64 [N], or None.
    """

    stream: Tensor
    images: Tensor
    c: Tensor | None
    labels: Tensor | None

    def first(self, count: int) -> "Round":
        """The first `count` images."""
        return Round(*(None if value is None else value[:count] for value in self))


class Training:
    """State of a run and what computes the next iteration.

    Args:
        config: Checked configuration.
        dataset: Training images.
        scorer: Frozen diffusion model, None when smart.frequency is 0.
        timesteps: Interval of the score term, None when there is none.
        device: Where everything lives.
        process_index, num_processes: This process among those that share a batch.
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
    ) -> None:
        self.config, self.scorer, self.timesteps, self.device = config, scorer, timesteps, device
        self.num_classes, self.num_processes = dataset.num_classes, num_processes
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
        self.statistics, self.timer = Statistics(), PhaseTimer(device)
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
        self.places = self._places(process_index)
        self.phases = self._phases()

    @property
    def _path_interval(self) -> int:
        return self.config.loss.path_length_interval if self.config.loss.path_length_weight else 0

    def _trained(self, module: torch.nn.Module, lr: float, lazy_interval: int | None) -> TrainedNetwork:
        return TrainedNetwork(
            module.to(self.device).train(),
            lr=lr,
            optim=self.config.optim,
            lazy_interval=lazy_interval,
            carried=1 + self.config.gan.w_dim,
            channels_last=self.config.perf.channels_last,
        )

    def _places(self, process_index: int) -> list[Tensor]:
        """Places in the global batch of this process's rounds of gradient accumulation."""
        optim, num_processes = self.config.optim, self.num_processes
        rounds = optim.batch // (num_processes * (optim.batch_gpu or optim.batch // num_processes))
        parts = batch_positions(optim.batch, num_processes * rounds, self.mbstd_group)
        return [part.to(self.device) for part in parts[process_index * rounds : (process_index + 1) * rounds]]

    def _phases(self) -> dict[str, Phase]:
        config, g, d = self.config, self.g.module, self.d.module
        score = functools.partial(
            g_main,
            g,
            d,
            scorer=self.scorer,
            score_weight=config.smart.weight,
            seed=config.run.seed,
            score_purpose=Purpose.SCORE_NOISE,
        )
        path = functools.partial(
            g_path,
            g,
            weight=config.loss.path_length_weight,
            decay=config.loss.path_length_decay,
            mean_over_processes=mean_over_processes,
        )
        make = functools.partial(with_gradients, compile=config.perf.compile)
        # The average over processes is an autograd.Function, which torch.compile differentiates wrongly without a word.
        make_path = functools.partial(with_gradients, compile=config.perf.compile and self.num_processes == 1)
        return {
            phase.name: phase
            for phase in [
                Phase("g_main", self.g, make(functools.partial(g_main, g, d), self.g), ("w_mean",)),
                Phase("g_score", self.g, make(score, self.g), ("w_mean",)),
                Phase("g_path", self.g, make_path(path, self.g, gain=config.loss.path_length_interval), ("path_mean",)),
                Phase("d_main", self.d, make(functools.partial(d_main, g, d), self.d)),
                Phase(
                    "d_r1",
                    self.d,
                    make(functools.partial(d_r1, d, gamma=config.loss.r1_gamma), self.d, gain=config.loss.r1_interval),
                ),
            ]
        }

    @property
    def offsets(self) -> Tensor:
        """Places of this process's images in the global batch, int64, in the order of its rounds."""
        return torch.cat(self.places)

    @property
    def mbstd_group(self) -> int:
        """Group size of the minibatch standard deviation, 1 when it is off."""
        return self.config.gan.mbstd_group if self.config.gan.mbstd_channels else 1

    def run_iteration(self, reals: RealBatch) -> None:
        """One step of every phase that is due, then the averaged generator; `reals` are the images at `offsets`."""
        config, index = self.config, self.images // self.config.optim.batch
        rounds = self._rounds(reals)

        self._train_generator(rounds, with_score=_due(index, config.smart.frequency))
        if _due(index, self._path_interval):
            self._regularize_path_length(rounds)
        self._run("d_main", [(self._latents(Purpose.D_MAIN, r), r.images, r.c) for r in rounds])
        if _due(index, config.loss.r1_interval):
            self._run("d_r1", [(r.images.detach().requires_grad_(True), r.c) for r in rounds])

        self.ema.update(images=self.images, batch=config.optim.batch)
        self.images += config.optim.batch

    def _rounds(self, reals: RealBatch) -> list[Round]:
        images = reals.images.chunk(len(self.places))
        labels = [None] * len(images) if reals.labels is None else reals.labels.chunk(len(images))
        return [
            Round(place + self.images, image, one_hot(label, self.num_classes), label)
            for place, image, label in zip(self.places, images, labels, strict=True)
        ]

    def _latents(self, purpose: Purpose, batch: Round) -> Latents:
        return self.latents(purpose, batch.stream, batch.labels if self.config.gan.mbstd_by_class else None)

    def _run(self, name: str, batches: list[tuple]) -> tuple[dict[str, Tensor], Tensor]:
        with self.timer(name):
            return run_phase(self.phases[name], batches, self.statistics)

    def _train_generator(self, rounds: list[Round], *, with_score: bool) -> None:
        batches = [(self._latents(Purpose.G_MAIN, r),) for r in rounds]
        if with_score:
            batches = [(*batch, self._score_batch(r)) for batch, r in zip(batches, rounds, strict=True)]
        averages, bad = self._run("g_score" if with_score else "g_main", batches)
        w_avg = self.g.module.mapping.w_avg
        moved = averages["w_mean"].lerp(w_avg, self.config.gan.w_avg_beta)
        w_avg.copy_(torch.where(bad > 0, w_avg, moved))

    def _score_batch(self, batch: Round) -> ScoreBatch:
        t = draw_timesteps(self.config.run.seed, batch.stream, self.timesteps.first, self.timesteps.last)
        own_pass = self.config.smart.separate_pass
        return ScoreBatch(t, batch.stream, self._latents(Purpose.G_SCORE, batch) if own_pass else None)

    def _regularize_path_length(self, rounds: list[Round]) -> None:
        channels, height, width = self.image_shape
        batches = []
        for batch in rounds:
            part = batch.first(max(len(batch.stream) // self.config.loss.path_length_shrink, 1))
            pixels = philox_normal(self.config.run.seed, part.stream, channels * height * width, Purpose.PATH_PIXELS)
            batches.append((self._latents(Purpose.G_PATH, part), pixels.view(-1, *self.image_shape), self.path_mean))
        averages, bad = self._run("g_path", batches)
        self.path_mean.copy_(torch.where(bad > 0, self.path_mean, averages["path_mean"]))

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
