"""Whether processes that train in step still have the same state: a number of each tensor's bits, compared."""

from collections import Counter
from collections.abc import Mapping

import torch
import torch.distributed as dist
from torch import Tensor

from smartfast.errors import UserError

_WORDS = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}


def checksums(tensors: Mapping[str, Tensor]) -> Tensor:
    """The sum of each tensor's bits, taken as whole numbers, modulo 2**64: int64 [tensors], on their device.

    Integer sums do not depend on their order, so equal bits give equal sums on every device and in every memory layout,
    and one flipped bit always another. Each byte is read once and nothing as large as a tensor is made.
    """
    sums = [x.detach().view(_WORDS[x.element_size()]).sum(dtype=torch.int64) for x in tensors.values()]
    return torch.stack(sums)


def check_consistency(tensors: Mapping[str, Tensor], where: str) -> None:
    """Compare tensors that are to be equal, bit for bit, in every process; with one process it costs nothing.

    Args:
        tensors: The same names in every process, each of which has to call this.
        where: The moment, for the message.

    Raises:
        UserError: They differ. In every process, and of the process whose tensors fewest others have, or the last.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return
    own = checksums(tensors)
    gathered = [torch.empty_like(own) for _ in range(dist.get_world_size())]
    dist.all_gather(gathered, own)
    found = [tuple(sums) for sums in torch.stack(gathered).tolist()]
    if len(set(found)) == 1:
        return
    shared = Counter(found)
    odd = min(range(len(found)), key=lambda rank: (shared[found[rank]], -rank))
    other = max(range(len(found)), key=lambda rank: (shared[found[rank]], -rank))
    names = [name for name, a, b in zip(tensors, found[odd], found[other], strict=True) if a != b]
    more = f" (and {len(names) - 1} more tensors)" if len(names) > 1 else ""
    raise UserError(
        f"{names[0]}{more} of process {odd} is not that of process {other} {where}, expected the same bits in every "
        "process: a fault of memory, of the network or of a library; nothing of this moment is saved"
    )
