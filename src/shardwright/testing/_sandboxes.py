"""One conformance suite for every SandboxBackend.

``check_sandbox_backend(factory)`` runs all checks that the backend's capabilities call for; ``SANDBOX_CHECKS`` lists
them, to run one at a time. Checks start small Python programs in real sandboxes, take about ten seconds together, raise
AssertionError, and leave nothing behind: that is a check of its own, made after each.
"""

from __future__ import annotations

import dataclasses
import sys
from collections.abc import Callable

from shardwright.contracts.sandbox import SandboxBackend
from shardwright.testing import _sandbox_ends, _sandbox_limits
from shardwright.testing._sandbox_trial import SandboxTrial

__all__ = ["SANDBOX_CHECKS", "SandboxCheck", "SandboxTrial", "check_sandbox_backend"]


@dataclasses.dataclass(frozen=True, slots=True)
class SandboxCheck:
    """One promise.

    ``needs`` are resources that the backend must say it enforces, and ``start`` a start that it must say it knows, for
    the check to make sense.
    """

    name: str
    run: Callable[[SandboxTrial], None]
    needs: tuple[str, ...] = ()
    start: str = "spawn"


def check_sandbox_backend(
    factory: Callable[[], SandboxBackend],
    *,
    only: str | None = None,
    python: tuple[str, ...] = (sys.executable, "-I", "-S"),
) -> tuple[str, ...]:
    """Check a backend; ``factory`` makes a fresh one for each check. Returns the names of the checks that were run.

    ``only`` names a single check; ``python`` is how guests reach an interpreter inside the sandbox. Checks of ceilings
    that the backend does not say it enforces are left out. Raises AssertionError, and KeyError for an unknown name.
    """
    checks = [check for check in SANDBOX_CHECKS if only in (None, check.name)]
    if not checks:
        raise KeyError(only)
    done: list[str] = []
    for check in checks:
        with SandboxTrial(factory, python) as trial:
            if not trial.enforces.issuperset(check.needs) or check.start not in trial.capabilities.starts:
                continue
            check.run(trial)
        done.append(check.name)
    return tuple(done)


SANDBOX_CHECKS: tuple[SandboxCheck, ...] = (
    SandboxCheck("answers on its descriptor", _sandbox_ends.answers_on_its_descriptor),
    SandboxCheck("environment is exact", _sandbox_ends.environment_is_exact),
    SandboxCheck("descriptors are exact", _sandbox_ends.descriptors_are_exact),
    SandboxCheck("exit status is told", _sandbox_ends.exit_status_is_told),
    SandboxCheck("signal is told", _sandbox_ends.signal_is_told),
    SandboxCheck("kill is told", _sandbox_ends.kill_is_told),
    SandboxCheck("kill ends the whole tree", _sandbox_ends.kill_ends_the_tree),
    SandboxCheck("orphans end with the sandbox", _sandbox_ends.orphans_end_with_the_sandbox),
    SandboxCheck("delete is idempotent", _sandbox_ends.delete_is_idempotent),
    SandboxCheck("quick cycles leave nothing", _sandbox_ends.quick_cycles_leave_nothing),
    SandboxCheck("bad specs are refused", _sandbox_ends.bad_specs_are_refused),
    SandboxCheck("resize reads back", _sandbox_limits.resize_reads_back, ("cpu", "memory")),
    SandboxCheck("shrinking below use is refused", _sandbox_limits.shrinking_below_use_is_refused, ("cpu", "memory")),
    SandboxCheck("memory ceiling ends the greedy alone", _sandbox_limits.memory_ceiling_ends_the_greedy, ("memory",)),
    SandboxCheck("cpu ceiling holds", _sandbox_limits.cpu_ceiling_holds, ("cpu",)),
    SandboxCheck("process ceiling holds", _sandbox_limits.process_ceiling_holds, ("pids",)),
    SandboxCheck("I/O ceiling holds", _sandbox_limits.io_ceiling_holds, ("io",)),
    SandboxCheck("adopted after a restart", _sandbox_limits.adopted_after_a_restart),
    SandboxCheck("adopted from a template", _sandbox_limits.adopted_from_a_template, start="template"),
    SandboxCheck("dead and reused pids are not adopted", _sandbox_limits.dead_and_reused_pids_are_not_adopted),
    SandboxCheck("capacity is told", _sandbox_limits.capacity_is_told),
    SandboxCheck("fingerprint never raises", _sandbox_limits.fingerprint_never_raises),
)
