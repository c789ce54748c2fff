"""Fresh randomness after a fork, and the lifeline that ends a shard with its keeper.

All forks of a template share its memory: without this, siblings would draw equal random numbers. What they still share is
stated in the documentation: the hash seed and the address layout.
"""

from __future__ import annotations

import fcntl
import os
import random
import signal
import socket
import sys
from types import TracebackType
from typing import Any


class SeedWatch:
    """Notices whether user code seeds the global generators while it is imported; a chosen seed is then kept."""

    def __init__(self, root: str) -> None:
        self._root = root
        self.random_seeded = False
        self.random_state: tuple[Any, ...] | None = None  # as the chosen seed left it
        self.numpy_seeded = False
        self._original = random.seed

    def __enter__(self) -> SeedWatch:
        def seed(*args: object, **kwargs: object) -> None:
            self.random_seeded = True
            self._original(*args, **kwargs)  # type: ignore[arg-type]

        random.seed = seed
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        random.seed = self._original
        if self.random_seeded:
            self.random_state = random.getstate()
        if "numpy.random" in sys.modules:
            self.numpy_seeded = any(self._seeds(module) for module in list(sys.modules.values()))

    def _seeds(self, module: object) -> bool:
        """Whether a module of the application seems to seed numpy. A textual guess, on the side of keeping a seed."""
        path = getattr(module, "__file__", None)
        if not isinstance(path, str) or not path.startswith(self._root + os.sep) or not path.endswith(".py"):
            return False
        try:
            with open(path, "rb") as source:
                return b"random.seed(" in source.read()
        except OSError:
            return False


def prepare() -> None:
    """In the template, once all is imported: what a first use of generators sets up, forks need not set up each."""
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)


def refresh(watch: SeedWatch) -> None:
    """Give this process randomness of its own. To be called in the child, before user code runs."""
    if watch.random_state is not None:
        random.setstate(
            watch.random_state
        )  # else Python itself has seeded it anew: ``random`` sees to that at each fork
    numpy_random = sys.modules.get("numpy.random")
    if numpy_random is not None and not watch.numpy_seeded:
        numpy_random.seed()
    ssl = sys.modules.get("ssl")
    if ssl is not None:
        ssl.RAND_add(os.urandom(32), 32.0)
    uuid: Any = sys.modules.get("uuid")
    if uuid is not None:
        uuid._last_timestamp = None
        uuid._node = None  # uuid1 of siblings differ by node and clock sequence


def hold_lifeline(descriptor: int) -> None:
    """Ask the kernel to kill this process group when the other end of this socket closes. It has to stay open.

    The signal comes from the kernel itself (O_ASYNC with F_SETSIG), so it reaches a process that is busy or stuck. The
    wish belongs to the open file, and anything that can be read there counts as well: so each shard and template has a
    socket of its own, whose other end the keeper never writes to. A pipe would not do: whoever has one end of it may
    open the other through /proc.
    """
    os.set_inheritable(descriptor, False)
    fcntl.fcntl(descriptor, fcntl.F_SETOWN, -os.getpgrp())
    fcntl.fcntl(descriptor, fcntl.F_SETSIG, signal.SIGKILL)
    flags = fcntl.fcntl(descriptor, fcntl.F_GETFL)
    fcntl.fcntl(descriptor, fcntl.F_SETFL, flags | os.O_NONBLOCK | os.O_ASYNC)
    with socket.socket(fileno=os.dup(descriptor)) as held:
        try:
            closed = held.recv(1, socket.MSG_PEEK) == b""
        except BlockingIOError:
            closed = False
        except OSError:
            closed = True
    if closed:  # before we asked
        os.killpg(os.getpgrp(), signal.SIGKILL)
