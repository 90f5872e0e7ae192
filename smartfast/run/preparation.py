"""What a run's kernels go through before it starts: they are verified, what fails is switched off, others are tuned."""

from collections.abc import Callable

from accelerate import Accelerator
from tqdm import tqdm

from smartfast.config.schema import PerfConfig
from smartfast.kernels import switched_off
from smartfast.kernels.calls import Call
from smartfast.kernels.decisions import Decisions
from smartfast.run.main_process import on_main_process
from smartfast.run.training import Training
from smartfast.run.tuning import BUDGET_SEC, Mode, lines_of, tuned
from smartfast.run.verification import Say, calls_of, switch_off_all, verified


def prepare_kernels(training: Training, accelerator: Accelerator) -> None:
    """Have every process take what the main process finds right and fastest; only a GPU is asked."""
    perf = training.config.perf
    if training.device.type != "cuda" or perf.kernels in ("aten", "reference"):
        return
    if perf.verify == "auto":
        switch_off_all(on_main_process(accelerator, lambda: problems_of(training, tqdm.write)), accelerator.print)
    if is_tuned(training):
        decisions = on_main_process(accelerator, lambda: decisions_of(training, tqdm.write))
        decisions.apply()
        for line in lines_of(decisions):
            accelerator.print(line)


def is_tuned(training: Training) -> bool:
    """Whether a training takes the fastest way that was found for each op."""
    perf = training.config.perf
    return training.device.type == "cuda" and perf.tune == "auto" and perf.kernels == "auto"


def problems_of(training: Training, say: Say) -> dict[str, str]:
    """What is wrong with the ops that a training uses, by op; see `verified`."""
    calls = _traced(lambda: calls_of(training), "verified", say)
    return verified(calls, training.device, say=say)


def decisions_of(
    training: Training, say: Say, *, mode: Mode | None = None, budget_sec: float = BUDGET_SEC
) -> Decisions:
    """The fastest ways for the ops that a training uses and that are not switched off; see `tuned`.

    mode: How it computes, None = as its settings say.
    """
    calls = _traced(lambda: calls_of(training, every_route=True), "tuned", say)
    calls = [call for call in calls if call.op not in switched_off()]
    mode = mode or mode_of(training.config.perf)
    return tuned(calls, training.device, mode, say=say, budget_sec=budget_sec)


def mode_of(perf: PerfConfig) -> Mode:
    """How a run with these settings computes."""
    return Mode(compiled=bool(perf.compile), captured=bool(perf.cuda_graphs), tf32=perf.precision != "fp32")


def _traced(trace: Callable[[], list[Call]], what: str, say: Say) -> list[Call]:
    try:
        return trace()
    except Exception as error:  # of tracing, which is no reason not to train
        say(f"kernels: could not be {what}, for the run cannot be traced ({' '.join(str(error).split())[:200]})")
        return []
