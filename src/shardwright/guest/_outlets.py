"""The quick way of a proxy's calls (``transport/shm/_calls.c``), and how they come back to the slow one.

``Outlet.call`` makes a call whole, or calls one of the functions here: ``slow`` before anything was done, the others from
where it got to. Each ends the call as the slow way does.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from shardwright.errors import ChannelClosed
from shardwright.guest._caller import Caller, run_on_top
from shardwright.guest._context import CallContext
from shardwright.guest._link import Link, Untaken
from shardwright.model.envelope import Envelope, Kind, PayloadCodec
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import EntryKind, EntryPoint, ShardDefinition
from shardwright.transport import shm

if TYPE_CHECKING:
    from shardwright.transport.shm import Outlet

Call = Callable[[tuple[Any, ...], dict[str, Any]], Any]


def outlet_of(caller: Caller, definition: ShardDefinition, entry: EntryPoint) -> Call:
    """What a proxy of that function calls with its arguments."""
    quick = definition.scope.kind in (ScopeKind.SHARED, ScopeKind.SESSION) and entry.kind is EntryKind.FUNCTION
    if not quick or entry.idempotent or entry.is_generator or not shm.available():
        return partial(caller.call, definition, entry)
    return Ways(caller, definition, entry).outlet.call


class Ways:
    """From the quick way to the slow one, for the calls of one proxy."""

    def __init__(self, caller: Caller, definition: ShardDefinition, entry: EntryPoint) -> None:
        from shardwright.transport.shm import Outlet

        self.caller = caller
        self.definition = definition
        self.entry = entry
        self.outlet: Outlet = Outlet(
            entry.method_id, self.slow, self.written, self.go_on, self.finish, run_on_top, self.give_up
        )

    def __repr__(self) -> str:
        return f"<Ways to {self.definition.component}.{self.entry.name}, {self.outlet.known} known>"

    def slow(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """Nothing was done yet."""
        if self.caller.desk is None or self.caller.carried is not None:  # there is no other way, or more to be sent
            return self.caller.call(self.definition, self.entry, args, kwargs)
        return self.caller.call_from(self.outlet, self.definition, self.entry, args, kwargs)

    def written(
        self,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
        link: Link,
        context: CallContext,
        written: tuple[Any, Any, Any],
    ) -> Any:
        """The request was written, and could not be sent at once."""
        route = self.caller.router.route(self.definition, context.session, None)
        value = (None, args, dict(kwargs) or None)
        # what was written for that link is read by any that takes its place, for it has the same codec
        spoken = written if link.codec_id is PayloadCodec.TAGGED else None  # what goes the quick way is tagged
        with self.caller.counted:
            return self.caller.exchange(
                self.definition, route, Kind.CALL, self.entry.method_id, value, self.entry.name, context, written=spoken
            )

    def go_on(self, link: Link, context: CallContext, call_id: int, memo: Any, in_vain: bool) -> Any:
        """It was sent, and the reply did not come soon, or others' messages did. ``in_vain``: the baton was kept for it."""
        route = self.caller.router.route(self.definition, context.session, None)
        if in_vain:
            link.patience.lost()
        try:
            with self.caller.counted:
                return self.caller.wait_on(route, link, call_id, memo, self.entry.name, context)
        except Untaken:
            return self.outlet  # which goes the slow way then, from the beginning

    def finish(self, link: Link, context: CallContext, came: bytes | memoryview | ChannelClosed, memo: Any) -> Any:
        """The outcome is there, and is none that C reads."""
        if isinstance(came, Untaken):
            return self.outlet
        route = self.caller.router.route(self.definition, context.session, None)
        outcome = came if isinstance(came, ChannelClosed) else link.read(came)
        with self.caller.counted:
            return self.caller.outcome(route, link, outcome, memo, self.entry.name, context)

    def give_up(self, link: Link, call_id: int) -> None:
        """The thread was interrupted, and waits no longer."""
        link.post(Envelope(kind=Kind.CANCEL, call_id=call_id))
