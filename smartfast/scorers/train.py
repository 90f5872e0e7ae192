"""`smartfast train-scorer`: trains a diffusion model on one's own images, for use as a scorer.

    <dir>/scorer/              averaged weights: config.json, diffusion_pytorch_model.safetensors, scheduler_config.json
    <dir>/state.safetensors    what the same command resumes from
    <dir>/samples<kimg>.png    DDIM samples
    <dir>/metrics.jsonl        loss, learning rate, and loss by noise level on the images kept out

Timesteps and noise are functions of the image's place in the whole training, as everywhere in this project, so a
resumed run repeats what an uninterrupted one computes (not with dropout, whose random numbers are torch's own).
"""

import copy
import json
import math
import os
import time
from pathlib import Path

import torch
from accelerate import Accelerator
from diffusers import DDPMScheduler, UNet2DModel
from diffusers.training_utils import EMAModel
from torch import Tensor
from tqdm import tqdm

from smartfast.core.draws import Purpose, draw_timesteps
from smartfast.core.pixels import to_float
from smartfast.data import iterate_batches, open_dataset
from smartfast.data.holdout import DatasetPart, split
from smartfast.errors import UserError
from smartfast.kernels import philox_normal
from smartfast.scorers.bands import eps_loss_by_band
from smartfast.scorers.diffusers import UNetScorer
from smartfast.scorers.schedule import parameterization_of, schedule_from_config
from smartfast.scorers.train_options import TrainScorerOptions
from smartfast.scorers.train_samples import save_sample_grid
from smartfast.scorers.train_state import load_state, save_state

STATE_FILE = "state.safetensors"
SCORER_FOLDER = "scorer"


def train_scorer(options: TrainScorerOptions) -> Path:
    """Train, or resume training, and return the folder of the finished scorer.

    Raises:
        UserError: Unusable data or options, another run's folder, or a loss that is not finite.
    """
    _check_options(options)
    folder = Path(options.dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"dir: {folder}, expected a folder that can be written ({error.strerror})") from error
    accelerator = Accelerator(
        mixed_precision="bf16" if options.precision == "bf16" else "no",
        # Without it, several processes on a CPU would not find one another and each train alone.
        cpu=not torch.accelerator.is_available(),
    )
    if options.batch % accelerator.num_processes:
        raise UserError(f"batch: {options.batch}, expected a multiple of the {accelerator.num_processes} processes")
    training, held_out = split(open_dataset(options.data), options.holdout)
    torch.manual_seed(options.seed)
    scheduler = build_scheduler(options)
    unet = build_unet(options, training).to(accelerator.device, memory_format=torch.channels_last)
    ema = EMAModel(unet.parameters(), decay=options.ema_decay, foreach=True)
    optimizer = torch.optim.Adam(unet.parameters(), lr=options.lr, fused=True)
    images = 0
    if (folder / STATE_FILE).exists():
        images = load_state(folder / STATE_FILE, unet, ema, optimizer, options)
    run = _Run(options, folder, accelerator, scheduler, unet, ema, optimizer, held_out)
    run.train(training, images)
    accelerator.end_training()
    return folder / SCORER_FOLDER


def _check_options(options: TrainScorerOptions) -> None:
    positive = {"batch": options.batch, "kimg": options.kimg, "snapshot_kimg": options.snapshot_kimg, "lr": options.lr}
    positive |= {"unet.norm_groups": options.unet.norm_groups, "num_timesteps": options.num_timesteps}
    for name, value in positive.items():
        if value <= 0:
            raise UserError(f"{name}: {value}, expected more than 0")


def build_scheduler(options: TrainScorerOptions) -> DDPMScheduler:
    """The noise schedule, as diffusers builds it."""
    return DDPMScheduler(
        num_train_timesteps=options.num_timesteps,
        beta_schedule=options.beta_schedule,
        prediction_type=options.prediction_type,
    )


