"""How the compile report is written down: Markdown for people, JSON with one binary a line for comparing."""

import json
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

from bench.base.machine import provenance, versions
from bench.proofs.ahead_of_time import Binary, Specialisation
from bench.proofs.specialisations import Use
from bench.report.table import markdown_table

COLUMNS = {
    "registers": "registers",
    "shared_bytes": "shared",
    "spills": "spills",
    "widest_load": "load",
    "widest_store": "store",
    "tensor_core": "tensor core",
    "instructions_per_element": "per element",
    "instructions_per_k_step": "per k-step",
}
LEGEND = (
    "Registers per thread; shared memory in bytes; spills: instructions that touch local memory; load and store: "
    "widest access to global memory, bits per thread; per element: instructions of a thread per element that it stores "
    "(loads, in a reduction), in the loop that does so; per k-step: instructions of a warp in the loop of the matrix "
    "product. a / b / c: where GPUs differ, in the order of the title. Only what differs between a kernel's "
    "specialisations is named, and specialisations with equal numbers share a line."
)


@dataclass(frozen=True)
class Row:
    """What one specialisation became on one GPU, for the calls of `use`, and what is wrong with it."""

    specialisation: Specialisation
    capability: int
    use: Use
    binary: Binary
    violations: tuple[str, ...]

    @property
    def instructions_per_element(self) -> float | None:
        """See `LEGEND`; of a matrix product it says nothing."""
        found = self.binary.instructions_per_element(self.use.element_bits, is_read=self.use.is_reduction)
        return None if found is None or self.binary.dots else round(found, 1)

    @property
    def columns(self) -> list[Any]:
        """The values of COLUMNS."""
        own = {"instructions_per_element": self.instructions_per_element}
        return [own[name] if name in own else getattr(self.binary, name) for name in COLUMNS]


def write(rows: Sequence[Row], command: str, about: str, path: Path) -> None:
    """path.md and path.json."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.with_suffix(".md").write_text(report(rows, command, about))
    kernels = ",\n".join(_kernel_json(list(group)) for _, group in groupby(rows, key=_kernel))
    head = json.dumps({"command": command, "versions": versions(), "columns": [*COLUMNS, "violations"]})[1:-1]
    path.with_suffix(".json").write_text(f'{{{head}, "kernels": [\n{kernels}\n]}}\n')


def _kernel(row: Row) -> str:
    return row.specialisation.kernel


def _kernel_json(rows: Sequence[Row]) -> str:
    """One kernel: what all its specialisations have in common, then one line for each, its numbers by capability."""
    names, common = _short_names({row.specialisation for row in rows})
    lines = []
    for specialisation, same in groupby(rows, key=lambda row: row.specialisation):
        group = list(same)
        numbers = {f"sm_{row.capability}": [*row.columns, [*row.violations]] for row in group}
        lines.append(json.dumps({"specialisation": names[specialisation], "layer": group[0].use.layers[0]} | numbers))
    head = json.dumps({"kernel": _kernel(rows[0]), "common": common})[1:-1]
    return f'{{{head}, "specialisations": [\n' + ",\n".join(lines) + "\n]}"


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
    for kernel, group in groupby(rows, key=_kernel):
        text += [f"## {kernel}", kernel_table(list(group))]
    return "\n\n".join(text) + "\n"


def kernel_table(rows: Sequence[Row]) -> str:
    """The rows of one kernel; one line for all specialisations of the same tensors with the same numbers."""
    names, _ = _short_names({row.specialisation for row in rows})
    found: dict[tuple[str, ...], list[str]] = {}
    layer: dict[tuple[str, ...], str] = {}
    for specialisation, same in groupby(rows, key=lambda row: row.specialisation):
        group = list(same)
        key = (_tensors(specialisation), *map(_cell, zip(*(row.columns for row in group), strict=True)))
        found.setdefault(key, []).append(names[specialisation])
        layer.setdefault(key, group[0].use.layers[0])
    lines = []
    for key, alike in found.items():
        more = f" and {len(alike) - 1} more" if len(alike) > 1 else ""
        lines.append([alike[0] + more, layer[key], *key[1:]])
    return markdown_table(["specialisation", "first layer", *COLUMNS.values()], lines)


def _cell(values: Sequence[object]) -> str:
    shown = ["-" if value is None else str(value) for value in values]
    return shown[0] if len(set(shown)) == 1 else " / ".join(shown)


def _short_names(specialisations: Iterable[Specialisation]) -> tuple[dict[Specialisation, str], list[str]]:
    """dtypes with their tensors, and of the rest only what is not the same everywhere; and what is."""
    facts = {s: _facts(s) for s in specialisations}
    common = set.intersection(*(set(f) for f in facts.values()))
    names = {s: ", ".join([_tensors(s), *(fact for fact in f if fact not in common)]) for s, f in facts.items()}
    return names, sorted(common)


def _facts(s: Specialisation) -> list[str]:
    constants = [f"{name}={_number(value)}" for name, value in s.constants if value is not None]
    tensors = dict(s.pointers)
    misaligned = [f"{name} not aligned" for name in tensors if name not in s.aligned]
    divisible = [f"{name} % 16 = 0" for name in s.aligned if name not in tensors]
    return [*constants, f"{s.num_warps} warps", f"{s.num_stages} stages", *misaligned, *divisible]


def _tensors(s: Specialisation) -> str:
    by_dtype: dict[str, list[str]] = {}
    for name, dtype in s.pointers:
        by_dtype.setdefault(dtype, []).append(name)
    return ", ".join(f"{dtype} {' '.join(names)}" for dtype, names in by_dtype.items())


def _number(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
