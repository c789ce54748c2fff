"""Whether this machine permits namespaces; a test of walls cannot run where it does not."""

from __future__ import annotations

import pytest

from shardwright.sandbox.namespace import NamespaceBackend

__all__ = ["need_namespaces"]


def need_namespaces() -> None:
    """Skip the test where they are not permitted, with the reason."""
    backend = NamespaceBackend()
    try:
        trouble = backend.trouble()
    finally:
        backend.close()
    if trouble:
        pytest.skip(trouble)
