"""Random files: a dictionary or one line, nothing run or imported. SMARTFAST_TEST_SLOW=1 reads 120,000 of them."""

import io
import os
import pickletools
import sys
import threading
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from smartfast.errors import UserError
from smartfast.interop import Record, read_untrusted, state_dict
from smartfast.interop.allowed import PICKLES, TORCH_FILES

FUZZ = settings(
    max_examples=15_000 if "SMARTFAST_TEST_SLOW" in os.environ else 60,
    derandomize=True,
    database=None,
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
HEADERS = [b"", b"\x80\x02", b"\x80\x04", b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.", b"PK\3\4"]
GLOBALS = [f"c{module}\n{name}\n".encode() for module, name in {**PICKLES, **TORCH_FILES}]

READER = threading.get_ident()
"""Threads that earlier tests left may do as they like; one that a file started would be an event of this one."""
watched: list[str] | None = None
"""Audit events of the file being read."""


def _watch(name: str, arguments: tuple) -> None:
    if watched is not None and threading.get_ident() == READER and name not in ("builtins.id", "mmap.__new__"):
        watched.append(f"{name} {arguments[:1]}")


@pytest.fixture(scope="module")
def read(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[bytes], None]]:
    """Reads a file of the given bytes and checks what comes of it."""
    path = tmp_path_factory.mktemp("fuzz") / "file"
    for codec in ("ascii", "cp437", "raw-unicode-escape", "utf-8", "latin-1"):
        b"a".decode(codec)  # imports it
    sys.addaudithook(_watch)

    def check(content: bytes) -> None:
        global watched
        path.write_bytes(content)
        watched = []
        try:
            for value in read_untrusted(path).values():
                _flatten(value)
        except UserError as error:
            assert str(error).isprintable() and len(str(error)) < 500 + len(str(path))
        finally:
            events, watched = watched, None
        assert [event.partition(" ")[0] for event in events] == ["open"], events

    yield check


def _flatten(value: object) -> None:
    if isinstance(value, Record):
        try:
            state_dict(value)
        except ValueError:
            pass


def torch_sample(is_zip: bool) -> bytes:
    buffer = io.BytesIO()
    content = {"net": {"a": torch.ones(2, 3), "b": torch.zeros(2, dtype=torch.int64)}, "step": 3, "x": [1.5, None, {2}]}
    torch.save(content, buffer, _use_new_zipfile_serialization=is_zip)
    return buffer.getvalue()


@pytest.fixture
def sample(request: pytest.FixtureRequest, snapshot: Callable[[int], Path]) -> bytes:
    """An honest file: a pickle of the given protocol, or "zip" or "legacy" of torch.save."""
    kind = request.param
    return torch_sample(kind == "zip") if isinstance(kind, str) else snapshot(kind).read_bytes()


@FUZZ
@given(header=st.sampled_from(HEADERS), content=st.binary(max_size=300))
def test_bytes(read: Callable[[bytes], None], header: bytes, content: bytes) -> None:
    read(header + content)


@pytest.mark.parametrize("sample", [3, 4, "zip", "legacy"], indirect=True)
@FUZZ
@given(
    edits=st.lists(st.tuples(st.integers(0, 2**16), st.integers(0, 9), st.binary(max_size=4)), min_size=1, max_size=4)
)
def test_edited_bytes(read: Callable[[bytes], None], sample: bytes, edits: list[tuple[int, int, bytes]]) -> None:
    """Flipped bits, and a few bytes in place of others: where, how many go, what comes (a flip where nothing does)."""
    content = bytearray(sample)
    for position, removed, added in edits:
        position %= len(content)
        if added or removed > 7:
            content[position : position + removed] = added
        else:
            content[position] ^= 1 << removed
    read(bytes(content))


@pytest.mark.parametrize("sample", [4, "zip", "legacy"], indirect=True)
@FUZZ
@given(edits=st.lists(st.tuples(*[st.integers(0, 2**16)] * 3), min_size=1, max_size=6))
def test_edited_opcodes(read: Callable[[bytes], None], sample: bytes, edits: list[tuple[int, int, int]]) -> None:
    """Whole opcodes and globals in place of others."""
    before, program, after = _program(sample)
    opcodes = _split(program)
    vocabulary = opcodes + GLOBALS
    for position, removed, added in edits:
        position %= len(opcodes)
        opcodes[position : position + removed % 3] = [vocabulary[added % len(vocabulary)]] * (added % 4 > 0)
    edited = b"".join(opcodes)
    read(_zip_with(sample, edited) if sample.startswith(b"PK") else before + edited + after)


def _program(sample: bytes) -> tuple[bytes, bytes, bytes]:
    """What is before, in and after the pickle with the content."""
    if sample.startswith(b"PK"):
        with zipfile.ZipFile(io.BytesIO(sample)) as archive:
            return b"", archive.read("archive/data.pkl"), b""
    stream = io.BytesIO(sample)
    starts = [0]
    while not sample.startswith(HEADERS[3]) or len(starts) < 5:
        for _ in pickletools.genops(stream):
            pass
        starts.append(stream.tell())
        if stream.tell() == len(sample):
            return b"", sample, b""
    return sample[: starts[3]], sample[starts[3] : starts[4]], sample[starts[4] :]


def _split(program: bytes) -> list[bytes]:
    positions = [position or 0 for _, _, position in pickletools.genops(program)] + [len(program)]
    pairs = zip(positions, positions[1:], strict=False)
    return [program[start:end] for start, end in pairs if program[start:end][:1] != b"\x95"]


def _zip_with(sample: bytes, program: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(sample)) as old, zipfile.ZipFile(buffer, "w") as new:
        for name in old.namelist():
            new.writestr(name, program if name.endswith("/data.pkl") else old.read(name))
    return buffer.getvalue()
