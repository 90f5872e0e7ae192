"""Class labels: where files keep them, and the checks that every source's labels pass."""

import json
import operator
import warnings
from collections import Counter

import torch
from torch import Tensor

from smartfast.data.sources.base import Source
from smartfast.errors import UserError

LABEL_FILE = "dataset.json"


def file_labels(names: list[str], label_file: bytes | None, where: str) -> list[object] | None:
    """Labels of image files, from dataset.json if there is one, else from the first folder of each name.

    Args:
        names: Names of the images relative to the root of the data set, with forward slashes.
        label_file: Content of dataset.json: {"labels": [["path/of/image.png", 3], ...]} or {"labels": null}.
        where: Folder or archive, for messages.

    Returns:
        One label per name (numbers of the sorted folders, when they come from folders), or None.

    Raises:
        UserError: dataset.json is malformed or its names are not those of the images; or only some
            images lie in folders.
    """
    if label_file is not None:
        return _json_labels(names, label_file, f"{where}/{LABEL_FILE}")
    loose = [name for name in names if "/" not in name]
    if len(loose) == len(names):
        return None
    if loose:
        raise UserError(f"{where}/{loose[0]}: outside of the class folders, expected every image in a folder per class")
    folders = [name.split("/", 1)[0] for name in names]
    number = {folder: index for index, folder in enumerate(sorted(set(folders)))}
    return [number[folder] for folder in folders]


def class_numbers(source: Source) -> list[int] | None:
    """The labels of a source as class numbers, or None if it has none.

    Raises:
        UserError: There are too few or too many labels, or one is not a whole number from 0 up.
    """
    found = source.labels()
    if found is None:
        return None
    if len(found) != len(source):
        raise UserError(f"{source.name}: {len(found)} labels for {len(source)} images, expected one per image")
    return [_whole_number(label, source, index) for index, label in enumerate(found)]


def check_labels(source: Source) -> tuple[Tensor, int]:
    """The labels of a source as int64 [len] and the number of classes (highest label + 1, at least 2).

    Raises:
        UserError: There are no labels, or only one class, or `class_numbers` refuses them.
    """
    labels = class_numbers(source)
    if labels is None:
        raise UserError(f"data.labels: true, but {source.name} has no labels, expected sub-folders or {LABEL_FILE}")
    counts = Counter(labels)
    if len(counts) < 2:
        raise UserError(f"data.labels: true, but all images of {source.name} are of one class, expected at least 2")
    classes = max(counts) + 1
    empty = [label for label in range(classes) if label not in counts]
    if empty:
        warnings.warn(f"{source.name}: {len(empty)} of {classes} classes have no image, e.g. {empty[0]}", stacklevel=2)
    return torch.tensor(labels), classes


def _json_labels(names: list[str], label_file: bytes, where: str) -> list[object] | None:
    try:
        pairs = json.loads(label_file)["labels"]
        table = None if pairs is None else {str(name): label for name, label in pairs}
    except (ValueError, KeyError, TypeError) as error:
        expected = '{"labels": [["image.png", 3], ...]}'
        raise UserError(f"{where}: not a label file ({type(error).__name__}), expected {expected}") from error
    if table is None:
        return None
    if len(table) != len(pairs):
        raise UserError(f"{where}: {len(pairs) - len(table)} images are listed twice, expected one label per image")
    unlabelled = next((name for name in names if name not in table), None)
    if unlabelled is not None:
        raise UserError(f"{where}: {len(pairs)} labels for {len(names)} images, none for {unlabelled}, expected all")
    if len(table) > len(names):
        unknown = next(iter(table.keys() - set(names)))
        raise UserError(f"{where}: {len(pairs)} labels for {len(names)} images, {unknown} is not there, expected all")
    return [table[name] for name in names]


def _whole_number(label: object, source: Source, index: int) -> int:
    try:
        number = operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(label, bool) or not 0 <= number < len(source):
        limit = f"a whole number from 0 to less than the number of images ({len(source)})"
        raise UserError(f"{source.item_name(index)}: label {label!r}, expected {limit}")
    return number
