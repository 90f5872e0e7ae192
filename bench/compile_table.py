"""How the compile report is written down: Markdown for people, JSON with one binary a line for comparing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.ahead_of_time import Specialisation
from bench.report_table import markdown_table, provenance, versions

COLUMNS = {
    "registers": "registers",
    "shared_bytes": "shared",
    "spills": "spills",
    "widest_load": "load",
    "widest_store": "store",
    "tensor_core": "tensor core",
    "instructions_per_output": "per output",
    "instructions_per_k_step": "per k-step",
}
LEGEND = (
    "Registers per thread; shared memory in bytes; spills: instructions that touch local memory; load and store: "
    "widest access to global memory, bits per thread; per output: instructions of a thread per element that it stores, "
    "in the loop that stores; per k-step: instructions of a warp in the loop of the matrix product. a / b / c: where "
    "GPUs differ, in the order of the title. Only what differs between a kernel's specialisations is named."
)


@dataclass(frozen=True)
class Row:
    """What one specialisation became on one GPU; None = does not apply. layers: How many calls launch it."""

    specialisation: Specialisation
    capability: int
    layers: int
    first_layer: str
    registers: int
    shared_bytes: int
    spills: int
    widest_load: int | None
    widest_store: int | None
    tensor_core: str | None
    instructions: int
    instructions_per_output: float | None
    instructions_per_k_step: int | None
    violations: tuple[str, ...]


def write(rows: Sequence[Row], command: str, about: str, folder: Path) -> None:
    """compile_report.md and compile_report.json."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "compile_report.md").write_text(report(rows, command, about))
    lines = ",\n".join(json.dumps(_record(row)) for row in rows)
    head = json.dumps({"command": command, "versions": versions()})[1:-1]
    (folder / "compile_report.json").write_text(f'{{{head}, "binaries": [\n{lines}\n]}}\n')


def _record(row: Row) -> dict[str, Any]:
    s = row.specialisation
    return {
        "kernel": s.kernel,
        "capability": row.capability,
        "tensors": dict(s.pointers),
        "constants": {name: str(value) for name, value in s.constants if value is not None},
        "aligned": " ".join(s.aligned),
        "num_warps": s.num_warps,
        "num_stages": s.num_stages,
        **{name: value for name, value in asdict(row).items() if name not in ("specialisation", "capability")},
    }


def report(rows: Sequence[Row], command: str, about: str) -> str:
    """The report in Markdown."""
    violated = [row for row in rows if row.violations]
    capabilities = sorted({row.capability for row in rows})
    text = [
        "# What the Triton kernels compile to on " + ", ".join(f"sm_{capability}" for capability in capabilities),
        provenance(command),
        f"{about} {len(rows)} binaries, {len(violated)} violate a limit.",
        LEGEND,
    ]
    if violated:
        cells = [(str(row.specialisation), f"sm_{row.capability}", "; ".join(row.violations)) for row in violated]
        text += ["## Violations", markdown_table(["specialisation", "GPU", "found"], cells)]
    for kernel, group in groupby(rows, key=lambda row: row.specialisation.kernel):
        text += [f"## {kernel}", kernel_table(list(group))]
    return "\n\n".join(text) + "\n"


def kernel_table(rows: Sequence[Row]) -> str:
    """The rows of one kernel, one line per specialisation."""
    name = _short_names({row.specialisation for row in rows})
    lines = []
    for specialisation, same in groupby(rows, key=lambda row: row.specialisation):
        group = list(same)
        most = max(group, key=lambda row: row.layers)
        layers = most.first_layer + (f" + {most.layers - 1}" if most.layers > 1 else "")
        cells = [_cell([getattr(row, column) for row in group]) for column in COLUMNS]
        lines.append([name[specialisation], layers, *cells])
    return markdown_table(["specialisation", "layers", *COLUMNS.values()], lines)


def _cell(values: Sequence[object]) -> str:
    shown = ["-" if value is None else str(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def _short_names(specialisations: Iterable[Specialisation]) -> dict[Specialisation, str]:
    """dtypes with their tensors, and of the rest only what is not the same everywhere."""
    facts = {s: _facts(s) for s in specialisations}
    common = set.intersection(*(set(f) for f in facts.values()))
    return {s: ", ".join([_tensors(s), *(fact for fact in f if fact not in common)]) for s, f in facts.items()}


def _facts(s: Specialisation) -> list[str]:
    constants = [f"{name}={_number(value)}" for name, value in s.constants if value is not None]
    return [*constants, f"{s.num_warps} warps", f"{s.num_stages} stages", *(f"16 | {name}" for name in s.aligned)]


def _tensors(s: Specialisation) -> str:
    by_dtype: dict[str, list[str]] = {}
    for name, dtype in s.pointers:
        by_dtype.setdefault(dtype, []).append(name)
    return ", ".join(f"{dtype} {' '.join(names)}" for dtype, names in by_dtype.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
