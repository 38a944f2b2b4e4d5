"""What the launcher looks for in a config of arcface_torch before it runs the script, without importing it.

A config that sets ``config.loss`` and never calls ``register(config)`` trains upstream's own loss, and nothing in the
logs says so. A misspelt ``config.kapa`` is ignored in the same way.
"""

from __future__ import annotations

import ast
import difflib
from collections.abc import Iterator, Sequence
from pathlib import Path

OURS = ("loss", "kappa", "schedule", "pretrained", "screening", "subcenters")
REGISTER = "from verimargin_insightface import register\nregister(config)"


def check_configs(script: str, arguments: Sequence[str]) -> None:
    """Check the config files among a script's arguments, as upstream finds them: in the folder or beside the script.

    Raises:
        ValueError: a config sets one of our settings without `register`, or sets a name that is close to one of them.
    """
    for argument in arguments:
        if argument.endswith(".py"):
            places = Path(argument), Path(script).parent / argument
            for path in [place for place in places if place.is_file()][:1]:
                check_config(path)


def check_config(path: Path) -> None:
    """Check one config file; errors as in `check_configs`. A file that does not parse is left for Python to refuse."""
    try:
        tree = ast.parse(path.read_bytes(), str(path))
    except SyntaxError:
        return
    names = set(settings_of(tree))
    set_here = [name for name in OURS if name in names]
    if set_here and not _calls_register(tree):
        raise ValueError(
            f"{path} sets config.{set_here[0]} and does not call register(config), so upstream's own loss would be "
            f"trained: end the file with\n\n{REGISTER}\n"
        )
    for name in sorted(names - set(OURS)):
        if close := difflib.get_close_matches(name, OURS, 1, cutoff=0.75):
            raise ValueError(f"{path} sets config.{name}, which nothing reads: did you mean config.{close[0]}?")


def settings_of(tree: ast.AST) -> Iterator[str]:
    """The names that are assigned to attributes of `config`."""
    for node in ast.walk(tree):
        match node:
            case ast.Attribute(value=ast.Name(id="config"), attr=name, ctx=ast.Store()):
                yield name


def _calls_register(tree: ast.AST) -> bool:
    called = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
    return any(getattr(function, "id", getattr(function, "attr", "")) == "register" for function in called)
