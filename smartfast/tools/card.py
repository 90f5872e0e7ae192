"""The model card of an exported generator: markdown with the front matter that the Hugging Face hub reads.

Text that comes from a run's files is escaped: on the hub a card is a page.
"""

import html
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import yaml

from smartfast.core.text import printable

_SHOWN_NAMES = 50
_SPECIAL = re.compile(r"([\\`*_{}\[\]()#+!|~$])")


@dataclass(frozen=True)
class Facts:
    """What a card says.

    name: Title. family: Key of FAMILIES. shape: Channels, height, width. classes: Length of a label vector, 0 = none.
    takes_vectors: Whether labels are vectors in place of classes. kimg: Thousands of training images seen, None =
    unknown. parameters: Of the generator. dataset: What the checkpoint says of its data. metrics: Name, value,
    features, kimg, generated samples and meaning of each. settings: By dotted name. versions: Of packages. programs:
    Largest difference of each file from the network. psi: Their truncation. license: As the hub names it, None = not
    stated. origin: Of weights from elsewhere, the project and its license. address: What loads it.
    """

    name: str
    family: str
    shape: tuple[int, int, int]
    classes: int
    takes_vectors: bool
    kimg: float | None
    parameters: int
    dataset: Mapping[str, Any] = field(default_factory=dict)
    metrics: Sequence[Sequence[str]] = ()
    settings: Mapping[str, Any] = field(default_factory=dict)
    versions: Mapping[str, str] = field(default_factory=dict)
    programs: Mapping[str, float] = field(default_factory=dict)
    psi: float = 1.0
    license: str | None = None
    origin: str = ""
    address: str = "FOLDER"


def model_card(facts: Facts) -> str:
    """The text of README.md beside the weights."""
    sections = [_front(facts), f"# {_text(facts.name)}", _what(facts), "![Samples](samples.png)", _use(facts)]
    sections += [_programs(facts), _data(facts), _metrics(facts), _settings(facts), _license(facts)]
    return "\n\n".join(section for section in sections if section) + "\n"


def _front(facts: Facts) -> str:
    values = {
        "library_name": "smartfast",
        "license": facts.license or "other",
        "pipeline_tag": "unconditional-image-generation",
        "tags": ["gan", "image-generation", facts.family],
    }
    return f"---\n{yaml.safe_dump(values, sort_keys=False)}---"


def _what(facts: Facts) -> str:
    channels, height, width = facts.shape
    labels = "without labels"
    if facts.classes:
        labels = (
            f"of label vectors of {facts.classes} numbers" if facts.takes_vectors else f"of {facts.classes} classes"
        )
    trained = "" if facts.kimg is None else f", trained for {facts.kimg:,.10g} thousand images"
    colours = {1: "grey", 3: "RGB", 4: "RGBA"}.get(channels, f"{channels} channels")
    return (
        f"A generator of the family {_text(facts.family)} for images of {width}x{height} pixels ({colours}) {labels}, "
        f"{facts.parameters:,} parameters{trained}: the running average of the weights."
    )


def _use(facts: Facts) -> str:
    classes = ", classes=0" if facts.classes and not facts.takes_vectors else ""
    return f"""## Use

```python
import smartfast

generator = smartfast.load({json.dumps(facts.address)})
images = generator.images(range(16){classes})  # uint8 [16, {", ".join(map(str, facts.shape))}], one per seed
```

`generator.module` is the network, a `torch.nn.Module`. The weights are safetensors: loading them runs no code."""


def _programs(facts: Facts) -> str:
    if not facts.programs:
        return ""
    inputs = "`z`" + (f" and `c` (label vectors `[N, {facts.classes}]`)" if facts.classes else "")
    rows = [[f"`{name}`", f"{difference:.1e}"] for name, difference in facts.programs.items()]
    note = f"They take {inputs} for any N, and truncate with psi {facts.psi:g}."
    return f"## Without this package\n\n{_table(['file', 'largest difference from the network'], rows)}\n\n{note}"


def _data(facts: Facts) -> str:
    lines = ["## Data", ""]
    if "name" in facts.dataset:
        count = facts.dataset.get("images")
        size = f", {count:,} images" if isinstance(count, int) else ""
        lines.append(f"Trained on {_text(facts.dataset['name'])}{size}.")
    else:
        lines.append("Not known.")
    if names := facts.dataset.get("class_names"):
        shown = ", ".join(_text(name) for name in names[:_SHOWN_NAMES])
        lines += ["", f"Classes, from 0: {shown}{', ...' if len(names) > _SHOWN_NAMES else ''}."]
    lines += ["", "Where the images come from, and what may be done with them: *to be filled in*."]
    return "\n".join(lines)


def _metrics(facts: Facts) -> str:
    if not facts.metrics:
        return "## Metrics\n\nNone were computed."
    header = ["metric", "value", "features", "at kimg", "generated samples", "meaning"]
    rows = [[_text(cell) for cell in row] for row in facts.metrics]
    note = "Numbers of different features, or of another number of samples, do not compare."
    return f"## Metrics\n\n{_table(header, rows)}\n\n{note}"


def _settings(facts: Facts) -> str:
    if not facts.settings:
        return ""
    rows = [[_text(name), _text(_value(value))] for name, value in facts.settings.items()]
    versions = ", ".join(f"{_text(name)} {_text(version)}" for name, version in facts.versions.items())
    folded = f"<details><summary>All settings</summary>\n\n{_table(['setting', 'value'], rows)}\n\n</details>"
    return f"## Training\n\nThe settings are in `config.json` too. Versions: {versions or 'not known'}.\n\n{folded}"


def _license(facts: Facts) -> str:
    todo = "*To be filled in*: whose the weights are, and what the license of the training images allows."
    origin = f"{_text(facts.origin)}.\n\n" if facts.origin else ""
    return f"## License\n\n{origin}{_text(facts.license) if facts.license else todo}"


def _value(value: Any) -> str:
    return value if isinstance(value, str) else json.dumps(value)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    return "\n".join(f"| {' | '.join(row)} |" for row in (header, ["---"] * len(header), *rows))


def _text(value: object) -> str:
    """Text that markdown and HTML show as it is, on one line."""
    return _SPECIAL.sub(r"\\\1", html.escape(printable(str(value)), quote=False))
