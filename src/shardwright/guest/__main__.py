"""What runs inside a wall: ``python -m shardwright.guest CONTROL LIFELINE`` (descriptors).

The only place where a guest reads its environment or its arguments.
"""

from __future__ import annotations

import contextlib
import gc
import importlib
import io
import os
import signal
import sys
import traceback
from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, NoReturn, Protocol

import msgspec

from shardwright.errors import ChannelClosed, SandboxError
from shardwright.guest._control import VERSION, ControlSocket
from shardwright.guest._control_messages import Enter, Hello, Init, Note, Ready
from shardwright.guest._ends import flush_at_exit
from shardwright.guest._fresh import hold_lifeline, prepare
from shardwright.guest._image import Trimming, ranges
from shardwright.guest._image import permitted as _refused
from shardwright.guest._immortal import make_immortal
from shardwright.guest._mould import Mould
from shardwright.guest._origin import remember_origins, tag_records
from shardwright.guest._output import tag_output, tag_streams, untag_streams
from shardwright.guest._runtime import Runtime
from shardwright.guest._shard import Shard
from shardwright.guest._template import ForkServer, ImportFailed, announce, import_component, prepare_imports
from shardwright.guest._wanted_walls import Walls
from shardwright.model.ids import ComponentName, ShardId
from shardwright.model.shard import GATEWAY_COMPONENT, ShardPlan
from shardwright.transport.socket import SocketTransport

if TYPE_CHECKING:
    from shardwright.guest._denials import Denials  # few guests need it


def main(argv: list[str]) -> int:
    """The exit status of the guest."""
    control = ControlSocket(int(argv[1]))
    lifeline = int(argv[2])
    hold_lifeline(lifeline)
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        control.send(Hello(VERSION))
        init, _ = control.receive()
        if not isinstance(init, Init):
            return 64
        if init.role == "template":
            _template(control, init, lifeline)
        return _spawned(control, init)
    except ChannelClosed:
        return 70


def _runtime(init: Init) -> Runtime:
    plan = msgspec.msgpack.decode(init.plan, type=ShardPlan)
    runtime = Runtime(plan, ComponentName(init.component))
    if init.testing is not None:
        from shardwright.guest._under_test import prepare

        prepare(runtime, init.testing)
    sys.argv[:] = init.argv
    prepare_imports(runtime, init.paths)
    return runtime


def _template(control: ControlSocket, init: Init, lifeline: int) -> NoReturn:
    """Ends without what the application does at its exit: a template is no program, and its shards are still running."""
    try:
        status = _forked(control, init, lifeline)
    except ChannelClosed:
        status = 70
    except BaseException:
        traceback.print_exc()
        status = 1
    flush_at_exit()
    os._exit(status)


def _forked(control: ControlSocket, init: Init, lifeline: int) -> int:
    """The exit status of the template, or, in each of its forks, that of the shard."""
    fence = None
    if init.walls is not None:
        from shardwright.guest._walls import Fence

        fence = Fence(init.walls)
    denials = _notice(control, init.walls)
    runtime = _runtime(init)
    try:
        imported = import_component(runtime)
    except ImportFailed as failed:
        if runtime.unbound.refused:  # not the fault of the code: it needs a shard to be imported in
            control.send(Ready(0.0, False, runtime.unbound.refused))
            return 0
        announce(control, failed)
        return 1
    runtime.imported()
    prepare()
    sys.stdout.flush()
    sys.stderr.flush()
    shard = None if runtime.component == GATEWAY_COMPONENT else Shard(runtime, {"socket": SocketTransport()})
    _become_talkative()
    gc.collect()
    make_immortal(runtime.plan.root)
    mould = _mould(runtime, init) if shard is not None and not imported.reason else None
    sys._clear_type_cache()  # else forks write to the names that they displace from it
    gc.freeze()  # what is shared stays shared: the collector will not touch it in the children
    announce(control, imported)
    descriptor = mould.make(imported, lifeline, fence) if mould is not None else None
    if descriptor is not None:
        assert shard is not None and mould is not None
        shard.rest.act, shard.rest.hurry = mould.write, True
        control.close()
    else:
        if mould is not None and mould.reason:
            control.send(Note("memory", f"its shards are not trimmed: {mould.reason}"))
        descriptor = ForkServer(control, imported, lifeline, fence).run()
        if descriptor is None:
            return 0
        if shard is not None and mould is not None and not mould.reason:
            shard.rest.act = Trimming(partial(shard.note, "memory"))
    control = ControlSocket(descriptor)
    control.send(Hello(VERSION))
    if denials is not None:
        denials.tell = _telling(control)
    try:
        if fence is not None:
            fence.enter()  # while the node makes its control groups
        if shard is not None:
            runtime.open(rings=init.rings)
        serving = _enter(control, runtime, init.walls, shard, forked=True)
    except SandboxError as error:
        announce(control, ImportFailed(error.message, ""))
        return 1
    announce(control, imported)
    return _serve(serving)


