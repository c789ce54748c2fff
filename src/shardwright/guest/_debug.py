"""Who debugs this shard: the terminal that is attached, if one is, and what ``breakpoint()`` means without one."""

from __future__ import annotations

import ast
import os
import sys
import threading
from collections.abc import Callable
from types import CodeType
from typing import TYPE_CHECKING, Any

from shardwright._syntax import parsed
from shardwright.errors import NodeError
from shardwright.guest._control_messages import Attach, Attached
from shardwright.guest._service import serves
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.shard import ShardPlan

if TYPE_CHECKING:
    from pathlib import Path

LEAVE_S = 5.0
LOOK_S = 0.5
MAX_PLACES = 1000  # of breakpoint() that are told of


class Unattachable(NodeError):
    """The terminal cannot debug this shard, or not there."""


class Debugging:
    """At most one attachment at a time. ``note`` tells the node; ``answer`` answers it."""

    def __init__(
        self,
        plan: ShardPlan,
        component: ComponentName,
        shard: ShardId,
        answer: Callable[[Attached], None],
        note: Callable[[str, str], None],
    ) -> None:
        self._plan = plan
        self._component = component
        self._shard = shard
        self._answer = answer
        self._note = note
        self._mutex = threading.Lock()
        self._attached: Any = None  # an Attachment; pdb is loaded only where somebody wants it
        self._told: set[tuple[str, int]] = set()
        self._debugpy = ""  # where it listens

    def __repr__(self) -> str:
        return f"<Debugging of {self._shard}: {self._attached}>"

    def attach(self, wanted: Attach, descriptor: int) -> None:
        """Begin, on a thread of its own: loading a debugger takes its time. Uses the descriptor up."""
        try:
            threading.Thread(target=self._attach, args=(wanted, descriptor), name="attach", daemon=True).start()
        except RuntimeError as error:  # the limit of processes is reached
            os.close(descriptor)
            self._answer(Attached(wanted.request, f"{self._shard} has no thread for a debugger: {error}"))

    def break_in(self) -> None:
        attached = self._attached
        if attached is not None:
            attached.break_in()

    def detach(self, request: int, *, lost: bool) -> None:
        """The terminal that came with that request is gone, or wants to be; a later one stays."""
        attached = self._attached
        if attached is not None and attached.request == request:
            attached.detach(lost=lost)

    # -- beginning ---------------------------------------------------------------------------------------------

    def _attach(self, wanted: Attach, descriptor: int) -> None:
        from shardwright.guest._debug_terminal import Terminal

        serves("the beginning of a debugger")
        terminal = Terminal(descriptor)
        try:
            if wanted.debugpy:
                self._listen(wanted, terminal)
            else:
                self._begin(wanted, terminal)
        except Exception as error:
            remedy = error.remedy if isinstance(error, NodeError) else ""
            message = error.message if isinstance(error, NodeError) else f"the debugger does not start: {error!r:.300}"
            self._answer(Attached(wanted.request, message, remedy))
            terminal.close()

    def _begin(self, wanted: Attach, terminal: Any) -> None:
        from shardwright.guest._debug_session import Attachment

        place = self._place(wanted.at) if wanted.at else None
        before = self._attached
        if before is not None:  # its terminal may be gone, and the thread that it had go on just now
            before.ended.wait(LEAVE_S if before.leaving else LOOK_S)
        with self._mutex:
            if self._attached is not None:
                raise Unattachable(f"another terminal debugs {self._shard}", remedy="detach it first: Ctrl-D there")
            attached = self._attached = Attachment(self._shard, self._plan.root, terminal, wanted.request, self._over)
        try:
            if place is not None and (why := attached.breakpoint_at(*place)):
                raise Unattachable(f"no breakpoint at {wanted.at}: {why}", remedy="name a line with code")
        except BaseException:
            self._attached = None
            raise
        self._answer(Attached(wanted.request))
        where = (
            f"{place[0]}:{place[1]}"
            if place
            else "its next line"
            if wanted.now
            else "the next call into the application"
        )
        attached.wait(
            now=wanted.now,
            entry=not wanted.now and place is None,
            saying=f"attached to {self._shard} (pid {os.getpid()}); it runs until {where}\n"
            "Ctrl-C stops it at its next line; Ctrl-D or quit detaches, and it goes on. While it stands, other calls to\n"
            "this shard wait, those elsewhere go on; deadlines of calls are not extended.\n",
        )

    def _over(self) -> None:
        self._attached = None

    def _place(self, at: str) -> tuple[str, int, str | None]:
        """File, line and function of MODULE:FUNCTION or FILE:LINE. Raises Unattachable."""
        from pathlib import Path  # a tenth of what every guest would import

        where, _, what = at.rpartition(":")
        if not where:
            raise Unattachable(f"{at!r} is no place", remedy="name MODULE:FUNCTION, or FILE:LINE")
        if what.isdecimal():
            path = Path(self._plan.root, where)
            if not path.is_file():
                raise Unattachable(f"there is no file {path}", remedy=f"paths are relative to {self._plan.root}")
            _check_line(path, int(what))
            return str(path.resolve()), int(what), None
        for surface in self._plan.modules:
            if surface.module == where and surface.owner != self._component:
                raise Unattachable(
                    f"{where} belongs to {surface.owner}", remedy=f"shardwright attach {surface.owner} --at {at}"
                )
        loaded = getattr(sys.modules.get(where), "__file__", None)
        base = Path(self._plan.root, *where.split("."))
        path = next(
            (p for p in (Path(loaded or ""), base.with_suffix(".py"), base / "__init__.py") if p.is_file()), base
        )
        try:
            tree = parsed(path.read_bytes())
        except (OSError, SyntaxError, ValueError) as error:
            raise Unattachable(f"the code of module {where} cannot be read: {error}") from None
        found = _function(tree, what.split("."))
        if found is None:
            raise Unattachable(f"{path} has no function {what!r}", remedy="methods are written CLASS.METHOD")
        first = min((decorator.lineno for decorator in found.decorator_list), default=found.lineno)
        return str(path), first, found.name

    # -- debugpy -----------------------------------------------------------------------------------------------

    def _listen(self, wanted: Attach, terminal: Any) -> None:
        try:
            import debugpy  # type: ignore[import-not-found, import-untyped, unused-ignore]
        except ImportError:
            raise Unattachable(
                "debugpy is not installed where this shard runs",
                remedy="pip install debugpy, or attach without --debugpy",
            ) from None
        if not self._debugpy:
            host, port = debugpy.listen(("127.0.0.1", 0))
            self._debugpy = f"{host}:{port}"
            self._note("attach", f"debugpy listens at {self._debugpy}, for every user of this machine")
        self._answer(Attached(wanted.request))
        terminal.write(
            f"debugpy listens at {self._debugpy} until {self._shard} ends: let an editor attach there.\n"
            "Whoever can connect to it can run code in this shard.\n"
        )
        terminal.close()

    # -- breakpoint() ------------------------------------------------------------------------------------------

    def install_hook(self) -> None:
        """``breakpoint()`` stops for who is attached, and says what to do where nobody is."""
        if not os.environ.get("PYTHONBREAKPOINT"):  # else Python's own does what that says
            sys.breakpointhook = self._breakpoint

    def _breakpoint(self, *args: Any, **kwargs: Any) -> Any:
        frame = sys._getframe(1)
        attached = self._attached
        if attached is not None and attached.stop_here(frame):
            return None
        if _at_terminal():
            import pdb

            pdb.Pdb(nosigint=True).set_trace(frame)
            return None
        place = (frame.f_code.co_filename, frame.f_lineno)
        if place not in self._told and len(self._told) < MAX_PLACES:
            self._told.add(place)
            message = f"breakpoint() at {place[0]}:{place[1]} is passed over: no terminal debugs this shard"
            print(f"{message}; to stop there: shardwright attach {self._shard}", file=sys.stderr)
            self._note("breakpoint", message)
        return None


def _check_line(path: Path, line: int) -> None:
    """Raises Unattachable when the program never comes to that line, for there is nothing to run."""
    try:
        todo = [compile(path.read_bytes(), str(path), "exec", dont_inherit=True)]
    except (OSError, SyntaxError, ValueError) as error:
        raise Unattachable(f"{path} cannot be read: {error}") from None
    lines: set[int] = set()
    while todo:
        code = todo.pop()
        lines.update(number for _, _, number in code.co_lines() if number)
        todo += [constant for constant in code.co_consts if isinstance(constant, CodeType)]
    if line not in lines:
        following = min((number for number in lines if number > line), default=0)
        raise Unattachable(
            f"there is nothing to run at {path}:{line}",
            remedy=f"the next line with code is {following}" if following else "",
        )


def _at_terminal() -> bool:
    try:
        return sys.stdin.isatty()
    except (AttributeError, ValueError):
        return False


def _function(
    tree: ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef, names: list[str]
) -> ast.FunctionDef | ast.AsyncFunctionDef | None:
    for node in tree.body:
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)) and node.name == names[0]:
            if len(names) > 1:
                return _function(node, names[1:])
            if not isinstance(node, ast.ClassDef):
                return node
    return None
