"""The gateway in a thread of the node's own process, where its shards are threads of it as well (``--inproc``)."""

from __future__ import annotations

import sys
import threading
import traceback

from shardwright.gateway._backend import GatewaySettings
from shardwright.guest import ControlSocket, serves
from shardwright.model.shard import ShardPlan


class GatewayThread:
    """Runs until the node, over the other end of ``control``, tells it to stop, or closes that end.

    Takes the descriptors over: its control socket and the sockets to listen on.
    """

    def __init__(self, plan: ShardPlan, settings: GatewaySettings, control: int, descriptors: list[int]) -> None:
        self._plan = plan
        self._settings = settings
        self._control = control
        self._descriptors = descriptors
        self._thread = threading.Thread(target=self._run, name="shardwright-gateway", daemon=True)

    def __repr__(self) -> str:
        return f"<GatewayThread of {self._settings.app}, {'running' if self._thread.is_alive() else 'over'}>"

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> bool:
        """Whether it has ended by then."""
        self._thread.join(timeout_s)
        return not self._thread.is_alive()

    def _run(self) -> None:
        from shardwright.gateway._process import run  # the server and all that it needs: not with every import of us
        from shardwright.gateway._turns import run_in_turns

        serves("the requests of the gateway")
        try:
            run_in_turns(run(self._plan, self._settings, ControlSocket(self._control), self._descriptors))
        except Exception:
            print("gateway: it failed, which is a defect of Shardwright", file=sys.stderr)
            traceback.print_exc()
