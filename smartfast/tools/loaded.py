"""A trained generator in Python: what `smartfast.load` returns."""

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn

from smartfast.errors import UserError
from smartfast.families.sampling import Look, Noise, Sampler, usual_labels
from smartfast.families.saved import open_sampler, saved_class_names
from smartfast.tools.generate import MAX_SEED, Request, choose_device, drawn
from smartfast.tools.share import fetch


class LoadedGenerator:
    """Draws images of seeds, as `smartfast generate` does.

    Attributes:
        module: The network, a torch.nn.Module.
        sampler: Draws from it; see `smartfast.families.sampling.Sampler`.
        class_names: What the data called class 0, 1, ..., empty if unknown.
        image_shape: Channels, height, width.
        num_classes: Length of a label vector, 0 = without labels.
    """

    def __init__(self, sampler: Sampler, class_names: list[str]) -> None:
        self.sampler, self.class_names = sampler, class_names
        self.module: nn.Module = sampler.module
        self.image_shape, self.num_classes = sampler.image_shape, sampler.num_classes

    def images(
        self,
        seeds: Iterable[int],
        classes: int | str | Sequence[int | str] | None = None,
        *,
        labels: Tensor | None = None,
        truncation_psi: float = 1.0,
        truncation_cutoff: int | None = None,
        truncation_threshold: float | None = None,
        noise: Noise = "const",
        batch: int = 32,
    ) -> Tensor:
        """Images uint8 [N, C, H, W] on the CPU, one per seed, which fixes it.

        Args:
            seeds: From 0 to 2**32 - 1.
            classes: Index or name, one for all or one per seed; None = seed modulo classes.
            labels: Label vectors [N, F] in place of classes.
            truncation_psi: 1 = none, 0 = the mean image.
            truncation_cutoff: Leading layers that it acts on, None = all.
            truncation_threshold: Values of a latent beyond it are drawn again (BigGAN), None = none.
            noise: Of the layers: the stored one, one that the seed draws, or none.
            batch: Images at a time.

        Raises:
            UserError: Seeds, classes or a truncation that the generator does not have.
        """
        numbers = torch.tensor([self._seed(seed) for seed in seeds], dtype=torch.int64)
        if not len(numbers):
            return torch.empty(0, *self.image_shape, dtype=torch.uint8)
        request = Request(numbers, self._labels(numbers, classes) if labels is None else self._vectors(numbers, labels))
        look = Look(truncation_psi, truncation_cutoff, noise, truncation_threshold)
        return torch.cat(list(drawn(self.sampler, request, [look], batch)))

    def _seed(self, seed: int) -> int:
        if not 0 <= int(seed) <= MAX_SEED:
            raise UserError(f"seeds: found {seed}, expected whole numbers from 0 to {MAX_SEED}")
        return int(seed)

    def _labels(self, seeds: Tensor, classes: int | str | Sequence[int | str] | None) -> Tensor | None:
        if classes is None:
            return usual_labels(self.sampler, seeds)
        if not self.num_classes:
            raise UserError(f"classes: found {classes!r}, expected none: the generator was trained without labels")
        given = [classes] if isinstance(classes, int | str) else list(classes)
        if len(given) not in (1, len(seeds)):
            raise UserError(f"classes: found {len(given)}, expected one, or one for each of {len(seeds)} seeds")
        return torch.tensor([self._index(label) for label in given]).expand(len(seeds))

    def _index(self, label: int | str) -> int:
        index = self.class_names.index(label) if label in self.class_names else label  # type: ignore[arg-type]
        if not isinstance(index, int) or not 0 <= index < self.num_classes:
            known = f" or a name such as {self.class_names[0]!r}" if self.class_names else ""
            raise UserError(f"classes: found {label!r}, expected an index from 0 to {self.num_classes - 1}{known}")
        return index

    def _vectors(self, seeds: Tensor, labels: Tensor) -> Tensor:
        if labels.shape != (len(seeds), self.num_classes):
            raise UserError(f"labels: found {list(labels.shape)}, expected [{len(seeds)}, {self.num_classes}]")
        return labels.to(torch.float32)


def load_generator(name: str, *, device: str = "cpu") -> LoadedGenerator:
    """See `smartfast.load`."""
    path = fetch(name)
    return LoadedGenerator(open_sampler(path, choose_device(device)), saved_class_names(path))
