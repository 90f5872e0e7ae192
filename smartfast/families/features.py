"""What the discriminator of a trained model sees in images, for distances that need no other network."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from smartfast.config.parse import load_config
from smartfast.config.schema import DataConfig
from smartfast.core.checkpoint import find_weights, load_tensors
from smartfast.core.tensors import check_weights, weight_shapes, without_memory
from smartfast.data.planned import planned_images
from smartfast.errors import UserError
from smartfast.families import FAMILIES, Family
from smartfast.families.sampling import Sampler

_CONVERTED = "discriminator.safetensors"
_TRAINED = "d/module/"  # of its tensors in a checkpoint


class DiscriminatorFeatures:
    """Outputs of some layers of a discriminator, differentiable.

    Args:
        module: Frozen, called with images and label vectors.
        layers: Of it.
        num_classes: Length of its label vectors, 0 = it takes none.
    """

    def __init__(self, module: nn.Module, layers: Sequence[nn.Module], num_classes: int) -> None:
        self.module, self.layers, self.num_classes = module, layers, num_classes

    def __call__(self, images: Tensor) -> list[Tensor]:
        """Features [N, C, H, W] of each layer, of images [N, C, H, W] in [-1, 1]."""
        found: list[Tensor] = []

        def keep(layer: nn.Module, inputs: object, output: Tensor | tuple[Tensor, ...]) -> None:
            found.append(output if isinstance(output, Tensor) else output[0])

        hooks = [layer.register_forward_hook(keep) for layer in self.layers]
        try:
            self.module(images, images.new_zeros(len(images), self.num_classes) if self.num_classes else None)
        finally:
            for hook in hooks:
                hook.remove()
        return found


def open_features(path: str | Path, sampler: Sampler) -> DiscriminatorFeatures | None:
    """The discriminator that a run, a checkpoint or a converted folder has beside the network of `sampler`.

    Returns:
        None where there is none, or its family does not say which of its layers tell what it sees.

    Raises:
        UserError: It is damaged.
    """
    folder = find_weights(Path(path)).parent
    try:
        if (folder / _CONVERTED).is_file():
            module, family = _converted(folder / _CONVERTED)
        else:
            module, family = _trained(folder, sampler)
    except (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError) as error:
        reason = str(error).splitlines()[0]
        raise UserError(
            f"{folder}: expected the discriminator that belongs to its generator, found: {reason}"
        ) from error
    layers = () if module is None else family.feature_layers(module)
    if module is None or not layers:
        return None
    return DiscriminatorFeatures(module.eval().requires_grad_(False).to(sampler.device), layers, sampler.num_classes)


def _converted(weights: Path) -> tuple[nn.Module | None, type[Family]]:
    options = json.loads(weights.with_suffix(".json").read_text())
    family, tensors = FAMILIES[options.pop("family")], load_file(weights)
    module = without_memory(lambda: family.build_discriminator(**options), weight_shapes(weights))
    check_weights(tensors)
    module.load_state_dict(tensors, assign=True)
    return module, family


def _trained(folder: Path, sampler: Sampler) -> tuple[nn.Module | None, type[Family]]:
    """Of a run, whose config.yaml has the arguments; in full precision, whatever it was trained in."""
    config_file = folder.parent.parent / "config.yaml"
    if not ((folder / "checkpoint.json").is_file() and config_file.is_file()):
        return None, Family
    config = load_config(config_file)
    config = replace(config, perf=replace(config.perf, precision="fp32"))
    channels, resolution, _ = sampler.image_shape
    classes = sampler.num_classes
    data = DataConfig(path=str(folder), resolution=resolution, labels=classes > 0, classes=classes or None)
    images = planned_images(data, channels)
    assert images is not None, "size and classes are given"
    family = FAMILIES[config.gan.family]
    module = family(config, images).modules.get("d")
    if module is not None:
        _, tensors = load_tensors(folder, lambda name: name.startswith(_TRAINED))
        module.load_state_dict({name.removeprefix(_TRAINED): value for name, value in tensors.items()})
    return module, family
