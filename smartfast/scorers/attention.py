"""What computes the attention of a diffusers network: PyTorch's scaled_dot_product_attention, or xformers.

xformers earns its place only with kernels of its own. A wheel that was built for another torch does not load them, and
newer ones forward to PyTorch's kernels, with more copies around them: both count as not available here.
"""

import importlib.util
import logging
from typing import Literal, NamedTuple

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0, XFormersAttnProcessor
from torch import nn

from smartfast.errors import UserError

AttentionSetting = Literal["auto", "sdpa", "xformers"]


class AttentionChoice(NamedTuple):
    """What computes attention, and why; str() is a piece of a line for the log."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{self.name} ({self.reason})"


def set_attention(
    network: nn.Module, setting: AttentionSetting, *, device: torch.device | str, dtype: torch.dtype
) -> AttentionChoice:
    """Make the attention layers of a diffusers network compute as `perf.attention` says.

    Args:
        network: Changed in place.
        setting: auto takes PyTorch's attention.
        device, dtype: Where and in what the network runs.

    Raises:
        UserError: xformers is asked for, and its own kernels do not run there.
    """
    layers = [module for module in network.modules() if isinstance(module, Attention)]
    if setting == "xformers":
        head_sizes = {layer.inner_dim // layer.heads for layer in layers} or {64}
        for size in sorted(head_sizes):
            if problem := xformers_problem(device, dtype=dtype, head_size=size):
                raise UserError(f"perf.attention is xformers, expected auto or sdpa: {problem}")
    if not layers:
        return AttentionChoice("none", "the network has no attention layers")
    for layer in layers:
        processor = XFormersAttnProcessor() if setting == "xformers" else AttnProcessor2_0()
        layer.set_processor(processor)  # type: ignore[arg-type]  # diffusers' hint names one processor of many
    if setting == "xformers":
        return AttentionChoice("xformers", "perf.attention")
    reason = "auto takes PyTorch's scaled_dot_product_attention" if setting == "auto" else "perf.attention"
    return AttentionChoice("sdpa", reason)


def xformers_problem(
    device: torch.device | str, *, dtype: torch.dtype = torch.float16, head_size: int = 64
) -> str | None:
    """Why xformers' own attention kernels do not run on a device, one line; None where they do (found by running one).

    Args:
        device: Where attention would run.
        dtype: Of queries, keys and values.
        head_size: Channels per attention head.
    """
    if importlib.util.find_spec("xformers") is None:
        return "xformers is not installed (pip install xformers)"
    logging.getLogger("xformers").setLevel(logging.ERROR)  # what it warns of on import is said here
    try:
        from xformers import _cpp_lib
        from xformers.ops import fmha
    except Exception as error:  # a library built for another torch fails to import in many ways
        return f"xformers cannot be imported ({_line(error)})"
    if (load_error := _cpp_lib._cpp_library_load_exception) is not None:
        return f"xformers' kernels do not load ({_line(load_error)})"
    if torch.device(device).type != "cuda":
        return f"xformers has no attention kernels for {torch.device(device).type}"
    try:
        kernel = _run_attention(fmha, device, dtype, head_size)
    except Exception as error:  # no kernel for this GPU, dtype or size, or one that fails
        return f"xformers' attention does not run on {device} in {dtype} with {head_size} channels ({_line(error)})"
    if kernel.endswith("-pt"):
        return f"xformers takes PyTorch's own kernel here ({kernel})"
    return None


def _run_attention(fmha, device: torch.device | str, dtype: torch.dtype, head_size: int) -> str:
    """Name of the kernel that xformers takes, after a forward and a backward pass through it."""
    query = torch.zeros(1, 16, 1, head_size, device=device, dtype=dtype, requires_grad=True)
    kernel = fmha._dispatch_fw(fmha.Inputs(query, query, query), needs_gradient=True)
    fmha.memory_efficient_attention(query, query, query).sum().backward()
    return kernel.NAME


def _line(error: BaseException) -> str:
    return " ".join(str(error).split())[:200]
