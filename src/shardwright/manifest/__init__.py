"""The manifest: loaded, checked as a whole, described as JSON Schema.

``load`` gives the immutable ``model.manifest.Manifest`` or one ManifestError with every problem in it.
"""

from __future__ import annotations

from shardwright.manifest._capacity import capacity_problems
from shardwright.manifest._document import FILE_NAME
from shardwright.manifest._layout import schema
from shardwright.manifest._load import load

__all__ = ["FILE_NAME", "capacity_problems", "load", "schema"]
