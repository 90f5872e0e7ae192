"""Which study a folder is of: studies of one name in different folders are different ones, also to one storage."""

import json
from pathlib import Path
from uuid import uuid4

from smartfast.core.files import write_atomically
from smartfast.errors import UserError

FILE = "study.json"


def name_in_storage(out: Path, name: str) -> str:
    """The name under which a storage knows the study in a folder, made up when it is first asked for.

    The folder's path would not do, which machines that share it may see under different names.

    Raises:
        UserError: The folder is another study's, whose cells would be overwritten.
    """
    path = out / FILE
    try:
        owner = json.loads(path.read_text())
        owner_name, number = owner["name"], owner["id"]
    except FileNotFoundError:
        owner_name, number = name, uuid4().hex
        write_atomically(path, (json.dumps({"name": owner_name, "id": number}) + "\n").encode())
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"{path} is damaged, expected what the study wrote; delete it while no worker runs") from error
    if owner_name != name:
        raise UserError(f"out {out} is the folder of the study {owner_name}, expected another one for {name}")
    return f"{name} {number}"
