"""The Triton kernels are verified on this machine before a run uses them; an op that fails runs as plain PyTorch.

A child process checks one call after the other (`smartfast.kernels.verify`), so that a hang, a crash or an error that a
device keeps takes nothing with it.
"""

import sys
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from torch._subclasses.fake_tensor import FakeTensorMode
from tqdm import tqdm

from smartfast.core.caches import default_cache_dir
from smartfast.engine.phase import with_gradients
from smartfast.errors import UserError
from smartfast.kernels import switch_off, use
from smartfast.kernels.calls import Call, recorded_calls
from smartfast.kernels.routes import routes_noted
from smartfast.kernels.verify import write_calls
from smartfast.run.child import answers
from smartfast.run.training import Training
from smartfast.run.verdicts import VerdictFile, Verdicts, machine

CHILD = (sys.executable, "-m", "smartfast.kernels.verify")
LIMIT_SEC = 120.0
"""For one call with its compilation."""

_KILLED = "SIGKILL"
"""By the system, for want of memory."""

Say = Callable[[str], None]


def calls_of(training: Training, *, every_route: bool = False) -> list[Call]:
    """What a training asks of the ops: noted from its phases, which compute once on tensors without data.

    every_route: Also what it would ask, were each convolution to take the gemm route where that can compute it.
    """
    noted = routes_noted(everywhere=every_route)
    with FakeTensorMode(allow_non_fake_inputs=True), use("aten"), noted, recorded_calls() as calls:
        for spec in training.specs:
            with_gradients(spec, training.networks[spec.network].parameters.parameters)(training.rounds[0])
    return list(calls.values())


def verified(
    calls: Sequence[Call],
    device: torch.device,
    *,
    say: Say,
    folder: Path | None = None,
    limit_sec: float = LIMIT_SEC,
    child: Sequence[str] = CHILD,
    again: bool = False,
) -> dict[str, str]:
    """Check the calls that no earlier run has checked here.

    Args:
        calls: Of the ops.
        device: Where Triton is to run.
        say: Receives what a user has to know, a line at a time.
        folder: Of the verdicts; None = in the user's cache.
        limit_sec: After which a call counts as hanging.
        child: Command that checks, to which its arguments are added.
        again: Somebody asks by hand: what was found wrong is checked once more.

    Returns:
        By op what is wrong with it; ops that are right are not there.

    Raises:
        UserError: With `again`, the process that checks does not start.
    """
    kept = VerdictFile(folder or default_cache_dir() / "kernels", machine(device))
    verdicts, complaint = kept.read()
    if complaint is not None:
        say(complaint)
    if again and any(verdicts.values()):
        verdicts = {content: problem for content, problem in verdicts.items() if problem is None}
        if complaint := kept.write(verdicts):
            say(complaint)
    known = _problems(calls, verdicts)
    unknown = [call for call in calls if call.content not in verdicts and call.op not in known]
    if unknown:
        found, passing = _checked(unknown, device, limit_sec, child, say)
        lasting = verdicts | {content: problem for content, problem in found.items() if content not in passing}
        verdicts = verdicts | found
        if found and (complaint := kept.write(lasting)):
            say(complaint)
        if again and not found:
            raise UserError("doctor --verify: the process that verifies does not start, so nothing was verified")
    return _problems(calls, verdicts)


def _problems(calls: Sequence[Call], verdicts: Verdicts) -> dict[str, str]:
    problems: dict[str, str] = {}
    for call in calls:
        if (problem := verdicts.get(call.content)) is not None:
            problems.setdefault(call.op, problem)
    return problems


def switch_off_all(problems: dict[str, str], say: Say) -> None:
    """Have what failed run as aten from here on, and say so."""
    for op, problem in problems.items():
        switch_off(op, f"its Triton kernels failed on this machine: {problem}")
        say(
            f"kernels: {op} runs as plain PyTorch, for its Triton kernels failed on this machine: {problem} "
            "(`smartfast doctor --verify` asks again)"
        )


def _checked(
    calls: list[Call], device: torch.device, limit_sec: float, child: Sequence[str], say: Say
) -> tuple[Verdicts, set[str]]:
    """Verdicts of new calls, and which of them are of this moment alone; an op that has failed is not asked again.

    Incomplete where no child process can start.
    """
    found: Verdicts = {}
    passing: set[str] = set()
    say(f"kernels: verifying {len(calls)} calls of {len({call.op for call in calls})} ops on this machine, once")
    with tempfile.TemporaryDirectory() as folder, tqdm(total=len(calls), desc="kernels", disable=None) as progress:
        file = Path(folder) / "calls"
        while calls:
            write_calls(calls, file)
            before = len(found)
            for index, answer in answers([*child, str(file), str(device)], limit_sec):
                problem = answer if isinstance(answer, str) else answer["problem"]
                found[calls[index].content] = problem
                if _KILLED in problem if isinstance(answer, str) else answer["is_passing"]:
                    passing.add(calls[index].content)
                progress.update()
                if problem is not None:  # an error of the device itself stays with a process
                    break
            if len(found) == before:
                say("kernels: could not be verified, for the process that does so does not start; they are used")
                break
            failed = {call.op for call in calls if found.get(call.content) is not None}
            calls = [call for call in calls if call.content not in found and call.op not in failed]
    return found, passing
