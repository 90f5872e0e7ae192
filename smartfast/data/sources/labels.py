"""Class labels: where files keep them, and the checks that every source's labels pass."""

import json
import operator
import posixpath
import re
import warnings
from collections.abc import Callable, Sequence
from itertools import accumulate
from typing import NamedTuple

from smartfast.core.text import printable
from smartfast.data.sources.base import Labels, Source
from smartfast.errors import UserError

LABEL_FILE = "dataset.json"
LARGEST_LABEL = 1e30
"""Largest magnitude of a number of a label vector."""


def file_labels(names: Sequence[str], read: Callable[[str], bytes | None], where: str) -> Labels | None:
    """Labels of image files, from dataset.json if there is one, else from the first folders that differ.

    Folders that hold everything are passed over: what `zip -r` or a desktop puts around a data set is no class.

    Args:
        names: Names of the images relative to the root of the data set, with forward slashes.
        read: From such a name to the content of the file, None if there is none.
            dataset.json is {"labels": [["path/of/image.png", 3], ...], "class_names": ["cat", ...]}, the names being
            relative to its own folder; without the second, or with {"labels": null}. In place of a class there may be
            a list of numbers, as many for every image.
        where: Folder or archive, for messages.

    Returns:
        One label per name, None where there are none. Those of folders are their places in the order in which people
        count: 2 before 10.

    Raises:
        UserError: dataset.json is malformed or its names are not those of the images; or only some
            images lie in folders.
    """
    common = posixpath.commonpath({posixpath.dirname(name) for name in names})
    outer = [f"{folder}/" for folder in accumulate(filter(None, common.split("/")), posixpath.join)]
    for prefix in ("", *outer):
        content = read(prefix + LABEL_FILE)
        if content is not None:
            return _json_labels(_below(prefix, names), content, printable(f"{where}/{prefix}{LABEL_FILE}"))
    return _folder_labels(names, outer[-1] if outer else "", where)


def _below(prefix: str, names: Sequence[str]) -> list[str]:
    return [name.removeprefix(prefix) for name in names]


def _folder_labels(names: Sequence[str], outer: str, where: str) -> Labels | None:
    below = _below(outer, names)
    loose = [name for name in below if "/" not in name]
    if loose and outer:  # the folder that holds everything is the one class
        return Labels([0] * len(names), [printable(posixpath.basename(outer[:-1]))])
    if len(loose) == len(names):
        return None
    if loose:
        problem = f"{where}/{printable(loose[0])}: outside of the class folders"
        raise UserError(f"{problem}, expected every image in a folder per class")
    folders = [name.split("/", 1)[0] for name in below]
    in_order = sorted(set(folders), key=_as_people_count)
    number = {folder: index for index, folder in enumerate(in_order)}
    return Labels([number[folder] for folder in folders], [printable(folder) for folder in in_order])


def _as_people_count(name: str) -> tuple[list[str | int], str]:
    """Texts and numbers by turns, so that 2 comes before 10; the name itself decides between 1 and 01."""
    parts = re.split(r"([0-9]+)", name)
    return [int(part) if place % 2 else part for place, part in enumerate(parts)], name


class Classes(NamedTuple):
    """Checked labels."""

    numbers: list[int]
    """The class of every image; with `vectors`, the same for the same vector."""
    num_classes: int
    """Highest number + 1: numbers are kept as they are, also where some between them have no image. With `vectors`,
    how many numbers each has."""
    names: tuple[str, ...] | None
    """Of the classes, or of the numbers of a vector; None where nobody says."""
    vectors: list[tuple[float, ...]] | None = None
    """The label vector of every image, None where labels are classes."""

    @property
    def empty(self) -> list[int]:
        """Classes without an image."""
        return [] if self.vectors else sorted(set(range(self.num_classes)) - set(self.numbers))

    def of(self, chosen: Sequence[int]) -> "Classes":
        """The labels of the images at these places."""
        numbers = [self.numbers[index] for index in chosen]
        return self._replace(numbers=numbers, vectors=self.vectors and [self.vectors[index] for index in chosen])


