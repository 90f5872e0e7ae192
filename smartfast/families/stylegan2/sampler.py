"""Images of StyleGAN2's generator: truncation toward the mean w, noise of the layers, paths in w."""

from typing import ClassVar, Self

from torch import Tensor

from smartfast.core.draws import Purpose
from smartfast.errors import UserError
from smartfast.families.sampling import PLAIN, Look, Places, Sampler
from smartfast.families.stylegan2.latents import LatentSampler
from smartfast.kernels import philox_normal
from smartfast.networks.stylegan2 import Generator


class StyleGan2Sampler(Sampler):
    """See `Sampler`."""

    module: Generator
    spaces: ClassVar[tuple[str, ...]] = ("w", "z")

    def __init__(
        self, module: Generator, *, data_labels: Tensor | None = None, seed: int = 0, look: Look = PLAIN
    ) -> None:
        super().__init__(
            module,
            image_shape=(module.channels, module.resolution, module.resolution),
            num_classes=module.c_dim,
            data_labels=data_labels,
            seed=seed,
            look=look,
        )
        self.z_shape = (module.z_dim,)
        self.latents = LatentSampler(
            seed=seed,
            z_dim=module.z_dim,
            num_ws=module.num_ws,
            noise_shapes=module.synthesis.noise_shapes,
            data_labels=data_labels,
            num_classes=module.c_dim,
            style_mixing_prob=0.0,
        )

    def of_data(self, data_labels: Tensor | None, *, seed: int, look: Look = PLAIN) -> Self:
        return type(self)(self.module, data_labels=data_labels, seed=seed, look=look)

    def draw(self, purpose: Purpose, numbers: Tensor, labels: Tensor | None) -> tuple[Tensor, Tensor | None]:
        latents = self.latents(purpose, numbers, labels)
        images = self.module(latents.z, latents.c, self.look.psi, self.look.cutoff, noise=latents.noise)
        return images, latents.labels

    def images(self, z: Tensor, c: Tensor | None, seeds: Tensor, look: Look) -> Tensor:
        if look.threshold is not None:
            raise UserError(f"found truncation_threshold {look.threshold:g}, expected none: StyleGAN2 truncates by psi")
        noise = self._seeded_noise(seeds) if look.noise == "random" else look.noise
        return self.module(z, c, look.psi, look.cutoff, noise)

    def mix(self, z: Tensor, c: Tensor | None, places: Places, *, space: str, look: Look) -> Tensor:
        if space != "w":
            return super().mix(z, c, places, space=space, look=look)
        keys = self.styles(z, c, look)
        return self.styled(keys[places.start].lerp(keys[places.end], places.fraction[:, None, None]), look)

    @property
    def style_layers(self) -> int:
        return self.module.num_ws

    def styles(self, z: Tensor, c: Tensor | None, look: Look) -> Tensor:
        return self.module.mapping(z, c, look.psi, look.cutoff)

    def styled(self, styles: Tensor, look: Look) -> Tensor:
        return self.module.synthesis(styles, look.noise)

    def _seeded_noise(self, seeds: Tensor) -> list[Tensor]:
        shapes = self.module.synthesis.noise_shapes
        sizes = [height * width for height, width in shapes]
        noise = philox_normal(0, seeds.to(self.device), sum(sizes), Purpose.SAMPLE).split(sizes, dim=1)
        return [values.view(-1, 1, *shape) for values, shape in zip(noise, shapes, strict=True)]
