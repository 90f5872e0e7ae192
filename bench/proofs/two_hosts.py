"""A run on two hosts, one of which is killed, or hangs: what is said, how soon, and what the run becomes.

    sudo python -m bench.proofs.two_hosts [--hang_sec 30]

The hosts are two network namespaces of this machine with a cable between them, names of their own and a shared disk;
Linux, `ip` and root are needed. On each a supervisor starts `torchrun` again whenever it ends, as Slurm or Kubernetes
would. Three runs of tiny digits: undisturbed; with every process of the second host killed (SIGKILL); and with all of
them stopped (SIGSTOP) until the first host has given them up. A few minutes on two cores. Writes
bench/results/two_hosts.md and .json.
"""

import argparse
import os
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path

import torch

from bench.base.machine import machine, provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.report.table import markdown_table
from smartfast.core.checkpoint import load_newest

COMMAND = "python -m bench.proofs.two_hosts"
SPACES, ADDRESSES, HOSTS = ("smartfast0", "smartfast1"), ("10.77.0.1", "10.77.0.2"), ("host0", "host1")
SETTINGS = """--config=digits --gan.channel_base=64 --gan.channel_max=8 --gan.mbstd_group=8 --optim.batch=16
--smart.frequency=0 --metrics.every_ticks=0 --run.kimg=0.96 --run.tick_kimg=0.16 --run.snapshot_ticks=1
--run.tracker=none""".split()
DISTURBED_AT = "000000.320"
PATIENCE_SEC = 1800.0
POLL_SEC = 0.2
ABOUT = """\
Named, given up: seconds from the signal to the first host's lines that the process is silent, and that it ends for
that. Going on: until the next tick. Equal: every tensor of the last checkpoint is that of the undisturbed run, bit for
bit. {machine}. run.hang_sec {hang_sec:g}; a process is named after a fifth of it. A killed host's connections break,
so that it is missed at once."""


@dataclass(frozen=True)
class Outcome:
    """What became of a run whose second host was sent a signal; None where there was nothing of the kind."""

    sent: str
    named_sec: float | None
    given_up_sec: float | None
    going_on_sec: float
    is_equal: bool


@contextmanager
def two_hosts() -> Iterator[None]:
    """Two namespaces that see each other and nothing else."""
    names = Path("/etc/netns")
    try:
        for space in SPACES:
            ip("netns", "add", space)
            (names / space).mkdir(parents=True, exist_ok=True)
            lines = [f"{address} {host}" for address, host in zip(ADDRESSES, HOSTS, strict=True)]
            (names / space / "hosts").write_text("\n".join(["127.0.0.1 localhost", *lines, ""]))
        ip("link", "add", "cable", "netns", SPACES[0], "type", "veth", "peer", "name", "cable", "netns", SPACES[1])
        for space, address in zip(SPACES, ADDRESSES, strict=True):
            ip("-n", space, "addr", "add", f"{address}/24", "dev", "cable")
            for link in ("cable", "lo"):
                ip("-n", space, "link", "set", link, "up")
        yield
    finally:
        for space in SPACES:
            for pid in pids_of(space):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
            subprocess.run(["ip", "netns", "del", space], check=False)
            (names / space / "hosts").unlink(missing_ok=True)


def ip(*arguments: str) -> str:
    """What `ip` prints."""
    return subprocess.run(["ip", *arguments], check=True, capture_output=True, text=True).stdout


def pids_of(space: str) -> list[int]:
    """The processes of a host."""
    return [int(pid) for pid in ip("netns", "pids", space).split()]


