"""From a path to a Manifest, or to one error with every problem."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from shardwright.manifest._build import build
from shardwright.manifest._contradictions import check
from shardwright.manifest._document import Document, fill, find, read
from shardwright.manifest._layout import MANIFEST
from shardwright.manifest._report import Problem, Report
from shardwright.manifest._shapes import At
from shardwright.model.manifest import Manifest


def load(path: str | Path, *, environment: Mapping[str, str] | None = None, profile: str | None = None) -> Manifest:
    """Read the manifest of an application.

    ``path`` is the application's folder or the manifest file itself. ``${NAME}`` in its strings is replaced from
    ``environment`` and nowhere else. With a ``profile``, ``shardwright.<profile>.toml`` beside the manifest is laid
    over it: tables merge, everything else is replaced. Nothing but these files is read, and nothing is imported.

    Raises ManifestError whose ``problems`` holds all that is wrong, in file order, each as
    ``FILE:LINE: key.path: what is wrong; expected ...; did you mean 'nearest'?``.
    """
    report = Report()
    files = find(path, profile, report)
    shown = str(files[0])
    documents = [read(file, order, report) for order, file in enumerate(files)]
    document = documents[0]
    if document is None:
        report.raise_if_any(shown)
    assert document is not None
    for overlay in documents[1:]:
        document = document if overlay is None else document.overlaid(overlay)
    document = fill(document, environment or {}, report)
    values = MANIFEST.read(document.tree, At(document, report))
    manifest = build(values, document, files[0])
    check(manifest, document, report)
    _check_root(manifest, document, report)
    report.raise_if_any(shown)
    return manifest


def _check_root(manifest: Manifest, document: Document, report: Report) -> None:
    key = ("app", "root")
    if not report.faulty(key) and not os.path.isdir(manifest.root):  # Path may raise here
        what = "there is no such folder"
        report.add(Problem(document.place(key), key, what, "the import root, relative to the manifest"))
