"""A report as blocks, written twice: one HTML page without other parts, and markdown with its pictures beside it."""

import html
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from smartfast.core.files import write_atomically
from smartfast.report import page


class Text(NamedTuple):
    """A paragraph."""

    text: str


class Table(NamedTuple):
    """Cells of text."""

    header: Sequence[str]
    rows: Sequence[Sequence[str]]


class Plot(NamedTuple):
    """An SVG, and the name of its file beside the markdown."""

    name: str
    drawing: bytes
    caption: str


class Sheets(NamedTuple):
    """PNG files side by side, each with its caption."""

    pictures: Sequence[tuple[Path, str]]


class Lines(NamedTuple):
    """Lines as they are, folded behind a title."""

    title: str
    lines: Sequence[str]


Block = Text | Table | Plot | Sheets | Lines


class Section(NamedTuple):
    """A heading and what follows."""

    title: str
    blocks: Sequence[Block]


def write_document(folder: Path, title: str, subtitle: str, sections: Sequence[Section]) -> tuple[Path, Path]:
    """Write report.html and report.md into a folder, with the pictures of the latter.

    Returns:
        The paths of the two.
    """
    folder.mkdir(parents=True, exist_ok=True)
    parts = [page.section(section.title, *map(_html, section.blocks)) for section in sections]
    text = f"# {_plain(title)}\n\n{_plain(subtitle)}\n"
    for section in sections:
        blocks = "\n\n".join(_markdown(block, folder) for block in section.blocks)
        text += f"\n## {_plain(section.title)}\n\n{blocks}\n"
    targets = folder / "report.html", folder / "report.md"
    for target, content in zip(targets, (page.page(title, subtitle, parts), text), strict=True):
        write_atomically(target, content.encode(errors="backslashreplace"))
    return targets


def _html(block: Block) -> str:
    match block:
        case Text(text):
            return page.paragraph(text)
        case Table(header, rows):
            return page.table(header, rows)
        case Plot(_, drawing, caption):
            return page.plot(drawing, caption)
        case Sheets(pictures):
            return page.sheets(pictures)
        case Lines(title, lines):
            return page.details(title, "\n".join(lines))


def _markdown(block: Block, folder: Path) -> str:
    match block:
        case Text(text):
            return _plain(text)
        case Table(header, rows):
            return _rows([header, *rows])
        case Plot(name, drawing, caption):
            write_atomically(folder / name, drawing)
            return f"![{_plain(caption)}]({name})\n\n*{_plain(caption)}*"
        case Sheets(pictures):
            names = [f"samples_{i}.png" for i in range(len(pictures))]
            for (path, _), name in zip(pictures, names, strict=True):
                shutil.copyfile(path, folder / name)
            return _rows([[caption for _, caption in pictures]], [f"![samples]({name})" for name in names])
        case Lines(title, lines):
            body = "\n".join(lines)
            return f"<details><summary>{_plain(title)}</summary>\n\n```bash\n{body}\n```\n\n</details>"


def _rows(rows: Sequence[Sequence[str]], *raw: Sequence[str]) -> str:
    """A table, the first row its header; `raw` rows are markdown already."""
    lines = ["| " + " | ".join(map(_plain, row)) + " |" for row in rows]
    lines += ["| " + " | ".join(row) + " |" for row in raw]
    return "\n".join([lines[0], "|" + "---|" * len(rows[0]), *lines[1:]])


def _plain(text: str) -> str:
    """Text that markdown shows as it is, on one line."""
    text = html.escape(" ".join(text.split()), quote=False)
    for mark in "\\`*_|[]":
        text = text.replace(mark, f"\\{mark}")
    return text
