"""The values that pass between the stages."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class PressError(Exception):
    """The input or the output folder cannot be used; the text says which and why, in one line."""


class Format(Enum):
    """How a text is marked up."""

    MARKDOWN = "markdown"
    RESTRUCTURED = "rst"
    PLAIN = "text"


@dataclass(frozen=True, slots=True)
class Document:
    """One text as it was read. ``slug`` is unique in a run and safe as a file name."""

    slug: str
    title: str
    format: Format
    text: str


@dataclass(frozen=True, slots=True)
class Page:
    """A document as HTML: the body alone, without the site's frame."""

    slug: str
    title: str
    body: str
    headings: tuple[str, ...]
    code_blocks: int


@dataclass(frozen=True, slots=True)
class Thumb:
    """A PNG picture of a document's cover."""

    slug: str
    width: int
    height: int
    png: bytes

    @property
    def file_name(self) -> str:
        return f"{self.slug}-{self.width}x{self.height}.png"


@dataclass(frozen=True, slots=True)
class Summary:
    """What a run wrote. ``sha256`` stands for every byte and every file name of the output tree."""

    documents: int
    files: int
    size_bytes: int
    sha256: str
