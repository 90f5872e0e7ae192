"""YAML files of settings: read with one line for whatever is wrong with one."""

from collections.abc import Hashable
from typing import Any

import yaml

from smartfast.errors import UserError


class _UniqueKeys(yaml.SafeLoader):
    """Refuses a key that a mapping has twice, of which YAML's own loader would take the last without a word."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key, _ in node.value:
            if isinstance(key, yaml.ScalarNode) and key.value in seen:
                raise UserError(f"{key.value} is given twice, the second time in line {key.start_mark.line + 1}")
            seen.add(key.value if isinstance(key, yaml.ScalarNode) else None)
        return super().construct_mapping(node, deep)


def read_settings(path: str) -> dict[str, Any]:
    """The groups of settings of a YAML file.

    Raises:
        UserError: It cannot be read, is no YAML, has a key twice or is no mapping; names the file.
    """
    try:
        with open(path, encoding="utf-8") as file:
            settings = yaml.load(file, _UniqueKeys)
    except OSError as error:
        raise UserError(f"{path} cannot be read ({error.strerror}), expected a YAML file") from error
    except UserError as error:
        raise UserError(f"{path}: {error}, expected once") from error
    except Exception as error:  # values that do not fit their tag raise whatever their type does
        raise UserError(f"{path} is no YAML ({' '.join(str(error).split())[:200]})") from error
    if settings is None:
        return {}
    if not isinstance(settings, dict):
        raise UserError(
            f"{path} holds {type(settings).__name__}, expected groups of settings such as run: {{kimg: 100}}"
        )
    return settings
