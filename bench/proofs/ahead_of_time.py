"""Compile recorded kernel launches for GPUs that are not there, and read what the compiler made of them.

A launch becomes the specialisation that Triton's JIT would compile for it: a tensor is a pointer to its dtype, aligned
to 16 bytes or not; the integers 1 and None are constants; other integers are divisible by 16 or not. Triton compiles
for any GPU down to the binary, and the cuobjdump and nvdisasm that it ships say what is in there.
"""

import os
import re
import struct
import subprocess
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from importlib import import_module
from pathlib import Path
from typing import Any, NamedTuple

import triton
from triton.backends.compiler import BaseBackend, GPUTarget
from triton.compiler import ASTSource
from triton.runtime.jit import native_specialize_impl

from smartfast.kernels.runtime import Launch

WARP_SIZE = 32
TOOLS = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
_LISTED = re.compile(r"^\s+/\*([0-9a-f]{4,})\*/\s+(.*?)\s*;")
_OPCODE = re.compile(r"^(?:@!?U?P\w+\s+)?([A-Z][\w.]*)")
_BRANCH = re.compile(r"\bBRA\b.*?\b0x([0-9a-f]+)")
_TENSOR_CORE = re.compile(r"^(?:UTC\w*MMA|Q?H?GMMA|[HIDQ]MMA)\b")
_HALF_DOT = re.compile(r" : tensor<[^>]*xb?f16>")


@dataclass(frozen=True)
class Specialisation:
    """One binary's worth of a kernel, as Triton's JIT keys its cache.

    module, kernel: Where the kernel is found. signature: Type of every parameter. constants: Value of every parameter
    of type constexpr. aligned: Parameters that are multiples of 16 (bytes or units).
    """

    module: str
    kernel: str
    signature: tuple[tuple[str, str], ...]
    constants: tuple[tuple[str, Any], ...]
    aligned: tuple[str, ...]
    num_warps: int
    num_stages: int
    maxnreg: int | None = None

    @property
    def pointers(self) -> tuple[tuple[str, str], ...]:
        """Names and dtypes of the tensors."""
        return tuple((name, kind[1:]) for name, kind in self.signature if kind.startswith("*"))

    def __str__(self) -> str:
        tensors = ", ".join(f"{name}: {kind}" for name, kind in self.pointers)
        values = ", ".join(f"{name}={value}" for name, value in self.constants if value is not None)
        options = f"{self.num_warps} warps, {self.num_stages} stages"
        return f"{self.kernel}({tensors}; {values}; aligned {' '.join(self.aligned)}; {options})"


def specialise(launch: Launch) -> Specialisation:
    """The specialisation that `launch` runs."""
    kernel = launch.kernel
    signature, constants, aligned = [], [], []
    for parameter, declared in zip(kernel.params, kernel.signature.parameters.values(), strict=True):
        name = parameter.name
        value = launch.arguments[name] if name in launch.arguments else declared.default
        if parameter.is_constexpr:
            kind, detail = "constexpr", value
        else:
            kind, detail = native_specialize_impl(
                BaseBackend,
                value,
                parameter.is_const,
                not parameter.do_not_specialize,
                not parameter.do_not_specialize_on_alignment,
            )
        signature.append((name, kind))
        if kind == "constexpr":
            constants.append((name, value))
        elif detail is not None and BaseBackend.parse_attr(detail):
            aligned.append(name)
    return Specialisation(
        kernel.fn.__module__, kernel.fn.__name__, tuple(signature), tuple(constants), tuple(aligned), **launch.options
    )


