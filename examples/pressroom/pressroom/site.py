"""The output folder: pages, covers, search index, and a manifest that lists each file with its digest."""

from __future__ import annotations

import hashlib
import html
import json
from collections.abc import Mapping, Sequence
from pathlib import Path

from pressroom.models import Page, PressError, Summary, Thumb

MANIFEST = "manifest.json"

_FRAME = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<title>{title}</title>
<link rel="stylesheet" href="{root}style.css">
</head>
<body>
{body}</body>
</html>
"""
_STYLE = """body { max-width: 48rem; margin: 2rem auto; padding: 0 1rem; font: 1rem/1.5 system-ui, sans-serif; }
pre.code { padding: .8rem; overflow-x: auto; background: #f4f4f0; }
table { border-collapse: collapse; } td, th { border: 1px solid #ccc; padding: .2rem .6rem; }
img { max-width: 100%; } ul.shelf { list-style: none; display: grid; grid-template-columns: repeat(3, 1fr); gap: 1rem; }
"""


class Site:
    """Writes one site into ``out``; files that an earlier run left there are removed first, others are not touched.

    Raises PressError where ``out`` cannot be used.
    """

    def __init__(self, out: Path) -> None:
        self.out = out
        self._digests: dict[str, str] = {}
        self._size_bytes = 0
        self._shelf: list[tuple[Page, Thumb]] = []
        try:
            out.mkdir(parents=True, exist_ok=True)
            self._remove_earlier()
        except FileExistsError as error:
            raise PressError(f"{out} is a file; --out needs a folder") from error
        except OSError as error:
            raise PressError(f"cannot write to {out}: {error.strerror}") from error

    def add(self, page: Page, thumbs: Sequence[Thumb]) -> None:
        """Write the page of one document and its covers, the largest first."""
        for thumb in thumbs:
            self._write(f"covers/{thumb.file_name}", thumb.png)
        contents = "".join(f"<li>{html.escape(heading)}</li>\n" for heading in page.headings[:20])
        body = (
            f'<p><a href="../index.html">All documents</a></p>\n<img src="../covers/{thumbs[0].file_name}" alt="">\n'
            f"<ul>\n{contents}</ul>\n{page.body}"
        )
        self._write_html(f"pages/{page.slug}.html", page.title, body, root="../")
        self._shelf.append((page, thumbs[-1]))

    def finish(self, index: Mapping[str, Sequence[tuple[str, float]]], code_style: str) -> Summary:
        """Write what belongs to the site as a whole."""
        self._write("style.css", (_STYLE + code_style).encode())
        titles = {page.slug: page.title for page, _ in self._shelf}
        search = {"documents": titles, "words": index}
        self._write("index.json", json.dumps(search, sort_keys=True, separators=(",", ":")).encode())
        shelf = "".join(
            f'<li><a href="pages/{page.slug}.html"><img src="covers/{thumb.file_name}" alt="">'
            f"<br>{html.escape(page.title)}</a> ({page.code_blocks} code blocks)</li>\n"
            for page, thumb in self._shelf
        )
        self._write_html("index.html", "Pressroom", f'<h1>Pressroom</h1>\n<ul class="shelf">\n{shelf}</ul>\n', root="")
        listing = {"files": dict(sorted(self._digests.items()))}
        self._write(MANIFEST, (json.dumps(listing, indent=1) + "\n").encode())
        lines = "".join(f"{digest}  {name}\n" for name, digest in sorted(self._digests.items()))
        return Summary(
            documents=len(self._shelf),
            files=len(self._digests),
            size_bytes=self._size_bytes,
            sha256=hashlib.sha256(lines.encode()).hexdigest(),
        )

    def _write_html(self, name: str, title: str, body: str, *, root: str) -> None:
        self._write(name, _FRAME.format(title=html.escape(title), body=body, root=root).encode())

    def _write(self, name: str, content: bytes) -> None:
        path = self.out / name
        try:
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(content)
        except OSError as error:
            raise PressError(f"cannot write {path}: {error.strerror}") from error
        self._digests[name] = hashlib.sha256(content).hexdigest()
        self._size_bytes += len(content)

    def _remove_earlier(self) -> None:
        manifest = self.out / MANIFEST
        if not manifest.is_file():
            return
        try:
            names = list(json.loads(manifest.read_bytes())["files"])
        except (ValueError, KeyError, TypeError) as error:
            raise PressError(f"{manifest} was not written by pressroom; choose another --out") from error
        root = self.out.resolve()
        for name in names:
            path = (root / name).resolve()
            if root in path.parents:  # a manifest is data: it must not make us delete elsewhere
                path.unlink(missing_ok=True)
        manifest.unlink()
