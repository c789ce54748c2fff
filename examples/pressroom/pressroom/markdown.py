"""Documents to HTML bodies."""

from __future__ import annotations

from itertools import pairwise

from markdown_it import MarkdownIt
from markdown_it.token import Token

from pressroom.highlight import highlight
from pressroom.models import Document, Format, Page


def _fence(source: str, info: str, _attributes: str) -> str:
    return highlight(source, info.split()[0] if info.split() else "")


# Raw HTML in a README is shown, not obeyed: the pages must not run what a stranger's package description says.
_PARSER = MarkdownIt("commonmark", {"html": False, "typographer": True, "highlight": _fence})
_PARSER.enable(["table", "strikethrough", "replacements", "smartquotes"])


def render(document: Document) -> Page:
    """The page of a document. Markdown is laid out; anything else is shown as coloured source."""
    if document.format is not Format.MARKDOWN:
        body = highlight(document.text, document.format.value)
        return Page(document.slug, document.title, body, _underlined(document.text), 1)
    environment: dict[str, object] = {}
    tokens = _PARSER.parse(document.text, environment)
    body = _PARSER.renderer.render(tokens, _PARSER.options, environment)
    blocks = sum(token.type == "fence" for token in tokens)
    return Page(document.slug, document.title, body, _headings(tokens), blocks)


def _headings(tokens: list[Token]) -> tuple[str, ...]:
    following = pairwise(tokens)
    return tuple(text.content for opening, text in following if opening.type == "heading_open" and text.content)


def _underlined(text: str) -> tuple[str, ...]:
    """Headings of reStructuredText: a line, and below it a rule at least as long."""
    lines = text.splitlines()
    return tuple(
        line.strip()
        for line, rule in pairwise(lines)
        if line.strip() and len(set(rule)) == 1 and rule[0] in "=-~^" and len(rule) >= len(line.rstrip()) >= 3
    )
