"""The report of a command, from one source: report.md for terminals, and report.html, which needs no other file.

A part of a report is Markdown, or samples to listen to or look at. The page shows what the Markdown says. A figure is
shown by its .svg, where there is one beside it, and a wide table scrolls in a box of its own.
"""

from __future__ import annotations

import base64
import mimetypes
import re
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from pathlib import Path
from typing import Any

from ..files.whole import whole


@dataclass(frozen=True)
class Sample:
    """A recording or a photograph.

    Attributes:
        caption: what it is, in a line or two of text; kind: its media type, such as audio/mpeg or image/jpeg.
    """

    caption: str
    data: bytes
    kind: str

    def __post_init__(self) -> None:
        if self.kind.split("/")[0] not in ("audio", "image"):
            raise ValueError(f"kind is {self.kind!r}: give a media type that begins with audio/ or image/")


@dataclass(frozen=True)
class Samples:
    """Samples side by side; report.md shows the captions alone."""

    samples: Sequence[Sample]

    @property
    def markdown(self) -> str:
        return "\n".join(f"- {literal(sample.caption)}" for sample in self.samples)


@dataclass(frozen=True)
class Report:
    """A title and parts in order; a part that is empty is left out."""

    title: str
    parts: Sequence[str | Samples]

    def write(self, folder: Path) -> None:
        """Write report.md and report.html. The figures that the Markdown names have to lie in the folder already."""
        parts = [part for part in self.parts if part]
        with whole(folder / "report.md") as partial:
            texts = [part if isinstance(part, str) else part.markdown for part in parts]
            partial.write_text("\n\n".join([f"# {literal(self.title)}", *texts]) + "\n", encoding="utf-8")
        with whole(folder / "report.html") as partial:
            partial.write_text(_html(self.title, parts, folder), encoding="utf-8")


def literal(text: str) -> str:
    """Text of a user, such as the name of a file, as Markdown that shows it as it is, also in a table."""
    return re.sub(r"([\\`*\[\]<>|~#&!]|(?<!\w)_|_(?!\w))", r"\\\1", " ".join(text.split()))


def unescaped(markdown: str) -> str:
    """The Markdown with the texts of users as they are, as on a terminal.

    >>> unescaped(literal("dev [1]*.txt"))
    'dev [1]*.txt'
    """
    return re.sub(r"\\([\\`*\[\]<>|~#&!_])", r"\1", markdown)


def code(lines: str, language: str = "") -> str:
    """A block of code; in the language "diff", lines that begin with + or - are coloured."""
    return f"```{language}\n{lines.strip()}\n```"


def _html(title: str, parts: Sequence[str | Samples], folder: Path) -> str:
    from jinja2 import Environment, FileSystemLoader
    from markupsafe import Markup

    page = Environment(loader=FileSystemLoader(Path(__file__).parent), autoescape=True).get_template("page.html.jinja")
    shown = [_text(part, folder) if isinstance(part, str) else _samples(part) for part in parts]
    return page.render(title=title, body=Markup("\n".join(shown)))  # both have escaped what the user wrote


def _text(markdown: str, folder: Path) -> str:
    """The Markdown as HTML. HTML in it is shown, not obeyed."""
    from markdown_it import MarkdownIt

    converter = MarkdownIt("commonmark", {"html": False}).enable("table")
    tokens = converter.parse(markdown)
    for before, token, after in zip(tokens, tokens[1:], tokens[2:]):
        if token.type == "inline" and {child.type for child in token.children or ()} <= {"image", "softbreak"}:
            before.hidden = after.hidden = True  # a figure is no part of a paragraph
    converter.add_render_rule("image", lambda self, tokens, i, *_: _figure(folder / tokens[i].attrs["src"], tokens[i]))
    converter.add_render_rule("fence", lambda self, tokens, i, *_: _block(tokens[i].content, tokens[i].info))
    html = converter.renderer.render(tokens, converter.options, {})
    html = html.replace("<table>", '<div class="scroll" tabindex="0"><table>').replace("</table>", "</table></div>")
    return re.sub(r"(<td[^>]*>[^<\[]+?) (\[[^\]<]*\])(?=</td>)", r"\1 <small>\2</small>", html)


def _block(lines: str, language: str) -> str:
    shown = escape(lines).splitlines()
    if language == "diff":
        tags = {"+": "ins", "-": "del"}
        shown = [f"<{tag}>{line}</{tag}>" if (tag := tags.get(line[:1])) else line for line in shown]
    return '<pre tabindex="0"><code>' + "\n".join(shown) + "</code></pre>\n"


def _figure(path: Path, token: Any) -> str:
    vector = path.with_suffix(".svg")
    if vector.exists():
        return f"<figure>{vector.read_text('utf-8')}</figure>\n"
    kind = mimetypes.guess_type(path.name)[0] or "image/png"
    return f'<figure><img alt="{escape(token.content)}" src="{_embedded(kind, path.read_bytes())}"></figure>\n'


def _samples(part: Samples) -> str:
    figures = []
    for sample in part.samples:
        source, caption = _embedded(sample.kind, sample.data), escape(sample.caption)
        if sample.kind.startswith("audio"):
            shown = f'<audio controls preload="metadata" aria-label="{caption}" src="{source}"></audio>'
        else:
            shown = f'<img alt="{caption}" src="{source}">'
        figures.append(f"<figure><figcaption>{caption}</figcaption>{shown}</figure>\n")
    return f'<div class="samples">\n{"".join(figures)}</div>'


def _embedded(kind: str, data: bytes) -> str:
    return f"data:{kind};base64,{base64.b64encode(data).decode()}"
