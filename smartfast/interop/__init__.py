"""Files of other projects, as data: nothing in a file is imported or called."""

from smartfast.interop.records import Record, state_dict
from smartfast.interop.safe_pickle import read_untrusted

__all__ = ["Record", "read_untrusted", "state_dict"]
