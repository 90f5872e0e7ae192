"""Compile every kernel specialisation that the configurations use, and report what came out; no GPU needed.

    python -m bench.proofs.compile_report [--part stylegan2|others] [--capability 90 ...] [--quick]

Writes bench/results/compile_report.md and .json for StyleGAN2's ops, or compile_report_others.md and .json for those
of the other families and ADA, in minutes (neither with --quick), and exits with 1 if a limit is violated:
no spilled registers; no more shared memory than the GPU has; 128-bit accesses where NHWC images have a multiple of 8
channels; tensor-core instructions in matrix products of half precision and tf32.
"""

import argparse
import multiprocessing
import sys
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from bench.proofs.ahead_of_time import Binary, Specialisation, compile_ahead
from bench.proofs.compile_table import Row, kernel_table, write
from bench.proofs.specialisations import EVERY_USE, OTHER_USE, Task, Use, every_use, one_per_kernel, other_use
from smartfast.kernels import INTERPRETED

COMMAND = "python -m bench.proofs.compile_report"
CAPABILITIES = (80, 90, 100, 120)
RESULTS = Path(__file__).parents[1] / "results"
WIDE_BITS = 128
SHARED_BYTES = {80: 166912, 86: 101376, 89: 101376, 90: 232448, 100: 232448, 120: 101376}
"""Most shared memory of a program, by capability (CUDA C++ Programming Guide, technical specifications)."""
CHUNK = 8
PARTS = {
    "stylegan2": (every_use, EVERY_USE, "compile_report"),
    "others": (other_use, OTHER_USE, "compile_report_others"),
}
"""What is compiled, in words, and the name of its report."""


def compile_all(uses: dict[Task, Use], processes: int | None = None) -> list[Row]:
    """Compile in parallel processes; rows in the order of kernel, specialisation and capability."""
    context = multiprocessing.get_context("spawn")  # a fork would inherit PyTorch's threads half-way
    rows = []
    with (
        ProcessPoolExecutor(processes, mp_context=context) as pool,
        tqdm(total=len(uses), desc="compile", unit="binary", disable=None) as bar,
    ):
        jobs = {pool.submit(compile_ahead, *chunk): chunk for chunk in _chunks(uses)}
        for job in as_completed(jobs):
            specialisations, capability = jobs[job]
            for specialisation, binary in zip(specialisations, job.result(), strict=True):
                use = uses[specialisation, capability]
                found = tuple(violations(use, binary, capability))
                rows.append(Row(specialisation, capability, use, binary, found))
            bar.update(len(specialisations))
    return sorted(rows, key=lambda row: (row.specialisation.kernel, str(row.specialisation), row.capability))


def _chunks(tasks: Iterable[Task]) -> Iterator[tuple[list[Specialisation], int]]:
    """Specialisations that one process compiles and disassembles together, for one capability."""
    by_capability: dict[int, list[Specialisation]] = {}
    for specialisation, capability in tasks:
        by_capability.setdefault(capability, []).append(specialisation)
    for capability, group in by_capability.items():
        for first in range(0, len(group), CHUNK):
            yield group[first : first + CHUNK], capability


def violations(use: Use, binary: Binary, capability: int) -> list[str]:
    """What is wrong with a binary for a GPU, in words."""
    found = []
    if binary.spills:
        found.append(f"{binary.spills} instructions spill registers")
    if binary.shared_bytes > SHARED_BYTES[capability]:
        found.append(f"{binary.shared_bytes} bytes of shared memory, expected at most {SHARED_BYTES[capability]}")
    if not binary.dots:
        accesses = [("load", use.wide_load, binary.widest_load), ("store", use.wide_store, binary.widest_store)]
        for access, wide, bits in accesses:
            if wide and (bits or 0) < WIDE_BITS:
                found.append(f"widest {access} is {bits} bits, expected {WIDE_BITS}")
    if any(binary.dots) and binary.tensor_core is None:
        found.append("no tensor-core instruction")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument(
        "--capability", type=int, nargs="+", choices=SHARED_BYTES, help="of the GPUs; default 80 90 100 120, quick: 90"
    )
    parser.add_argument("--part", choices=PARTS, default="stylegan2", help="of the ops; default stylegan2")
    parser.add_argument("--quick", action="store_true", help="one specialisation per kernel; writes nothing")
    parser.add_argument("--processes", type=int, help="default: one per processor core")
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args(arguments)
    if INTERPRETED:
        parser.error("TRITON_INTERPRET=1 is set, expected it unset: the interpreter compiles nothing")
    capabilities = options.capability or ((90,) if options.quick else CAPABILITIES)
    uses_of, about, name = PARTS[options.part]
    rows = compile_all((one_per_kernel if options.quick else uses_of)(capabilities), options.processes)
    if not options.quick:
        command = COMMAND if options.part == "stylegan2" else f"{COMMAND} --part {options.part}"
        write(rows, command, about, options.output / name)
    for kernel, group in groupby(rows, key=lambda row: row.specialisation.kernel):
        print(f"\n{kernel}\n{kernel_table(list(group))}")
    violated = [row for row in rows if row.violations]
    for row in violated:
        print(f"sm_{row.capability} {row.specialisation}: {'; '.join(row.violations)}", file=sys.stderr)
    print(f"{len(rows)} binaries, {len(violated)} violate a limit", file=sys.stderr)
    return 1 if violated else 0


if __name__ == "__main__":
    sys.exit(main())
