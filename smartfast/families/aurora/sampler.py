"""Images of Aurora's generator: truncation toward the mean w, paths in w, labels of all classes alike."""

from typing import Any, ClassVar, Self

import torch
from torch import Tensor

from smartfast.core.draws import Purpose, are_vectors, one_hot
from smartfast.errors import UserError
from smartfast.families.sampling import PLAIN, Look, Places, Sampler
from smartfast.kernels import philox_normal, philox_uniform
from smartfast.networks.aurora import Generator


class AuroraSampler(Sampler):
    """See `Sampler`.

    Where labels are drawn, every class that has an image is as likely as any other, as in SMaRt's samples; other
    families draw the labels of random training images, and so does this one where labels are vectors.
    """

    module: Generator
    spaces: ClassVar[tuple[str, ...]] = ("w", "z")

    def __init__(self, module: Generator, **options: Any) -> None:
        shape = (module.options.channels, module.options.resolution, module.options.resolution)
        super().__init__(module, image_shape=shape, num_classes=module.options.classes, **options)
        self.z_shape = (module.options.z_dim,)
        self._present = self._count_present()

    def of_data(self, data_labels: Tensor | None, *, seed: int, look: Look = PLAIN) -> Self:
        other = super().of_data(data_labels, seed=seed, look=look)
        other._present = other._count_present()
        return other

    def _count_present(self) -> Tensor | None:
        """How many of the classes up to each one have an image, int64 [classes]; None without classes."""
        if self.data_labels is None or are_vectors(self.data_labels):
            return None
        of_class = torch.zeros(self.num_classes, dtype=torch.int64, device=self.data_labels.device)
        return of_class.index_fill(0, self.data_labels, 1).cumsum(0)

    def w(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        """w [N, w_dim] and labels of the samples numbered int64 [N]; labels None = drawn."""
        if labels is None and self.data_labels is not None:
            which = philox_uniform(self.seed, numbers, 1, purpose + Purpose.CHOICES)[:, 0]
            if self._present is None:
                labels = self.data_labels[(which * len(self.data_labels)).to(torch.int64)]
            else:
                labels = torch.searchsorted(self._present, (which * self._present[-1]).to(torch.int64), right=True)
        z = philox_normal(self.seed, numbers, self.z_shape[0], int(purpose))
        return self.module.mapping(z, one_hot(labels, self.num_classes)), labels

    def draw(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        w, labels = self.w(purpose, numbers, labels)
        return self.module.synthesis(self.module.spread(w, *_truncation(self.look))).images, labels

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        return self.module(z, c, *_truncation(look))

    def mix(self, z: Tensor, c: Tensor | None, places: Places, *, space: str, look: Look) -> Tensor:
        if space != "w":
            return super().mix(z, c, places, space=space, look=look)
        keys = self.styles(z, c, look)
        return self.styled(keys[places.start].lerp(keys[places.end], places.fraction[:, None, None]), look)

    @property
    def style_layers(self) -> int:
        return self.module.options.num_ws

    def styles(self, z: Tensor, c: Tensor | None, look: Look) -> Tensor:
        return self.module.latents(z, c, *_truncation(look))

    def styled(self, styles: Tensor, look: Look) -> Tensor:
        _truncation(look)  # refuses noise
        return self.module.synthesis(styles).images


def _truncation(look: Look) -> tuple[float, int | None]:
    if look != Look(look.psi, look.cutoff):
        raise UserError(f"found {look}, expected {Look(look.psi, look.cutoff)}: Aurora's layers have no noise")
    return look.psi, look.cutoff
