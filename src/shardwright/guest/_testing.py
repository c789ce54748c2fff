"""Messages of a node that a test run started, between it and its guests. No other node sends them, no other guest obeys."""

from __future__ import annotations

import msgspec


class Testing(msgspec.Struct, frozen=True, omit_defaults=True):
    """How a guest is to behave under test. Part of Init; a guest that got none refuses to be patched.

    ``coverage``: the serialised configuration of the coverage run whose lines it shall collect as well; empty for none.
    """

    __test__ = False

    coverage: str = ""


class Patch(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, tag="patch"):
    """Set, delete or restore one attribute of a module of the application (``name`` may go through classes: ``A.f``).

    ``action`` is "set" (with a value of the tagged codec), "delete", "undo", or "fill": then the container that is there
    gets the value's contents, for good. ``owner`` is the component that owns the
    module; empty when nobody does: then every shard has its own and obeys. ``everywhere``: generated modules too.
    """

    request: int
    module: str
    name: str
    action: str
    owner: str = ""
    everywhere: bool = False
    value: bytes = b""
    buffers: tuple[bytes, ...] = ()


class Patched(msgspec.Struct, frozen=True, tag_field="t", omit_defaults=True, tag="patched"):
    """The answer to a Patch; ``error`` says why it was not done."""

    request: int
    error: str = ""
