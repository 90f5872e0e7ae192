"""What is said of a project whose files hold GANs."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from torch import Tensor

from smartfast.interop.recognise import Network

Reader = Callable[[Network, Mapping[str, object]], tuple[dict[str, Any], dict[str, Tensor]]]
"""From a network and what else is in its file to the arguments of a class of ours and its tensors by name.

Raises ValueError, KeyError, IndexError or StopIteration for a network that differs from ours.
"""


class Project(NamedTuple):
    """A project's files.

    roles: By the name in a file. readers: By kind of network. also_read: Other entries of a file that are. notes: Of a
    file's content, what is made up for it or to be known. family: Key of `smartfast.families.FAMILIES`.
    """

    name: str
    roles: Mapping[str, str]
    readers: Mapping[str, Reader]
    also_read: tuple[str, ...] = ()
    notes: Callable[[Mapping[str, object]], list[str]] = lambda content: []
    family: str = "stylegan2"
