"""Source code to coloured HTML."""

from __future__ import annotations

from functools import lru_cache

from pygments import highlight as _pygmentize
from pygments.formatters import HtmlFormatter
from pygments.lexer import Lexer
from pygments.lexers import TextLexer, get_lexer_by_name, guess_lexer
from pygments.util import ClassNotFound

CSS_CLASS = "code"
STYLE = "friendly"
LONGEST_GUESS = 4000  # characters; guessing runs every lexer's sniffer over the text

_FORMATTER = HtmlFormatter(style=STYLE, nowrap=True)


def highlight(source: str, language: str = "") -> str:
    """``source`` as a ``<pre>`` element. An unknown language is shown as it is; without one, a guess is made."""
    lexer = _named(language) if language else _guess(source)
    marked = _pygmentize(source, lexer, _FORMATTER)
    return f'<pre class="{CSS_CLASS}"><code>{marked}</code></pre>\n'


def stylesheet() -> str:
    """The CSS rules for the classes that ``highlight`` uses."""
    return str(HtmlFormatter(style=STYLE).get_style_defs(f".{CSS_CLASS}")) + "\n"


@lru_cache(maxsize=64)
def _named(language: str) -> Lexer:
    try:
        return get_lexer_by_name(language)
    except ClassNotFound:
        return TextLexer()


def _guess(source: str) -> Lexer:
    if len(source) > LONGEST_GUESS:
        return TextLexer()
    try:
        return guess_lexer(source)
    except ClassNotFound:
        return TextLexer()
