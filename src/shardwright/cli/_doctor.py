"""``doctor``: what this machine offers, what an application needs of it, and what to do about the difference."""

from __future__ import annotations

from typing import Any

import click

from shardwright.cli._errors import BAD_INPUT, OK
from shardwright.cli._invocation import Invocation, common_options
from shardwright.errors import ManifestError, PlanError
from shardwright.node import Finding, examine_application, examine_machine


@click.command()
@click.argument("path", required=False)
@click.option("--profile", metavar="NAME", help="Lay shardwright.NAME.toml over the manifest.")
@common_options
def doctor(invocation: Invocation, path: str | None, profile: str | None) -> int:
    """Say what this machine offers, what is missing, and the remedy.

    With PATH also what that application needs. Exit status 0 when Shardwright can run here, even with less than
    everything.

    \b
    Examples:
      shardwright doctor
      shardwright doctor examples/arena --json
    """
    machine = examine_machine(invocation.environment)
    findings = list(machine.findings)
    usable = machine.usable
    application: list[Finding] = []
    if path is not None:
        try:
            asked = examine_application(path, profile=profile, environment=invocation.environment)
        except (ManifestError, PlanError) as error:
            problems = error.problems if isinstance(error, ManifestError) else ()
            asked_findings = [
                Finding("manifest", False, line) for line in problems or (f"{error.code} {error.message}",)
            ]
            application, usable = asked_findings, False
        else:
            application, usable = list(asked.findings), usable and asked.usable
    if invocation.json:
        shown: dict[str, Any] = {"usable": usable, "findings": [_object(f) for f in findings]}
        if path is not None:
            shown["application"] = [_object(f) for f in application]
        invocation.result(shown)
    else:
        _show(invocation, "This machine", findings)
        if path is not None:
            _show(invocation, f"The application at {path}", application)
        click.echo("Shardwright can run here." if usable else "Shardwright cannot run here as it is.")
    return OK if usable else BAD_INPUT


def _object(finding: Finding) -> dict[str, Any]:
    return {"name": finding.name, "present": finding.present, "detail": finding.detail, "remedy": finding.remedy}


def _show(invocation: Invocation, title: str, findings: list[Finding]) -> None:
    console = invocation.console()
    console.print(title, style="bold")
    width = max((len(f.name) for f in findings), default=0)
    for finding in findings:
        mark, style = ("ok", "green") if finding.present else ("--", "yellow")
        console.print(f"  {mark} ", style=style, end="")
        console.print(f"{finding.name.ljust(width)}  {finding.detail}", markup=False)
        if finding.remedy and not finding.present:
            console.print(f"     {' ' * width}  remedy: {finding.remedy}", markup=False)
    console.print()
