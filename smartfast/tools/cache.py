"""`smartfast cache export | import`: compiled code carried to other machines of the same kind."""

from collections.abc import Callable, Sequence

import torch
from accelerate import Accelerator

from smartfast.config.parse import parse_config
from smartfast.core.files import user_path
from smartfast.engine.portable_cache import export_compiled, import_compiled
from smartfast.errors import UserError
from smartfast.run.launch import chosen_kernels
from smartfast.run.preparation import prepare_kernels
from smartfast.run.trial_training import trial_training
from smartfast.run.warm_up import warm_up

USAGE = """usage: smartfast cache export FILE [options of train]
       smartfast cache import FILE

export compiles every phase of a training, or finds it compiled, and writes the code as one file; import adds it to the
code that is kept here, so that a training with the same options compiles nothing. The file is for one version of
Python, torch and triton and one kind of GPU (or CPU), and is refused elsewhere. It is code: import only files that you
or people you trust have made."""


def cache(arguments: Sequence[str], say: Callable[[str], None] = print) -> None:
    """Do what the words of a command line ask for.

    Raises:
        UserError: They ask for nothing that there is, or the file or the training cannot be used.
    """
    if not arguments or arguments[0] in ("-h", "--help"):
        say(USAGE)
        return
    action, *rest = arguments
    if action not in ("export", "import"):
        raise UserError(f"cache {action}: expected cache export FILE or cache import FILE")
    if not rest or rest[0].startswith("-") or (action == "import" and len(rest) > 1):
        raise UserError(f"cache {action}: found {' '.join(rest) or 'nothing'}, expected a FILE")
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    file = user_path(rest[0], f"cache {action}")
    if action == "import":
        say(f"{file}: {import_compiled(file, device)} parts of compiled code are kept here now")
        return
    training = trial_training(parse_config(rest[1:], prog="smartfast cache export FILE"), device, say)
    if not training.config.perf.compile:
        raise UserError(f"cache export: perf.compile is off on {device.type}, expected --perf.compile=true")
    accelerator = Accelerator(cpu=device.type == "cpu")
    prepare_kernels(training, accelerator)
    with chosen_kernels(training.config):
        warm_up(training, accelerator)
    say(f"{file}: {export_compiled(file, device) / 2**20:.1f} MiB of compiled code")
