"""Pickle's opcodes, carried out on plain containers only.

`pickletools.genops` of the standard library decodes a pickle and runs nothing. The machine carries out what the
writers of weight files emit. The one way from a pickle to code, calling a global, leads to builders of this package
alone, which are looked up by the exact pair of module and name: no module is imported, no attribute is read or set.
"""

import pickletools
from collections.abc import Callable, Mapping
from typing import IO, Any

from smartfast.interop.budget import Budget
from smartfast.interop.builders import call, checked_key, instance, set_state
from smartfast.interop.records import printable

Allowed = Mapping[tuple[str, str], object]
"""(module, name) -> what stands for it: a Global, or a value such as a torch.dtype."""

LITERALS = frozenset(
    "BININT BININT1 BININT2 LONG1 LONG4 BINFLOAT BINSTRING SHORT_BINSTRING BINUNICODE SHORT_BINUNICODE BINUNICODE8 "
    "BINBYTES SHORT_BINBYTES BINBYTES8".split()
)


class Machine:
    """Reads one pickle from `stream`, which stands behind its last byte afterwards.

    `persistent` gives the object for a persistent id, in formats that have them.
    """

    def __init__(
        self,
        stream: IO[bytes],
        allowed: Allowed,
        budget: Budget,
        persistent: Callable[[object], object] | None = None,
    ) -> None:
        self._stream = stream
        self._allowed = allowed
        self._budget = budget
        self._persistent = persistent
        self._stack: list[Any] = []
        self._marks: list[int] = []
        self._memo: dict[int, object] = {}

    def run(self) -> object:
        """Raises ValueError, IndexError or KeyError where the bytes are no pickle of the allowed kind."""
        for opcode, argument, position in pickletools.genops(self._stream):
            self._budget.step()
            if opcode.name in LITERALS:
                self._stack.append(argument)
            else:
                self._carry_out(opcode.name, argument, position)
        if len(self._stack) != 1:
            raise ValueError(f"the pickle leaves {len(self._stack)} objects")
        return self._stack[0]

    def _carry_out(self, name: str, argument: Any, position: int | None) -> None:
        stack = self._stack
        match name:
            case "BINGET" | "LONG_BINGET":
                stack.append(self._memo[argument])
            case "BINPUT" | "LONG_BINPUT":
                self._memo[argument] = stack[-1]
            case "MEMOIZE":
                self._memo[len(self._memo)] = stack[-1]
            case "MARK":
                self._marks.append(len(stack))
            case "NONE":
                stack.append(None)
            case "NEWTRUE" | "NEWFALSE":
                stack.append(name == "NEWTRUE")
            case "EMPTY_TUPLE":
                stack.append(())
            case "EMPTY_DICT":
                stack.append({})
            case "EMPTY_LIST":
                stack.append([])
            case "EMPTY_SET":
                stack.append(set())
            case "TUPLE1" | "TUPLE2" | "TUPLE3":
                stack.append(tuple(self._pop(int(name[-1]))))
            case "TUPLE":
                stack.append(tuple(self._pop_to_mark()))
            case "APPEND":
                self._extend(self._pop(1))
            case "APPENDS":
                self._extend(self._pop_to_mark())
            case "ADDITEMS":
                self._add(self._pop_to_mark())
            case "SETITEM":
                self._set_items(self._pop(2))
            case "SETITEMS":
                self._set_items(self._pop_to_mark())
            case "PROTO" | "FRAME" | "STOP":
                pass
            case _:
                self._use_global(name, argument, position)

    def _use_global(self, name: str, argument: Any, position: int | None) -> None:
        match name:
            case "GLOBAL":
                module, _, attribute = argument.partition(" ")
                self._stack.append(self._find(module, attribute, position))
            case "STACK_GLOBAL":
                module, attribute = self._pop(2)
                self._stack.append(self._find(module, attribute, position))
            case "REDUCE":
                function, arguments = self._pop(2)
                self._stack.append(call(function, arguments, self._budget))
            case "NEWOBJ":
                cls, arguments = self._pop(2)
                self._stack.append(instance(cls, arguments))
            case "BUILD":
                (state,) = self._pop(1)
                set_state(self._stack[-1], state, self._budget)
            case "BINPERSID" if self._persistent:
                self._stack[-1] = self._persistent(self._stack[-1])
            case _:
                raise ValueError(f"the opcode {name} at byte {position} is none that weights need")

    def _find(self, module: object, name: object, position: int | None) -> object:
        if not (isinstance(module, str) and isinstance(name, str)):
            raise ValueError(f"the name of a global is no text at byte {position}")
        if (module, name) not in self._allowed:
            wanted = printable(f"{module}.{name}")
            raise ValueError(f"it asks for {wanted} at byte {position}, which is not among what weights need")
        return self._allowed[module, name]

    def _pop(self, count: int) -> list[Any]:
        if len(self._stack) < count:
            raise ValueError("an opcode takes more than there is")
        items = self._stack[-count:]
        del self._stack[-count:]
        return items

    def _pop_to_mark(self) -> list[Any]:
        start = self._marks.pop()
        items = self._stack[start:]
        del self._stack[start:]
        return items

    def _extend(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not list:
            raise ValueError("entries are added to what is no list")
        self._stack[-1].extend(items)

    def _add(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not set:
            raise ValueError("entries are added to what is no set")
        self._stack[-1].update(map(checked_key, items))

    def _set_items(self, items: list[Any]) -> None:
        if type(self._stack[-1]) is not dict or len(items) % 2:
            raise ValueError("keys and values are given to what is no dictionary")
        self._stack[-1].update(zip(map(checked_key, items[::2]), items[1::2], strict=True))
