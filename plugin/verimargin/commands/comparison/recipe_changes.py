"""What each loss of an experiment changes in the reader's own recipe, as a diff."""

from __future__ import annotations

import difflib

from ...files.reading import read_text
from ..page import code, literal
from .experiment import Experiment
from .toolkit import Toolkit


def section(toolkit: Toolkit, experiment: Experiment) -> str:
    """The lines that each loss changes in the recipe of the experiment, as Markdown."""
    before = read_text(experiment.recipe_of(None))
    shown = []
    for loss in experiment.losses:
        change = difference(before, toolkit.with_loss(experiment, loss))
        shown.append(f"**{literal(loss.title)}**\n\n{code(change, 'diff') if change else 'Nothing: it has this loss.'}")
    return "\n\n".join([f"## In your recipe\n\nWhat each loss changes in {literal(experiment.recipe)}:", *shown])


def difference(before: str, after: str) -> str:
    """The lines that differ, with - and + in front; comments and empty lines are left out.

    >>> print(difference("lr: 0.1\\nscale: 30\\n", "lr: 0.1\\n# smaller\\nscale: 10\\n"))
    -scale: 30
    +scale: 10
    """
    one, other = ([line for line in text.splitlines() if _is_code(line)] for text in (before, after))
    changed = difflib.unified_diff(one, other, n=0, lineterm="")
    return "\n".join(line for line in list(changed)[2:] if not line.startswith("@@"))


def _is_code(line: str) -> bool:
    return bool(line.strip()) and not line.lstrip().startswith("#")
