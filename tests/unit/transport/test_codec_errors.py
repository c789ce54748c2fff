"""Exceptions, refusals, handles, arrays and limits of the codecs."""

from __future__ import annotations

import dataclasses
import json
import re
import threading
import traceback
import types
from typing import Any

import pytest

from codec_forms import codec_form
from shardwright.errors import CallError, CannotCross, HandleExpired, MessageTooLarge, ProtocolViolation, RemoteError
from shardwright.transport.codec import ClassTable, CodecLimits, PickleCodec, TaggedCodec, describe_call

__all__ = ["codec_form"]
pytestmark = pytest.mark.usefixtures("codec_form")


class Known(ValueError):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(first)
        self.second = second


class Unknown(KeyError):
    def __init__(self, first: Any, second: Any) -> None:
        super().__init__(first)
        self.second = second


class UnknownChild(Known):
    pass


@dataclasses.dataclass
class Job:
    callback: Any = None


class Reduced:
    def __reduce__(self) -> Any:
        return (Reduced, ())


class Finalised:
    def __del__(self) -> None:
        pass


def helper(x: int) -> int:
    return x


class World:
    pass


NAMES = {f"{c.__module__}:{c.__qualname__}": c for c in (Known, Job, Reduced, Finalised, helper)}
CODEC = TaggedCodec(ClassTable(NAMES, NAMES.__getitem__))


def cross(error: BaseException, codec: TaggedCodec = CODEC) -> BaseException:
    return codec.decode_error(*codec.encode_error(error))


def request(value: Any, codec: TaggedCodec = CODEC) -> Any:
    payload, buffers, _ = codec.encode_request(value)
    return codec.decode_request(payload, buffers)[0]


def failing() -> None:
    try:
        {}["missing"]
    except KeyError as error:
        raise Known("first", [1]) from error


def caught(function: Any) -> BaseException:
    try:
        function()
    except BaseException as error:
        return error
    raise AssertionError("nothing was raised")


# -- exceptions ------------------------------------------------------------------------------------------------


def test_a_listed_exception_crosses_whole_in_one_traceback() -> None:
    error = caught(failing)
    error.add_note("seen twice")
    copy = cross(error)
    assert type(copy) is Known
    assert copy.args == ("first",)
    assert copy.second == [1]  # type: ignore[attr-defined]
    assert type(copy.__cause__) is KeyError
    with pytest.raises(Known) as again:
        raise copy
    text = "".join(traceback.format_exception(again.value))
    assert text.count("in failing") == 2
    assert 'raise Known("first", [1]) from error' in text
    assert "KeyError: 'missing'" in text
    assert "seen twice" in text
    assert text.index("raise copy") < text.index("raise Known(")


def test_an_unknown_type_is_caught_by_its_nearest_known_base() -> None:
    copy = cross(Unknown("k", threading.Lock()))
    assert isinstance(copy, KeyError)
    assert isinstance(copy, RemoteError)
    assert copy.type_name == f"{Unknown.__module__}.Unknown"
    assert copy.args == ("k",)
    assert str(copy).startswith(copy.type_name)
    assert copy.outcome == "failed"
    assert any("second" in note for note in copy.__notes__)
    child = cross(UnknownChild("a", "b"))
    assert isinstance(child, Known)
    assert child.second == "b"
    import pickle

    assert str(pickle.loads(pickle.dumps(copy))) == str(copy)


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError(2, "gone", "a.txt"),
        OSError(1, "no", "a", None, "b"),
        UnicodeDecodeError("utf-8", b"\xff", 0, 1, "why"),
        UnicodeEncodeError("ascii", "é", 0, 1, "why"),
        UnicodeTranslateError("é", 0, 1, "why"),
        SyntaxError("bad", ("f.py", 1, 2, "x y", 1, 3)),
        ImportError("no", name="m", path="p"),
        StopIteration(7),
        SystemExit(3),
        KeyError("k"),
        NameError("n", name="n"),
        AttributeError("a", name="a"),
        KeyboardInterrupt(),
        ValueError(),
        Exception("é", (1, [2])),
        CannotCross("that", outcome="failed", remedy="do this"),
        json.JSONDecodeError("bad", "doc", 1),
    ],
    ids=lambda error: type(error).__name__,
)
def test_builtin_exceptions_keep_their_fields(error: BaseException) -> None:
    copy = cross(error)
    assert type(copy) is type(error)
    assert repr(copy) == repr(error)
    assert str(copy) == str(error)
    for name in (
        "errno",
        "filename",
        "filename2",
        "start",
        "reason",
        "lineno",
        "end_offset",
        "name",
        "path",
        "value",
        "code",
    ):
        assert getattr(copy, name, None) == getattr(error, name, None)
    assert vars(copy) == vars(error)


def test_groups_and_cycles_among_exceptions() -> None:
    inner = ValueError("inner")
    group = ExceptionGroup("several", [inner, OSError(2, "gone"), ExceptionGroup("more", [Unknown(1, 2)])])
    inner.__context__ = group
    copy = cross(group)
    assert isinstance(copy, ExceptionGroup)
    assert copy.exceptions[0].__context__ is copy
    assert isinstance(copy.exceptions[2].exceptions[0], KeyError)  # type: ignore[union-attr]
    assert copy.split(OSError)[0] is not None


