"""Binding the addresses that a gateway listens on; done by the keeper, which keeps them while gateways come and go."""

from __future__ import annotations

import errno
import socket

from shardwright.errors import NodeError

BACKLOG = 4096  # connections that wait while a gateway starts anew; the kernel may allow fewer (net.core.somaxconn)
_ABSENT = (errno.EADDRNOTAVAIL, errno.EAFNOSUPPORT)  # this machine has no such address, or no IPv6


def listen(bind: str) -> list[socket.socket]:
    """Listening sockets for ``host:port``, one for each address that the host has. ``*`` is every address of this machine.

    Port 0 takes a free one, the same for all. Raises NodeError with what is wrong and what to do.
    """
    host, _, text = bind.rpartition(":")
    host, port = host.strip("[]"), int(text)
    try:
        found = socket.getaddrinfo(
            None if host == "*" else host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE
        )
    except (OSError, UnicodeError) as error:
        raise NodeError(
            f"the gateway cannot listen on {bind}: {error}", remedy="[gateway] bind names an address of this machine"
        ) from None
    sockets: list[socket.socket] = []
    absent: OSError | None = None
    try:
        for family, kind, protocol, _, address in dict.fromkeys(found):
            if port == 0 and sockets:
                address = (address[0], sockets[0].getsockname()[1], *address[2:])
            try:
                sockets.append(_bound(family, kind, protocol, address))
            except OSError as error:
                if error.errno not in _ABSENT:
                    raise
                absent = error
        if not sockets and absent is not None:
            raise absent
    except OSError as error:
        for each in sockets:
            each.close()
        raise NodeError(f"the gateway cannot listen on {bind}: {_reason(error)}", remedy=_remedy(error, port)) from None
    return sockets


def _bound(family: int, kind: int, protocol: int, address: tuple[object, ...]) -> socket.socket:
    made = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)
    try:
        made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if family == socket.AF_INET6:
            made.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        made.bind(address)
        made.listen(BACKLOG)
    except BaseException:
        made.close()
        raise
    return made


def _reason(error: OSError) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return "another process listens there already"
        case errno.EACCES | errno.EPERM:
            return "this user may not use that port"
        case errno.EADDRNOTAVAIL:
            return "this machine has no such address"
    return error.strerror or str(error)


def _remedy(error: OSError, port: int) -> str:
    match error.errno:
        case errno.EADDRINUSE:
            return f"end what listens on port {port} (ss -ltnp shows it), or choose another [gateway] bind"
        case errno.EACCES | errno.EPERM:
            return "choose a port from 1024 on, pass the socket in by systemd, or lower net.ipv4.ip_unprivileged_port_start"
    return "[gateway] bind names an address of this machine"


def addresses_of(sockets: list[socket.socket]) -> tuple[str, ...]:
    """``host:port`` of each, as people write it."""
    names = []
    for each in sockets:
        host, port = each.getsockname()[:2]
        names.append(f"[{host}]:{port}" if each.family == socket.AF_INET6 else f"{host}:{port}")
    return tuple(names)
