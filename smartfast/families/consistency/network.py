"""The consistency function as diffusers keeps it: a UNet2DModel and the scheduler of a ConsistencyModelPipeline."""

from pathlib import Path
from typing import Any

from diffusers import CMStochasticIterativeScheduler, ConsistencyModelPipeline, UNet2DModel
from torch import Tensor, nn

from smartfast.core.files import appear_complete, write_atomically
from smartfast.errors import UserError
from smartfast.scorers.diffusers import PIPELINE_FILE, SCHEDULER_FILE, load_unet
from smartfast.scorers.fields import check_fields, read_json

_NOISE_FIELDS = {"sigma_min": float, "sigma_max": float, "sigma_data": float, "rho": float, "num_train_timesteps": int}
_PER_LN_SIGMA = 250.0  # what diffusers' sigma_to_t multiplies ln sigma by


class ConsistencyModel(nn.Module):
    """f(x, sigma) of x = image + sigma noise, which is x itself at sigma_min (Song et al., eq. 5 and appendix C).

    Args:
        unet: The network F; with class embeddings it is told classes.
        scheduler: Says sigma_min, sigma_max, sigma_data and where further steps of a sample begin.
    """

    def __init__(self, unet: UNet2DModel, scheduler: CMStochasticIterativeScheduler) -> None:
        super().__init__()
        self.unet, self.scheduler = unet, scheduler
        noise, network = scheduler.config, unet.config
        self.sigma_min, self.sigma_max, self.sigma_data = noise.sigma_min, noise.sigma_max, noise.sigma_data
        self.image_shape = (network.in_channels, network.sample_size, network.sample_size)
        self.num_classes = network.num_class_embeds or 0

    def forward(self, x: Tensor, sigma: Tensor, labels: Tensor | None) -> Tensor:
        """The clean images, float [N, C, H, W], of x [N, C, H, W], sigma float [N] and classes int64 [N] or None."""
        s = sigma[:, None, None, None]
        c_skip = 1 / (1 + ((s - self.sigma_min) / self.sigma_data).square())  # 1 at sigma_min, in any arithmetic
        length = (s.square() + self.sigma_data**2).sqrt()
        c_out = (s - self.sigma_min) * self.sigma_data / length
        predicted = self.unet(x / length, _PER_LN_SIGMA * sigma.log(), class_labels=labels, return_dict=False)[0]
        return c_skip * x + c_out * predicted

    def levels(self, steps: int) -> list[float]:
        """Sigma at the start of each step of a sample, from sigma_max down, as diffusers' pipeline takes them."""
        if steps == 1:  # also inside a compiled phase
            return [self.sigma_max]
        self.scheduler.set_timesteps(steps)
        return self.scheduler.sigmas[:steps].tolist()


def build_consistency(unet: dict[str, Any], scheduler: dict[str, Any]) -> ConsistencyModel:
    """A new network of the arguments of `UNet2DModel` and of `CMStochasticIterativeScheduler`."""
    return ConsistencyModel(UNet2DModel(**unet), CMStochasticIterativeScheduler(**scheduler))


def is_pipeline(path: Path) -> bool:
    """Whether a path is the folder of a diffusers ConsistencyModelPipeline."""
    file = path / PIPELINE_FILE
    if not file.is_file():
        return False
    index = read_json(file)
    return isinstance(index, dict) and index.get("_class_name") == ConsistencyModelPipeline.__name__


def load_pipeline(path: Path) -> ConsistencyModel:
    """The network of such a folder, on the CPU in float32; loading executes nothing that a file says.

    Raises:
        UserError: A part is missing, unreadable or of another kind.
    """
    file = path / "scheduler" / SCHEDULER_FILE
    config = read_json(file)
    check_fields(config, _NOISE_FIELDS | {"_class_name": str}, str(file))
    expected = CMStochasticIterativeScheduler.__name__
    if (kind := config.get("_class_name")) != expected:
        raise UserError(f"{file}: _class_name is {kind}, expected {expected}")
    scheduler = CMStochasticIterativeScheduler.from_config(config)
    noise = scheduler.config
    if not 0 < noise.sigma_min < noise.sigma_max or not noise.sigma_data > 0 or not noise.num_train_timesteps > 1:
        raise UserError(
            f"{file}: sigma_min {noise.sigma_min}, sigma_max {noise.sigma_max}, sigma_data {noise.sigma_data}, "
            f"num_train_timesteps {noise.num_train_timesteps}, expected 0 < sigma_min < sigma_max, 0 < sigma_data and "
            "2 timesteps or more"
        )
    unet = load_unet(path)
    if not isinstance(unet.config.sample_size, int):
        raise UserError(f"{path}: sample_size is {unet.config.sample_size}, expected one number, its resolution")
    return ConsistencyModel(unet, scheduler)


def save_pipeline(model: ConsistencyModel, folder: Path) -> None:
    """Write such a folder, which diffusers reads; each of its files appears whole."""
    for name, part in {"unet": model.unet, "scheduler": model.scheduler}.items():
        with appear_complete(folder / name) as partial:
            part.save_pretrained(partial)
    index = ConsistencyModelPipeline(model.unet, model.scheduler).to_json_string()
    write_atomically(folder / PIPELINE_FILE, index.encode())
