"""Broken and hostile files: one line each, nothing run, nothing imported, no large memory."""

import io
import json
import os
import pickle
import struct
import subprocess
import sys
import zipfile
from collections.abc import Mapping
from pathlib import Path

import pytest
import torch

from smartfast.errors import UserError
from smartfast.interop import read_untrusted
from smartfast.interop.budget import MAX_STEPS
from smartfast.interop.records import MAX_DEPTH

SLOW = "SMARTFAST_TEST_SLOW" in os.environ
TERA = 2**40


def text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def number(value: int) -> bytes:
    return b"\x8a\x08" + struct.pack("<q", value)


def binary(value: bytes) -> bytes:
    return b"B" + struct.pack("<I", len(value)) + value


def numbers(*values: int) -> bytes:
    return b"(" + b"".join(map(number, values)) + b"t"


def called(name: str, *arguments: bytes) -> bytes:
    return b"c" + name.replace(" ", "\n").encode() + b"\n(" + b"".join(arguments) + b"tR"


def pickled(value: bytes) -> bytes:
    """A pickle of {"a": value}, where value are opcodes."""
    return b"\x80\x04}" + text("a") + value + b"s."


def legacy(content: bytes, keys: bytes = b"](X\1\0\0\x000e", data: bytes = b"", system: bytes = b"\x88") -> bytes:
    head = b"\x80\x02\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19.\x80\x02M\xe9\x03."
    return head + b"\x80\x02}" + text("little_endian") + system + b"s." + content + b"\x80\x02" + keys + b"." + data


def storage(count: int = 1, kind: str = "torch FloatStorage", key: str = "0", view: bytes = b"N") -> bytes:
    global_ = b"c" + kind.replace(" ", "\n").encode() + b"\n"
    return b"(" + text("storage") + global_ + text(key) + text("cpu") + number(count) + view + b"tQ"


def nested(content: bytes) -> bytes:
    return pickled(called("torch.storage _load_from_bytes", binary(content)))


ONE_NUMBER = struct.pack("<qf", 1, 2.0)
ONE_STORAGE = called("torch.storage _load_from_bytes", binary(legacy(b"\x80\x02" + storage() + b".", data=ONE_NUMBER)))
SCALAR = "numpy.core.multiarray scalar"
FLOAT64 = called("numpy dtype", text("f8"), b"\x89\x88")
EMPTY_ARRAY = called("numpy.core.multiarray _reconstruct", b"cnumpy\nndarray\n", b"K\0\x85", binary(b"b"))


def tensor(offset: int, shape: bytes, stride: bytes, extras: bytes = b"\x89}") -> bytes:
    return pickled(called("torch._utils _rebuild_tensor_v2", ONE_STORAGE, number(offset), shape, stride, extras))


TRUE_NUMBERS = storage().replace(number(1), b"\x88")
"""A storage of True numbers, which Python counts as one and torch does not."""
TWO_NUMBERS = struct.pack("<qff", 2, 2.0, 3.0)
PAIR_STORAGE = called(
    "torch.storage _load_from_bytes", binary(legacy(b"\x80\x02" + storage(2) + b".", data=TWO_NUMBERS))
)
PAIR = called("torch._utils _rebuild_tensor_v2", PAIR_STORAGE, b"K\0", numbers(2), numbers(1), b"\x89}")
LEGACY_TENSOR = called("torch._utils _rebuild_tensor_v2", storage(2), b"K\0", numbers(2), numbers(1), b"\x89}")


def array(shape: bytes, content: bytes, dtype: bytes = FLOAT64) -> bytes:
    return pickled(EMPTY_ARRAY + b"(K\1" + shape + dtype + b"\x89" + binary(content) + b"tb")


def persistent(**changes: bytes) -> bytes:
    meta = {"type": text("class"), "version": b"K\6", "module_src": text(""), "class_name": text("A"), "state": b"}"}
    items = b"".join(text(name) + value for name, value in (meta | changes).items())
    return pickled(called("torch_utils.persistence _reconstruct_persistent_obj", b"}(" + items + b"u"))


def zipped(entries: Mapping[str, bytes], compression: int = zipfile.ZIP_STORED) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", compression) as archive:
        for name, content in entries.items():
            archive.writestr(f"a/{name}", content)
    return buffer.getvalue()


def zip_storage(entries: Mapping[str, bytes], count: int = 1, compression: int = zipfile.ZIP_STORED) -> bytes:
    value = called("torch._utils _rebuild_tensor_v2", storage(count)[:-3] + b"tQ", b"K\0)", b")\x89}")
    return zipped({"data.pkl": pickled(value), **entries}, compression)


