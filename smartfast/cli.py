"""The `smartfast` command. Each command imports what it needs when it runs, so `smartfast --help` is quick."""

import re
import sys
import warnings
from collections.abc import Callable, Sequence

from smartfast import __version__
from smartfast.core.interruption import Interruption, ignore_signals
from smartfast.core.output import one_line_warning, send_nowhere
from smartfast.core.threads import sleep_while_waiting
from smartfast.errors import UserError

EXIT_REFUSED = 1
EXIT_USER_ERROR = 2
EXIT_INTERRUPTED = 3


def train(arguments: Sequence[str]) -> int:
    """Train a GAN; rerunning the same command resumes. (`accelerate launch smartfast/train.py` does the same.)"""
    with Interruption() as interruption:  # what follows takes seconds before the first thing is done
        from smartfast.config.parse import parse_config

        config = parse_config(arguments)
        from smartfast.run.launch import launch

        return 0 if launch(config, interruption) else EXIT_INTERRUPTED


def profile(arguments: Sequence[str]) -> int:
    """Trace some iterations of a training (options of train) and show where their time goes."""
    from smartfast.config.parse import parse_config

    config = parse_config(arguments, prog="smartfast profile")
    from smartfast.run.launch import profile

    profile(config)
    return 0


def generate(arguments: Sequence[str]) -> int:
    """Draw images from a checkpoint: seeds, truncation, class, a grid or single files."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.generate import GenerateOptions, generate

    generate(parse_options(GenerateOptions, arguments, command="generate"))
    return 0


def interpolate(arguments: Sequence[str]) -> int:
    """Walk between latents of a checkpoint: GIF, MP4 or a strip."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.interpolate import InterpolateOptions, interpolate

    interpolate(parse_options(InterpolateOptions, arguments, command="interpolate"))
    return 0


def style_mix(arguments: Sequence[str]) -> int:
    """Give images the styles of others in some layers: a grid and single files."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.style_mix import StyleMixOptions, style_mix

    style_mix(parse_options(StyleMixOptions, arguments, command="style-mix"))
    return 0


def project(arguments: Sequence[str]) -> int:
    """Find the styles of a photo: the image nearest to it, the way there, and a latent file."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.project import ProjectOptions, project

    project(parse_options(ProjectOptions, arguments, command="project"))
    return 0