def test_a_long_chain_and_a_deep_traceback() -> None:
    def deep(n: int) -> None:
        if n:
            deep(n - 1)
        raise ValueError

    error = caught(lambda: deep(600))
    assert len(traceback.extract_tb(cross(error).__traceback__)) == 256
    last = error
    for n in range(3000):
        last.__context__ = last = ValueError(n)
    copy: BaseException | None = cross(error)
    length = 0
    while copy is not None:
        copy, length = copy.__context__, length + 1
    assert length == 3001


def test_an_exception_of_the_callers_own_comes_back_as_itself() -> None:
    mine = Known("a", "b")
    payload, buffers, memo = CODEC.encode_request([mine])
    copies, callee = CODEC.decode_request(payload, buffers)
    copies[0].second = "changed"
    copies[0].add_note("n")
    back = CODEC.decode_error(*CODEC.encode_error(copies[0], callee), memo)
    assert back is mine
    assert mine.second == "changed"
    assert mine.__notes__ == ["n"]


def test_an_error_whose_changed_arguments_do_not_fit() -> None:
    mine: list[Any] = [1]
    payload, buffers, memo = CODEC.encode_request((mine,))
    copies, callee = CODEC.decode_request(payload, buffers)
    copies[0].append(threading.Lock())
    back = CODEC.decode_error(*CODEC.encode_error(ValueError("why"), callee), memo)
    assert isinstance(back, CannotCross)
    assert back.outcome == "failed"
    assert isinstance(back.__cause__, ValueError)
    assert mine == [1]


def test_an_oversized_error_is_replaced() -> None:
    codec = TaggedCodec(limits=CodecLimits(max_bytes=10_000))
    back = cross(ValueError("x" * 100_000), codec)
    assert isinstance(back, MessageTooLarge)
    assert "ValueError" in back.__notes__[0]


# -- refusals --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (((1, {"jobs": [0, 0, 0, Job(lambda: 0)]}), {}), "argument 2 ['jobs'][3].callback: function"),
        (((1,), {"key": threading.Lock()}), "argument 'key': instance of _thread.lock"),
        (((memoryview(b"x"),), {}), "argument 1: a memoryview"),
        (((Reduced(),), {}), "defines __reduce__"),
        (((Finalised(),), {}), "defines __del__"),
        (((World(),), {}), "not known on both sides"),
        (((World,), {}), "argument 1: class"),
        (((types,), {}), "a module"),
        ((("".join,), {}), "function"),
        (((re.match("a", "a"),), {}), "groups()"),
        (((x for x in ()), {}), "generator"),
        (({1: {(World(),)}}, {}), "World"),
    ],
)
def test_refusals_name_the_offender_and_a_remedy(value: Any, words: str) -> None:
    with pytest.raises(CannotCross) as refusal:
        CODEC.encode_request(value, describe=describe_call)
    assert words in str(refusal.value)
    assert refusal.value.outcome == "not started"
    assert refusal.value.remedy


def test_a_result_that_does_not_fit() -> None:
    payload, buffers, _ = CODEC.encode_request(())
    _, memo = CODEC.decode_request(payload, buffers)
    with pytest.raises(CannotCross, match=r"the result\[1\]") as refusal:
        CODEC.encode_reply([1, threading.Lock()], memo)
    assert refusal.value.outcome == "failed"


def test_a_frozenset_that_its_own_element_leads_to_is_refused() -> None:
    @dataclasses.dataclass(eq=False)
    class Node:
        name: str
        group: Any = None

        def __hash__(self) -> int:
            return hash(self.name)

    name = f"{Node.__module__}:{Node.__qualname__}"
    codec = TaggedCodec(ClassTable([name], {name: Node}.__getitem__))
    node = Node("n")
    node.group = frozenset({node})
    with pytest.raises(CannotCross, match="frozenset"):
        codec.encode_request(node.group)
    node.group = None
    around = (frozenset({node}),)
    node.group = [around]
    with pytest.raises(CannotCross, match="leads back to"):
        codec.encode_request(around)
    node.group = {(node, 1): {(node, 1)}}
    copy, _ = codec.decode_request(codec.encode_request(frozenset({node}))[0])
    (found,) = copy
    assert found.group == {(found, 1): {(found, 1)}}


def test_limits_of_the_sender() -> None:
    with pytest.raises(MessageTooLarge):
        TaggedCodec(limits=CodecLimits(max_bytes=100)).encode_request("x" * 200)
    with pytest.raises(MessageTooLarge):
        TaggedCodec(limits=CodecLimits(max_items=100)).encode_request([0] * 200)
    nested: Any = ()
    for _ in range(300):
        nested = (nested,)
    with pytest.raises(CannotCross, match="deep"):
        CODEC.encode_request(nested)


