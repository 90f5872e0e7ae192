"""`smartfast convert`: weights of other projects into folders that every command takes, and ours into their formats.

Nothing in a file is imported or called. A folder has safetensors, JSON that builds the networks, and what is known of
where the weights come from.
"""

from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Literal

from smartfast.config.ranges import FilePath, in_range
from smartfast.config.scorer import ScorerOptions
from smartfast.core.best import named
from smartfast.core.files import user_path
from smartfast.errors import UserError
from smartfast.interop import find_networks
from smartfast.interop.biggan import main_file
from smartfast.tools.conversion import Conversion
from smartfast.tools.convert_gan import gan_folder
from smartfast.tools.convert_scorer import is_scorer, scorer_folder
from smartfast.tools.output import check_writable, writing
from smartfast.tools.to_diffusers import diffusers_folder
from smartfast.tools.to_nvidia import nvidia_state_dict


@dataclass(frozen=True)
class ConvertOptions:
    """Weights of another project as a folder for generate, interpolate, evaluate, run.init_from or smart.scorer; or
    ours for other projects. `smartfast convert FILE --out FOLDER` is short for --source FILE."""

    source: FilePath
    """A file of StyleGAN2: .pkl of stylegan2-ada-pytorch or stylegan3, .pth of SMaRt or Hammer, .pt of rosinality's.
    Of R3GAN: its .pkl. Of BigGAN: a folder of BigGAN-PyTorch, or a .pth in it. Of Aurora with classes: .pth of SMaRt or
    Hammer. Of a scorer: .pt of guided-diffusion or consistency_models, .pkl of EDM or EDM2, a diffusers folder. With
    --to also what this command, a run or train-scorer made."""
    out: FilePath
    """The folder to make; with --to nvidia-state-dict a .pt or .safetensors file."""
    to: Literal["smartfast", "nvidia-state-dict", "diffusers"] = "smartfast"
    """smartfast, or what others read: nvidia-state-dict is a StyleGAN2 for load_state_dict in stylegan2-ada-pytorch,
    diffusers a scorer as UNet2DModel, where that computes the same."""
    scorer_options: ScorerOptions = field(default_factory=ScorerOptions)


def convert(options: ConvertOptions) -> Path:
    """Convert, and print what was read and what was left out.

    Returns:
        What was written.

    Raises:
        UserError: A file that cannot be read or holds nothing that is known, or an `out` that is there already. Nothing
            is then written.
    """
    options = in_range(options)
    source, out = named(user_path(options.source, "source")), user_path(options.out, "out")
    _check_free(out)
    check_writable(out.parent, f"out: {out}")
    with writing(f"out: {out}"):
        conversion = _convert(source, out, options)
    print(conversion.table())
    return out


def _convert(source: Path, out: Path, options: ConvertOptions) -> Conversion:
    known = options.scorer_options
    if options.to == "diffusers":
        return diffusers_folder(source, out, known)
    if options.to == "smartfast" and source.is_dir() and (file := main_file(source)) is not None:
        return gan_folder(file, out)
    if options.to == "smartfast" and (source.is_dir() or is_scorer(find_networks(source))):
        return scorer_folder(source, out, known)
    if given := [name for name, value in asdict(known).items() if value is not None]:
        raise UserError(f"scorer_options.{given[0]}: given, expected unset: {source} is no scorer")
    return (nvidia_state_dict if options.to == "nvidia-state-dict" else gan_folder)(source, out)


def _check_free(out: Path) -> None:
    if out.is_dir() and not any(out.iterdir()):
        return
    if out.exists() or out.is_symlink():
        raise UserError(f"out: {out} is there already, expected a new name or an empty folder")
