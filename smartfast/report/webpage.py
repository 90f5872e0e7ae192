"""The page that watch, explore and report.html are: the files of `web/` in one document, and data as JSON inside it.

The document asks nobody for anything but, while it is served, for its own server's data and pictures. Its scripts set
every text from files as text, and the browser refuses any other script: the policy names ours by its hash.
"""

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from string import Template
from typing import Any

_WEB = Path(__file__).with_name("web")
RUNS_SCRIPTS = ("dom.js", "chart.js", "sections.js", "runs.js")
"""Of the page of runs, live or frozen."""
EXPLORE_SCRIPTS = ("dom.js", "explore.js")
"""Of the page that draws images."""


def web_page(title: str, scripts: Sequence[str], data: Mapping[str, Any]) -> bytes:
    """The document.

    Args:
        title: Of the window.
        scripts: Files of `web/`, in their order.
        data: What the scripts find in the element `data`; JSON values.
    """
    script = "\n".join((_WEB / name).read_text() for name in scripts)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    text = Template((_WEB / "page.html").read_text()).substitute(
        title=escape(title),
        style=(_WEB / "page.css").read_text(),
        script=script,
        digest=digest,
        data=_json_in_html(data),
    )
    return text.encode(errors="backslashreplace")  # names of files may be no text


def _json_in_html(data: Mapping[str, Any]) -> str:
    """JSON that no reader of HTML takes for anything else: it has no `<`, `>` or `&`."""
    text = json.dumps(data, allow_nan=False, separators=(",", ":"))
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")
