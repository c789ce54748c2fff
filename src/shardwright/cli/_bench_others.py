"""What else a machine did while something was measured: a figure from a machine that was not alone says so itself."""

from __future__ import annotations

import contextlib
import time

import psutil
from msgspec import Struct


class Others(Struct, frozen=True):
    """From ``look`` on. CPU time of the machine, of this process and all that descend from it, and what the host took."""

    at_s: float
    busy_s: float
    ours_s: dict[int, float]
    stolen_s: float

    @classmethod
    def look(cls) -> Others:
        times = psutil.cpu_times()
        busy_s = times.user + times.nice + times.system + times.irq + times.softirq
        own = psutil.Process()
        ours_s: dict[int, float] = {}
        for process in (own, *own.children(recursive=True)):
            with contextlib.suppress(psutil.Error):  # it has just ended
                spent = process.cpu_times()
                ours_s[process.pid] = spent.user + spent.system
        return cls(time.monotonic(), busy_s, ours_s, getattr(times, "steal", 0.0))

    def since(self) -> dict[str, float]:
        """``others_cores`` and ``stolen_cores``, in cores. What descended from us and has ended counts as others."""
        now = Others.look()
        took_s = max(now.at_s - self.at_s, 1e-3)
        ours_s = sum(spent - self.ours_s.get(pid, 0.0) for pid, spent in now.ours_s.items())
        return {
            "others_cores": round(max(0.0, now.busy_s - self.busy_s - ours_s) / took_s, 3),
            "stolen_cores": round((now.stolen_s - self.stolen_s) / took_s, 3),
        }
