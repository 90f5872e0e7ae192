"""Weight files of guided-diffusion, consistency_models, EDM and EDM2 as scorers; nothing in a file is executed."""

from pathlib import Path
from typing import Any

from smartfast.errors import UserError
from smartfast.interop.recognise import Network, find_networks
from smartfast.scorers.base import Scorer, ScorerFormat
from smartfast.scorers.originals import scorer_of_adm, scorer_of_edm

ADM_KINDS = ("adm unet", "consistency_models unet")
EDM_KINDS = ("edm unet", "edm2 unet")
EDM_KEY = "ema"
"""Where a snapshot of EDM and EDM2 has the averaged network; other files of theirs hold states of training."""


def _is_adm(path: Path) -> bool:
    return path.is_file() and path.suffix in (".pt", ".pth")


def _load_adm(path: Path, *, where: str, resolution: int | None = None, **options: Any) -> Scorer:
    """resolution: Not needed, these networks state their own."""
    network = _network(path, "", ADM_KINDS, where)
    return scorer_of_adm(network.tensors, where=where, **options)


def _is_edm(path: Path) -> bool:
    return path.is_file() and path.suffix == ".pkl"


def _load_edm(path: Path, *, where: str, resolution: int | None = None, **options: Any) -> Scorer:
    """resolution: As `_load_adm`."""
    network = _network(path, EDM_KEY, EDM_KINDS, where)
    class_name = network.record.class_name if network.record else ""
    return scorer_of_edm(class_name, network.kwargs, network.tensors, where=where, **options)


def _network(path: Path, key: str, kinds: tuple[str, ...], where: str) -> Network:
    networks = find_networks(path)
    network = networks.get(key)
    if network is None or network.kind not in kinds:
        held = ", ".join(f"{found.kind} {name}".strip() for name, found in networks.items())
        raise UserError(f"smart.scorer: {where!r} holds {held}, expected {' or '.join(kinds)} {key}".rstrip())
    return network


ADM_FORMAT = ScorerFormat(_is_adm, _load_adm)
"""A .pt file of guided-diffusion, or of EDM's networks in consistency_models."""

EDM_FORMAT = ScorerFormat(_is_edm, _load_edm)
"""A .pkl snapshot of EDM, or of EDM2's networks of pixels."""