def _mould(runtime: Runtime, init: Init) -> Mould | None:
    plain = "PYTHONMALLOC" not in os.environ and not sys.flags.dev_mode
    if not _refused(plain_allocator=plain):
        with contextlib.suppress(OSError):
            return Mould(runtime, ranges(), rings=init.rings)
    return None


def _become_talkative() -> None:
    """What user code prints and logs from now on says whose it is. Before a fork: then forks have nothing to do for it."""
    tag_streams()
    remember_origins()
    tag_records()


def _spawned(control: ControlSocket, init: Init) -> int:
    _notice(control, init.walls)
    runtime = _runtime(init)
    shard = _enter(control, runtime, init.walls, None, forked=False)
    try:
        imported = import_component(runtime)
    except ImportFailed as failed:
        announce(control, failed)
        return 1
    announce(control, imported)
    return _serve(shard)


def _notice(control: ControlSocket, walls: Walls | None) -> Denials | None:
    """From now on the node hears what the walls refuse."""
    if walls is None:
        return None
    from shardwright.guest._denials import Denials

    sys.dont_write_bytecode = True  # code is there to be read
    denials = Denials(walls, _telling(control))
    denials.install()
    return denials


def _telling(control: ControlSocket) -> Callable[[str], None]:
    return lambda what: control.send(Note("denied", what))


class Serving(Protocol):
    """A shard of the application, or the gateway."""

    def serve(self) -> int: ...


def _enter(
    control: ControlSocket, runtime: Runtime, walls: Walls | None, shard: Shard | None, *, forked: bool
) -> Serving:
    message, descriptors = control.receive()
    if not isinstance(message, Enter):
        raise ChannelClosed("the node did not say who this is")
    for _ in range(message.entrances):
        entrance = descriptors.pop()
        os.write(entrance, b"0")
        os.close(entrance)
    if walls is not None:
        from shardwright.guest._walls import close_walls

        close_walls(walls, forked=forked)
    if message.terminal:
        untag_streams()
        for target, descriptor in enumerate(descriptors):
            os.dup2(descriptor, target)
            os.close(descriptor)
        if isinstance(sys.stdout, io.TextIOWrapper):  # made while its descriptor led elsewhere
            sys.stdout.reconfigure(line_buffering=os.isatty(1))
        signal.signal(signal.SIGINT, signal.default_int_handler)
    else:
        tag_output(descriptors[0], descriptors[1])
    if not forked:
        remember_origins()
        tag_records()
    if runtime.component == GATEWAY_COMPONENT:
        ours = importlib.import_module(runtime.definition.code.primary)  # from a room above this one
        gateway: Serving = ours.enter(runtime.plan, control, message, descriptors[2:])
        return gateway
    runtime.entered()
    if shard is None:
        shard = Shard(runtime, {"socket": SocketTransport()})
    shard.enter(control, ShardId(message.shard), message.secrets, rings=message.rings)
    return shard


def _serve(shard: Serving) -> int:
    try:
        status = shard.serve()
    except KeyboardInterrupt:
        status = 130
    flush_at_exit()
    os._exit(status)  # threads of user code must not hold a shard that was told to end


if __name__ == "__main__":
    sys.exit(main(sys.argv))
