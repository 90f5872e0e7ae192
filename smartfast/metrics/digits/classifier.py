"""Trains the bundled digit classifier and writes its weights: `python -m smartfast.metrics.digits.classifier`.

With `--data` and `--out` it trains one of the same kind on other images with classes, for metrics.features classifier.
A fifth of every class is held out and never trained on; the accuracy on it is printed. The file holds exactly the
weights that the printed accuracy belongs to. Deterministic; ten seconds on a CPU.
"""

import argparse
import math
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import Tensor

from smartfast.config.schema import DataConfig
from smartfast.core.draws import are_vectors
from smartfast.data import open_dataset
from smartfast.errors import UserError
from smartfast.metrics.digits.features import (
    INPUT_RESOLUTION,
    WEIGHTS_FILE,
    DigitClassifier,
    classifier_input,
)
from smartfast.metrics.extractors import without_alpha

SEED = 0
HELD_OUT_FRACTION = 0.2
EPOCHS = 25
BATCH = 64
LEARNING_RATE = 2e-3
WEIGHT_DECAY = 1e-2
# Largest random change of an image: turn and shear in radians, zoom as a factor, shift as a fraction of half the width.
MAX_TURN, MAX_SHEAR, MAX_ZOOM, MAX_SHIFT = 0.15, 0.15, 0.1, 0.1
NOISE_STD = 0.05
MEASURED_AT_A_TIME = 4096


def held_out_mask(labels: Tensor) -> Tensor:
    """Which images are held out: bool [N], the same fifth of each class on every machine."""
    generator = torch.Generator().manual_seed(SEED)
    mask = torch.zeros(len(labels), dtype=torch.bool)
    for label in range(int(labels.max()) + 1):
        members = (labels == label).nonzero()[:, 0]
        order = torch.randperm(len(members), generator=generator)
        mask[members[order[: round(HELD_OUT_FRACTION * len(members))]]] = True
    return mask


def augment(images: Tensor, generator: torch.Generator) -> Tensor:
    """Turns, shears, zooms and shifts each image a little and adds noise; float32 [N, 1, H, W] in and out."""
    turn, shear, zoom, shift_x, shift_y = (2 * torch.rand(5, len(images), generator=generator) - 1).unbind()
    turn, shear, zoom = turn * MAX_TURN, shear * MAX_SHEAR, 1 + zoom * MAX_ZOOM
    top = torch.stack([zoom * turn.cos(), shear - turn.sin(), shift_x * MAX_SHIFT], dim=1)
    bottom = torch.stack([turn.sin(), zoom * turn.cos(), shift_y * MAX_SHIFT], dim=1)
    grid = F.affine_grid(torch.stack([top, bottom], dim=1), list(images.shape), align_corners=False)
    moved = F.grid_sample(images, grid, padding_mode="border", align_corners=False)
    return moved + NOISE_STD * torch.randn(moved.shape, generator=generator)


def train_classifier(images: Tensor, labels: Tensor, epochs: int = EPOCHS) -> DigitClassifier:
    """A classifier trained on images float32 [N, 1, R, R] in [-1, 1] with labels int64 [N]."""
    torch.manual_seed(SEED)
    model = DigitClassifier(images.shape[-1], int(labels.max()) + 1)
    generator = torch.Generator().manual_seed(SEED + 1)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, weight_decay=WEIGHT_DECAY)
    steps = epochs * math.ceil(len(images) / BATCH)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=LEARNING_RATE, total_steps=steps)
    for _ in range(epochs):
        for batch in torch.randperm(len(images), generator=generator).split(BATCH):
            _, logits = model(augment(images[batch], generator))
            loss = F.cross_entropy(logits, labels[batch])
            optimizer.zero_grad(set_to_none=True)
            loss.backward()
            optimizer.step()
            schedule.step()
    with torch.no_grad():
        features = torch.cat([model(part)[0] for part in images.split(MEASURED_AT_A_TIME)])
        model.feature_scale.copy_(features.var(dim=0).mean().rsqrt())
    return model.eval()


@torch.no_grad()
def accuracy(model: DigitClassifier, images: Tensor, labels: Tensor) -> float:
    """Fraction of images that get their own label."""
    found = torch.cat([model(part)[1].argmax(dim=1) for part in images.split(MEASURED_AT_A_TIME)])
    return (found == labels).to(torch.float64).mean().item()


def load_images(path: str, resolution: int) -> tuple[Tensor, Tensor]:
    """Images uint8 [N, C, R, R] and labels int64 [N] of what `data.path` takes; RGBA is laid on white, as metrics do.

    Raises:
        UserError: There are none, of another size, or without classes.
    """
    if resolution % 4:
        raise UserError(f"--resolution is {resolution}, expected a multiple of 4")
    dataset = open_dataset(DataConfig(path=path, resolution=resolution, labels=True))
    if dataset.labels is None or are_vectors(dataset.labels):
        raise UserError(f"--data {path}: has label vectors, expected classes")
    return without_alpha(dataset.all_images()), dataset.labels


def main() -> None:
    """Trains, prints the accuracies, writes the weights in half precision."""
    parser = argparse.ArgumentParser(description="Train the bundled digit classifier, or one of other images.")
    parser.add_argument("--out", type=Path, default=WEIGHTS_FILE, help="file to write (default: the bundled one)")
    parser.add_argument("--data", default="digits", help="images with classes, as data.path (default: digits)")
    parser.add_argument("--resolution", type=int, default=INPUT_RESOLUTION, help="of the images (default: 16)")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help=f"over the images (default: {EPOCHS})")
    options = parser.parse_args()
    out: Path = options.out
    if options.data != "digits" and out == WEIGHTS_FILE:
        parser.error("--out is not given, expected a file: the bundled one is of the digits")
    torch.use_deterministic_algorithms(True)
    torch.set_num_threads(1)  # the last bits depend on the number of threads
    try:
        pixels, labels = load_images(options.data, options.resolution)
    except UserError as error:
        parser.error(str(error))
    images, held_out = classifier_input(pixels, options.resolution), held_out_mask(labels)
    model = train_classifier(images[~held_out], labels[~held_out], options.epochs)
    half = {name: value.to(torch.float16) for name, value in model.state_dict().items()}
    model.load_state_dict(half)
    out.parent.mkdir(parents=True, exist_ok=True)
    save_file(half, out)
    print(
        f"{out}: {out.stat().st_size} bytes, accuracy {accuracy(model, images[~held_out], labels[~held_out]):.4f} on "
        f"{int((~held_out).sum())} training images, {accuracy(model, images[held_out], labels[held_out]):.4f} on "
        f"{int(held_out.sum())} held-out images"
    )


if __name__ == "__main__":
    main()
