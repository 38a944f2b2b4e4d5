"""A config file of arcface_torch as a reader would edit it for another loss."""

from __future__ import annotations

import ast
from collections.abc import Mapping
from operator import itemgetter
from typing import Any

from verimargin.commands.comparison.losses import NamedLoss

IMPORTS = "import verimargin as vm\n"
REGISTER_IMPORT = "from verimargin_insightface import register\n"


def edited(config: str, loss: NamedLoss) -> str:
    """The text of a config file with the function, the kappa and the settings of a loss.

    What the file assigns already is replaced where it stands; the rest comes before `register(config)`, which is added
    where the loss is ours and the file has none. Imports come before the first change, which may need them.
    """
    values: dict[str, str | None] = {key: repr(value) for key, value in loss.settings.items()}
    if loss.function:
        values |= {"loss": call(loss), "kappa": None if loss.kappa is None else repr(dict(loss.kappa))}
    config = config if config.endswith("\n") else f"{config}\n"
    tree, lines = ast.parse(config), config.splitlines(keepends=True)
    assigned, registers = _assigned(tree), _registers(tree)
    end = "".join(_line(key, value) for key, value in values.items() if key not in assigned)
    imports = ""
    if loss.function:
        end = end if registers else f"{end}register(config)\n"
        imports = "" if registers else REGISTER_IMPORT
        imports += "" if IMPORTS in config else IMPORTS
    first = registers[0] if registers else len(lines)
    edits = [((first, first), end)]
    edits += [(assigned[key], _line(key, value)) for key, value in values.items() if key in assigned]
    top = min(start for (start, _), _ in edits)
    edits.append(((top, top), imports))  # applied last of those that start there, so that they come before it
    for (start, stop), text in sorted(edits, key=itemgetter(0), reverse=True):
        lines[start:stop] = [text]
    return "".join(lines)


def call(loss: NamedLoss) -> str:
    """The function and its arguments, as in a config file.

    >>> call(NamedLoss("x", "q_margin", {"alpha": 1.25, "scale": 32}))
    'vm.q_margin(alpha=1.25, scale=32)'
    """
    arguments = {key: repr(value) for key, value in loss.options.items()}
    if "quality" in loss.options:
        arguments["quality"] = f"vm.Quality({_arguments(loss.options['quality'])})"
    return f"vm.{loss.function}({', '.join(f'{key}={value}' for key, value in arguments.items())})"


def _arguments(options: Mapping[str, Any]) -> str:
    return ", ".join(f"{key}={value!r}" for key, value in options.items())


def _line(key: str, value: str | None) -> str:
    return "" if value is None else f"config.{key} = {value}\n"


def _assigned(tree: ast.Module) -> dict[str, tuple[int, int]]:
    """The lines of the last assignment to each attribute of `config`, as the first and the one behind the last."""
    found = {}
    for node in tree.body:
        match node:
            case ast.Assign(targets=[ast.Attribute(value=ast.Name(id="config"), attr=name)], end_lineno=int(end)):
                found[name] = node.lineno - 1, end
    return found


def _registers(tree: ast.Module) -> list[int]:
    """The lines of the calls of `register`."""
    found = []
    for node in tree.body:
        match node:
            case ast.Expr(value=ast.Call(func=ast.Name(id="register"))):
                found.append(node.lineno - 1)
    return found
