"""`smartfast export`: a trained generator for others, as a folder or on the Hugging Face hub.

The folder is a checkpoint without the training state, so every command takes it: generator_ema.safetensors and .json,
checkpoint.json, and beside them config.json (settings), samples.png and README.md, the model card.
"""

import json
import re
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from smartfast.config.families import DEFAULT_FAMILY
from smartfast.config.ranges import FilePath, Truncation, in_range
from smartfast.core import best
from smartfast.core.checkpoint import CONVERSION, FOLDER, find_weights
from smartfast.core.draws import are_vectors
from smartfast.core.files import appear_complete, sha256
from smartfast.core.grids import grid_shape, save_grid
from smartfast.core.run_log import read_rows
from smartfast.errors import UserError
from smartfast.families.sampling import Look, Sampler
from smartfast.families.saved import open_sampler
from smartfast.metrics.names import values_of_row
from smartfast.report.quality import is_measure, meaning
from smartfast.tools.card import Facts, model_card
from smartfast.tools.output import check_writable, writing
from smartfast.tools.programs import FILES, Kind, check_onnx, write_program
from smartfast.tools.share import check_address, push_folder

_WEIGHTS, _OPTIONS, _INDEX = "generator_ema.safetensors", "generator_ema.json", "checkpoint.json"
_MARK = "exported"
"""Entry of checkpoint.json that tells an exported folder, which an export may replace, from any other."""
_OF_DATA = ("name", "images", "class_names", "label_vectors")
_OWN = ("run.dir", "run.init_from")  # of a machine, of no use elsewhere
_PATH = re.compile(r"(\w+:)?(/|~|[A-Za-z]:[\\/])")


@dataclass(frozen=True)
class ExportOptions:
    """A trained generator for others: weights, settings, samples and a model card, as a folder or on the hub."""

    checkpoint: FilePath
    """Run folder (its newest checkpoint is used), checkpoint folder or folder of `smartfast convert`; it may stand
    alone before the options."""
    out: FilePath | None = None
    """Folder to write; an earlier export there is replaced."""
    push: str | None = None
    """Repository owner/name on the Hugging Face hub to upload to, made where it is missing; `hf auth login` first."""
    private: bool = True
    """Make a new repository that only its owner sees; what is there already stays as it is."""
    license: str | None = None
    """License of the weights as the hub names it, such as cc-by-4.0, for the card. Unset: the card says that it is to
    be filled in."""
    programs: tuple[Kind, ...] = ()
    """Also the generator as a program without this package, checked against it: torch (torch.export, `generator.pt2`)
    and onnx (`generator.onnx`; pip install -e '.[onnx]')."""
    truncation_psi: Truncation = 1.0
    """Truncation that the programs keep: 1 = none."""


def export(options: ExportOptions) -> Path | None:
    """Write the folder, and upload it where that is asked for.

    Returns:
        The folder, None where only the hub has it.

    Raises:
        UserError: There is no generator, nowhere to write to, a program differs from the network, or the hub refuses.
    """
    options = in_range(options)
    if options.out is None and options.push is None:
        raise UserError("out: found neither --out nor --push, expected a folder, a repository or both")
    if options.push is not None:
        check_address(options.push, "push")
    if "onnx" in options.programs:
        check_onnx()
    out = None if options.out is None else Path(options.out)
    if out is not None:
        _check_replaceable(out)
    weights = find_weights(Path(options.checkpoint))
    sampler = open_sampler(weights)
    with tempfile.TemporaryDirectory() as temporary:
        folder = out or Path(temporary) / "export"
        with writing(f"out: {folder}"):
            _write(sampler, weights, options, folder)
        print(f"{sum(1 for _ in folder.iterdir())} files: {folder}" if out else f"made for {options.push}")
        if options.push is not None:
            print(f"pushed: {push_folder(folder, options.push, private=options.private)}")
    return out


def _check_replaceable(out: Path) -> None:
    """Raise UserError where a folder has anything but an earlier export in it."""
    check_writable(out, f"out: {out}")
    if not out.is_dir() or not any(out.iterdir()):
        return
    if _MARK not in _json(out / _INDEX):
        raise UserError(f"out: {out} has other files, expected a new folder or one of an earlier export")


