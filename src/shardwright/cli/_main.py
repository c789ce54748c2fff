"""The ``shardwright`` command: its groups, and what every failure ends in."""

from __future__ import annotations

import importlib
import os
import sys
from collections.abc import Sequence

import click

from shardwright.cli._errors import BROKEN_PIPE, INTERRUPTED, report
from shardwright.cli._invocation import Invocation
from shardwright.errors import NodeError

# Where each command is: its module is imported when it is asked for, so that `ps` does not wait for what `run` needs.
_GROUPS: tuple[tuple[str, dict[str, str]], ...] = (
    (
        "Prepare an application",
        {
            "init": "_author",
            "plan": "_author",
            "verify": "_verify",
            "explain": "_author",
            "schema": "_author",
            "doctor": "_doctor",
        },
    ),
    ("Run it", {"run": "_run", "demo": "_demo"}),
    ("Measure it", {"bench": "_bench", "simulate": "_simulate"}),
    ("Develop it, while it runs", {"stack": "_stack", "attach": "_attach", "reload": "_reload"}),
    (
        "Look at and steer a running node, from any terminal",
        {
            "ps": "_ask",
            "ready": "_operate",
            "call": "_ask",
            "logs": "_ask",
            "events": "_ask",
            "sessions": "_ask",
            "decisions": "_ask",
            "metrics": "_operate",
            "resize": "_ask",
            "stop": "_ask",
        },
    ),
)
_HOME = {name: module for _, commands in _GROUPS for name, module in commands.items()}


class _Grouped(click.Group):
    """Commands listed by purpose, in the order in which a new user needs them."""

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        for title, names in _GROUPS:
            with formatter.section(title):
                commands = [command for name in names if (command := self.get_command(ctx, name))]
                formatter.write_dl([(c.name or "", c.get_short_help_str(90)) for c in commands])

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(_HOME)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name in _HOME and cmd_name not in self.commands:
            command = getattr(importlib.import_module(f"shardwright.cli.{_HOME[cmd_name]}"), cmd_name)
            self.add_command(command, cmd_name)
        return super().get_command(ctx, cmd_name)


@click.group(cls=_Grouped, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110})
@click.version_option(package_name="shardwright", message="shardwright %(version)s")
def _shardwright() -> None:
    """Run an unmodified Python application as isolated, pre-warmed, right-sized shards.

    \b
    A first session:
      shardwright doctor                     what this machine offers
      shardwright init myapp                 write a manifest, shardwright.toml
      shardwright plan myapp                 how it would be cut, and why
      shardwright run myapp -- --verbose     run it; arguments after -- are the program's
      shardwright ps                         its shards, from another terminal

    Exit status: 0 done, 1 it was tried and failed, 2 what was given cannot be used, 3 no node answers, 70 a defect of
    Shardwright. `run` exits with the program's own status.
    """


def main(arguments: Sequence[str] | None = None) -> None:
    """Run one command and exit with its status. Reads the environment, once."""
    open_standard_streams()
    status = invoke(sys.argv[1:] if arguments is None else arguments, Invocation(dict(os.environ)))
    sys.exit(status)


def open_standard_streams() -> None:
    """Open those of our standard streams that we were started without, to nowhere.

    Else what is opened next, such as a socket, would get their numbers, and what a shard prints would go there.
    """
    for number in range(3):
        try:
            os.fstat(number)
        except OSError:
            os.set_inheritable(os.open(os.devnull, os.O_RDWR), True)  # the lowest free number
    sys.stdin = sys.stdin or os.fdopen(0, closefd=False)
    sys.stdout = sys.stdout or os.fdopen(1, "w", closefd=False)
    sys.stderr = sys.stderr or os.fdopen(2, "w", closefd=False)


def invoke(arguments: Sequence[str], invocation: Invocation) -> int:
    """The exit status of one command, with everything printed. Raises nothing that a user could meet."""
    try:
        status = _shardwright.main(list(arguments), prog_name="shardwright", standalone_mode=False, obj=invocation)
        sys.stdout.flush()
        return status if isinstance(status, int) else 0
    except click.ClickException as error:
        error.show()
        return error.exit_code
    except (click.Abort, KeyboardInterrupt):
        return INTERRUPTED
    except BrokenPipeError:
        # whoever read us has enough; nothing may be written at exit either
        os.dup2(os.open(os.devnull, os.O_WRONLY | os.O_CLOEXEC), 1)
        return BROKEN_PIPE
    except Exception as error:
        if isinstance(error, FileNotFoundError) and _nowhere():
            error = NodeError("the working directory has been deleted", remedy="change to a folder that is there")
        return report(error, invocation)


def _nowhere() -> bool:
    try:
        os.getcwd()
    except FileNotFoundError:
        return True
    return False
