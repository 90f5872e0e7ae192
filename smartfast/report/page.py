"""The pieces of an HTML page that needs no other file: tables, embedded pictures, sections."""

import base64
import io
from collections.abc import Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

_LARGEST_SIDE = 1280  # pixels of an embedded sheet; larger ones are reduced
_LARGEST_PNG_BYTES = 400_000  # larger pictures without transparency become JPEG

_STYLE = """
:root { color-scheme: light; }
body { max-width: 1180px; margin: 2rem auto; padding: 0 1.2rem; background: #fff; color: #1c2126;
       font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif; }
h1 { font-size: 1.7rem; margin: 0 0 .2rem; }
h2 { font-size: 1.2rem; margin: 2.4rem 0 .6rem; padding-bottom: .25rem; border-bottom: 1px solid #d5dae0; }
p { margin: .4rem 0 .8rem; max-width: 52rem; color: #4a535c; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-variant-numeric: tabular-nums; }
th, td { padding: .3rem .9rem .3rem 0; border-bottom: 1px solid #e6e9ed; text-align: right; white-space: nowrap; }
th { font-weight: 600; color: #4a535c; }
th:first-child, td:first-child { text-align: left; }
table.facts td { text-align: left; white-space: normal; }
tr.total td { font-weight: 600; border-top: 1px solid #1c2126; }
img { max-width: 100%; height: auto; display: block; }
.sheets { display: grid; grid-template-columns: repeat(auto-fill, minmax(340px, 1fr)); gap: 1.2rem; }
figure { margin: 0; }
figcaption { color: #4a535c; font-size: .9rem; margin-bottom: .3rem; }
pre { background: #f5f7f9; padding: .8rem 1rem; overflow-x: auto; font-size: .85rem; line-height: 1.4; }
summary { cursor: pointer; color: #4a535c; }
"""


def table(header: Sequence[str], rows: Sequence[Sequence[str]], *, total: bool = False) -> str:
    """A table of text cells; with `total` the last row is set apart."""
    head = "".join(f"<th>{escape(cell)}</th>" for cell in header)
    body = []
    for i, row in enumerate(rows):
        mark = ' class="total"' if total and i == len(rows) - 1 else ""
        body.append(f"<tr{mark}>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>")
    return f'<div class="wide"><table><tr>{head}</tr>\n' + "\n".join(body) + "</table></div>"


def facts(rows: Sequence[tuple[str, str]]) -> str:
    """A two-column table of names and values without a header."""
    body = "\n".join(f"<tr><td>{escape(name)}</td><td>{escape(value)}</td></tr>" for name, value in rows)
    return f'<table class="facts">{body}</table>'


def section(title: str, *content: str) -> str:
    """A heading and what follows it."""
    return "\n".join([f"<h2>{escape(title)}</h2>", *content])


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def details(summary: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def figure(content: bytes, media_type: str, caption: str) -> str:
    """A picture inside the page, `caption` above it."""
    data = base64.b64encode(content).decode()
    picture = f'<img alt="{escape(caption)}" src="data:{media_type};base64,{data}">'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"


def plot(drawing: bytes | None, caption: str) -> str:
    """An SVG inside the page; None says that there is nothing to show."""
    return paragraph("No data.") if drawing is None else figure(drawing, "image/svg+xml", caption)


def picture_figure(picture: Image.Image, caption: str) -> str:
    """A Pillow picture inside the page, reduced or compressed where it is large."""
    if max(picture.size) > _LARGEST_SIDE:
        picture = picture.copy()
        picture.thumbnail((_LARGEST_SIDE, _LARGEST_SIDE), Image.Resampling.LANCZOS)
    png = _encode(picture, "PNG", optimize=True)
    if len(png) <= _LARGEST_PNG_BYTES or picture.mode == "RGBA":
        return figure(png, "image/png", caption)
    return figure(_encode(picture, "JPEG", quality=90), "image/jpeg", caption)


def sheets(paths_and_captions: Sequence[tuple[Path, str]]) -> str:
    """PNG files side by side, as many as fit in the width; one that cannot be read is named in its place."""
    figures = []
    for path, caption in paths_and_captions:
        try:
            with Image.open(path) as picture:
                figures.append(picture_figure(picture, caption))
        except (OSError, SyntaxError, ValueError):  # as Pillow says it of a PNG
            figures.append(paragraph(f"{caption}: {path.name} cannot be read."))
    return f'<div class="sheets">{"".join(figures)}</div>'


def page(title: str, subtitle: str, sections: Sequence[str]) -> str:
    """A complete HTML document."""
    return f"""<!doctype html>
<html lang="en">
<head><meta charset="utf-8"><meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title><style>{_STYLE}</style></head>
<body>
<h1>{escape(title)}</h1>
{paragraph(subtitle)}
{chr(10).join(sections)}
</body>
</html>
"""


def _encode(picture: Image.Image, file_format: str, **options: Any) -> bytes:
    buffer = io.BytesIO()
    picture.save(buffer, format=file_format, **options)
    return buffer.getvalue()
