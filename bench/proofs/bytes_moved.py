"""Count the bytes that each op reads and writes, per layer of the StyleGAN2 configurations; no GPU needed.

    python -m bench.proofs.bytes_moved

Every kernel launch, and every operation of PyTorch that is no view and no allocation, reads each of its inputs once
and writes each of its outputs once. That is exact for what the kernels are asked to move and a lower bound for
PyTorch's own operations, some of which make several passes. Writes bench/results/bytes_moved.md and .json.
"""

import argparse
import sys
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from itertools import groupby
from pathlib import Path

from tqdm import tqdm

from bench.base.machine import provenance, versions
from bench.base.results import RESULTS, write_tables
from bench.count.layers import Case, every_target
from bench.count.other_cases import OTHERS, other_cases
from bench.count.sizes import SIZES, suite_config, usual_cases
from bench.count.tracing import Trace, trace
from bench.report.table import markdown_table

COMMAND = "python -m bench.proofs.bytes_moved"
MIB = 2**20


@dataclass(frozen=True)
class Row:
    """Bytes of one call; forward_backward includes the forward pass and the gradients for all inputs."""

    op: str
    config: str
    layer: str
    shape: tuple[int, ...]
    dtype: str
    forward: int
    forward_reference: int
    forward_backward: int
    forward_backward_reference: int
    launches: int
    passes_reference: int


def count(config: str, case: Case) -> Row:
    """Bytes of the Triton implementation and of the reference run eagerly."""
    triton, reference = (
        trace(partial(case.run, name), case.leaves, order=1, follows_all=True) for name in ("triton", "aten")
    )
    return Row(
        op=case.op,
        config=config,
        layer=case.layer,
        shape=tuple(case.x.shape),
        dtype=str(case.x.dtype).removeprefix("torch."),
        forward=_total(triton, triton.forward),
        forward_reference=_total(reference, reference.forward),
        forward_backward=_total(triton),
        forward_backward_reference=_total(reference),
        launches=len(triton.traffic),
        passes_reference=len(reference.traffic),
    )


def _total(traced: Trace, first: int | None = None) -> int:
    return sum(entry.total for entry in traced.traffic[:first])


def every_case() -> Iterator[tuple[str, Case]]:
    """Each call of the fp16 presets, half precision as NHWC at the highest resolutions; distances to every target.

    And those of the ops that none of these trainings calls.
    """
    for name in SIZES:
        for case in usual_cases(name, "cuda"):
            yield from ((name, one) for one in (every_target(case) if case.op == "denoise_distance" else [case]))
    yield from other_cases()


def summary(rows: Sequence[Row]) -> str:
    """The report in Markdown."""
    batches = ", ".join(f"{suite_config(name, 'cuda').optim.batch} of {name}" for name in SIZES)
    text = [
        "# Bytes that the ops move",
        provenance(COMMAND),
        "MiB read and written by one call, ours / the eager reference, and how many times fewer; every tensor of every "
        "kernel or PyTorch operation once, views free, a lower bound for the reference. Layers as the fp16 presets run "
        f"them, batch {batches}; {OTHERS} Passes: launches and operations of forward and backward.",
    ]
    ordered = sorted(rows, key=lambda row: row.op)
    for op, group in groupby(ordered, key=lambda row: row.op):
        header = ["config", "layer", "shape", "dtype", "forward", "fewer", "forward + backward", "fewer", "passes"]
        text += [f"## {op}", markdown_table(header, [_cells(row) for row in group])]
    return "\n\n".join(text) + "\n"


def _cells(row: Row) -> list[object]:
    return [
        row.config,
        row.layer,
        "x".join(map(str, row.shape)),
        row.dtype,
        *_compare(row.forward, row.forward_reference),
        *_compare(row.forward_backward, row.forward_backward_reference),
        f"{row.launches} / {row.passes_reference}",
    ]


def _compare(ours: int, reference: int) -> tuple[str, str]:
    return f"{ours / MIB:.1f} / {reference / MIB:.1f}", f"{reference / max(ours, 1):.1f}x"


def main(arguments: Sequence[str] | None = None) -> int:
    """Returns the exit code."""
    parser = argparse.ArgumentParser(prog=COMMAND, description=__doc__.split("\n\n")[0])
    parser.add_argument("--output", type=Path, default=RESULTS, help="folder of the report")
    options = parser.parse_args(arguments)
    rows = [count(*case) for case in tqdm(list(every_case()), desc="count", unit="call", disable=None)]
    text = summary(rows)
    head = {"command": COMMAND, "versions": versions()}
    write_tables(options.output / "bytes_moved", text, head, calls=map(asdict, rows))
    print(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
