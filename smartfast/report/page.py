"""The pieces of an HTML page that needs no other file: tables, embedded pictures, sections."""

from collections.abc import Sequence
from html import escape
from pathlib import Path

from smartfast.report.pictures import data_uri, embedded

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


def section(title: str, *content: str) -> str:
    """A heading and what follows it."""
    return "\n".join([f"<h2>{escape(title)}</h2>", *content])


def paragraph(text: str) -> str:
    """Running text."""
    return f"<p>{escape(text)}</p>"


def details(summary: str, text: str) -> str:
    """Preformatted text that opens on a click."""
    return f"<details><summary>{escape(summary)}</summary><pre>{escape(text)}</pre></details>"


def plot(drawing: bytes | None, caption: str) -> str:
    """An SVG inside the page; None says that there is nothing to show."""
    return paragraph("No data.") if drawing is None else _figure(data_uri(drawing, "image/svg+xml"), caption)


def sheets(paths_and_captions: Sequence[tuple[Path, str]]) -> str:
    """PNG files side by side, as many as fit in the width; one that cannot be read is named in its place."""
    figures = []
    for path, caption in paths_and_captions:
        picture = embedded(path)
        is_read = "src" in picture
        figures.append(_figure(picture["src"], caption) if is_read else paragraph(f"{caption}: {picture['fault']}"))
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


def _figure(source: str, caption: str) -> str:
    picture = f'<img alt="{escape(caption)}" src="{source}">'
    return f"<figure><figcaption>{escape(caption)}</figcaption>{picture}</figure>"