def test_listed_functions_cross_by_name_and_others_do_not() -> None:
    assert request((helper, len, int, Job)) == (helper, len, int, Job)
    assert request(types.SimpleNamespace(a=1)) == types.SimpleNamespace(a=1)


# -- handles ---------------------------------------------------------------------------------------------------


class Hook:
    def __init__(self, world: World) -> None:
        self.world = world

    def reference(self, value: object) -> tuple[str, int, str] | None:
        return ("physics-1", 2**64 - 1, "physics:World") if type(value) is World else None

    def resolve(self, shard: str, object_id: int, class_name: str) -> object:
        if (shard, object_id, class_name) != ("physics-1", 2**64 - 1, "physics:World"):
            raise HandleExpired("gone")
        return self.world


def test_handles_cross_by_reference_and_keep_identity() -> None:
    mine, theirs = World(), World()
    caller, callee = TaggedCodec(handles=Hook(mine)), TaggedCodec(handles=Hook(theirs))
    payload, buffers, memo = caller.encode_request([mine, {"again": mine}])
    value, callee_memo = callee.decode_request(payload, buffers)
    assert value[0] is theirs
    assert value[1]["again"] is theirs
    assert caller.decode_reply(*callee.encode_reply(value[0], callee_memo), memo) is mine
    with pytest.raises(ProtocolViolation, match="without handles"):
        CODEC.decode_request(payload, buffers)
    with pytest.raises(HandleExpired):
        callee.decode_request(payload.replace(b"physics-1", b"physics-2"), buffers)


# -- arrays and buffers ----------------------------------------------------------------------------------------


def test_numpy_arrays_and_scalars() -> None:
    numpy = pytest.importorskip("numpy")
    small = numpy.arange(6, dtype=">i2").reshape(2, 3)
    large = numpy.asfortranarray(numpy.random.default_rng(1).random((100, 200)))
    frozen = numpy.array([1, 2])
    frozen.flags.writeable = False
    texts = numpy.array(["a", "bc"])
    scalars = [numpy.float32(1.5), numpy.int64(-3), numpy.bool_(True), numpy.str_("x"), numpy.datetime64("2024-01-01")]
    payload, buffers, memo = CODEC.encode_request((small, large, frozen, texts, *scalars))
    assert len(buffers) == 1
    copies, callee = CODEC.decode_request(payload, buffers)
    for mine, copy in zip((small, large, frozen, texts), copies, strict=False):
        assert copy.dtype == mine.dtype
        assert copy.flags.f_contiguous == mine.flags.f_contiguous
        assert copy.flags.writeable == mine.flags.writeable
        assert numpy.array_equal(copy, mine)
    assert list(copies[4:]) == scalars
    assert [type(copy) for copy in copies[4:]] == list(map(type, scalars))
    copies[1][3, 4] = 99.0
    assert CODEC.decode_reply(*CODEC.encode_reply(copies[1], callee), memo) is large
    assert large[3, 4] == 99.0
    view = small[:, ::2]
    payload, buffers, memo = CODEC.encode_request(view)
    copy, callee = CODEC.decode_request(payload, buffers)
    copy += 1
    CODEC.decode_reply(*CODEC.encode_reply(None, callee), memo)
    assert small.tolist() == [[1, 1, 3], [4, 4, 6]]
    with pytest.raises(CannotCross, match="shares memory"):
        CODEC.encode_request((small, view))
    with pytest.raises(CannotCross, match="dtype"):
        CODEC.encode_request(numpy.array([object()]))
    copy.resize((4,), refcheck=False)
    with pytest.raises(CannotCross, match="in place"):
        CODEC.encode_reply(None, callee)


def test_large_bytes_travel_out_of_band_once() -> None:
    big = bytes(100_000)
    payload, buffers, memo = CODEC.encode_request((big, [big], bytearray(big)))
    assert len(payload) < 100
    assert buffers[0] is big
    copies, callee = CODEC.decode_request(payload, buffers)
    assert copies[0] is copies[1][0]
    reply, parts = CODEC.encode_reply(copies[0], callee)
    assert not parts
    assert CODEC.decode_reply(reply, parts, memo) is big


# -- pickle ----------------------------------------------------------------------------------------------------


def test_pickle_codec_copies_and_restores_nothing() -> None:
    codec = PickleCodec()
    mine = [1, bytearray(100_000)]
    payload, buffers, memo = codec.encode_request((mine,))
    copies, callee = codec.decode_request(payload, [memoryview(b) for b in buffers])
    assert copies == (mine,)
    copies[0].append(2)
    assert codec.decode_reply(*codec.encode_reply(copies[0], callee), memo)[-1] == 2
    assert len(mine) == 2
    assert not codec.restores_arguments
    error = codec.decode_error(*codec.encode_error(caught(failing), callee), memo)
    assert isinstance(error, ValueError)
    assert isinstance(error.__cause__, KeyError)
    with pytest.raises(CannotCross) as refusal:
        codec.encode_request(threading.Lock())
    assert isinstance(refusal.value, CallError)
    with pytest.raises(ProtocolViolation):
        codec.decode_request(b"\x80\x05garbage")