def build_unet(options: TrainScorerOptions, data: DatasetPart) -> UNet2DModel:
    """A new network for images like those of `data`.

    Raises:
        UserError: A shape that does not work out.
    """
    shape = options.unet
    levels = len(shape.block_out_channels)
    if data.resolution % 2 ** (levels - 1):
        raise UserError(f"unet.block_out_channels: {levels} levels, expected fewer for {data.resolution} pixels")
    for channels in shape.block_out_channels:
        if channels % shape.norm_groups:
            raise UserError(f"unet.block_out_channels: {channels}, expected a multiple of {shape.norm_groups} groups")
    attends = [data.resolution >> level in shape.attention for level in range(levels)]
    return UNet2DModel(
        sample_size=data.resolution,
        in_channels=data.channels,
        out_channels=data.channels,
        block_out_channels=shape.block_out_channels,
        layers_per_block=shape.layers_per_block,
        down_block_types=tuple("AttnDownBlock2D" if here else "DownBlock2D" for here in attends),
        up_block_types=tuple("AttnUpBlock2D" if here else "UpBlock2D" for here in reversed(attends)),
        attention_head_dim=shape.attention_head_dim,
        norm_num_groups=shape.norm_groups,
        dropout=shape.dropout,
        num_class_embeds=data.num_classes or None,
    )


def learning_rate(options: TrainScorerOptions, images: int) -> float:
    """The learning rate of a step that starts after `images` images."""
    kimg = images / 1000
    if kimg < options.lr_warmup_kimg:
        return options.lr * (images + options.batch) / (1000 * options.lr_warmup_kimg + options.batch)
    if options.lr_decay == "constant":
        return options.lr
    progress = (kimg - options.lr_warmup_kimg) / max(options.kimg - options.lr_warmup_kimg, 1e-9)
    return options.lr * 0.5 * (1 + math.cos(math.pi * min(progress, 1)))


def training_loss(
    unet: torch.nn.Module,
    scheduler: DDPMScheduler,
    images: Tensor,
    labels: Tensor | None,
    *,
    seed: int,
    positions: Tensor,
) -> Tensor:
    """Mean squared error of the prediction at one random timestep per image (DDPM, eq. 14).

    Args:
        unet: The network.
        scheduler: Noise schedule and what the network predicts.
        images: float32 [N, C, H, W] in [-1, 1].
        labels: int64 [N] or None.
        seed: Key of timesteps and noise.
        positions: int64 [N], the images' places in the whole training.

    Returns:
        float32, a scalar.
    """
    t = draw_timesteps(seed, positions, 0, scheduler.config.num_train_timesteps - 1)
    noise = philox_normal(seed, positions, images[0].numel(), Purpose.SCORE_NOISE).reshape(images.shape)
    targets = {"epsilon": noise, "sample": images}
    target = targets.get(scheduler.config.prediction_type)
    if target is None:
        target = scheduler.get_velocity(images, noise, t)
    prediction = unet(scheduler.add_noise(images, noise, t), t, class_labels=labels, return_dict=False)[0]
    return (prediction.to(torch.float32) - target).square().mean()