def evaluate(arguments: Sequence[str]) -> int:
    """Compute the metrics of a checkpoint."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.evaluate import EvaluateOptions, evaluate_command

    evaluate_command(parse_options(EvaluateOptions, arguments, command="evaluate"))
    return 0


def watch(arguments: Sequence[str]) -> int:
    """Show runs while they train on a page of this machine: curves, samples, costs, warnings, what differs."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.watch import WatchOptions, watch

    first = next((i for i, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    watch(arguments[:first], parse_options(WatchOptions, arguments[first:], command="watch"))
    return 0


def explore(arguments: Sequence[str]) -> int:
    """Draw images by hand on a page of this machine: seeds, truncation, class, interpolation, style mixing."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.explore import ExploreOptions, explore

    explore(parse_options(ExploreOptions, _named(arguments, "checkpoint"), command="explore"))
    return 0


def dataset(arguments: Sequence[str]) -> int:
    """Make a data-set zip (stylegan2/3 format) from a folder, zip, .npz or Hugging Face data set."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.dataset import DatasetOptions, convert

    convert(parse_options(DatasetOptions, arguments, command="dataset"))
    return 0


def convert(arguments: Sequence[str]) -> int:
    """Convert weights of other projects, GANs and diffusion models, for use here, and ours for use there."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.convert import ConvertOptions, convert

    convert(parse_options(ConvertOptions, _named(arguments, "source"), command="convert"))
    return 0


def export(arguments: Sequence[str]) -> int:
    """Make a folder of a trained generator for others, with a model card, or push it to the Hugging Face hub."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.export import ExportOptions, export

    export(parse_options(ExportOptions, _named(arguments, "checkpoint"), command="export"))
    return 0


def train_scorer(arguments: Sequence[str]) -> int:
    """Train a diffusion model on your own images, to use as smart.scorer."""
    with Interruption() as interruption:
        from smartfast.config.parse import SCORER_CONFIGS, parse_options
        from smartfast.tools.train_scorer import TrainScorerOptions, train_scorer

        options = parse_options(TrainScorerOptions, arguments, command="train-scorer", folder=SCORER_CONFIGS)
        return 0 if train_scorer(options, interruption) is not None else EXIT_INTERRUPTED


def status(arguments: Sequence[str]) -> int:
    """Say how far a run is, in this shell or another: progress, time left, metrics, warnings."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.status import StatusOptions, status_command

    status_command(parse_options(StatusOptions, _named(arguments, "run"), command="status"))
    return 0


def ask(arguments: Sequence[str]) -> int:
    """Ask a training in another shell: smartfast ask RUN sample, save, evaluate or stop."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.ask import AskOptions, ask_command

    options = parse_options(AskOptions, _named(arguments, "run", "what"), command="ask")
    return 0 if ask_command(options) else EXIT_REFUSED


def study(arguments: Sequence[str]) -> int:
    """Train several arms with several seeds and one budget, and compare them: run, status, report, list."""
    from smartfast.study.commands import study

    return 0 if study(arguments) else EXIT_INTERRUPTED


def presets(arguments: Sequence[str]) -> int:
    """Print all presets side by side, and what each one leaves to you."""
    from smartfast.tools.presets import presets_table as table

    if _asks_for_help(arguments, presets):
        return 0
    if arguments:
        raise UserError(f"presets takes no arguments, found {' '.join(arguments)}")
    print(table())
    return 0


def doctor(arguments: Sequence[str]) -> int:
    """Print versions, devices, and which implementation each op takes and why; or verify and tune the kernels."""
    from smartfast.config.parse import parse_options
    from smartfast.tools.doctor import DoctorOptions
    from smartfast.tools.doctor import doctor as diagnosis

    # A field cannot be called import.
    arguments = [re.sub("^--import(?==|$)", "--merge", argument) for argument in arguments]
    options = parse_options(DoctorOptions, arguments, command="doctor")
    if options.verify or options.tune or options.merge or options.export:
        from smartfast.tools.doctor_kernels import examine_kernels

        return 0 if examine_kernels(options, print) else 1
    print(diagnosis())
    return 0


def cache(arguments: Sequence[str]) -> int:
    """Carry compiled code to other machines of the same kind: export FILE, import FILE."""
    from smartfast.tools.cache import cache

    cache(arguments)
    return 0


def _named(arguments: Sequence[str], *names: str) -> list[str]:
    """The same arguments with names before the first ones, as far as those are no options."""
    count = next((place for place, argument in enumerate(arguments) if argument.startswith("-")), len(arguments))
    leading = [f"--{name}={value}" for name, value in zip(names, arguments[:count], strict=False)]
    return [*leading, *arguments[len(leading) :]]


def _asks_for_help(arguments: Sequence[str], command: Callable[[Sequence[str]], int]) -> bool:
    """Print the help of a command without options, if it is asked for."""
    is_asked = any(argument in ("-h", "--help") for argument in arguments)
    if is_asked:
        print(f"usage: smartfast {command.__name__}\n\n{command.__doc__}")
    return is_asked


COMMANDS: dict[str, Callable[[Sequence[str]], int]] = {
    "train": train,
    "profile": profile,
    "generate": generate,
    "interpolate": interpolate,
    "style-mix": style_mix,
    "project": project,
    "evaluate": evaluate,
    "watch": watch,
    "explore": explore,
    "dataset": dataset,
    "convert": convert,
    "export": export,
    "train-scorer": train_scorer,
    "status": status,
    "ask": ask,
    "study": study,
    "presets": presets,
    "doctor": doctor,
    "cache": cache,
}


def usage() -> str:
    """The help text of `smartfast`."""
    lines = [f"  {name:<14}{(command.__doc__ or '').splitlines()[0]}" for name, command in COMMANDS.items()]
    return "\n".join(
        [
            "usage: smartfast COMMAND [options]",
            "",
            *lines,
            "",
            "smartfast COMMAND --help lists the options, smartfast --version prints the version.",
        ]
    )


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command.

    Returns:
        0 when it is done, 2 when the input was wrong (one line on stderr says what), 3 when it was interrupted; the
        same training command then goes on.
    """
    sleep_while_waiting()
    warnings.formatwarning = one_line_warning
    try:
        try:
            return _run(list(sys.argv[1:] if arguments is None else arguments))
        finally:
            sys.stdout.flush()
    except BrokenPipeError:  # `| head`
        send_nowhere(sys.stdout)
        return EXIT_INTERRUPTED
    except UserError as error:
        print(f"smartfast: error: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print("smartfast: interrupted", file=sys.stderr)
        return EXIT_INTERRUPTED


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(usage())
        return 0
    if arguments[0] == "--version":
        print(f"smartfast {__version__}")
        return 0
    if arguments[0] not in COMMANDS:
        raise UserError(f"{arguments[0]}: there is no such command, expected one of {', '.join(COMMANDS)}")
    return COMMANDS[arguments[0]](arguments[1:])


def process(arguments: Sequence[str] | None = None) -> int:
    """`main` of a process that ends with it: a signal during Python's own end leaves the exit status as it is."""
    status = main(arguments)
    ignore_signals()
    return status


if __name__ == "__main__":
    sys.exit(process())