def read_classes(source: Source) -> Classes | None:
    """The labels of a source, or None if it has none.

    Raises:
        UserError: There are too few or too many labels, or one is not a whole number from 0 up, or vectors are not
            all of the same length or have a number that is not finite.
    """
    found = source.labels()
    if found is None:
        return None
    if len(found.values) != len(source):
        raise UserError(f"{source.name}: {len(found.values)} labels for {len(source)} images, expected one per image")
    vectors = None
    if isinstance(first := found.values[0], list | tuple):
        count = len(first)
        vectors = [_vector(label, count, source, index) for index, label in enumerate(found.values)]
        place = {vector: number for number, vector in enumerate(dict.fromkeys(vectors))}
        numbers = [place[vector] for vector in vectors]
    else:
        numbers = [_whole_number(label, source, index) for index, label in enumerate(found.values)]
        count = max(numbers) + 1
    names = None if found.class_names is None else tuple(found.class_names[:count])
    return Classes(numbers, count, names, vectors)


def training_classes(source: Source) -> Classes:
    """The labels of a source for training with labels.

    Raises:
        UserError: There are no labels, or only one class, or `read_classes` refuses them.
    """
    classes = read_classes(source)
    if classes is None:
        raise UserError(f"data.labels: true, but {source.name} has no labels, expected sub-folders or {LABEL_FILE}")
    if len(set(classes.numbers)) < 2:
        raise UserError(f"data.labels: true, but all images of {source.name} are of one class, expected at least 2")
    if empty := classes.empty:
        what = f"{len(empty)} of {classes.num_classes} classes have no image"
        warnings.warn(f"{source.name}: {what}, e.g. {empty[0]}", stacklevel=2)
    return classes


def _json_labels(names: Sequence[str], content: bytes, where: str) -> Labels | None:
    try:
        described = json.loads(content)
        pairs = described["labels"]
        table = None if pairs is None else {posixpath.normpath(str(name)): label for name, label in pairs}
    except (ValueError, KeyError, TypeError, RecursionError) as error:
        expected = '{"labels": [["image.png", 3], ...]}'
        raise UserError(f"{where}: not a label file ({type(error).__name__}), expected {expected}") from error
    if table is None:
        return None
    if len(table) != len(pairs):
        raise UserError(f"{where}: {len(pairs) - len(table)} images are listed twice, expected one label per image")
    unlabelled = next((name for name in names if name not in table), None)
    if unlabelled is not None:
        missing = f"{len(pairs)} labels for {len(names)} images, none for {printable(unlabelled)}"
        raise UserError(f"{where}: {missing}, expected all")
    if len(table) > len(names):
        unknown = printable(min(table.keys() - set(names)))
        raise UserError(f"{where}: {len(pairs)} labels for {len(names)} images, {unknown} is not there, expected all")
    labels = [table[name] for name in names]
    return Labels(labels, _json_class_names(described.get("class_names"), labels, where))


def _json_class_names(found: object, labels: Sequence[object], where: str) -> list[str] | None:
    if found is None:
        return None
    counts = (len(label) if isinstance(label, list) else label + 1 for label in labels if isinstance(label, int | list))
    least = max(counts, default=0)
    if not (isinstance(found, list) and all(isinstance(name, str) for name in found)):
        raise UserError(f"{where}: class_names {str(found)[:100]!r}, expected a list with one name of text per class")
    if len(set(found)) != len(found) or len(found) < least:
        problem = f"class_names has {len(set(found))} different names"
        raise UserError(f"{where}: {problem}, expected at least one name of its own per class, {least}")
    return [printable(name) for name in found]


def _whole_number(label: object, source: Source, index: int) -> int:
    try:
        number = operator.index(label)  # type: ignore[arg-type]
    except TypeError:
        number = -1
    if isinstance(label, bool) or not 0 <= number < len(source):
        limit = f"a whole number from 0 to less than the number of images ({len(source)})"
        raise UserError(f"{source.item_name(index)}: label {label!r}, expected {limit}")
    return number


def _vector(label: object, length: int, source: Source, index: int) -> tuple[float, ...]:
    numbers = list(label) if isinstance(label, list | tuple) else []
    is_finite = all(type(number) in (int, float) and abs(number) <= LARGEST_LABEL for number in numbers)
    if not numbers or len(numbers) != length or not is_finite:
        expected = f"a list of {length} finite numbers as the first image's" if length else "one with numbers"
        raise UserError(f"{source.item_name(index)}: label {str(label)[:100]}, expected {expected}")
    return tuple(map(float, numbers))
