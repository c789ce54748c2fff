"""What the node wants a guest to close behind itself, as data."""

from __future__ import annotations

import msgspec


class Walls(msgspec.Struct, frozen=True, omit_defaults=True):
    """What a guest in a sandbox of namespaces closes behind itself (see ``_walls``).

    ``write``: paths that it may write to. ``tighten`` is a seccomp program. Without ``own_network`` it is in the machine's.
    With ``ports`` it may connect to those alone, and listen on none.
    """

    scratch_bytes: int
    tighten: bytes
    write: tuple[str, ...] = ()
    ports: tuple[int, ...] = ()
    own_network: bool = True
