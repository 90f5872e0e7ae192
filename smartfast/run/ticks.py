"""The ticks of a run: which one it is in, and what is due at its end."""

from smartfast.config.schema import RunConfig
from smartfast.run.training import Training


class Ticks:
    """Args:
    training: Says how many images it has seen.
    config: How long a tick and the run are.

    Attributes:
        tick_images, total_images: Real images of a tick and of the run.
    """

    def __init__(self, training: Training, config: RunConfig) -> None:
        self._training = training
        self.tick_images, self.total_images = max(round(config.tick_kimg * 1000), 1), round(config.kimg * 1000)

    @property
    def number(self) -> int:
        """Ticks that have ended."""
        return self._training.images // self.tick_images

    @property
    def has_ended(self) -> bool:
        """Whether the last iteration was the last one of a tick."""
        return self.number > self._number_before

    @property
    def _number_before(self) -> int:
        return (self._training.images - self._training.images_per_iteration) // self.tick_images

    @property
    def is_last(self) -> bool:
        """Whether the run has seen all its images."""
        return self._training.images >= self.total_images

    def is_due(self, every_ticks: int) -> bool:
        """Whether the last iteration ended a tick whose number is a multiple of `every_ticks`, 0 = never.

        An iteration may be longer than a tick and end several.
        """
        return every_ticks > 0 and self.number // every_ticks > self._number_before // every_ticks
