"""Where the texts come from: a folder of Markdown files, or the packages installed on this machine.

Few environments hold a hundred packages, so installed texts come in three waves, each read only if the ones before did
not reach the limit: long descriptions (the README texts in the metadata), then the text documents that packages install
(CHANGES, LICENSE, AUTHORS, README ...), then the docstrings of their modules. The order is the same every time.
"""

from __future__ import annotations

import ast
import re
import textwrap
from collections.abc import Iterator
from email import message_from_string
from importlib.metadata import Distribution, distributions
from itertools import islice
from pathlib import Path, PurePath

from pressroom.models import Document, Format, PressError

SHORTEST_TEXT = 200  # characters; below that there is nothing to lay out

_DOCUMENT_NAME = re.compile(r"readme|change|history|news|authors|contributing|licen[cs]e|notice|copying", re.IGNORECASE)
_FORMATS = {".md": Format.MARKDOWN, ".rst": Format.RESTRUCTURED, ".txt": Format.PLAIN, "": Format.PLAIN}


def read_folder(folder: Path, limit: int) -> list[Document]:
    """At most ``limit`` documents from the ``.md`` files under ``folder``, in the order of their paths.

    Raises PressError where the folder is missing or empty, or a file is not UTF-8 text.
    """
    if not folder.is_dir():
        raise PressError(f"no such folder: {folder}")
    documents: list[Document] = []
    slugs: set[str] = set()
    for path in islice(sorted(folder.rglob("*.md"), key=lambda path: path.relative_to(folder).parts), limit):
        try:
            text = path.read_text(encoding="utf-8")
        except UnicodeDecodeError as error:
            raise PressError(f"{path} is not UTF-8 text (byte {error.start})") from error
        except OSError as error:
            raise PressError(f"cannot read {path}: {error.strerror}") from error
        name = path.relative_to(folder).with_suffix("").as_posix()
        documents.append(Document(_slug(name, slugs), _title(text, path.stem), Format.MARKDOWN, text))
    if not documents:
        raise PressError(f"no .md files in {folder}")
    return documents


def read_installed(limit: int) -> list[Document]:
    """At most ``limit`` documents from the packages that this interpreter can import.

    Raises PressError if there are none.
    """
    installed = _installed()
    documents: list[Document] = []
    slugs: set[str] = set()
    texts: set[str] = set()
    for wave in (_descriptions, _text_files, _docstrings):
        for name, kind, raw in wave(installed):
            text = raw.replace("\r\n", "\n").strip() + "\n"
            if len(text) < SHORTEST_TEXT or text in texts:
                continue  # many packages carry the very same licence
            texts.add(text)
            documents.append(Document(_slug(name, slugs), name, kind, text))
            if len(documents) == limit:
                return documents
    if not documents:
        raise PressError("no installed package has a text to print")
    return documents


def _installed() -> dict[str, Distribution]:
    """Distributions by normalised name, sorted; the first on the path wins, as it does for imports."""
    found: dict[str, Distribution] = {}
    for distribution in distributions():
        name = distribution.metadata["Name"] if distribution.metadata is not None else None
        if name:
            found.setdefault(re.sub(r"[-_.]+", "-", name).lower(), distribution)
    return dict(sorted(found.items()))


def _descriptions(installed: dict[str, Distribution]) -> Iterator[tuple[str, Format, str]]:
    for name, distribution in installed.items():
        raw = distribution.read_text("METADATA") or distribution.read_text("PKG-INFO")
        if raw is None:
            continue
        message = message_from_string(raw)
        body = message.get_payload()
        text = body if isinstance(body, str) and body.strip() else textwrap.dedent(message.get("Description", ""))
        # by the packaging specification a description without a content type is reStructuredText
        content_type = message.get("Description-Content-Type", "text/x-rst").partition(";")[0].strip().lower()
        kind = {"text/markdown": Format.MARKDOWN, "text/plain": Format.PLAIN}.get(content_type, Format.RESTRUCTURED)
        yield name, kind, text


def _text_files(installed: dict[str, Distribution]) -> Iterator[tuple[str, Format, str]]:
    for name, path in _files(installed):
        kind = _FORMATS.get(path.suffix.lower())
        if kind is not None and _DOCUMENT_NAME.match(path.name):
            text = _read(path)
            if text is not None:
                yield f"{name} {path.name}", kind, text


def _docstrings(installed: dict[str, Distribution]) -> Iterator[tuple[str, Format, str]]:
    for name, path in _files(installed):
        if path.suffix != ".py":
            continue
        source = _read(path)
        if source is None or '"""' not in source[:1000]:  # parsing is slow; a docstring begins early
            continue
        try:
            docstring = ast.get_docstring(ast.parse(source))
        except (SyntaxError, ValueError):  # templates and test data are installed as .py files, too
            continue
        if docstring is not None:
            yield f"{name} {path.stem}", Format.RESTRUCTURED, docstring


def _files(installed: dict[str, Distribution]) -> Iterator[tuple[str, Path]]:
    for name, distribution in installed.items():
        for file in sorted(distribution.files or (), key=lambda file: PurePath(file).parts):
            yield name, Path(str(distribution.locate_file(file)))


def _read(path: Path) -> str | None:
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:  # listed, but removed since it was installed
        return None


def _slug(name: str, taken: set[str]) -> str:
    base = re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:60] or "document"
    slug, number = base, 1
    while slug in taken:
        number += 1
        slug = f"{base}-{number}"
    taken.add(slug)
    return slug


def _title(text: str, fallback: str) -> str:
    heading = re.search(r"^#\s+(.+?)\s*#*\s*$", text, re.MULTILINE)
    return heading[1] if heading else fallback
