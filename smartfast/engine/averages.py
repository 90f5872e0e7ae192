"""The running average of a network's weights (EMA)."""

import copy

from torch import Tensor, nn

from smartfast.engine.flat import FlatParameters
from smartfast.engine.phase import TrainedNetwork


class AveragedNetwork:
    """A copy of a network whose parameters follow the trained ones.

    Frozen parameters and buffers are shared with the trained network, but for the moving buffers that its modules name
    in `averaged_buffers`: those follow like parameters.

    Args:
        trained: What it follows.
        step_size: Scalar on the device: the share of the way to the trained weights that a `move` goes.
    """

    def __init__(self, trained: TrainedNetwork, step_size: Tensor) -> None:
        self.source, self.step_size = trained, step_size
        self.module = copy.deepcopy(trained.module)
        self.parameters = FlatParameters(self.module, **trained.parameters.layout)
        self.module.eval().requires_grad_(False)
        self._own = set(self.parameters.names)
        self._buffers: list[tuple[Tensor, Tensor]] = []
        for path, original in trained.module.named_modules():
            self._join(self.module.get_submodule(path), original, path)

    def _join(self, copied: nn.Module, original: nn.Module, path: str) -> None:
        """Share what a module does not average."""
        for name, buffer in original.named_buffers(recurse=False):
            if name in getattr(original, "averaged_buffers", ()):
                self._buffers.append((copied.get_buffer(name), buffer))
                self._own.add(f"{path}.{name}" if path else name)
            else:
                copied._buffers[name] = buffer
        for name, parameter in original.named_parameters(recurse=False):
            if not parameter.requires_grad:
                copied._parameters[name] = parameter

    def move(self) -> None:
        """Move toward the trained weights."""
        self.parameters.flat.lerp_(self.source.parameters.flat, self.step_size)
        for average, current in self._buffers:
            average.lerp_(current, self.step_size)

    def state(self) -> dict[str, Tensor]:
        """What is not shared with the trained network, by name; aliases."""
        return {name: value for name, value in self.module.state_dict().items() if name in self._own}


def half_life_step(images: int, *, batch: int, half_life_kimg: float, rampup: float | None) -> float:
    """The step of an average with a half-life, for an iteration of `batch` images that began at image `images`.

    rampup: The half-life is at most this fraction of the images seen (stylegan2-ada), None = no ramp-up.
    """
    half_life = half_life_kimg * 1000
    if rampup is not None:
        half_life = min(half_life, images * rampup)
    return 1 - 0.5 ** (batch / max(half_life, 1e-8))
