"""Random mutations of valid data sets: each opens or is refused with one line, and what opens can be decoded."""

import io
import json
import warnings
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory

import numpy as np
import pytest
from PIL import Image

from smartfast.config.schema import DataConfig
from smartfast.data import open_dataset
from smartfast.errors import UserError

hypothesis = pytest.importorskip("hypothesis", reason="the test extra installs hypothesis")
from hypothesis import given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

Edits = list[tuple[float, bytes, bool]]

EDITS = st.lists(
    st.tuples(st.floats(0, 1), st.binary(max_size=6), st.booleans()), min_size=1, max_size=4
)  # where, what, and whether in place or inserted
TRIALS = settings(max_examples=100, derandomize=True, deadline=None, database=None)
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text(max_size=4)
    | st.sampled_from(["0.png", "./1.png"]),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(["labels", "class_names", "x"]), inner),
    max_leaves=12,
)


def png(seed: int) -> bytes:
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (8, 8, 3), dtype=np.uint8)).save(file, "png")
    return file.getvalue()


def zipped(label_file: bytes) -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for i in range(2):
            archive.writestr(f"{i}.png", png(i))
        archive.writestr("dataset.json", label_file)
    return file.getvalue()


LABELS = json.dumps({"labels": [["0.png", 0], ["1.png", 1]], "class_names": ["a", "b"]}).encode()
ZIP, PNG = zipped(LABELS), png(0)
NPZ_FILE = io.BytesIO()
np.savez(NPZ_FILE, images=np.zeros((2, 8, 8), np.uint8), labels=np.arange(2))


def mutated(content: bytes, edits: Edits, end: int | None = None) -> bytes:
    for where, what, in_place in edits:
        start = int(where * (len(content) if end is None else end))
        content = content[:start] + what + content[start + len(what) * in_place :]
    return content


def open_and_decode(files: dict[str, bytes], name: str) -> None:
    """Raises whatever is no UserError of one line."""
    with TemporaryDirectory() as folder, pytest.MonkeyPatch.context() as patch, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        patch.setenv("SMARTFAST_CACHE", f"{folder}/cache")
        for file, content in files.items():
            path = Path(folder) / file
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        for labels in (False, True):
            try:
                dataset = open_dataset(DataConfig(path=f"{folder}/{name}", labels=labels))
            except UserError as error:
                assert str(error).isprintable() and "expected" in str(error)
            else:
                assert len(dataset.all_images()) == len(dataset)


@TRIALS
@given(EDITS)
def test_bytes_of_a_zip(edits: Edits) -> None:
    open_and_decode({"set.zip": mutated(ZIP, edits)}, "set.zip")


@TRIALS
@given(EDITS)
def test_table_of_contents_of_a_zip(edits: Edits) -> None:
    start = ZIP.index(b"PK\1\2")
    open_and_decode({"set.zip": ZIP[:start] + mutated(ZIP[start:], edits)}, "set.zip")


@TRIALS
@given(EDITS)
def test_header_of_a_png(edits: Edits) -> None:
    open_and_decode({"set/0.png": mutated(PNG, edits, end=40), "set/1.png": png(1)}, "set")


@TRIALS
@given(EDITS)
def test_bytes_of_an_npz(edits: Edits) -> None:
    open_and_decode({"set.npz": mutated(NPZ_FILE.getvalue(), edits)}, "set.npz")


@TRIALS
@given(EDITS)
def test_bytes_of_a_label_file(edits: Edits) -> None:
    open_and_decode({"set/0.png": PNG, "set/1.png": png(1), "set/dataset.json": mutated(LABELS, edits)}, "set")


@TRIALS
@given(JSON)
def test_any_json_as_label_file(value: object) -> None:
    open_and_decode({"set.zip": zipped(json.dumps(value).encode())}, "set.zip")
    open_and_decode({"set.zip": zipped(json.dumps({"labels": value, "class_names": value}).encode())}, "set.zip")