@dataclass(frozen=True)
class Binary:
    """A compiled specialisation.

    shared_bytes: Shared memory of a program. dots: For each matrix product of the source, whether its operands are
    meant for tensor cores (16 bits, or float32 rounded to TF32). listing: Addresses and instructions.
    """

    registers: int
    shared_bytes: int
    dots: tuple[bool, ...]
    listing: tuple[tuple[int, str], ...]

    @cached_property
    def opcodes(self) -> list[str]:
        return [_opcode(text) for _, text in self.listing]

    @cached_property
    def instructions(self) -> int:
        """Instructions, without padding."""
        return sum(opcode != "NOP" for opcode in self.opcodes)

    @cached_property
    def spills(self) -> int:
        """Instructions that store registers in local memory or load them from it."""
        return sum(opcode.split(".")[0] in ("STL", "LDL") for opcode in self.opcodes)

    @cached_property
    def widest_load(self) -> int | None:
        """Bits per thread of the widest load from global memory; None if there is none."""
        return max((bits for opcode in self.opcodes if (bits := _load_bits(opcode))), default=None)

    @cached_property
    def widest_store(self) -> int | None:
        """Bits per thread of the widest store to global memory; None if there is none."""
        return max((bits for opcode in self.opcodes if (bits := _store_bits(opcode))), default=None)

    @cached_property
    def tensor_core(self) -> str | None:
        """The tensor-core instruction, None if there is none."""
        return next((opcode.split(".")[0] for opcode in self.opcodes if _TENSOR_CORE.match(opcode)), None)

    @cached_property
    def loops(self) -> list[tuple[int, int]]:
        """First and last index in the listing of every loop, innermost (shortest) first."""
        index = {address: i for i, (address, _) in enumerate(self.listing)}
        found = []
        for i, (address, text) in enumerate(self.listing):
            branch = _BRANCH.search(text)
            if branch and int(branch[1], 16) < address and int(branch[1], 16) in index:
                found.append((index[int(branch[1], 16)], i))
        return sorted(found, key=lambda loop: loop[1] - loop[0])

    def instructions_per_element(self, element_bits: int, *, is_read: bool) -> float | None:
        """Instructions of a thread per element of `element_bits` that it stores, or loads, with its widest accesses.

        Counted in the innermost loop that holds such accesses, else in the whole kernel; a loop inside counts once.
        """
        width, bits_of = (self.widest_load, _load_bits) if is_read else (self.widest_store, _store_bits)
        if width is None:
            return None
        for first, last in [*self.loops, (0, len(self.listing) - 1)]:
            opcodes = [opcode for opcode in self.opcodes[first : last + 1] if opcode != "NOP"]
            moved = sum(width for opcode in opcodes if bits_of(opcode) == width)
            if moved:
                return len(opcodes) / (moved / element_bits)
        return None

    @cached_property
    def instructions_per_k_step(self) -> int | None:
        """Instructions of a warp in the innermost loop with a tensor-core instruction; None without such a loop."""
        for first, last in self.loops:
            if any(_TENSOR_CORE.match(opcode) for opcode in self.opcodes[first : last + 1]):
                return last - first + 1
        return None


def _opcode(text: str) -> str:
    found = _OPCODE.match(text)
    return found[1] if found else text


def _load_bits(opcode: str) -> int:
    """Bits per thread of a load from global memory, through registers or straight into shared memory; else 0."""
    return 128 if opcode.startswith("UTMALDG") else _access_bits(opcode, ("LDG", "LDGSTS"))


def _store_bits(opcode: str) -> int:
    return 128 if opcode.startswith("UTMASTG") else _access_bits(opcode, ("STG",))


def _access_bits(opcode: str, names: tuple[str, ...]) -> int:
    name, *modifiers = opcode.split(".")
    if name not in names:
        return 0
    widths = {"256": 256, "128": 128, "64": 64, "U16": 16, "S16": 16, "U8": 8, "S8": 8}
    return next((widths[m] for m in modifiers if m in widths), 32)


class _Compiled(NamedTuple):
    """What Triton returns for one specialisation; code is the machine code."""

    registers: int
    shared_bytes: int
    dots: tuple[bool, ...]
    code: bytes


