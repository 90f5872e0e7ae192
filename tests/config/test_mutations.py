"""Whatever becomes of a file of settings, it is read or answered with one line."""

import json
from pathlib import Path

import pytest
import yaml

from smartfast.config.parse import CONFIGS, parse_config, presets
from smartfast.errors import UserError

hypothesis = pytest.importorskip("hypothesis", reason="needs hypothesis (the extra `test`)")
st = hypothesis.strategies

PRESETS = [(CONFIGS / f"{name}.yaml").read_text() for name in presets()]
TEXTS = [*PRESETS, *(json.dumps(yaml.safe_load(text)) for text in PRESETS)]
PIECES = [
    ":",
    "- ",
    "{",
    "}",
    "[",
    "]",
    "&a ",
    "*a",
    "!!float ",
    "!!python/name:os.system ",
    "\t",
    "\0",
    "'",
    '"',
    "null",
]
PIECES += [
    "true",
    "-1",
    "1e400",
    ".nan",
    "0x",
    "2024-99-99",
    "<<: ",
    "class_path",
    "gan:",
    "kimg: 3\n",
    "\n",
    "é",
    "\udcff",
]


@st.composite
def mutations(draw: hypothesis.strategies.DrawFn) -> str:
    """A preset with some spans cut out, doubled, or replaced by what means something in YAML."""
    text = draw(st.sampled_from(TEXTS))
    for _ in range(draw(st.integers(1, 4))):
        start = draw(st.integers(0, len(text)))
        stop = min(len(text), start + draw(st.integers(0, 12)))
        text = text[:start] + draw(st.sampled_from(["", text[start:stop] * 2, *PIECES])) + text[stop:]
    return text


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One file for all of them."""
    return tmp_path_factory.mktemp("mutations") / "x.yaml"


@hypothesis.settings(max_examples=200, derandomize=True, deadline=None, database=None)
@hypothesis.given(text=mutations())
def test_a_mutated_preset_is_read_or_answered_with_one_line(file: Path, text: str) -> None:
    file.write_bytes(text.encode(errors="surrogateescape"))
    try:
        parse_config([f"--config={file}"])
    except UserError as error:
        assert str(error) and "\n" not in str(error)