def _write(sampler: Sampler, weights: Path, options: ExportOptions, out: Path) -> None:
    known = _Known.of(weights)
    with appear_complete(out.resolve()) as partial:
        shutil.copyfile(weights, partial / _WEIGHTS)
        shutil.copyfile(weights.with_suffix(".json"), partial / _OPTIONS)
        (partial / "config.json").write_text(json.dumps(known.settings, indent=2) + "\n")
        shape = grid_shape(sampler.image_shape[2], 0 if are_vectors(sampler.data_labels) else sampler.num_classes)
        save_grid(sampler.grid(shape), partial / "samples.png", shape.columns)
        look = Look(psi=options.truncation_psi)
        programs = {FILES[kind]: write_program(sampler, look, kind, partial) for kind in options.programs}
        files = {path.name: _fingerprint(path) for path in sorted(partial.iterdir())}
        (partial / _INDEX).write_text(json.dumps(known.record() | {"files": files}, indent=2) + "\n")
        facts = Facts(
            name=Path(options.push or out.resolve()).name,
            family=_json(weights.with_suffix(".json")).get("family", DEFAULT_FAMILY),
            shape=sampler.image_shape,
            classes=sampler.num_classes,
            takes_vectors=are_vectors(sampler.data_labels),
            kimg=known.index.get("kimg"),
            parameters=sum(parameter.numel() for parameter in sampler.module.parameters()),
            dataset=known.dataset,
            metrics=known.metrics,
            settings=known.settings,
            versions=known.index.get("versions", {}),
            programs=programs,
            psi=options.truncation_psi,
            license=options.license,
            origin=known.origin,
            address=options.push or out.name,
        )
        (partial / "README.md").write_text(model_card(facts))
    for file in FILES.values():
        if file not in files:  # of an earlier export, of other weights
            (out / file).unlink(missing_ok=True)


@dataclass(frozen=True)
class _Known:
    """What the files beside weights say of them: the checkpoint's index, its data, settings, metrics, and where they
    come from if that is another project."""

    index: Mapping[str, Any]
    dataset: Mapping[str, Any]
    settings: Mapping[str, Any]
    metrics: list[list[str]]
    origin: str

    @classmethod
    def of(cls, weights: Path) -> "_Known":
        index, conversion = _json(weights.with_name(_INDEX)), _json(weights.with_name(CONVERSION))
        dataset = {key: value for key, value in index.get("dataset", {}).items() if key in _OF_DATA}
        origin = (
            f"Converted from {conversion['project']}: {conversion.get('licence')}" if "project" in conversion else ""
        )
        if _MARK in index:
            origin = index.get("origin", origin)
            return cls(index, dataset, _json(weights.with_name("config.json")), index.get("metrics", []), origin)
        run_dir = weights.parent.parent.parent  # of checkpoints/<kimg>/ or best/<kimg>/
        is_of_run = weights.parent.parent.name in (FOLDER, best.FOLDER)
        settings = _settings(run_dir / "config.yaml") if is_of_run else {}
        metrics = _metrics(run_dir / "metrics.jsonl", index.get("kimg", 0.0), settings) if settings else []
        return cls(index, dataset, settings, metrics, origin)

    def record(self) -> dict[str, Any]:
        """For the checkpoint.json of the export."""
        kept = {key: self.index[key] for key in ("images", "kimg", "device", "versions") if key in self.index}
        origin = {"origin": self.origin} if self.origin else {}
        return {_MARK: True, **kept, **origin, "dataset": self.dataset, "metrics": self.metrics}


def _settings(path: Path) -> dict[str, Any]:
    """The settings of a config.yaml by dotted name; of paths of a machine their last part."""
    try:
        groups = yaml.safe_load(path.read_text())
        named = {f"{group}.{key}": value for group, fields in groups.items() for key, value in fields.items()}
    except (OSError, ValueError, AttributeError, yaml.YAMLError):  # weights without their run
        return {}
    return {name: _without_folders(value) for name, value in named.items() if name not in _OWN}


def _without_folders(value: Any) -> Any:
    found = _PATH.match(value) if isinstance(value, str) else None
    return value if found is None else (found[1] or "") + re.split(r"[\\/]", value.rstrip("\\/"))[-1]


def _metrics(log: Path, kimg: float, settings: Mapping[str, Any]) -> list[list[str]]:
    """Of each metric what `card.Facts` holds, from the last evaluation up to `kimg` that has it."""
    features, samples = str(settings.get("metrics.features")), str(settings.get("metrics.samples", "not known"))
    found = {}
    for row in read_rows(log):
        if row["kind"] == "metrics" and row["kimg"] <= kimg:
            for metric, value in values_of_row(row, features).items():
                of_row = str(row.get("samples", samples))
                found[metric] = [str(metric), f"{value:.4g}", metric.features, f"{row['kimg']:g}", of_row]
    return [[*cells, meaning(metric.measure)] for metric, cells in found.items() if is_measure(metric.measure)]


def _fingerprint(path: Path) -> dict[str, Any]:
    return {"bytes": path.stat().st_size, "sha256": sha256(path)}


def _json(path: Path) -> dict[str, Any]:
    """The object in a file, empty where there is none."""
    try:
        found = json.loads(path.read_text())
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}