LAUGHS = b"(]q\0" + b"".join(b"](" + b"h\0" * 10 + b"eq\0" for _ in range(9)) + b"t"
"""A list of ten lists of ten lists ..., 10^9 in all, of 200 bytes."""

REFUSED: dict[str, tuple[bytes, str]] = {
    # what is asked for
    "reduce": (pickled(called("posix mkdir", text("hostile_marker"))), "it asks for posix.mkdir at byte 9"),
    "stack-global": (pickled(text("os") + text("system") + b"\x93" + text("true") + b"\x85R"), "it asks for os.system"),
    "dotted": (pickled(text("torch") + text("storage._load_from_bytes") + b"\x93"), "torch.storage._load_from_bytes"),
    "real-function": (pickled(b"ctorch\nload\n"), "it asks for torch.load"),
    "two-lines": (pickled(text("a\nb") + text("c\x1b[2J") + b"\x93"), r"it asks for a\nb.c\x1b[2J"),
    "surrogate": (pickled(b"X\3\0\0\0\xed\xa0\x80" + text("c") + b"\x93"), r"it asks for \ud800.c"),
    "number-as-name": (pickled(b"K\1K\2\x93"), "the name of a global is no text"),
    "instance": (pickled(b"(iposix\nsystem\n"), "the opcode INST"),
    "object": (pickled(b"(cnumpy\nndarray\no"), "the opcode OBJ"),
    "extension": (pickled(b"\x82\1"), "the opcode EXT1"),
    "new-with-keywords": (pickled(b"cnumpy\nndarray\n)}\x92"), "the opcode NEWOBJ_EX"),
    "persistent-id": (pickled(b"K\1Q"), "the opcode BINPERSID"),
    "persistent-text": (pickled(b"P1\n"), "the opcode PERSID"),
    "text-called": (pickled(text("a") + b")R"), "a str is called"),
    "class-called": (pickled(b"cnumpy\nndarray\n)R"), "numpy.ndarray is called"),
    "class-kept": (pickled(b"cnumpy\nndarray\n"), "stands where a value is expected"),
    "function-made": (pickled(b"ctorch._utils\n_rebuild_tensor_v2\n)\x81"), "torch._utils._rebuild_tensor_v2 is made"),
    "function-state": (pickled(b"ctorch._utils\n_rebuild_tensor_v2\n}b"), "gets a state"),
    "dictionary-state": (pickled(b"}}" + text("__setstate__") + b"K\1sb"), "a dict gets a state"),
    "attributes-state": (
        zipped({"data.pkl": pickled(b"ceasydict\nEasyDict\n)\x81}" + text("__class__") + b"K\1sb")}),
        "a dict gets a state",
    ),
    "class-attributes": (zipped({"data.pkl": pickled(b"ceasydict\nEasyDict\n}\x85\x81")}), "is made an object"),
    "other-member": (zipped({"data.pkl": pickled(b"ceasydict\nsys\n")}), "it asks for easydict.sys"),
    "list-state": (pickled(b"]}b"), "a list gets a state"),
    "tensor-state": (tensor(0, b")", b")")[:-2] + b"}bs.", "a Tensor gets a state"),
    "dictionary-argument": (pickled(called("collections OrderedDict", b"]")), "a dictionary is made of arguments"),
    "other-encoding": (pickled(called("_codecs encode", text("a"), text("idna"))), "bytes are described"),
    # records
    "version": (persistent(version=b"K\7"), "a persistent object is no class of version 6"),
    "function-type": (persistent(type=text("function")), "a persistent object is no class"),
    "state-list": (persistent(state=b"](K\1e"), "a Record gets a state of an unknown form"),
    "state-numbers": (persistent(state=b"}K\1K\1s"), "a Record gets a state of an unknown form"),
    # sizes
    "bytes-size": (pickled(b"\x8e" + struct.pack("<Q", TERA)), "but only"),
    "bytearray-size": (pickled(b"\x96" + struct.pack("<Q", TERA)), "but only"),
    "bytearray": (pickled(b"\x96" + struct.pack("<Q", 1) + b"a"), "the opcode BYTEARRAY8"),
    "text-size": (pickled(b"\x8d" + struct.pack("<Q", 2**63)), "unicodestring8"),
    "long-size": (pickled(b"\x8b" + struct.pack("<I", 2**31 - 1)), "long4"),
    "frame-size": (b"\x80\x04\x95" + struct.pack("<Q", TERA), "pickle exhausted"),
    "shape": (tensor(0, numbers(TERA - 1), numbers(0)), "can hold; is it cut off?"),
    "shape-product": (tensor(0, numbers(*[2**39] * 9), numbers(*[0] * 9)), "can hold; is it cut off?"),
    "shape-empty": (tensor(0, numbers(0, 2**39), numbers(1, 1)), "can hold; is it cut off?"),
    "shape-long": (
        tensor(0, numbers(*[1] * 17), numbers(*[1] * 17)),
        "a size, stride or offset of a tensor is out of range",
    ),
    "shape-negative": (tensor(0, numbers(-1), numbers(1)), "a size, stride or offset of a tensor is out of range"),
    "shape-text": (tensor(0, text("1") + b"\x85", numbers(1)), "a size, stride or offset of a tensor is out of range"),
    "shape-and-stride": (tensor(0, numbers(1), numbers(1, 1)), "a tensor is described in an unknown form"),
    "stride": (tensor(0, numbers(2), numbers(1)), "reaches beyond its storage"),
    "stride-huge": (tensor(0, numbers(1), numbers(2**62)), "a size, stride or offset of a tensor is out of range"),
    "stride-negative": (tensor(0, numbers(1), numbers(-1)), "a size, stride or offset of a tensor is out of range"),
    "offset": (tensor(1, b")", b")"), "reaches beyond its storage"),
    "offset-negative": (tensor(-1, b")", b")"), "a size, stride or offset of a tensor is out of range"),
    "hooks": (tensor(0, b")", b")", b"\x89}K\1K\1s"), "a tensor has hooks or other extras"),
    "storage-size": (nested(legacy(b"\x80\x02" + storage(TERA) + b".", data=ONE_NUMBER)), "can hold; is it cut off?"),
    "storage-negative": (nested(legacy(b"\x80\x02" + storage(-1) + b".")), "a storage is described"),
    "legacy-size": (legacy(pickled(storage(TERA)), data=ONE_NUMBER), "can hold; is it cut off?"),
    "array-size": (array(numbers(TERA - 1), b"12345678"), "can hold; is it cut off?"),
    "array-short": (array(numbers(2), b"12345678"), "a numpy array of 2 numbers has 8 bytes"),
    "array-objects": (array(numbers(1), b"12345678", called("numpy dtype", text("O8"), b"\x89\x88")), "is no number"),
    "scalar-size": (pickled(called(SCALAR, FLOAT64, binary(b"1"))), "a numpy scalar is described"),
    "scalar-big-endian": (
        pickled(FLOAT64 + b"(K\3" + text(">") + b"NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xffK\0tb"),
        "state",
    ),
    # depth and count
    "laughs": (pickled(LAUGHS), "it unfolds to more than"),
    "cycle": (pickled(b"]q\0h\0a"), "an object contains itself"),
    "cycle-of-three": (pickled(b"}q\0" + text("b") + b"](h\0tas"), "an object contains itself"),
    "depth": (pickled(b")" + b"\x85" * 5000), f"nested more than {MAX_DEPTH} deep"),
    "depth-shared": (
        pickled(b"(]q\0" + b"]q\1h\0aq\0" * 60 + b"h\0" + b"\x85" * 60 + b"t"),
        f"nested more than {MAX_DEPTH} deep",
    ),
    "depth-million": (pickled(b")" + b"\x85" * (MAX_STEPS // 2)), f"nested more than {MAX_DEPTH} deep"),
    "steps": (pickled(b"](" + b"K\1" * MAX_STEPS + b"e"), f"more than {MAX_STEPS} steps"),
    "steps-of-copies": (
        pickled(b"](" + b"K\1" * 9_999 + b"eq\0(" + b"c__builtin__\nset\nh\0\x85R" * 300 + b"t"),
        f"more than {MAX_STEPS} steps",
    ),
    "steps-of-states": (
        pickled(
            b"}(" + b"".join(b"M" + struct.pack("<H", key) + b"N" for key in range(9_999)) + b"uq\0" + b"h\0b" * 300
        ),
        f"more than {MAX_STEPS} steps",
    ),
    "memo-index": (pickled(b"K\1r\xff\xff\xff\x7f0"), "the opcode POP"),
    "colliding-keys": (
        pickled(b"}(" + b"".join(number(k * (2**61 - 1)) + b"N" for k in range(4)) + b"u"),
        "is the key",
    ),
    "tuple-key": (pickled(b"})Ns"), "a tuple is the key"),
    "deep-key": (pickled(b"}" + b")" + b"\x85" * 100_000 + b"Ns"), "a tuple is the key"),
    "list-in-set": (pickled(b"\x8f(]\x90"), "a list is the key"),
    # damage
    "empty": (b"", "the file is empty"),
    "page": (b"<!DOCTYPE html><html></html>", "it begins with b'<!DOCTYPE html><html'"),
    "no-stop": (pickled(b"N")[:-1], "pickle exhausted before seeing STOP"),
    "goes-on": (pickled(b"N") + b"0", "it should end at byte"),
    "unknown-opcode": (b"\x80\x04\xff", "unknown"),
    "nothing-there": (b"\x80\x04.", "the pickle leaves 0 objects"),
    "underflow": (b"\x80\x04R.", "an opcode takes more than there is"),
    "no-mark": (b"\x80\x04u.", "pop from empty list"),
    "no-memo": (pickled(b"h\7"), "7 is missing"),
    "odd-items": (pickled(b"}(K\1u"), "no dictionary"),
    "append-to-number": (pickled(b"K\1K\2a"), "no list"),
    "add-to-list": (pickled(b"](K\2\x90"), "no set"),
    "items-of-list": (pickled(b"]K\1K\2s"), "no dictionary"),
    "no-dictionary": (b"\x80\x04].", "holds a list, expected a dictionary"),
    "not-ascii": (pickled(b"c\xff\n\xff\n"), "ascii"),
    "tensor-alone": (b"\x80\x04" + PAIR + b".", "holds a Tensor, expected"),
    "two-left": (b"\x80\x04}}.", "the pickle leaves 2 objects"),
    # files of torch.save
    "legacy-tensor": (
        legacy(b"\x80\x02" + LEGACY_TENSOR + b".", data=TWO_NUMBERS),
        "holds a Tensor, expected a dictionary",
    ),
    "legacy-id-of-tensors": (legacy(pickled(b"(" + LEGACY_TENSOR * 5 + b"NtQ")), "a storage is described"),
    "protocol": (legacy(pickled(b"N")).replace(b"M\xe9\x03", b"M\xe8\x03"), "the protocol of torch.save is not 1001"),
    "big-endian": (legacy(pickled(b"N"), system=b"\x89"), "not little-endian"),
    "legacy-global": (legacy(pickled(called("posix mkdir", text("hostile_marker")))), "it asks for posix.mkdir"),
    "legacy-nested": (legacy(nested(b"")), "it asks for torch.storage._load_from_bytes"),
    "legacy-persistence": (legacy(persistent()), "it asks for torch_utils.persistence"),
    "legacy-true-numbers": (legacy(pickled(TRUE_NUMBERS), data=ONE_NUMBER), "a storage is described"),
    "zip-true-numbers": (zipped({"data.pkl": pickled(TRUE_NUMBERS), "data/0": b"1234"}), "a storage is described"),
    "legacy-keys": (legacy(pickled(b"N"), keys=b"](X\1\0\0\x001e"), "the list of its storages does not name them"),
    "legacy-view": (legacy(pickled(storage(view=b")")), data=ONE_NUMBER), "a storage is described"),
    "legacy-storage-kept": (legacy(pickled(storage()), data=ONE_NUMBER), "where a value is expected"),
    "legacy-short": (legacy(pickled(storage()), data=ONE_NUMBER[:10]), "a storage of 1 numbers has 1, in 2 bytes"),
    "legacy-count": (legacy(pickled(storage()), data=b"\2" + ONE_NUMBER[1:]), "a storage of 1 numbers has 2"),
    "nested-global": (nested(legacy(called("posix mkdir", text("hostile_marker")) + b".")), "it asks for posix.mkdir"),
    "nested-dictionary": (nested(legacy(pickled(b"N"), keys=b"]")), "the bytes of a storage are none"),
    "nested-nested": (nested(nested(b"")), "it asks for torch.storage._load_from_bytes"),
    "zip-global": (zipped({"data.pkl": pickled(called("posix mkdir", text("hostile_marker")))}), "posix.mkdir"),
    "zip-missing": (zip_storage({}), "'a/data/0' is missing"),
    "zip-short": (zip_storage({"data/0": b"12"}), "a storage of 1 numbers has 2 bytes"),
    "zip-huge": (zip_storage({"data/0": b"1234"}, count=TERA), "numbers has 4 bytes"),
    "zip-bomb": (zip_storage({"data/0": bytes(2**20)}, 2**18, zipfile.ZIP_DEFLATED), "is not stored as torch.save"),
    "zip-big-endian": (zip_storage({"data/0": b"1234", "byteorder": b"big"}), "not little-endian"),
    "zip-goes-on": (zipped({"data.pkl": pickled(b"N") + b"0"}), "it should end at byte"),
    "zip-other": (zipped({"b.txt": b""}), "it has no data.pkl in one folder"),
    "zip-deep": (zipped({"b/data.pkl": pickled(b"N")}), "it has no data.pkl in one folder"),
    "zip-cut": (zip_storage({"data/0": b"1234"})[:-30], "not a zip file"),
}

TENSOR = b"ctorch._utils\n_rebuild_tensor_v2\nq\1(" + ONE_STORAGE + b"K\0))\x89}tq\2R"
ARRAY = b"cnumpy.core.multiarray\n_reconstruct\nq\1(cnumpy\nndarray\nK\0\x85" + binary(b"b") + b"tq\2R"
LARGEST: dict[str, bytes] = {
    "tensors": pickled(b"(" + TENSOR + b"h\1h\2R" * (MAX_STEPS // 3 - 100) + b"t"),
    "sets": pickled(b"(" + b"\x8f" * (MAX_STEPS - 100) + b"t"),
    "dictionaries": pickled(b"(" + b"}K\0Ns" * (MAX_STEPS // 4 - 100) + b"t"),
    "arrays": pickled(b"(" + ARRAY + b"h\1h\2R" * (MAX_STEPS // 3 - 100) + b"t"),
}
"""What takes most memory within the limits."""


@pytest.fixture(scope="session")
def outcomes(tmp_path_factory: pytest.TempPathFactory, fixtures: Path) -> tuple[dict[str, dict], list[str]]:
    """What hostile.py says of the files of the table and of the fixtures, and what it left in its folder."""
    files, working = tmp_path_factory.mktemp("files"), tmp_path_factory.mktemp("working")
    largest = LARGEST if SLOW else {}
    for name, content in (largest | {name: content for name, (content, _) in REFUSED.items()}).items():
        (files / name).write_bytes(content)
    for path in (fixtures / "files/hostile").glob("*"):
        (files / path.name).write_bytes(path.read_bytes())
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).parents[2]), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(Path(__file__).with_name("hostile.py")), str(files)]
    done = subprocess.run(command, capture_output=True, text=True, cwd=working, env=environment)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout), os.listdir(working)


def assert_refused(outcome: dict, message: str) -> None:
    error = outcome["error"]
    assert error is not None and message in error
    assert "\n" not in error and error.isprintable() and len(error) < 500
    for event in outcome["events"]:
        assert event.startswith(("open ", "mmap.__new__ ")), event
    assert sum(event.startswith("open ") for event in outcome["events"]) == 1


@pytest.mark.parametrize("name", REFUSED)
def test_refused_in_one_line(name: str, outcomes: tuple) -> None:
    results, left = outcomes
    assert_refused(results[name], REFUSED[name][1])
    assert left == []


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGEST)
def test_what_the_limits_let_through_takes_less_than_a_gibibyte(name: str, outcomes: tuple) -> None:
    results, _ = outcomes
    assert results[name]["error"] is None


def test_hostile_and_broken_files_of_the_manifest(refused: dict, outcomes: tuple) -> None:
    results, left = outcomes
    if "hostile/" in refused["file"]:
        assert_refused(results[Path(refused["file"]).name], "")
    assert left == []


@pytest.mark.parametrize("name", ["missing.pkl", "folder"])
def test_what_cannot_be_opened(name: str, tmp_path: Path) -> None:
    (tmp_path / "folder").mkdir()
    with pytest.raises(UserError, match=f"{name}: (No such file|Is a directory)"):
        read_untrusted(tmp_path / name)


@pytest.mark.parametrize("is_zip", [True, False], ids=["zip", "legacy"])
def test_every_cut_of_a_file_is_refused(is_zip: bool, tmp_path: Path) -> None:
    buffer = io.BytesIO()
    torch.save({"a": torch.ones(2), "b": [1, "text"]}, buffer, _use_new_zipfile_serialization=is_zip)
    for size in range(0, len(buffer.getvalue()), 9):
        (tmp_path / "a.pt").write_bytes(buffer.getvalue()[:size])
        with pytest.raises(UserError):
            read_untrusted(tmp_path / "a.pt")


def test_every_cut_of_a_pickle_is_refused(tmp_path: Path) -> None:
    content = pickle.dumps({"a": [1, 2.5, "text", b"bytes", {3}, None]}, 4)
    for size in range(len(content)):
        (tmp_path / "a.pkl").write_bytes(content[:size])
        with pytest.raises(UserError):
            read_untrusted(tmp_path / "a.pkl")
