"""One conformance suite for every SandboxBackend.

``check_sandbox_backend(factory)`` runs all checks that the backend's capabilities call for; ``SANDBOX_CHECKS`` lists
them, to run one at a time. Checks start small Python programs in real sandboxes, take some five seconds together, raise
AssertionError, and leave nothing behind: that is a check of its own, made after each.
"""

from __future__ import annotations

import sys
from collections.abc import Callable

from msgspec import Struct

from shardwright.contracts.sandbox import SandboxBackend
from shardwright.testing import _sandbox_ends, _sandbox_limits
from shardwright.testing._sandbox_trial import SandboxTrial

__all__ = ["SANDBOX_CHECKS", "SandboxCheck", "SandboxTrial", "check_sandbox_backend"]


class SandboxCheck(Struct, frozen=True):
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
    long: bool = False,
    python: tuple[str, ...] = (sys.executable, "-I", "-S"),
) -> tuple[str, ...]:
    """Check a backend; ``factory`` makes a fresh one for each check. Returns the names of the checks that were run.

    ``only`` names a single check; ``long`` has it try what is left to chance more often; ``python`` is how guests reach an
    interpreter inside the sandbox. Checks of ceilings that the backend does not say it enforces are left out. Raises
    AssertionError, and KeyError for an unknown name.
    """
    checks = [check for check in SANDBOX_CHECKS if only in (None, check.name)]
    if not checks:
        raise KeyError(only)
    done: list[str] = []
    for check in checks:
        with SandboxTrial(factory, python, long=long) as trial:
            if not trial.enforces.issuperset(check.needs) or check.start not in trial.capabilities.starts:
                continue
            check.run(trial)
        done.append(check.name)
    return tuple(done)


SANDBOX_CHECKS: tuple[SandboxCheck, ...] = (
    SandboxCheck("guest gets what it was given", _sandbox_ends.guest_gets_what_it_was_given),
    SandboxCheck("exit is told and ends orphans", _sandbox_ends.exit_is_told_and_ends_orphans),
    SandboxCheck("signal is told", _sandbox_ends.signal_is_told),
    SandboxCheck("kill ends the whole tree and is told", _sandbox_ends.kill_ends_the_tree_and_is_told),
    SandboxCheck("quick cycles leave nothing", _sandbox_ends.quick_cycles_leave_nothing),
    SandboxCheck("bad specs are refused", _sandbox_ends.bad_specs_are_refused),
    SandboxCheck("resize reads back", _sandbox_limits.resize_reads_back, ("cpu", "memory")),
    SandboxCheck("ceilings end the greedy alone", _sandbox_limits.ceilings_end_the_greedy_alone, ("memory",)),
    SandboxCheck("cpu ceiling holds", _sandbox_limits.cpu_ceiling_holds, ("cpu",)),
    SandboxCheck("I/O ceiling holds", _sandbox_limits.io_ceiling_holds, ("io",)),
    SandboxCheck("adopted after a restart", _sandbox_limits.adopted_after_a_restart),
    SandboxCheck("adopted from a template", _sandbox_limits.adopted_from_a_template, start="template"),
    SandboxCheck("machine is told", _sandbox_limits.machine_is_told),
)
