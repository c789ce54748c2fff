"""Every sandbox backend passes the suite that third parties run over theirs."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from shardwright.contracts.sandbox import SandboxBackend
from shardwright.sandbox._linux._cgroup import NoCgroups
from shardwright.sandbox.process import ProcessBackend
from shardwright.testing import SANDBOX_CHECKS, SandboxCheck, check_sandbox_backend

BACKENDS: dict[str, Callable[[], SandboxBackend]] = {
    "process": ProcessBackend,
    "process-without-cgroups": lambda: ProcessBackend(NoCgroups("switched off by a test")),
}


@pytest.mark.parametrize("check", SANDBOX_CHECKS, ids=lambda check: check.name.replace(" ", "-"))
def test_process(check: SandboxCheck) -> None:
    done = check_sandbox_backend(BACKENDS["process"], only=check.name)
    if not done:
        pytest.skip(f"this machine does not let us enforce {', '.join(check.needs)}")
    assert done == (check.name,)


@pytest.mark.parametrize(
    "check", [check for check in SANDBOX_CHECKS if not check.needs], ids=lambda check: check.name.replace(" ", "-")
)
def test_process_without_control_groups(check: SandboxCheck) -> None:
    assert check_sandbox_backend(BACKENDS["process-without-cgroups"], only=check.name) == (check.name,)


def test_unknown_check_is_an_error() -> None:
    with pytest.raises(KeyError):
        check_sandbox_backend(ProcessBackend, only="no such check")


def test_suite_notices_what_a_backend_leaves() -> None:
    """The suite can fail: here is a backend that leaves its descriptors."""

    class Leaky(ProcessBackend):
        def capacity(self):  # type: ignore[no-untyped-def]
            self.kept = open("/dev/null", encoding="utf-8")  # noqa: SIM115
            leaks.append(self.kept)
            return super().capacity()

    leaks: list[object] = []
    try:
        with pytest.raises(AssertionError, match="descriptors left"):
            check_sandbox_backend(Leaky, only="capacity is told")
    finally:
        for leak in leaks:
            leak.close()  # type: ignore[attr-defined]