class _Run:
    """One training run: the step, and the snapshot."""

    def __init__(
        self,
        options: TrainScorerOptions,
        folder: Path,
        accelerator: Accelerator,
        scheduler: DDPMScheduler,
        unet: UNet2DModel,
        ema: EMAModel,
        optimizer: torch.optim.Optimizer,
        held_out: DatasetPart | None,
    ) -> None:
        self.options, self.folder, self.accelerator, self.scheduler = options, folder, accelerator, scheduler
        self.model, self.optimizer = accelerator.prepare(unet, optimizer)
        self.unet, self.ema, self.held_out = unet, ema, held_out
        ema.to(accelerator.device)
        self.averaged = UNetScorer(
            copy.deepcopy(unet),
            schedule_from_config(scheduler.config, "scheduler"),
            parameterization=parameterization_of(scheduler.config, "scheduler"),
            device=accelerator.device,
        )

    def train(self, training: DatasetPart, images: int) -> None:
        """Steps until `kimg`, with a snapshot every `snapshot_kimg` and at the end."""
        options, device = self.options, self.accelerator.device
        local = options.batch // self.accelerator.num_processes
        offsets = torch.arange(local) + local * self.accelerator.process_index
        last = math.ceil(1000 * options.kimg)
        batches = iterate_batches(
            training,  # type: ignore[arg-type]  # a part has all of a data set that is asked for here
            seed=options.seed,
            batch=options.batch,
            offsets=offsets,
            start_images=images,
            device=device,
            mirror=options.data.mirror,
            cache=options.data.cache,
            workers=options.data.workers,
        )
        silent = not self.accelerator.is_main_process
        bar = tqdm(
            total=math.ceil(last / options.batch) * options.batch,
            initial=images,
            unit="img",
            unit_scale=True,
            disable=silent,
        )
        losses, started = [], time.monotonic()
        offsets = offsets.to(device)
        while images < last:
            losses.append(self.step(next(batches), images, images + offsets))
            before, images = images, images + options.batch
            bar.update(options.batch)
            if images >= last or _crosses(before, images, 1000 * options.snapshot_kimg):
                self.snapshot(images, torch.stack(losses), time.monotonic() - started, bar)
                losses, started = [], time.monotonic()
        bar.close()

    def step(self, batch: tuple[Tensor, Tensor | None], images: int, positions: Tensor) -> Tensor:
        """One optimizer step; returns its loss, detached."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate(self.options, images)
        with self.accelerator.autocast():
            loss = training_loss(self.model, self.scheduler, *batch, seed=self.options.seed, positions=positions)
        self.accelerator.backward(loss)
        self.accelerator.clip_grad_norm_(self.model.parameters(), self.options.grad_clip)
        self.optimizer.step()
        self.optimizer.zero_grad()
        self.ema.step(self.unet.parameters())
        return loss.detach()

    def snapshot(self, images: int, losses: Tensor, seconds: float, bar: tqdm) -> None:
        """Save scorer, samples, measurements and, last, the state that a resumed run starts from."""
        loss = float(self.accelerator.reduce(losses.mean(), reduction="mean"))
        if not math.isfinite(loss):
            raise UserError(f"loss is {loss} at {images / 1000:g} kimg, expected a number; lower lr")
        if not self.accelerator.is_main_process:
            return
        self.ema.copy_to(self.averaged.unet.parameters())
        self.save_scorer()
        kimg = images / 1000
        save_sample_grid(
            self.folder / f"samples{round(kimg):06d}.png",
            self.averaged,
            self.scheduler,
            rows=self.options.sample_rows,
            steps=self.options.sample_steps,
            seed=self.options.seed,
        )
        row = {
            "kimg": kimg,
            "loss": loss,
            "lr": learning_rate(self.options, images),
            "sec_per_kimg": 1000 * seconds / (len(losses) * self.options.batch),
        }
        row |= {f"heldout/{band}": value for band, value in self.held_out_losses().items()}
        optimizer = getattr(self.optimizer, "optimizer", self.optimizer)
        save_state(self.folder / STATE_FILE, self.unet, self.ema, optimizer, images, self.options)
        with (self.folder / "metrics.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(row) + "\n")
        bar.write(f"kimg {kimg:.1f}  loss {loss:.4f}  sec/kimg {row['sec_per_kimg']:.2f}")

    def held_out_losses(self) -> dict[str, float]:
        """Loss of the averaged weights by noise level on the images kept out; empty without any."""
        if self.held_out is None:
            return {}
        device = self.accelerator.device
        images = to_float(self.held_out.all_images().to(device))
        labels = None if self.held_out.labels is None else self.held_out.labels.to(device)
        return eps_loss_by_band(self.averaged, images, labels)

    def save_scorer(self) -> None:
        """Write the averaged weights as a diffusers folder; each file appears whole."""
        partial, final = self.folder / f"{SCORER_FOLDER}.partial", self.folder / SCORER_FOLDER
        unet = self.averaged.unet
        if self.options.save_precision == "fp16":
            unet = torch.nn.Module.half(copy.deepcopy(unet))
        unet.save_pretrained(partial, safe_serialization=True)
        self.scheduler.save_config(partial)
        final.mkdir(exist_ok=True)
        for file in sorted(partial.iterdir()):
            os.replace(file, final / file.name)
        partial.rmdir()


def _crosses(before: int, after: int, interval: float) -> bool:
    return int(after / interval) > int(before / interval)
