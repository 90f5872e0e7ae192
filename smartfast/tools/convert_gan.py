"""A GAN of another project as a folder: each network as in a checkpoint, and conversion.json."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from smartfast.core.checkpoint import CONVERSION
from smartfast.core.files import appear_complete
from smartfast.errors import UserError
from smartfast.families import FAMILIES
from smartfast.families.imported import module_of
from smartfast.interop import GanFile, Model, read_gan
from smartfast.interop.models import GENERATORS, Role
from smartfast.tools.conversion import Conversion, Read, Source, write_json


def gan_folder(source: Path, out: Path) -> Conversion:
    """Convert the file `source` into the folder `out`.

    Raises:
        UserError: The file holds no GAN that can be built, or generators none of which can.
        OSError: Something cannot be written.
    """
    gan = read_gan(source)
    models, unfit = _built(gan)
    left_out = unfit | gan.left_out
    if not models or (gan.models.keys() & GENERATORS and not models.keys() & GENERATORS):
        raise UserError(f"{source}: " + "; ".join(f"{name}: {reason}" for name, reason in unfit.items()))
    notes = list(gan.notes)
    if gan.augment_p is not None:
        notes.append(f"augmentation had reached the probability {gan.augment_p:g}")
    names = dict(gan.names)
    if "generator" in models and "generator_ema" not in models:
        models["generator_ema"], names["generator_ema"] = models["generator"], names["generator"]
        notes.append(f"generator_ema is {gan.names['generator']}: the file has no average")
    reads = [
        Read.of(names[role], f"{role}.safetensors", model.tensors, kind_of(gan.family, model.options))
        for role, model in models.items()
    ]
    conversion = Conversion(gan.project, str(out), [Source.of(file) for file in gan.files], reads, left_out, notes)
    with appear_complete(out) as partial:
        for role, model in models.items():
            save_file(model.tensors, partial / f"{role}.safetensors")
            write_json(partial / f"{role}.json", {"family": gan.family, **model.options})
        write_json(partial / CONVERSION, conversion.record() | {"augment_p": gan.augment_p})
    return conversion


def _built(gan: GanFile) -> tuple[dict[Role, Model], dict[str, str]]:
    """Those networks that can be built, and why the others, by their name in the file, cannot."""
    models, unfit = dict(gan.models), {}
    for role, model in gan.models.items():
        try:
            module_of(FAMILIES[gan.family], role, model)
        except (ValueError, TypeError, KeyError, RuntimeError, ArithmeticError) as error:
            unfit[gan.names[role]] = str(error).splitlines()[0]
            del models[role]
    return models, unfit


def kind_of(family: str, options: Mapping[str, Any]) -> str:
    """What a network of a family is, by its arguments, for people."""
    if family == "biggan":
        name, resolution, classes = "BigGAN", options["resolution"], options["classes"]
    elif family == "r3gan":
        name, resolution, classes = "R3GAN", 4 * 2 ** (len(options["widths"]) - 1), options["classes"]
    elif family == "aurora" and "blocks" in options:
        name, resolution, classes = "Aurora", 4 * 2 ** (len(options["blocks"]) - 1), options["classes"]
    else:
        name, resolution, classes = "StyleGAN2", options["resolution"], options["c_dim"]
    return f"{name}, {resolution}x{resolution}x{options['channels']}, {classes or 'no'} classes"
