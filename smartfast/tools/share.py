"""Exported generators to and from the Hugging Face hub: safetensors, JSON and a card, never code."""

from pathlib import Path

from huggingface_hub import HfApi, snapshot_download
from huggingface_hub.errors import HFValidationError
from huggingface_hub.utils import validate_repo_id

from smartfast.errors import UserError
from smartfast.tools.programs import FILES

_FILES = ("generator_ema.safetensors", "generator_ema.json", "checkpoint.json")
"""What drawing images needs of an export."""


def check_address(address: str, name: str) -> None:
    """Raise UserError for what is no owner/name; `name` is that of the option."""
    try:
        validate_repo_id(address)
        is_address = address.count("/") == 1
    except HFValidationError:
        is_address = False
    if not is_address:
        raise UserError(f"{name} is {address!r}, expected a repository owner/name of the Hugging Face hub")


def push_folder(folder: Path, address: str, *, private: bool) -> str:
    """Upload a folder as one commit to a repository, which is made where it is missing.

    Args:
        folder: Its files.
        address: owner/name.
        private: Of a new repository.

    Returns:
        The commit's address.

    Raises:
        UserError: The hub cannot be reached or refuses.
    """
    hub = HfApi()
    try:
        hub.create_repo(address, private=private, exist_ok=True)
        return hub.upload_folder(
            repo_id=address,
            folder_path=folder,
            commit_message="A generator of SmartFast",
            delete_patterns=list(FILES.values()),  # of an earlier push, of other weights
        ).commit_url
    except Exception as error:  # network, authentication, missing rights and names each raise their own kind
        reason = " ".join(str(error).split())[:300] or type(error).__name__
        raise UserError(
            f"push: {address}: {reason}, expected a repository that may be written (`hf auth login`, or HF_TOKEN)"
        ) from error


def fetch(name: str) -> Path:
    """A path as it is, or the local copy of a repository owner/name of the hub.

    Raises:
        UserError: It is neither.
    """
    path = Path(name).expanduser()
    if path.exists():
        return path
    if name.count("/") != 1 or name.startswith((".", "/", "~")):
        raise UserError(f"{name}: expected a run folder, a checkpoint, an export or owner/name of the hub, found none")
    check_address(name, "name")
    try:
        return Path(snapshot_download(name, allow_patterns=list(_FILES)))
    except Exception as error:  # as above
        reason = " ".join(str(error).split())[:200] or type(error).__name__
        raise UserError(f"{name}: no such folder, and no download from the hub ({reason}), expected either") from error
