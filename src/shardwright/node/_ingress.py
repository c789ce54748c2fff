"""What the node holds for its gateway: its listening sockets, its settings, the key of its cookies."""

from __future__ import annotations

import contextlib
import os
import secrets
import socket
import ssl
from dataclasses import replace
from pathlib import Path

from shardwright.errors import NodeError
from shardwright.gateway import GatewaySettings
from shardwright.model.manifest import Gateway
from shardwright.model.shard import ShardPlan
from shardwright.node._keeper_client import KeeperClient
from shardwright.node._listen import addresses_of, listen
from shardwright.node._state import open_folder, prepare_file, unusable

KEY_FILE = "cookies.key"
KEY_BYTES = 32


class Ingress:
    """The way in. Made by ``open``; ``close`` is the keeper's end, which has the sockets as well."""

    def __init__(self, settings: GatewaySettings, addresses: tuple[str, ...], sockets: list[int]) -> None:
        self._settings = settings
        self.addresses = addresses
        self._sockets = sockets

    def __repr__(self) -> str:
        return f"<Ingress {', '.join(self.addresses) or 'closed'}>"

    @classmethod
    async def open(
        cls,
        plan: ShardPlan,
        gateway: Gateway,
        keeper: KeeperClient | None,
        state: Path,
        given: list[int],
        token: str = "",
    ) -> Ingress:
        """Bind (without a keeper, for this process alone), or take the sockets that a supervisor gave.

        Raises NodeError that says what is wrong with address or certificate.
        """
        check_certificate(gateway)
        settings = GatewaySettings(plan.app, gateway, plan.routes, cookie_key(state), token)
        if keeper is not None:
            return cls(settings, *await keeper.listen(gateway.bind, given))
        bound = [socket.socket(fileno=os.dup(number)) for number in given] or listen(gateway.bind)
        return cls(settings, addresses_of(bound), [each.detach() for each in bound])

    def take_up(self, plan: ShardPlan) -> None:
        """Other routes, for gateways that start from now on."""
        self._settings = replace(self._settings, routes=plan.routes)

    @property
    def settings(self) -> GatewaySettings:
        """What a gateway is told when it starts."""
        return self._settings

    @property
    def urls(self) -> tuple[str, ...]:
        """Where browsers reach it, from this machine."""
        scheme = "https" if self._settings.gateway.secure else "http"
        return tuple(
            f"{scheme}://{address.replace('0.0.0.0', '127.0.0.1').replace('[::]', '[::1]')}"
            for address in self.addresses
        )

    def copies(self) -> tuple[int, ...]:
        """Descriptors of the sockets for one more gateway, the caller's."""
        made: list[int] = []
        try:
            for descriptor in self._sockets:
                made.append(os.dup(descriptor))
        except OSError:
            for copy in made:
                os.close(copy)
            raise
        return tuple(made)

    def close(self) -> None:
        while self._sockets:
            os.close(self._sockets.pop())
        self.addresses = ()


def check_certificate(gateway: Gateway) -> None:
    """Raises NodeError when TLS is asked for and its files do not serve."""
    if not gateway.secure:
        return
    try:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(gateway.certificate, gateway.key, password=_no_password)
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        missing = [path for path in (gateway.certificate, gateway.key) if not os.access(path, os.R_OK)]
        what = f"{missing[0]} cannot be read" if missing else f"{gateway.certificate} and {gateway.key}: {error}"
        raise NodeError(
            f"the gateway cannot serve TLS: {what}",
            remedy="[gateway] tls names the files of a certificate chain and of its key, both PEM, without a password",
        ) from None


def _no_password() -> str:
    raise ValueError("the key has a password")


def cookie_key(state: Path) -> bytes:
    """The application's key, made at its first start and kept, so that sessions outlive this node's process.

    Raises NodeError when it is open to others, or cannot be kept.
    """
    path = state / KEY_FILE
    folder = open_folder(state)
    try:
        there = prepare_file(folder, path)
        descriptor = os.open(path.name, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=folder)
    except OSError as error:
        raise unusable(path, error.strerror or str(error)) from None
    finally:
        os.close(folder)
    with open(descriptor, "r+b", buffering=0) as file:
        key = file.read(KEY_BYTES + 1) if there else b""
        if len(key or b"") != KEY_BYTES:  # new, or cut off when the machine went down
            key = secrets.token_bytes(KEY_BYTES)
            file.seek(0)
            file.truncate()
            file.write(key)
            with contextlib.suppress(OSError):
                os.fsync(file.fileno())
    assert key is not None
    return key