def compile_ahead(specialisations: Sequence[Specialisation], capability: int) -> list[Binary]:
    """Compile for a GPU of compute capability `capability` (90 = 9.0); no GPU needed.

    Raises:
        RuntimeError: A specialisation does not compile, or Triton runs its interpreter in this process.
    """
    if os.environ.get("TRITON_INTERPRET") == "1":
        raise RuntimeError("TRITON_INTERPRET=1 is set, expected a process without it")
    compiled = [_compile(specialisation, capability) for specialisation in specialisations]
    listings = _disassemble([c.code for c in compiled], capability)
    return [Binary(*c[:3], listing) for c, listing in zip(compiled, listings, strict=True)]


def _compile(specialisation: Specialisation, capability: int) -> _Compiled:
    kernel = getattr(import_module(specialisation.module), specialisation.kernel)
    position = {name: i for i, (name, _) in enumerate(specialisation.signature)}
    source = ASTSource(
        fn=kernel,
        signature=dict(specialisation.signature),
        constexprs={(position[name],): value for name, value in specialisation.constants},
        attrs={(position[name],): [["tt.divisibility", 16]] for name in specialisation.aligned},
    )
    options = {
        "num_warps": specialisation.num_warps,
        "num_stages": specialisation.num_stages,
        "maxnreg": specialisation.maxnreg,
    }
    try:
        compiled = triton.compile(source, target=GPUTarget("cuda", capability, WARP_SIZE), options=options)
    except Exception as error:
        raise RuntimeError(f"sm_{capability} {specialisation} does not compile: {error}") from error
    cubin = compiled.asm["cubin"]
    usage = _run_tool("cuobjdump", "-res-usage", content=cubin)
    registers = re.search(r"REG:(\d+)", usage)
    if registers is None:
        raise RuntimeError(f"cuobjdump printed no registers:\n{usage}")
    return _Compiled(int(registers[1]), compiled.metadata.shared, _dots(compiled.asm["ttir"]), _machine_code(cubin))


def _machine_code(elf: bytes) -> bytes:
    """The section .text.<kernel> of a binary (64-bit ELF, System V ABI: file header, then section headers)."""
    (start,) = struct.unpack_from("<Q", elf, 0x28)
    size, count, names_index = struct.unpack_from("<HHH", elf, 0x3A)
    headers = [struct.unpack_from("<IIQQQQ", elf, start + i * size) for i in range(count)]
    names = headers[names_index][4]
    for name, _, _, _, offset, length in headers:
        if elf[names + name :].startswith(b".text."):
            return elf[offset : offset + length]
    raise RuntimeError("the binary has no machine code")


def _disassemble(codes: Sequence[bytes], capability: int) -> list[tuple[tuple[int, str], ...]]:
    """Addresses and instructions of each; in one run, because nvdisasm takes longest to start."""
    architecture = f"SM{capability}" + ("a" if capability >= 90 else "")
    printed = _run_tool("nvdisasm", "-b", architecture, content=b"".join(codes))
    lines = (_LISTED.match(line) for line in printed.splitlines())
    listed = [(int(found[1], 16), found[2]) for found in lines if found]
    listings, first = [], 0
    for code in codes:
        inside = (pair for pair in listed if first <= pair[0] < first + len(code))
        listings.append(tuple(inside))
        first += len(code)
        if not listings[-1]:
            raise RuntimeError(f"nvdisasm printed no instructions:\n{printed[:500]}")
    return listings


def _run_tool(name: str, *options: str, content: bytes) -> str:
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(content)
        file.flush()
        command = [str(TOOLS / name), *options, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def _dots(ttir: str) -> tuple[bool, ...]:
    """For each matrix product, whether it is meant for tensor cores: by the dtype of its left factor, or TF32."""
    lines = [line for line in ttir.splitlines() if " tt.dot " in line]
    return tuple(bool(_HALF_DOT.search(line)) or "inputPrecision = tf32" in line for line in lines)
