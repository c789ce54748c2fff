"""The tagged codec: Python's meaning across a trust boundary, with no way to execute code."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn, Protocol

from shardwright.errors import CannotCross, MessageTooLarge, Outcome, ShardwrightError
from shardwright.transport.codec import _exceptions, _numpy, _registry
from shardwright.transport.codec import _tagged_decode as decoding
from shardwright.transport.codec import _tagged_encode as encoding
from shardwright.transport.codec import _wire as wire
from shardwright.transport.codec._classes import ClassTable
from shardwright.transport.codec._form import Form, make_form
from shardwright.transport.codec._memo import Memo
from shardwright.transport.codec._names import builtin_named, name_of_builtin
from shardwright.transport.codec._paths import Describe, describe_call, describe_value, path_to, render
from shardwright.transport.codec._tagged_decode import Decoder
from shardwright.transport.codec._tagged_encode import Encode, Encoder
from shardwright.transport.codec._wire import CodecLimits, Kind, Refusal, Tag, violation

__all__ = ["HandleHook", "TaggedCodec"]

Part = bytes | memoryview


class HandleHook(Protocol):
    """How stateful objects cross: by name, staying where they are.

    A hook may have a method ``may_refer(cls) -> bool`` besides: False says, once for all, that ``reference`` is None for
    every instance of exactly that class.
    """

    def reference(self, value: object) -> tuple[str, int, str] | None:
        """Shard id, object id and class name when ``value`` is to be sent as a handle, else None."""
        ...

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        """The local handle, or the object itself when it lives here. Refuses by raising a ShardwrightError."""
        ...


class TaggedCodec:
    """Encodes requests and replies for one edge. Thread-safe once built.

    ``classes`` is what the edge permits; ``handles`` gives and takes references to stateful objects; ``reads``, where given,
    bounds what is read here more narrowly than ``limits``. Encoding raises
    CannotCross, naming the offender and a remedy, or MessageTooLarge; decoding raises ProtocolViolation for anything
    that is not well formed, and then no object of the caller has been touched. (One exception: when a listed class's
    own ``__hash__`` or ``__eq__`` raises while a reply's changes are applied, some may have been.)
    """

    def __init__(
        self,
        classes: ClassTable | None = None,
        *,
        handles: HandleHook | None = None,
        limits: CodecLimits = CodecLimits(),  # noqa: B008 - frozen
        reads: CodecLimits | None = None,
    ) -> None:
        self.classes = classes if classes is not None else ClassTable()
        self.handles = handles
        self.limits = limits
        self._encoders: dict[type, Encode] = _Dispatch(self)
        self._form: Form = make_form(self)
        # what comes is read by the limits of its reader: it has the same classes and handles, and a form of its own
        self._narrow = None if reads is None else TaggedCodec(self.classes, handles=handles, limits=reads)

    def __repr__(self) -> str:
        return f"TaggedCodec({self.classes!r})"

    def _reads(self) -> Form:
        return self._form if self._narrow is None else self._narrow._form

    @property
    def forms(self) -> tuple[Form, Form]:
        """What writes and what reads, without words for what is wrong: for who asks this codec again then."""
        return self._form, self._reads()

    # -- the four ways -----------------------------------------------------------------------------------------

    def encode_request(
        self, value: object, *, describe: Describe = describe_value
    ) -> tuple[bytes, tuple[Part, ...], Memo]:
        """The payload, its buffers, and the memo that the reply will need.

        ``describe`` words the path in CannotCross; ``describe_call`` suits one that is ``(positional, keywords)``.
        Buffers may be views of the caller's own bytes and arrays: send them before any of those can change.
        """
        try:
            return self._form.write_request(value)
        except Refusal as refusal:
            self._cannot_cross(refusal, [(value, describe)], "not started")
        except RecursionError:
            self._too_deep("not started")

    def decode_request(self, payload: Part, buffers: Sequence[Part] = ()) -> tuple[Any, Memo]:
        """The value, made of new objects, and the memo for its reply."""
        try:
            return self._reads().read_request(payload, buffers)
        except (ShardwrightError, RecursionError):
            raise  # nesting is bounded here: it is the caller's own stack that is full
        except Exception as error:
            raise _translated(error) from error

    def encode_reply(self, value: object, memo: Memo) -> tuple[bytes, tuple[Part, ...]]:
        """The result, and the new contents of each object of the request that was changed since it arrived.

        The memo stays as it was, so that an error can still be encoded when this raises.
        """
        try:
            return self._form.write_reply(value, memo)
        except Refusal as refusal:
            self._cannot_cross(refusal, [(value, _describe_result), (memo.root, describe_call)], "failed")
        except RecursionError:
            self._too_deep("failed")
        except MessageTooLarge as error:
            error.outcome = "failed"
            raise

    def decode_reply(self, payload: Part, buffers: Sequence[Part], memo: Memo) -> Any:
        """The result; the caller's own objects, known by ``memo``, now hold what the callee's copies hold."""
        try:
            return self._reads().read_reply(payload, buffers, memo, False)
        except (ShardwrightError, RecursionError):
            raise  # nesting is bounded here: it is the caller's own stack that is full
        except Exception as error:
            raise _translated(error) from error

    def encode_error(self, exception: BaseException, memo: Memo | None = None) -> tuple[bytes, tuple[Part, ...]]:
        """An exception in place of a result. Never fails: what does not fit is replaced by words that say so.

        When a changed argument does not fit, the caller gets CannotCross, caused by the exception, and no changes.
        """
        if memo is None:
            memo = Memo(None, [], [])
        try:
            return self.encode_reply(exception, memo)
        except ShardwrightError as error:
            if error is exception:
                raise  # pragma: no cover - a plain ShardwrightError always fits
            error.__cause__ = exception
            try:
                return self.encode_reply(error, Memo(None, memo.objects, []))
            except ShardwrightError:
                error.__cause__ = None
                error.__context__ = None
                error.add_note(f"while sending {type(exception).__qualname__}: {_exceptions.text_of(exception)}")
                return self.encode_reply(error, Memo(None, memo.objects, []))

    def decode_error(self, payload: Part, buffers: Sequence[Part] = (), memo: Memo | None = None) -> BaseException:
        """The exception, to be raised by the caller; changes are applied as by ``decode_reply``."""
        try:
            return self._reads().read_reply(payload, buffers, memo, True)  # type: ignore[no-any-return]
        except (ShardwrightError, RecursionError):
            raise  # nesting is bounded here: it is the caller's own stack that is full
        except Exception as error:
            raise _translated(error) from error

    # -- changes -----------------------------------------------------------------------------------------------

    def write_changes(self, s: Encoder, memo: Memo, differing: list[tuple[Any, Any]]) -> None:
        """How many objects of the request have changed, and which; their contents are queued."""
        for thing, held in differing:
            _numpy.refuse_new_layout(thing, held)
        changed = sorted({number for thing, _ in differing if (number := s.number_of(thing)) is not None})
        s.number(len(changed))
        for number in changed:
            thing = memo.objects[number]
            s.number(number)
            s.enqueue(number, self._contents_encoder(type(thing)), thing)

    def read_changes(self, d: Decoder, count: int) -> None:
        """So many numbers of objects of the request; their contents are queued."""
        d.later = []
        last = -1
        for _ in range(count):
            number = d.number()
            if not last < number < d.base:
                raise violation(f"a change of object {number} of {d.base}")
            last = number
            thing = d.known(number)
            d.enqueue(number, self._contents_decoder(type(thing)), thing)

    def _contents_encoder(self, cls: type) -> Encode:
        contents = encoding.CONTENTS.get(cls) or _numpy.contents_encoder(cls)
        if contents is not None:
            return contents
        if issubclass(cls, BaseException):
            return _exceptions.write_contents
        return encoding.contents_of(self.classes.plan_of(cls))

    def _contents_decoder(self, cls: type) -> decoding.Contents:
        contents = decoding.CONTENTS.get(cls) or _numpy.contents_decoder(cls)
        if contents is not None:
            return contents
        if issubclass(cls, BaseException):
            return _exceptions.read_contents
        try:
            plan = self.classes.plan_of(cls)
        except Refusal:
            plan = None
        if plan is None or plan.kind is Kind.ENUM or not (plan.has_state or plan.kind is not Kind.VALUE):
            raise violation(f"a change of an immutable {cls.__qualname__}")
        return decoding.contents_of(plan)

    # -- names, handles, classes ---------------------------------------------------------------------------------

    def name_of(self, thing: Any) -> str | None:
        """The wire name of a class or function that both sides know."""
        name = name_of_builtin(thing)
        if name is not None:
            return name
        name = self.classes.name_of(thing)
        if name is not None:
            try:
                if self.classes.object_of(name) is thing:
                    return name
            except Exception:
                return None
        return None

    def object_of(self, name: str) -> Any:
        thing = builtin_named(name)
        return thing if thing is not None else self.classes.object_of(name)

    def may_refer(self, cls: type) -> bool:
        """Whether an instance of that class might be sent as a handle; False spares asking for each."""
        asks: Callable[[type], bool] | None = getattr(self.handles, "may_refer", None)
        return self.handles is not None and (asks is None or asks(cls))

    def _handle(self, s: Encoder, value: object) -> bool:
        if self.handles is None:
            return False
        reference = self.handles.reference(value)
        if reference is None:
            return False
        if not s.known(value):
            shard, object_id, class_name = reference
            s.byte(Tag.HANDLE)
            s.text(shard)
            s.write(object_id.to_bytes(8, "little"))
            s.text(class_name)
            s.items += wire.WEIGHT_OBJECT
            s.remember(value)
        return True

    def _resolve_handle(self, shard: str, object_id: int, class_name: str) -> object:
        if self.handles is None:
            raise violation("a handle on an edge without handles")
        return self.handles.resolve(shard, object_id, class_name)

    def _encoder_for(self, cls: type) -> Encode:
        registered = _registry.of_class(cls)
        if registered is not None:
            return _parts_encoder(registered)
        by_numpy = _numpy.encoder_for(cls)
        if by_numpy is not None:
            return by_numpy
        if issubclass(cls, BaseException):
            return _exceptions.encode
        if issubclass(cls, type):
            return encoding.BASE_ENCODERS[type]
        try:
            return encoding.instance_encoder(self.classes.plan_of(cls))
        except Refusal as refusal:
            return encoding.refused(refusal.reason, refusal.remedy)

    # -- refusing ------------------------------------------------------------------------------------------------

    def _cannot_cross(self, refusal: Refusal, roots: Sequence[tuple[object, Describe]], outcome: Outcome) -> NoReturn:
        where = ""
        for root, describe in roots:
            steps = path_to(root, refusal.offender)
            if steps is not None:
                where = describe(steps) + ": "
                break
        raise CannotCross(
            f"{where}{refusal.reason} cannot cross this edge", outcome=outcome, remedy=refusal.remedy
        ) from None

    def _too_deep(self, outcome: Outcome) -> NoReturn:
        raise CannotCross(
            "the value is nested too deeply for the stack that is left",
            outcome=outcome,
            remedy="use lists or instances in place of nested tuples",
        ) from None


class _Dispatch(dict[type, Encode]):
    """Encoders by exact type; a type met for the first time is classified once."""

    def __init__(self, codec: TaggedCodec) -> None:
        super().__init__(encoding.BASE_ENCODERS)
        self._codec = codec

    def __missing__(self, cls: type) -> Encode:
        encoder = self[cls] = self._codec._encoder_for(cls)
        return encoder


def _parts_encoder(registered: _registry.Registered) -> Encode:
    def encode(s: Encoder, value: Any) -> None:
        if s.known(value):
            return
        try:
            parts = registered.to_parts(value)
        except Exception as error:
            raise Refusal(value, f"{type(value).__qualname__}: {error},") from None
        s.byte(Tag.PARTS)
        s.class_name(registered.name)
        s.number(len(parts))
        s.enter(value)
        s.items += len(parts) + wire.WEIGHT_OBJECT
        before, s.now = s.now, True
        try:
            for part in parts:
                s.value(part)
        finally:
            s.now = before
        s.leave()
        s.remember(value)

    return encode


def _parts(d: Decoder) -> Any:
    d.skip()
    name = d.class_name()
    registered = _registry.of_name(name)
    if registered is None:
        raise violation(f"nothing is registered as {name!r}")
    d.charge(wire.WEIGHT_OBJECT)
    parts = d.elements()
    try:
        value = registered.from_parts(*parts)
    except Exception as error:
        raise violation(f"{name}: {error}") from error
    if type(value) is not registered.cls:
        raise violation(f"{name} made a {type(value).__qualname__}")
    d.remember(value)
    return value


decoding.DISPATCH[Tag.PARTS] = _parts


def _translated(error: Exception) -> ShardwrightError:
    return violation(f"{type(error).__name__}: {error}" if str(error) else type(error).__name__)


def _describe_result(steps: Any) -> str:
    return "the result" + render(steps)
