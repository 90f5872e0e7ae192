"""What a conversion did, for people and for the folder: the source, what was read and what was left out."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from torch import Tensor

from smartfast.core.files import sha256
from smartfast.core.text import format_table, printable

NVIDIA_GANS = "weights published by NVIDIA: Nvidia Source Code License, non-commercial"
NVIDIA_DIFFUSION = "weights published by NVIDIA: CC BY-NC-SA 4.0, non-commercial"
LICENCES = {
    "stylegan2-ada-pytorch or stylegan3": NVIDIA_GANS,
    "SMaRt or Hammer": "weights published by SMaRt's authors: MIT, `research purpose only`",
    "rosinality/stylegan2-pytorch": "as the author of the weights says; the project's code is MIT",
    "ajbrock/BigGAN-PyTorch": "weights published by BigGAN-PyTorch's author: MIT",
    "brownvc/R3GAN": "weights published by R3GAN's authors: none stated, ask them",
    "guided-diffusion": "weights published by OpenAI: MIT",
    "consistency_models": "weights published by OpenAI: MIT",
    "EDM": NVIDIA_DIFFUSION,
    "EDM2": NVIDIA_DIFFUSION,
    "diffusers": "as the model's card says",
}
"""By project. A file does not say who trained it."""


class Source(NamedTuple):
    """A file, its size and its SHA-256."""

    file: str
    size_bytes: int
    sha256: str

    @classmethod
    def of(cls, path: Path) -> "Source":
        """Of the file `path`, under its name without folders."""
        return cls(path.name, path.stat().st_size, sha256(path))


@dataclass(frozen=True)
class Read:
    """A network: its name in the source, the file that it became, its tensors and numbers, and what kind it is."""

    name: str
    file: str
    tensors: int
    numbers: int
    kind: str

    @classmethod
    def of(cls, name: str, file: str, tensors: Mapping[str, Tensor], kind: str) -> "Read":
        return cls(name, file, len(tensors), sum(tensor.numel() for tensor in tensors.values()), kind)


@dataclass(frozen=True)
class Conversion:
    """What is written down of a conversion. notes: What else is to be known, one line each."""

    project: str
    out: str
    sources: list[Source]
    read: list[Read]
    left_out: dict[str, str] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    @property
    def licence(self) -> str:
        return LICENCES.get(self.project, "yours")

    def record(self) -> dict[str, Any]:
        """For JSON."""
        return {
            "project": self.project,
            "licence": self.licence,
            "source": [source._asdict() for source in self.sources],
            "read": [asdict(read) for read in self.read],
            "left_out": self.left_out,
        }

    def table(self) -> str:
        """For people."""
        lines = [f"{file}: {self.project}, {size} bytes, sha256 {digest}" for file, size, digest in self.sources]
        rows = [(r.name or "(all)", r.file, str(r.tensors), f"{r.numbers:,}", r.kind) for r in self.read]
        lines += ["", *format_table(("read", "as", "tensors", "numbers", "network"), rows).splitlines(), ""]
        for reason in dict.fromkeys(self.left_out.values()):
            names = ", ".join(name for name, why in self.left_out.items() if why == reason)
            lines.append(f"left out, {reason}: {names}")
        lines += [*self.notes, f"licence: {self.licence}", f"written: {self.out}"]
        return "\n".join(printable(line) for line in lines)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=2) + "\n")
