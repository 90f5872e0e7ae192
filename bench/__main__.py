"""Measure what training costs, and report it from the files alone.

    python -m bench SUITE [--config digits ...] [--device cuda] [--quick] [--budget_sec 480] [--optim.batch=32 ...]
    python -m bench all            every suite, each in a process of its own, then the report
    python -m bench report         bench/RESULTS.md, its plots and the table in docs/speed.md, from bench/results
    python -m bench record         time to quality on the digits, a row of RECORDS.md (--help)
    python -m bench --compare A B  two files of results side by side

Any option of `smartfast train` works for the configurations. Results go to bench/results, those of --quick to
runs/bench.
"""

import argparse
import shlex
import subprocess
import sys
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path

import torch

from smartfast.engine.compiling import compile_cache_dir

compile_cache_dir()  # before the compiler chooses a folder of its own

from bench.base.jobs import job_config  # noqa: E402
from bench.base.limits import measure_limits  # noqa: E402
from bench.base.options import BUDGET_SEC, Options, torch_device  # noqa: E402
from bench.base.results import RESULTS, Run, load  # noqa: E402
from bench.count.sizes import suite_config  # noqa: E402
from smartfast.cli import EXIT_INTERRUPTED, EXIT_USER_ERROR  # noqa: E402
from smartfast.core.cpu import set_up_cpu  # noqa: E402
from smartfast.errors import UserError  # noqa: E402

COMMAND = "python -m bench"
ROOT = Path(__file__).parents[1]
TRIALS = ROOT / "runs" / "bench"

SUITES = {
    "regularizer": "the score term, from the paper's recipe to ours, one change at a time",
    "train": "whole training, with the score term and without",
    "phases": "each phase of the real trainer, eager, compiled and captured",
    "ops": "every op at every layer shape, against PyTorch's and the library's",
    "startup": "from the start of a process until every phase has run, with compiled code at hand and without",
    "roofline": "predictions: the least times of the phases on GPUs that are not at hand",
}
_WITHOUT_LIMITS = {"startup", "roofline"}


def run_suite(suite: str, options: Options, command: str, folder: Path) -> Path:
    """Measure the machine's limits and then a suite.

    Returns:
        The file of results.

    Raises:
        UserError: As the suite; a configuration that it does not have is found before anything is measured.
    """
    check_configs(suite, options)
    if options.device.type == "cpu":
        set_up_cpu(job_config("digits", options.overrides).perf.cpu_threads, num_processes=1)
    limits = None if suite in _WITHOUT_LIMITS else measure_limits(options.device, quick=options.quick)
    run = Run(suite, command, device=options.device, limits=limits, quick=options.quick, folder=folder)
    with run:
        import_module(f"bench.suites.{suite}").run(options, run)
    return run.path


def check_configs(suite: str, options: Options) -> None:
    """Raises UserError for a configuration, or a setting over it, that the suite does not have."""
    for name in options.configs or ("digits",):
        if suite == "ops":
            suite_config(name, options.device.type, options.overrides)
        else:
            job_config(name, options.overrides)


def run_all(arguments: Sequence[str]) -> int:
    """Every suite with the same arguments; one that fails does not stop the others. Returns the exit code.

    Raises:
        KeyboardInterrupt: A suite was interrupted.
    """
    codes = {}
    for suite in SUITES:
        print(f"== {suite}", flush=True)
        codes[suite] = subprocess.run([sys.executable, "-m", "bench", suite, *arguments], check=False).returncode
        if codes[suite] == EXIT_INTERRUPTED:
            raise KeyboardInterrupt
    failed = [suite for suite, code in codes.items() if code]
    if failed:
        print(f"{COMMAND}: failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    arguments = sys.argv[1:] if arguments is None else arguments
    try:
        if arguments[:1] == ["record"]:
            from bench.record import main as record

            return record(arguments[1:])
        options, overrides = _parser().parse_known_args(arguments)
        return _dispatch(options, overrides, arguments)
    except UserError as error:
        print(f"{COMMAND}: {error}", file=sys.stderr)
        return EXIT_USER_ERROR
    except KeyboardInterrupt:
        print(f"{COMMAND}: interrupted; the files of results keep what was measured", file=sys.stderr)
        return EXIT_INTERRUPTED


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=COMMAND, description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    suites = "; ".join(f"{name}: {about}" for name, about in SUITES.items())
    parser.add_argument("suite", nargs="?", choices=[*SUITES, "all", "report"], metavar="SUITE", help=suites)
    parser.add_argument("--config", nargs="+", default=(), help="presets or YAML files; default: the suite's")
    default_device = "cuda" if torch.cuda.is_available() else "cpu"
    parser.add_argument("--device", type=torch_device, default=default_device, help="where to measure: cpu, cuda")
    parser.add_argument("--quick", action="store_true", help="a trial: small sizes, few repeats, outside the report")
    parser.add_argument("--budget_sec", type=float, default=BUDGET_SEC, help="start nothing more after this time")
    parser.add_argument(
        "--cold",
        action=argparse.BooleanOptionalAction,
        help="ops: empty the caches before every call (default: on CUDA)",
    )
    parser.add_argument("--output", type=Path, help="folder of the results, or of the report")
    parser.add_argument("--compare", nargs=2, type=Path, metavar=("A", "B"), help="two files of results")
    return parser


def _dispatch(options: argparse.Namespace, overrides: Sequence[str], arguments: Sequence[str]) -> int:
    if options.compare:
        from bench.report.compare import compare

        print(compare(*(load(path) for path in options.compare)))
        return 0
    if options.suite is None:
        raise UserError(f"expected one of {', '.join([*SUITES, 'all', 'report'])}, or --compare; see --help")
    if options.suite == "report":
        return _report(options.output)
    asked = Options(
        device=options.device,
        configs=tuple(options.config),
        overrides=tuple(overrides),
        quick=options.quick,
        budget_sec=options.budget_sec,
        cold=options.cold,
    )
    if options.suite == "all":
        check_configs("train", asked)
        code = run_all([argument for argument in arguments if argument != "all"])
        return code if options.quick or options.output else max(code, _report(None))
    folder = options.output or (TRIALS if options.quick else RESULTS)
    path = run_suite(options.suite, asked, shlex.join(["python", "-m", "bench", *arguments]), folder)
    print(f"results: {path}")
    return 0


def _report(output: Path | None) -> int:
    from bench.base.results import load_all
    from bench.report.report import write_report

    page = None if output else ROOT / "docs" / "speed.md"
    for path in write_report(load_all(), output or Path(__file__).parent, page):
        print(path)
    return 0


if __name__ == "__main__":
    sys.exit(main())
