"""What a read file consists of: containers, numbers, tensors, and records in place of objects of foreign classes."""

from dataclasses import dataclass, field

import numpy as np
import torch

MAX_DEPTH = 100
MAX_NODES = 2_000_000
MAX_NAME = 1000
"""Letters of a tensor's name. The names of nested modules add up, for each tensor in them."""

LEAVES = (type(None), bool, int, float, str, bytes, torch.Tensor, torch.dtype, np.ndarray)


@dataclass
class Record:
    """An object of a class that is not imported.

    `class_name` is "Generator" where the file embeds the source of the class (torch_utils.persistence), with
    `source_sha256` of that source, and "R3GAN.Networks.Generator" where the file names a module. It says nothing that
    can be relied on: what a record is shows in its tensors.
    """

    class_name: str
    state: dict[str, object] = field(default_factory=dict, repr=False)
    source_sha256: str = ""

    @property
    def is_module(self) -> bool:
        """Whether it is a torch.nn.Module, by its state."""
        return all(isinstance(self.state.get(name), dict) for name in ("_parameters", "_buffers", "_modules"))

    @property
    def init_args(self) -> tuple[object, ...]:
        """Positional arguments of the constructor; empty where the file does not hold them."""
        arguments = self.state.get("_init_args")
        return arguments if isinstance(arguments, tuple) else ()

    @property
    def init_kwargs(self) -> dict[str, object]:
        """Keyword arguments of the constructor, nested ones too; empty where the file does not hold them.

        What was left out took the default of that version of the class: read attributes of `state` where there are any.
        """
        return _names(self.state.get("_init_kwargs"))


def state_dict(module: Record) -> dict[str, torch.Tensor]:
    """Parameters and persistent buffers of a module and its modules, named as `torch.nn.Module.state_dict` names them.

    Raises ValueError where the record is no module.
    """
    tensors: dict[str, torch.Tensor] = {}
    _collect(module, "", tensors)
    return tensors


def _collect(module: Record, prefix: str, tensors: dict[str, torch.Tensor]) -> None:
    state = module.state
    if not module.is_module:
        raise ValueError(f"{prefix.rstrip('.') or 'the record'} of class {module.class_name} is no module")
    passing = state.get("_non_persistent_buffers_set")
    buffers = _names(state["_buffers"])
    if isinstance(passing, set):
        buffers = {name: value for name, value in buffers.items() if name not in passing}
    parameters, modules = _names(state["_parameters"]), _names(state["_modules"])
    if any(len(prefix) + len(name) >= MAX_NAME for name in [*parameters, *buffers, *modules]):
        raise ValueError(f"a name of more than {MAX_NAME} letters")
    for name, value in (parameters | buffers).items():
        if isinstance(value, torch.Tensor):
            tensors[prefix + name] = value
        elif value is not None:
            raise ValueError(f"{prefix}{name} is no tensor but {type(value).__name__}")
    for name, value in modules.items():
        if isinstance(value, Record):
            _collect(value, f"{prefix}{name}.", tensors)
        elif value is not None:
            raise ValueError(f"{prefix}{name} is no module but {type(value).__name__}")


def _names(value: object) -> dict[str, object]:
    return {name: entry for name, entry in value.items() if isinstance(name, str)} if isinstance(value, dict) else {}


def printable(text: str) -> str:
    """A text from a file as part of a message of one line."""
    return ascii(text[:300])[1:-1]


def check_tree(root: object) -> None:
    """Raises ValueError where a walk through `root` would not end, go too deep or take too long, or meet other things.

    Parts that are shared count as often as they are met: a few nested lists of the same list can be an endless tree.
    """
    sizes: dict[int, tuple[int, int]] = {}
    open_nodes: set[int] = set()

    def walk(node: object, depth: int) -> tuple[int, int]:
        """Nodes below `node`, itself included, and levels."""
        if isinstance(node, LEAVES):
            return 1, 1
        if id(node) in open_nodes:
            raise ValueError("an object contains itself")
        nodes, levels = sizes.get(id(node), (0, 0))
        if not nodes:
            open_nodes.add(id(node))
            if depth >= MAX_DEPTH:
                raise ValueError(f"objects are nested more than {MAX_DEPTH} deep")
            below = [walk(child, depth + 1) for child in _children(node)]
            nodes = 1 + sum(count for count, _ in below)
            levels = 1 + max((height for _, height in below), default=0)
            sizes[id(node)] = nodes, levels
            open_nodes.remove(id(node))
        if depth + levels > MAX_DEPTH:
            raise ValueError(f"objects are nested more than {MAX_DEPTH} deep")
        if nodes > MAX_NODES:
            raise ValueError(f"it unfolds to more than {MAX_NODES} objects")
        return nodes, levels

    walk(root, 0)


def _children(node: object) -> list[object]:
    match node:
        case Record():
            return [node.state]
        case dict():
            return list(node.values())  # keys are names and numbers
        case list() | tuple() | set():
            return list(node)
    raise ValueError(f"a {type(node).__name__} stands where a value is expected")
