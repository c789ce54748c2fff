"""The ``namespace`` backend: shards that see no other process, no file, no network but what is theirs."""

from shardwright.sandbox.namespace._backend import SCRATCH_BYTES, NamespaceBackend
from shardwright.sandbox.namespace._followed import PlaceRefused, above, changing_places, followed, make_folder
from shardwright.sandbox.namespace._sandbox import NamespaceSandbox
from shardwright.sandbox.namespace._seccomp import NAMESPACES, tighten
from shardwright.sandbox.namespace._walls import walls_trouble

__all__ = [
    "NAMESPACES",
    "SCRATCH_BYTES",
    "NamespaceBackend",
    "NamespaceSandbox",
    "PlaceRefused",
    "above",
    "changing_places",
    "followed",
    "make_folder",
    "tighten",
    "walls_trouble",
]