class Job:
    """A run on both hosts until it is complete."""

    def __init__(self, folder: Path, hang_sec: float) -> None:
        self.run_dir, self.hang_sec = folder / "run", hang_sec
        self.outputs = [folder / f"{host}.txt" for host in HOSTS]
        folder.mkdir()
        self._supervisors = [threading.Thread(target=self._supervise, args=(host,)) for host in range(2)]
        for supervisor in self._supervisors:
            supervisor.start()

    def _supervise(self, host: int) -> None:
        elastic = ["-m", "torch.distributed.run", "--nnodes=2", "--nproc_per_node=1", "--max_restarts=3"]
        meeting = ["--rdzv_backend=c10d", f"--rdzv_endpoint={ADDRESSES[0]}:29400", "--rdzv_id=proof"]
        script = str(Path(__file__).parents[2] / "smartfast" / "train.py")
        options = [*SETTINGS, f"--run.dir={self.run_dir}", f"--run.hang_sec={self.hang_sec}"]
        torchrun = [sys.executable, *elastic, *meeting, f"--local_addr={ADDRESSES[host]}", script, *options]
        command = ["sh", "-c", f'hostname {HOSTS[host]}; exec "$@"', "sh", *torchrun]
        environment = os.environ | {"GLOO_SOCKET_IFNAME": "cable", "OMP_NUM_THREADS": "1"}
        with self.outputs[host].open("ab") as output:
            while subprocess.call(
                ["ip", "netns", "exec", SPACES[host], "unshare", "--uts", *command],
                stdout=output,
                stderr=output,
                env=environment,
            ):
                time.sleep(1)

    def has_said(self, line: str, *, beyond: int = 0) -> bool:
        """Whether the first host has, after so many characters."""
        return line in self.outputs[0].read_text(errors="replace")[beyond:]

    def wait(self) -> dict[str, torch.Tensor]:
        """The state at the end."""
        for supervisor in self._supervisors:
            supervisor.join(PATIENCE_SEC)
        checkpoint = load_newest(self.run_dir)
        assert checkpoint is not None, f"{self.run_dir} has no checkpoint"
        return checkpoint.state


def seconds_until(condition: Callable[[], bool]) -> float:
    """Raises TimeoutError after PATIENCE_SEC."""
    start_sec = time.monotonic()
    while not condition():
        if time.monotonic() - start_sec > PATIENCE_SEC:
            raise TimeoutError("two_hosts: a run does not go on, expected it within half an hour")
        time.sleep(POLL_SEC)
    return time.monotonic() - start_sec


def disturb(job: Job, number: signal.Signals, expected: dict[str, torch.Tensor]) -> Outcome:
    """Send a signal to every process of the second host once there is a checkpoint."""
    seconds_until((job.run_dir / "checkpoints" / DISTURBED_AT).is_dir)
    pids, start_sec = pids_of(SPACES[1]), time.monotonic()
    for pid in pids:
        os.kill(pid, number)
    named_sec = given_up_sec = None
    if number == signal.SIGSTOP:
        named_sec = seconds_until(lambda: job.has_said("process 1 on host1 has given no sign of life"))
        given_up_sec = named_sec + seconds_until(lambda: job.has_said("process 1 on host1 hangs"))
        for pid in pids:
            os.kill(pid, signal.SIGKILL)
    said = len(job.outputs[0].read_text(errors="replace"))
    seconds_until(lambda: job.has_said("resumed at", beyond=said))
    seconds_until(lambda: job.has_said("tick ", beyond=said))
    going_on_sec = time.monotonic() - start_sec
    state = job.wait()
    is_equal = state.keys() == expected.keys() and all(torch.equal(state[name], expected[name]) for name in expected)
    return Outcome(number.name, named_sec, given_up_sec, going_on_sec, is_equal)


def _rounded(sec: float | None) -> int | None:
    return None if sec is None else round(sec)


def main() -> int:
    """Run the three and write the table; 1 where one did not end equal."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hang_sec", type=float, default=30.0)
    hang_sec = parser.parse_args().hang_sec
    with tempfile.TemporaryDirectory() as folder, two_hosts():
        expected = Job(Path(folder) / "undisturbed", hang_sec).wait()
        outcomes = [
            disturb(Job(Path(folder) / number.name, hang_sec), number, expected)
            for number in (signal.SIGKILL, signal.SIGSTOP)
        ]
    rows = [[o.sent, *map(_rounded, (o.named_sec, o.given_up_sec, o.going_on_sec)), o.is_equal] for o in outcomes]
    table = markdown_table(["sent to host 1", "named, s", "given up, s", "going on, s", "equal"], rows)
    about = ABOUT.format(machine=machine(torch.device("cpu")), hang_sec=hang_sec)
    text = "\n\n".join(["# Two hosts, one of which fails", provenance(COMMAND), about, table])
    head = {"command": COMMAND, "versions": versions(), "hang_sec": hang_sec}
    write_tables(RESULTS / "two_hosts", f"{text}\n", head, outcomes=map(asdict, outcomes))
    return 0 if all(outcome.is_equal for outcome in outcomes) else 1


if __name__ == "__main__":
    sys.exit(main())
