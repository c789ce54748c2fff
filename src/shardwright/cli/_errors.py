"""How an error becomes one clear message and an exit status."""

from __future__ import annotations

import json
import traceback
from typing import Any

import click

from shardwright.cli._invocation import Invocation, shown
from shardwright.errors import (
    ComponentImportError,
    CompositionRefused,
    ManifestError,
    PlanError,
    ShardwrightError,
    StartFailed,
    TraceError,
)
from shardwright.node import Ambiguous, NoAnswer, Refused, describe

OK, FAILED, BAD_INPUT, NO_NODE, DEFECT = 0, 1, 2, 3, 70
INTERRUPTED, TERMINATED, BROKEN_PIPE = 130, 143, 141

_BAD_INPUT = (ManifestError, PlanError, ComponentImportError, StartFailed, CompositionRefused, TraceError, Ambiguous)
_REPORT = "this is a defect of Shardwright, not of your application: please report it, with what --debug shows"


def status_of(error: BaseException, *, starting: bool = False) -> int:
    """2 what was given cannot be used, 3 no node answers, 1 it was tried and failed, 70 a defect of ours."""
    if isinstance(error, NoAnswer):
        return NO_NODE
    if isinstance(error, Refused):
        return BAD_INPUT if error.described.get("bad_input") else FAILED
    if isinstance(error, _BAD_INPUT):
        return BAD_INPUT
    if isinstance(error, ShardwrightError):
        if error.fault == "us":
            return DEFECT
        return BAD_INPUT if starting else FAILED
    return FAILED if isinstance(error, OSError) else DEFECT


def report(error: BaseException, invocation: Invocation) -> int:
    """Say it on stderr, return the exit status."""
    status = status_of(error, starting=invocation.starting)
    described = dict(error.described) if isinstance(error, Refused) else describe(error)
    described.pop("bad_input", None)
    if isinstance(error, OSError):
        described.pop("traceback", None)  # of ours: --debug shows it
    if status == DEFECT:
        described = dict(described, remedy=described.get("remedy") or _REPORT)
    if invocation.debug:
        click.echo("".join(traceback.format_exception(error)), err=True, nl=False)
    if invocation.json:
        click.echo(json.dumps({"error": described, "exit_status": status}, ensure_ascii=False), err=True)
        return status
    if described.get("traceback") and not (status == DEFECT and not invocation.debug):
        click.echo(shown(described["traceback"].rstrip("\n"), err=True), err=True)
        if "code" not in described:  # an exception of the user's: the traceback says it all
            return status
    _say(described, error, invocation)
    return status


def _say(described: dict[str, Any], error: BaseException, invocation: Invocation) -> None:
    code = f" {described['code']}" if described.get("code") else ""
    message = described.get("message") or described.get("type", "")
    if isinstance(error, OSError) and not isinstance(error, ShardwrightError):
        message = f"{error.filename}: {error.strerror}" if error.filename else str(error)
    elif not code:
        message = f"{described.get('type')}: {message}"
    console = invocation.console(stderr=True)
    head = "shardwright: error"
    if console.is_terminal and not console.no_color:
        head = click.style(head, fg="red", bold=True)
    click.echo(f"{head}{code}: {shown(message, err=True)}", err=True)
    for problem in described.get("problems", ()):
        click.echo(shown(f"  {problem}", err=True), err=True)
    if described.get("log"):
        click.echo("  its last lines:", err=True)
        for line in described["log"]:
            click.echo(shown(f"    {line}", err=True), err=True)
    if described.get("outcome") and described.get("code"):
        click.echo(f"  outcome of the call: {described['outcome']}", err=True)
    if described.get("remedy"):
        click.echo(shown(f"  remedy: {described['remedy']}", err=True), err=True)
