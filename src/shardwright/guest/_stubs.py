"""What generated modules are made of: proxies for functions, handle classes, attributes read from the owner.

The source of a generated module comes with the plan; it declares its proxies through the name ``__shardwright__``, which is a
``Face``. A proxy passes just the arguments it was given, so defaults are the owner's own.
"""

from __future__ import annotations

import ast
import inspect
from collections import deque
from collections.abc import Callable, Mapping
from types import GenericAlias, TracebackType
from typing import Any

from shardwright._syntax import parsed
from shardwright.errors import CannotCross, CutRefused, InternalError
from shardwright.guest._caller import Caller
from shardwright.guest._frames import STUB, beyond
from shardwright.guest._generators import async_generator_proxy, generator_proxy
from shardwright.guest._handles import Handle, HandleCache, HandleType
from shardwright.guest._objects import HOLDERS
from shardwright.guest._outlets import outlet_of
from shardwright.guest._stream_calls import Stream
from shardwright.model.envelope import Envelope, Kind
from shardwright.model.ids import ShardId
from shardwright.model.scope import ScopeKind
from shardwright.model.shard import EntryPoint, ModuleSurface, ShardDefinition, ShardPlan


class Proxies:
    """All proxies of one shard: turns uses of them into calls."""

    def __init__(self, plan: ShardPlan, caller: Caller) -> None:
        self.plan = plan
        self.caller = caller
        self.handles = HandleCache()
        self._dropped: deque[tuple[ShardId, int, int] | Stream] = caller.dropped
        caller.before_call = self.release_dropped
        self._entries: dict[tuple[str, str], tuple[ShardDefinition, EntryPoint]] = {
            (entry.module, entry.qualname): (definition, entry)
            for definition in plan.definitions
            if not definition.cut_of  # whose functions are the component's own, and asked of that one
            for entry in definition.entry_points
        }

    def entry(self, module: str, qualname: str) -> tuple[ShardDefinition, EntryPoint]:
        try:
            return self._entries[module, qualname]
        except KeyError:
            raise InternalError(f"the plan has no entry point {module}:{qualname}") from None

    def call(
        self, definition: ShardDefinition, entry: EntryPoint, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Any:
        return self.caller.call(definition, entry, args, kwargs)

    def construct(self, cls: HandleType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        if "_qualname" not in cls.__dict__:  # the class statement is here, what it builds on is not
            raise CannotCross(
                f"{cls.__qualname__} inherits from {cls._qualname}, which lives in {cls._definition.component}: "
                "its objects can live in neither component",
                outcome="not started",
                remedy="keep both classes in one component, or wrap instead of inherit",
            )
        definition, entry = self.entry(cls.__module__, cls._qualname)
        try:
            return self.call(definition, entry, args, kwargs)
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise

    def read_module(self, definition: ShardDefinition, module: str, name: str) -> Any:
        """An attribute of another component's module that only its owner can answer."""
        context = self.caller.context()
        kind = definition.scope.kind
        if kind is ScopeKind.KEY or kind is ScopeKind.REQUEST:
            raise CutRefused(
                f"{module}.{name} lives in {definition.component}, of which there is one per {definition.scope}: "
                "there is no one value to read",
                remedy="read it through a function of that component",
            )
        route = self.caller.router.route(definition, context.session, None)
        try:
            return self.caller.get(definition, route, module, name)
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise

    def read_object(self, handle: Handle, name: str) -> Any:
        definition = type(handle)._definition
        session = self.caller.context().session
        route = self.caller.router.object_route(definition.component, session, handle._sw_shard)
        try:
            return self.caller.get(definition, route, handle._sw_object, name)
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise

    # -- the life of handles -----------------------------------------------------------------------------------

    def dropped(self, shard: ShardId, object_id: int, count: int) -> None:
        """A handle was collected. May be called anywhere, even inside a lock of ours: so just note it."""
        self._dropped.append((shard, object_id, count))

    def pass_on(self, handle: Handle) -> None:
        """One more holder, before the message that makes it one is sent."""
        self._count(Kind.ADDREF, handle._sw_shard, handle._sw_object, 1)

    @property
    def dropped_handles(self) -> deque[Any]:
        """Handles and streams that were collected, and whose owners are still to be told."""
        return self._dropped

    def release_dropped(self) -> None:
        """Tell owners of handles and streams that were collected."""
        for _ in range(len(self._dropped)):  # no more: a stream may have to be noted again
            try:
                each = self._dropped.popleft()
            except IndexError:  # another thread tells them
                return
            if isinstance(each, Stream):
                each.forget()
            else:
                self._count(Kind.RELEASE, *each)

    def _count(self, kind: Kind, shard: ShardId, object_id: int, count: int) -> None:
        link = self.caller.router.link_to(shard)
        if link is not None:
            link.post(Envelope(kind=kind, call_id=link.next_id(), payload=HOLDERS.pack(object_id, count)))


class Face:
    """``__shardwright__`` in the globals of one generated module."""

    def __init__(self, proxies: Proxies, surface: ModuleSurface, namespace: dict[str, Any]) -> None:
        self._proxies = proxies
        self._surface = surface
        self._namespace = namespace
        self._definition = proxies.plan.definition(surface.owner)

    def __repr__(self) -> str:
        return f"<generated module {self._surface.module}, owned by {self._surface.owner}>"

    @property
    def owner(self) -> str:
        """The component that the module belongs to."""
        return self._surface.owner

    def function(
        self,
        name: str,
        *,
        signature: str = "",
        doc: str | None = None,
        is_async: bool = False,
        is_generator: bool = False,
        line: int = 0,
    ) -> Callable[..., Any]:
        """A proxy for a function of the module."""
        definition, entry = self._proxies.entry(self._surface.module, name)
        if is_generator:
            stub = self._stream_stub(definition, entry)
        else:
            stub = self._async_stub(definition, entry) if is_async else self._stub(definition, entry)
        dressed: Callable[..., Any] = self._dressed(stub, name, name, signature, doc, line)
        return dressed

    def handle_class(
        self,
        name: str,
        *,
        methods: Mapping[str, Mapping[str, Any]],
        bases: tuple[Any, ...] = (),
        doc: str | None = None,
        line: int = 0,
        signature: str = "",
        generic: bool = False,
    ) -> HandleType:
        """A class whose instances live with the owner; ``generic`` lets ``C[int]`` be written."""
        found = [self._namespace.get(base) if isinstance(base, str) else base for base in bases]
        handles = tuple(base for base in found if isinstance(base, HandleType))
        members: dict[str, Any] = {
            "__slots__": (),
            "__module__": self._surface.module,
            "__qualname__": name,
            "__doc__": doc,
            "_proxies": self._proxies,
            "_definition": self._definition,
            "_qualname": name,
        }
        if generic:
            members["__class_getitem__"] = classmethod(GenericAlias)
        for method, about in methods.items():
            members[method] = self._member(name, method, dict(about))
        cls = HandleType(name.rpartition(".")[2], handles or (Handle,), members)
        if signature:
            cls.__signature__ = _signature(signature, skip_first=True)
        return cls

    def _member(self, cls: str, name: str, about: dict[str, Any]) -> Any:
        qualname = f"{cls}.{name}"
        kind = about.get("kind", "method")
        if kind == "property":
            return property(lambda self: self._proxies.read_object(self, name), doc=about.get("doc"))
        definition, entry = self._proxies.entry(self._surface.module, qualname)
        text, doc = about.get("signature", ""), about.get("doc")
        if about.get("is_generator") and kind not in ("static", "class"):
            return self._dressed(self._stream_method(definition, entry), name, qualname, text, doc, 0)
        if kind in ("static", "class"):
            if about.get("is_generator"):
                stub = self._stream_stub(definition, entry)
            else:
                stub = self._async_stub(definition, entry) if about.get("is_async") else self._stub(definition, entry)
            return staticmethod(self._dressed(stub, name, qualname, text, doc, 0, skip_first=kind == "class"))
        caller = self._proxies.caller
        leaves = name in ("__exit__", "__aexit__")
        if about.get("is_async"):

            async def method_async(self: Handle, /, *args: Any, **kwargs: Any) -> Any:
                args = _without_traceback(args) if leaves else args
                target = (self._sw_shard, self._sw_object)
                try:
                    return await caller.call_async(definition, entry, args, kwargs, target=target)
                except BaseException as error:
                    error.__traceback__ = beyond(error.__traceback__)
                    raise

            return self._dressed(method_async, name, qualname, text, doc, 0)

        def method(self: Handle, /, *args: Any, **kwargs: Any) -> Any:
            args = _without_traceback(args) if leaves else args
            try:
                return caller.call(definition, entry, args, kwargs, target=(self._sw_shard, self._sw_object))
            except BaseException as error:
                error.__traceback__ = beyond(error.__traceback__)
                raise

        return self._dressed(method, name, qualname, text, doc, 0)

    def _stub(self, definition: ShardDefinition, entry: EntryPoint) -> Callable[..., Any]:
        call = outlet_of(self._proxies.caller, definition, entry)

        def stub(*args: Any, **kwargs: Any) -> Any:
            try:
                return call(args, kwargs)
            except BaseException as error:
                error.__traceback__ = beyond(error.__traceback__)
                raise

        return stub

    def _async_stub(self, definition: ShardDefinition, entry: EntryPoint) -> Callable[..., Any]:
        call = self._proxies.caller.call_async

        async def stub(*args: Any, **kwargs: Any) -> Any:
            try:
                return await call(definition, entry, args, kwargs)
            except BaseException as error:
                error.__traceback__ = beyond(error.__traceback__)
                raise

        return stub

    def _stream_stub(self, definition: ShardDefinition, entry: EntryPoint) -> Callable[..., Any]:
        caller = self._proxies.caller

        def make(*args: Any, **kwargs: Any) -> Stream:
            return Stream(caller, definition, entry, args, kwargs)

        return async_generator_proxy(make) if entry.is_async else generator_proxy(make)

    def _stream_method(self, definition: ShardDefinition, entry: EntryPoint) -> Callable[..., Any]:
        caller = self._proxies.caller

        def make(handle: Handle, /, *args: Any, **kwargs: Any) -> Stream:
            return Stream(caller, definition, entry, args, kwargs, target=(handle._sw_shard, handle._sw_object))

        return async_generator_proxy(make) if entry.is_async else generator_proxy(make)

    def _dressed(
        self,
        stub: Any,
        name: str,
        qualname: str,
        signature: str,
        doc: str | None,
        line: int,
        *,
        skip_first: bool = False,
    ) -> Any:
        stub.__name__ = name
        stub.__qualname__ = qualname
        stub.__module__ = self._surface.module
        stub.__doc__ = doc
        # the frame in tracebacks says what it is
        stub.__code__ = stub.__code__.replace(
            co_name=name, co_qualname=qualname, co_filename=f"{STUB}{self._surface.owner}>", co_firstlineno=line or 1
        )
        if signature:
            stub.__signature__ = _signature(signature, skip_first=skip_first)
        return stub


def _without_traceback(args: tuple[Any, ...]) -> tuple[Any, ...]:
    """What ``__exit__`` is told of an exception, without the frames: they stay where they are."""
    return (*args[:2], None) if len(args) == 3 and isinstance(args[2], TracebackType) else args


def _signature(text: str, *, skip_first: bool = False) -> inspect.Signature:
    """The signature that ``text`` shows; defaults that are not literals show as ``...``."""
    try:
        tree = parsed(f"def f{text}: ...")
        function = tree.body[0]
        assert isinstance(function, ast.FunctionDef)
        arguments = function.args
        arguments.defaults = [_literal(default) for default in arguments.defaults]
        arguments.kw_defaults = [default and _literal(default) for default in arguments.kw_defaults]
        returns, function.returns = function.returns, None
        annotations = {}
        everything = [*arguments.posonlyargs, *arguments.args, *arguments.kwonlyargs]
        for argument in (*everything, arguments.vararg, arguments.kwarg):
            if argument is not None and argument.annotation is not None:
                annotations[argument.arg] = ast.unparse(argument.annotation)
                argument.annotation = None
        namespace: dict[str, Any] = {}
        exec(compile(tree, "<signature>", "exec"), {"__builtins__": {}}, namespace)
        found = inspect.signature(namespace["f"])
        parameters = [
            parameter.replace(annotation=annotations.get(parameter.name, inspect.Parameter.empty))
            for parameter in found.parameters.values()
        ]
        if skip_first and parameters:
            del parameters[0]
        return inspect.Signature(
            parameters, return_annotation=ast.unparse(returns) if returns else inspect.Signature.empty
        )
    except SyntaxError as error:
        raise InternalError(f"the plan holds a signature that is none: {text}") from error


def _literal(default: ast.expr) -> ast.expr:
    try:
        ast.literal_eval(default)
    except ValueError:
        return ast.Constant(...)
    return default
