"""What is expected of a study before it runs: a sentence, the metric it is about, and the test that decides it."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from smartfast.errors import UserError

_TEST = re.compile(r"(?P<left>\S+)\s+(?P<sign>[<>])\s+(?:(?P<factor>\d+(?:\.\d+)?)\s*\*\s*)?(?P<right>\S+)")
_KEYS = ("text", "metric", "test")


@dataclass(frozen=True)
class Hypothesis:
    """A sentence and its test: `left < factor * right`, or `>`, of the metric, paired by seed.

    Attributes:
        sign: -1 where the left arm's values are expected to be lower, 1 where higher.
    """

    text: str
    metric: str
    left: str
    sign: int
    factor: float
    right: str

    @property
    def test(self) -> str:
        """As the YAML has it."""
        factor = "" if self.factor == 1 else f"{self.factor:g} * "
        return f"{self.left} {'<' if self.sign < 0 else '>'} {factor}{self.right}"


def read_hypotheses(value: Any, arms: Sequence[str], metrics: Sequence[str]) -> tuple[Hypothesis, ...]:
    """The hypotheses of a study's YAML.

    Raises:
        UserError: One lacks a key or has another, or names an arm or metric that the study has not.
    """
    if not isinstance(value, list):
        raise UserError(f"hypotheses is {value!r}, expected a list of text, metric and test")
    return tuple(_hypothesis(entry, f"hypotheses[{i}]", arms, metrics) for i, entry in enumerate(value))


def _hypothesis(entry: Any, key: str, arms: Sequence[str], metrics: Sequence[str]) -> Hypothesis:
    if not isinstance(entry, dict) or set(entry) != set(_KEYS) or not all(isinstance(v, str) for v in entry.values()):
        raise UserError(f"{key} is {entry!r}, expected texts for {', '.join(_KEYS)} and nothing else")
    if entry["metric"] not in metrics:
        raise UserError(f"{key}.metric is {entry['metric']}, expected one of the study's: {', '.join(metrics)}")
    match = _TEST.fullmatch(entry["test"].strip())
    if match is None:
        raise UserError(f"{key}.test is {entry['test']!r}, expected such as `score < plain` or `score < 0.33 * plain`")
    for arm in (match["left"], match["right"]):
        if arm not in arms:
            raise UserError(f"{key}.test names {arm}, expected arms of the study: {', '.join(arms)}")
    if match["left"] == match["right"]:
        raise UserError(f"{key}.test compares {match['left']} with itself, expected two arms")
    sign = -1 if match["sign"] == "<" else 1
    factor = float(match["factor"] or 1)
    return Hypothesis(" ".join(entry["text"].split()), entry["metric"], match["left"], sign, factor, match["right"])
