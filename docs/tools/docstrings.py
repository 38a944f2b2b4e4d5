"""How mkdocs reads the docstrings: their `::` blocks and doctests become fenced code, papers become links.

A griffe extension, named in mkdocs.yml. The docstrings are Google's sections with reStructuredText's literal blocks,
which a terminal shows well and Markdown does not: it would show `::`, and take `>>>` for three nested quotations.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from typing import Any

import griffe

LITERAL = re.compile(r"::\n\n((?:(?: {4}.*)?\n)+)")
DOCTEST = re.compile(r"^(>>> .*(?:\n(?!\n).*)*)", re.MULTILINE)
ARXIV = re.compile(r"\barXiv (\d{4}\.\d{5})")
ATTRIBUTES = re.compile(r"^Attributes, (.*):$", re.MULTILINE)
TAG = re.compile(r"(```.*?```|``.*?``|`[^`]*`)|<(?=\w)", re.DOTALL)  # `<theta, p>` outside code, which would be HTML
COMPARED = re.compile(r"^( +[\w, ]+: )>", re.MULTILINE)  # `alpha: >= 1`, which would be a quotation
DOI = re.compile(r"(?<![/\w])(10\.\d{4,}/[\w.]+\w)")


class Docstrings(griffe.Extension):
    """Rewrites each docstring before griffe parses it."""

    def on_instance(self, *, obj: griffe.Object | griffe.Alias, **_: Any) -> None:
        if obj.docstring is not None:
            obj.docstring.value = as_markdown(obj.docstring.value)


def as_markdown(text: str) -> str:
    text = LITERAL.sub(lambda found: ":\n\n" + fenced(found[1]), inspect.cleandoc(text) + "\n")
    text = DOCTEST.sub(lambda found: "\n" + fenced(found[1]), text)
    text = ATTRIBUTES.sub(r"The attributes are \1.\n\nAttributes:", text)
    text = TAG.sub(lambda found: found[1] or "&lt;", text)
    text = COMPARED.sub(r"\1\\>", text)
    text = ARXIV.sub(r"[arXiv \1](https://arxiv.org/abs/\1)", text)
    return DOI.sub(r"[\1](https://doi.org/\1)", text).rstrip()


def fenced(code: str) -> str:
    return f"```python\n{textwrap.dedent(code).strip()}\n```\n\n"
