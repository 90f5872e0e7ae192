"""`smartfast doctor --verify --tune`: kernels are checked, and ways to compute are timed, on the machine at hand."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import torch

from smartfast.config.parse import parse_config
from smartfast.errors import UserError
from smartfast.kernels import INTERPRETED
from smartfast.kernels.calls import Call
from smartfast.kernels.odd_calls import odd_calls
from smartfast.run.preparation import mode_of
from smartfast.run.trial_training import trial_training
from smartfast.run.tuning import Mode, export_times, import_times, lines_of, tuned
from smartfast.run.verification import calls_of, verified
from smartfast.tools.doctor import DoctorOptions, why_no_gpu

Say = Callable[[str], None]


def examine_kernels(options: DoctorOptions, say: Say) -> bool:
    """Do what the options ask for, in the order verify, merge, tune, export.

    Returns:
        Whether all kernels that were verified are right.

    Raises:
        UserError: There is no GPU, and Triton's interpreter was not asked for; a file is not what it should be.
    """
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    if (options.verify or options.tune) and device.type == "cpu" and not INTERPRETED:
        asked, done = ("verify", "verified") if options.verify else ("tune", "timed")
        raise UserError(
            f"doctor --{asked}: found no GPU ({why_no_gpu()}), expected one, or TRITON_INTERPRET=1 in the environment: "
            f"then the kernels are {done} in Triton's interpreter, in some minutes"
        )
    is_right = verify_kernels(device, say) if options.verify else True
    if options.merge is not None:
        say(import_times(Path(options.merge), device))
    if options.tune:
        tune_kernels(options, device, say)
    if options.export is not None:
        say(export_times(Path(options.export), device))
    return is_right


def verify_kernels(device: torch.device, say: Say) -> bool:
    """Check every op's Triton kernels on small calls of odd sizes, and say what each op came to.

    Returns:
        Whether all are right.
    """
    calls = odd_calls()
    problems = verified(calls, device, say=say, again=True)
    for op, count in sorted(Counter(call.op for call in calls).items()):
        say(f"{op}: {problems.get(op, f'right in {count} calls')}")
    return not problems


def tune_kernels(options: DoctorOptions, device: torch.device, say: Say) -> None:
    """Verify and time what a training would ask of the ops, and say what is fastest."""
    calls, mode = _calls(options.shapes, device, say)
    problems = verified([call for call in calls if call.op != "conv_gemm"], device, say=say)
    for op, problem in problems.items():
        say(f"{op}: not tuned, for it is wrong: {problem}")
    decisions = tuned(
        [call for call in calls if call.op not in problems], device, mode, say=say, budget_sec=options.budget_sec
    )
    for line in lines_of(decisions) or ["kernels: every default is kept"]:
        say(line)


def _calls(name: str, device: torch.device, say: Say) -> tuple[list[Call], Mode]:
    """What a preset's training asks of the ops, by every route, and how it computes."""
    training = trial_training(parse_config(["--config", name]), device, say)
    return calls_of(training, every_route=True), mode_of(training.config.perf)
