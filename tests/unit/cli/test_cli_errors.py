"""How errors become one message and an exit status."""

from __future__ import annotations

import json
import sys

import click
import pytest

from shardwright import errors
from shardwright.cli import _author
from shardwright.cli._errors import report, status_of
from shardwright.cli._invocation import Invocation, shown
from shardwright.cli._main import invoke
from shardwright.node import Ambiguous, NoAnswer, Refused


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.ManifestError("m"), 2),
        (errors.PlanError("m"), 2),
        (errors.CutRefused("m"), 2),
        (errors.ComponentImportError("m"), 2),
        (errors.StartFailed("m"), 2),
        (errors.CompositionRefused("m"), 2),
        (Ambiguous("m"), 2),
        (NoAnswer("m"), 3),
        (Refused({"message": "m", "code": "SW100"}), 1),
        (Refused({"message": "m", "bad_input": True}), 2),
        (errors.ShardLost("m"), 1),
        (errors.NodeError("m"), 1),
        (errors.InternalError("m"), 70),
        (errors.ShardwrightError("m"), 70),
        (OSError(13, "no", "/x"), 1),
        (KeyError("x"), 70),
    ],
    ids=lambda value: type(value).__name__,
)
def test_statuses(error: Exception, status: int) -> None:
    assert status_of(error) == status
    if isinstance(error, errors.NodeError) and status == 1 and not isinstance(error, Refused):
        assert status_of(error, starting=True) == 2


def said(error: Exception, capsys: pytest.CaptureFixture[str], **options: bool) -> str:
    report(error, Invocation({}, **options))
    shown = capsys.readouterr()
    assert shown.out == ""
    return shown.err


def test_all_problems_of_a_manifest(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.ManifestError("two things", problems=("a.toml:1: one", "a.toml:2: two"), remedy="mend it")
    assert said(error, capsys) == (
        "shardwright: error SW100: two things\n  a.toml:1: one\n  a.toml:2: two\n  remedy: mend it\n"
    )


def test_an_import_error_is_the_user_s_traceback_then_one_line(capsys: pytest.CaptureFixture[str]) -> None:
    error = errors.ComponentImportError("component a cannot be imported", user_traceback="Traceback...\nKeyError: 1\n")
    assert said(error, capsys) == (
        "Traceback...\nKeyError: 1\nshardwright: error SW210: component a cannot be imported\n"
    )


def test_the_last_lines_of_what_did_not_start(capsys: pytest.CaptureFixture[str]) -> None:
    assert "    it said\n    this\n" in said(errors.StartFailed("no", log=("it said", "this")), capsys)


def test_a_defect_asks_to_be_reported_and_hides_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        raise KeyError("inner")
    except KeyError as error:
        plain = said(error, capsys)
        assert "Traceback" not in plain and "please report it" in plain and "KeyError: 'inner'" in plain
        assert "Traceback" in said(error, capsys, debug=True)


def test_errors_as_json(capsys: pytest.CaptureFixture[str]) -> None:
    told = json.loads(said(errors.ShardLost("gone", outcome="unknown", remedy="again"), capsys, json=True))
    assert told["exit_status"] == 1
    assert told["error"]["code"] == "SW411" and told["error"]["outcome"] == "unknown"
    assert told["error"]["remedy"] == "again"


@pytest.mark.parametrize(
    ("raised", "status"), [(ZeroDivisionError("x"), 70), (KeyboardInterrupt(), 130), (errors.PlanError("x"), 2)]
)
def test_nothing_gets_out_of_a_command(
    raised: BaseException, status: int, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise raised

    monkeypatch.setattr(_author, "manifest_schema", fail)
    assert invoke(["schema"], Invocation({})) == status
    assert "Traceback" not in capsys.readouterr().err


def test_text_of_others_cannot_move_the_cursor(capsys: pytest.CaptureFixture[str]) -> None:
    Invocation({}).table(("A", "LONG NAME"), [("x\x1b[2J", "y"), ("wide wide", "z")])
    lines = capsys.readouterr().out.splitlines()
    assert lines == ["A          LONG NAME", "x\\x1b[2J   y", "wide wide  z"]


def test_an_error_of_the_system_has_no_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    try:
        open("/nowhere/at/all")  # noqa: SIM115
    except OSError as error:
        assert said(error, capsys) == "shardwright: error: /nowhere/at/all: No such file or directory\n"
        assert "Traceback" in said(error, capsys, debug=True)


def test_what_a_terminal_would_obey_is_escaped_there_only(monkeypatch: pytest.MonkeyPatch) -> None:
    text = "a\x1b]0;x\x07\x9b2J\x7f\r\tb\nc\u202e"
    assert shown(text) == text
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert shown(text) == "a\\u001b]0;x\\u0007\\u009b2J\\u007f\\u000d\tb\nc\\u202e"


def test_every_command_has_json_and_debug() -> None:
    from shardwright.cli._main import _shardwright

    groups = {name: c for name, c in _shardwright.commands.items() if isinstance(c, click.Group)}
    commands = {name: c for name, c in _shardwright.commands.items() if name not in groups}
    commands |= {f"{name} {inner}": c for name, group in groups.items() for inner, c in group.commands.items()}
    for name, command in commands.items():
        options = {option for p in command.params if isinstance(p, click.Option) for option in p.opts}
        assert {"--json", "--debug"} <= options, name
