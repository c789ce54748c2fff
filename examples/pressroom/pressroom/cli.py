"""The command line: read, render, write, and say what came of it."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path

from pressroom import highlight, sources
from pressroom.index import Index
from pressroom.markdown import render
from pressroom.models import Document, PressError, Summary
from pressroom.site import Site
from pressroom.thumbs import covers

INSTALLED = "installed"


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; answers its exit status: 0, or 2 where input or output cannot be used."""
    options = _parser().parse_args(argv)
    try:
        summary = press(_read(options.source, options.limit), options.out)
    except PressError as error:
        print(f"pressroom: {error}", file=sys.stderr)
        return 2
    print(f"{summary.documents} documents, {summary.files} files, {summary.size_bytes} bytes, sha256 {summary.sha256}")
    return 0


def press(documents: Iterable[Document], out: Path) -> Summary:
    """Render the documents into a site at ``out``. Raises PressError where that folder cannot be used."""
    site = Site(out)
    index = Index()
    for document in documents:
        site.add(render(document), covers(document))
        index.add_document(document.slug, document.title, document.text)
    return site.finish(index.finish(), highlight.stylesheet())


def _read(source: str, limit: int) -> list[Document]:
    return sources.read_installed(limit) if source == INSTALLED else sources.read_folder(Path(source), limit)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="pressroom", description="Print README texts as a small static site.")
    parser.add_argument("--out", type=Path, default=Path("build"), metavar="DIR", help="output folder (default: build)")
    parser.add_argument("--limit", type=_positive, default=120, metavar="N", help="documents at most (default: 120)")
    parser.add_argument(
        "--source",
        default=INSTALLED,
        metavar="DIR",
        help=f"folder of .md files, or {INSTALLED!r}: the texts of the packages on this machine (default)",
    )
    return parser


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number
