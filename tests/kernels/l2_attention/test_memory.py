"""The memory of attention by distance, counted: it does not grow with the square of the tokens."""

import weakref
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch._library.custom_ops import OPDEFS
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from smartfast.kernels import l2_attention, use

Attention = Callable[[Tensor, Tensor, Tensor], Tensor]


class Memory(TorchDispatchMode):
    """Bytes of all storages that are alive, the most there ever were; looks into the bodies of custom ops."""

    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = 0
        self._known: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        if func.namespace == "smartfast":
            with self:
                return OPDEFS[func._schema.name]._init_fn(*args, **kwargs or {})
        result = func(*args, **kwargs or {})
        for storage in [leaf.untyped_storage() for leaf in tree_leaves(result) if isinstance(leaf, Tensor)]:
            if storage._cdata not in self._known:
                self._known.add(storage._cdata)
                self._change(storage.nbytes())
                weakref.finalize(storage, self._freed, storage._cdata, storage.nbytes())
        return result

    def _change(self, nbytes: int) -> None:
        self.now += nbytes
        self.most = max(self.most, self.now)

    def _freed(self, key: int, nbytes: int) -> None:
        self._known.discard(key)
        self._change(-nbytes)


def peak_bytes(attention: Attention, tokens: int, heads: int, d: int = 64) -> int:
    """Of a forward and a backward pass beyond what enters, one image in float32."""
    with FakeTensorMode():
        q, k, v = (torch.empty(1, heads, tokens, d, requires_grad=True) for _ in range(3))
        do = torch.empty(1, heads, tokens, d)
        with Memory() as memory:
            torch.autograd.grad(attention(q, k, v), (q, k, v), do)
    return memory.most


def in_chunks(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    with use("aten"):
        return l2_attention(q, k, v, scale=0.125)


def materialised(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    return (torch.cdist(q, k) * -0.125).softmax(dim=-1) @ v


def test_peak_memory_at_64_by_64_pixels() -> None:
    tokens, heads = 64 * 64, 2
    matrix = 4 * heads * tokens**2
    ours, theirs = peak_bytes(in_chunks, tokens, heads), peak_bytes(materialised, tokens, heads)
    assert theirs > 3 * matrix
    assert ours < matrix / 2


def test_peak_memory_grows_with_the_tokens() -> None:
    """Less than twice as much with twice the tokens, where there is more than one chunk."""
    small, large = (peak_bytes(in_chunks, tokens, heads=1) for tokens in (2048, 4096))
    assert large < 1.5 * small
