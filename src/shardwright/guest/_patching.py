"""What a test may do to a shard, and the test's own objects inside it.

Only for shards of a node that a test run started (``Init.testing``). The node passes on what the test process patches;
values that the codec copies are set as they are, while functions, mocks and whatever else does not cross stay in the test
process: here stands a proxy in their place, whose uses are calls to the test process. Calls that the test makes to an
entry point that it has patched reach the original: what it patched it sees itself, so a call that comes here was made
through a reference taken before.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable
from types import FunctionType, ModuleType
from typing import Any

from shardwright.errors import HandleExpired
from shardwright.guest._context import NOWHERE, current_call
from shardwright.guest._handles import HandleType
from shardwright.guest._router import Route
from shardwright.guest._runtime import LinkHandles, Runtime
from shardwright.guest._testing import Patch
from shardwright.model.endpoint import Peer
from shardwright.model.ids import ComponentName, MethodId
from shardwright.model.limits import Limits
from shardwright.model.scope import Scope, Start, StateKind
from shardwright.model.shard import CodeSegment, EntryKind, EntryPoint, ShardDefinition
from shardwright.transport import ClassTable, TaggedCodec

TEST_PROCESS = ComponentName("node")
USE = EntryPoint(MethodId(0), "use", "", "use", EntryKind.FUNCTION)
USE_ASYNC = EntryPoint(MethodId(1), "use_async", "", "use_async", EntryKind.FUNCTION, is_async=True)
TEST_PROCESS_DEFINITION = ShardDefinition(
    TEST_PROCESS, CodeSegment("", ()), (USE, USE_ASYNC), Scope(), StateKind.NONE, Limits(), "process", Start.SPAWN, ()
)
"""What shards may call in the test process."""
REFERENCE = "shardwright.test:"
"""Class names of references to objects of the test process begin so; then "function" or "object", "async" if it is."""

_FORWARDED = (
    "bool", "len", "iter", "next", "contains", "getitem", "setitem", "delitem", "enter", "exit", "int", "float", "index",
    "lt", "le", "gt", "ge", "add", "radd", "sub", "mul", "truediv", "neg", "str", "fspath",
)  # fmt: skip
_AWAITED = ("aenter", "aexit", "anext")
_MISSING: Any = object()

Use = Callable[[EntryPoint, int, str, str, tuple[Any, ...], dict[str, Any]], Any]


class TestObject:
    """An object of the test process, used from a shard."""

    __test__ = False
    __slots__ = ("__weakref__", "_sw_async", "_sw_object", "_sw_use")

    def __init__(self, use: Use, object_id: int, is_async: bool) -> None:
        object.__setattr__(self, "_sw_use", use)
        object.__setattr__(self, "_sw_object", object_id)
        object.__setattr__(self, "_sw_async", is_async)

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        return self._sw_use(USE_ASYNC if self._sw_async else USE, self._sw_object, "call", "", args, kwargs)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return self._sw_use(USE, self._sw_object, "get", name, (), {})

    def __setattr__(self, name: str, value: object) -> None:
        self._sw_use(USE, self._sw_object, "set", name, (value,), {})

    def __repr__(self) -> str:
        return f"<object {self._sw_object:x} of the test process>"

    def __aiter__(self) -> Any:
        return self._sw_use(USE, self._sw_object, "special", "__aiter__", (), {})


def _forwarding(name: str, entry: EntryPoint) -> Any:
    def special(self: TestObject, *args: Any) -> Any:
        return self._sw_use(entry, self._sw_object, "special", name, args, {})

    special.__name__ = name
    return special


for _name in _FORWARDED:
    setattr(TestObject, f"__{_name}__", _forwarding(f"__{_name}__", USE))
for _name in _AWAITED:
    setattr(TestObject, f"__{_name}__", _forwarding(f"__{_name}__", USE_ASYNC))


class TestHandles(LinkHandles):
    """Handles as everywhere, and references to objects of the test process."""

    __test__ = False

    def __init__(self, runtime: Runtime, patches: Patches) -> None:
        super().__init__(runtime)
        self._patches = patches

    def reference(self, value: object) -> tuple[str, int, str] | None:
        found = self._patches.reference(value)
        return found if found is not None else super().reference(value)

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        if class_name.startswith(REFERENCE):
            if shard != TEST_PROCESS:
                raise HandleExpired("only the test process has objects of a test", outcome="not started")
            return self._patches.stand_in(object_id, class_name)
        return super().resolve(shard, object_id, class_name)


def _put(place: Any, name: str, value: object) -> None:
    """Past what generated modules and handle classes refuse to everybody else."""
    base = ModuleType if isinstance(place, ModuleType) else type if isinstance(place, type) else object
    base.__setattr__(place, name, value)


def _remove(place: Any, name: str) -> None:
    base = ModuleType if isinstance(place, ModuleType) else type if isinstance(place, type) else object
    base.__delattr__(place, name)


class Patches:
    """What is patched in one shard, and its stand-ins for objects of the test process."""

    def __init__(self, runtime: Runtime) -> None:
        self._runtime = runtime
        self._mutex = threading.Lock()
        self._originals: dict[tuple[str, str], Any] = {}
        self._stand_ins: dict[int, Any] = {}  # by object, so that identity holds; a test has few
        runtime.handles_of_links = lambda: TestHandles(runtime, self)
        runtime.responder.unpatched = self.unpatched
        runtime.responder.quick = False

    def __repr__(self) -> str:
        return f"<Patches of {self._runtime.component}, {len(self._originals)}>"

    # -- patching ----------------------------------------------------------------------------------------------

    def apply(self, patch: Patch) -> str:
        """Do it; why it could not be done, else nothing."""
        runtime = self._runtime
        try:
            owned = patch.module in runtime.definition.code.modules
            where, _, last = patch.name.rpartition(".")
            if not owned and patch.owner and (where or not patch.everywhere):
                return ""  # here it is a proxy, or is asked of its owner
            place = runtime.resolve(patch.module, where) if where else runtime.import_module(patch.module)
            if not owned and patch.owner and self._stands_for(place, last):
                return ""
            self._change(place, last, patch)
        except Exception as error:
            return f"{patch.module}.{patch.name} cannot be patched in {runtime.component}: {error!r:.500}"
        return ""

    @staticmethod
    def _stands_for(place: Any, name: str) -> bool:
        """Whether the name is only a stand-in for what another component owns."""
        found = vars(place).get(name, _MISSING)
        if found is _MISSING or isinstance(found, HandleType) or isinstance(place, HandleType):
            return True
        code = getattr(found, "__code__", None)
        return code is not None and code.co_filename.startswith("<call to ")

    def _change(self, place: Any, name: str, patch: Patch) -> None:
        key = (patch.module, patch.name)
        if patch.action == "undo":
            original = self._originals.pop(key, self)
            if original is self:
                return
            if original is _MISSING:
                if name in vars(place):
                    _remove(place, name)
            else:
                _put(place, name, original)
            return
        value = self._value(patch) if patch.action != "delete" else None
        if patch.action == "fill":
            if not refill(getattr(place, name), value):
                _put(place, name, value)
            return
        if "." in patch.name and not hasattr(place, name):
            raise AttributeError(f"{place!r} has no attribute {name!r}")
        self._originals.setdefault(key, vars(place).get(name, _MISSING))
        if patch.action == "set":
            _put(place, name, value)
        else:
            _remove(place, name)

    def _value(self, patch: Patch) -> Any:
        runtime = self._runtime
        table = ClassTable(runtime.plan.value_classes, runtime.value_class)
        codec = TaggedCodec(table, handles=TestHandles(runtime, self))
        return codec.decode_request(patch.value, patch.buffers)[0]

    def unpatched(self, peer: Peer, entry: EntryPoint) -> Any:
        """The original of a patched entry point for calls of the test process; None for all else."""
        if peer.component != TEST_PROCESS:
            return None
        found = self._originals.get((entry.module, entry.qualname))
        if isinstance(found, (staticmethod, classmethod)):
            return found.__get__(None, self._runtime.resolve(entry.module, entry.qualname.rpartition(".")[0]))
        return None if found is _MISSING else found

    # -- objects of the test process ---------------------------------------------------------------------------

    def stand_in(self, object_id: int, class_name: str) -> Any:
        with self._mutex:
            found = self._stand_ins.get(object_id)
            if found is None:
                kind = class_name.removeprefix(REFERENCE).split(" ")
                made = TestObject(self.use, object_id, "async" in kind)
                found = self._stand_ins[object_id] = _function(made) if "function" in kind else made
            return found

    def reference(self, value: object) -> tuple[str, int, str] | None:
        """How a stand-in goes back, or on to another shard."""
        kind = "object"
        if isinstance(value, FunctionType):
            value, kind = value.__dict__.get("_sw_stand_in"), "function"
        if not isinstance(value, TestObject):
            return None
        return TEST_PROCESS, value._sw_object, f"{REFERENCE}{kind}{' async' if value._sw_async else ''}"

    def use(
        self,
        entry: EntryPoint,
        object_id: int,
        operation: str,
        name: str,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        """Something that the shard does with an object of the test process: there it is done."""
        runtime = self._runtime
        context = current_call.get()
        # on the route of no session in particular: the test process serves them all
        route = Route(TEST_PROCESS, session=context.session if context is not NOWHERE else None)
        arguments = (object_id, operation, name, args, kwargs)
        if entry.is_async:
            return runtime.caller.call_async(TEST_PROCESS_DEFINITION, entry, arguments, {}, route=route)
        return runtime.caller.call(TEST_PROCESS_DEFINITION, entry, arguments, {}, route=route)


def refill(thing: Any, like: Any) -> bool:
    """Make a container hold what another of its type holds; False when they are none, or of two types."""
    if thing is like:
        return True
    if type(thing) is not type(like):
        return False
    if isinstance(thing, (dict, set)):
        thing.clear()
        thing.update(like)
        return True
    if isinstance(thing, (list, bytearray, deque)):
        thing.clear()
        thing.extend(like)
        return True
    return False


def _function(made: TestObject) -> Any:
    """A real function, for only such become methods when a class has them."""
    if made._sw_async:

        async def stand_in_async(*args: Any, **kwargs: Any) -> Any:
            return await made(*args, **kwargs)

        stand_in_async._sw_stand_in = made  # type: ignore[attr-defined]
        return stand_in_async

    def stand_in(*args: Any, **kwargs: Any) -> Any:
        return made(*args, **kwargs)

    stand_in._sw_stand_in = made  # type: ignore[attr-defined]
    return stand_in
