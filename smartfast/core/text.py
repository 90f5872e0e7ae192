"""Durations, tables and names for people."""

import re
from collections.abc import Sequence

_UNPRINTABLE = re.compile("[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""Control characters, ends of lines, and bytes of file names that are no text, which Python keeps as surrogates."""


def printable(text: str) -> str:
    """A name on one line that every stream and file takes: `\\n` for a newline, `\\udce9` for the lone byte e9."""
    return _UNPRINTABLE.sub(lambda found: found[0].encode("unicode_escape").decode(), text)


def format_duration(seconds: float) -> str:
    """A duration for people: `8s`, `3m 08s`, `2h 03m 08s`, `1d 02h 03m`."""
    minutes, sec = divmod(max(0, round(seconds)), 60)
    hours, minutes = divmod(minutes, 60)
    days, hours = divmod(hours, 24)
    if days:
        return f"{days}d {hours:02}h {minutes:02}m"
    if hours:
        return f"{hours}h {minutes:02}m {sec:02}s"
    return f"{minutes}m {sec:02}s" if minutes else f"{sec}s"


def format_bytes(size_bytes: float) -> str:
    """An amount of memory for people: `0.1 MiB`, `512 MiB`, `1.5 GiB`."""
    if size_bytes >= 2**30:
        return f"{size_bytes / 2**30:.1f} GiB"
    return f"{size_bytes / 2**20:.{0 if size_bytes >= 10 * 2**20 else 1}f} MiB"


def format_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Text columns: the first left-aligned, the others right-aligned, a rule below the header."""
    widths = [max(len(row[i]) for row in [header, *rows]) for i in range(len(header))]
    lines = [
        "  ".join(
            cell.rjust(width) if i else cell.ljust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        for row in [header, *rows]
    ]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
