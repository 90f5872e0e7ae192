"""SmartFast: fast training of GANs with score-matching regularity (SMaRt, ICML 2024, arXiv 2311.18208)."""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from smartfast.tools.loaded import LoadedGenerator

__version__ = "0.1.0"


def load(name: str, *, device: str = "cpu") -> "LoadedGenerator":
    """A trained generator: `smartfast.load("owner/name").images(range(16))` are 16 images.

    Args:
        name: Run folder (its newest checkpoint), checkpoint folder, export, converted folder or weights file; or
            owner/name of an export on the Hugging Face hub. Only safetensors and JSON are read.
        device: Torch device such as `cpu` or `cuda:1`; auto takes a GPU where there is one.

    Raises:
        UserError: Nothing is there, or it is damaged.
    """
    from smartfast.tools.loaded import load_generator  # here, so that `import smartfast` alone stays quick

    return load_generator(name, device=device)
