"""Files of other projects, as data: nothing in a file is imported or called."""

from smartfast.interop.models import GanFile, Model, read_gan
from smartfast.interop.recognise import Network, find_networks
from smartfast.interop.records import Record, state_dict
from smartfast.interop.safe_pickle import read_untrusted

__all__ = ["GanFile", "Model", "Network", "Record", "find_networks", "read_gan", "read_untrusted", "state_dict"]
