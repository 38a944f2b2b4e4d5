"""Values for the keys of a recipe, written so that YAML reads them as they are meant."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any


def as_yaml(values: Mapping[str, Any]) -> str:
    """The overrides for `load_hyperpyyaml`, one line per key.

    A path is quoted: YAML would cut it at a `#` and read `: ` in it as a key. A text is YAML (`5`, `!ref <key>`,
    `[1, 2]`), but is quoted too if YAML would not read all of it as one value.
    """
    return "\n".join(f"{json.dumps(key)}: {_written(value)}" for key, value in values.items())


def _written(value: Any) -> str:
    if isinstance(value, Path) or (isinstance(value, str) and not _is_one_value(value)):
        return json.dumps(str(value), ensure_ascii=False)
    return value if isinstance(value, str) else json.dumps(value)


def _is_one_value(text: str) -> bool:
    import yaml

    try:
        node = yaml.compose(text, Loader=yaml.SafeLoader)
    except yaml.YAMLError:
        return False
    if node is None:
        return not text.strip()  # or it is a comment
    plain = isinstance(node, yaml.ScalarNode) and node.style is None and not text.startswith("!")
    if plain:
        return node.value == text.strip()
    closed = isinstance(node, yaml.ScalarNode) or node.flow_style
    return bool(closed) and node.end_mark.index == len(text.rstrip())
