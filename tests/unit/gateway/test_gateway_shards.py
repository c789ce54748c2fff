"""The gateway's links, calls, exchanges and sessions, against shards and a node that a test plays."""

from __future__ import annotations

import asyncio
import os
import random
import struct
import time
from collections.abc import Awaitable, Callable
from typing import Any

import pytest

from gateway_ends import PATIENCE_S, NodeEnd, ShardEnd, gateway, route
from shardwright.errors import (
    CallError,
    ChannelClosed,
    CompositionRefused,
    DeadlineExceeded,
    NotPermitted,
    Overloaded,
    ShardLost,
)
from shardwright.gateway import Raised, SessionRefused
from shardwright.gateway._backend import HeadTooLarge
from shardwright.gateway._hub import FULL_BYTES, MAX_MESSAGE_BYTES
from shardwright.gateway._shards import ShardBackend
from shardwright.guest import (
    CREDIT,
    MAX_EVENTS,
    WINDOW,
    Bound,
    Described,
    Failure,
    FunctionRequest,
    HttpRequest,
    Open,
    ResponseBody,
    ResponseStart,
    Retire,
    Returned,
    WebSocketSend,
    cost,
    decode_asked,
    decode_client_events,
    encode_web,
    payload_of,
    read_credit,
)
from shardwright.model.envelope import Envelope, Kind, PayloadCodec

Scenario = Callable[[ShardBackend, NodeEnd], Awaitable[None]]
PURE, MEMORY, CART, WORLDS, ONCE = (route(name) for name in ("pure", "memory", "cart", "worlds", "once"))
APP = route("pure", application=True)
SCOPE = {"type": "http", "path": "/a", "method": "POST", "query_string": b"x=1", "headers": [(b"host", b"h")]}


def play(scenario: Scenario, **options: Any) -> None:
    async def whole() -> None:
        async with asyncio.timeout(3 * PATIENCE_S), gateway(**options) as (backend, node):
            await scenario(backend, node)

    asyncio.run(whole())


def ask(text: str = "") -> FunctionRequest:
    return FunctionRequest("GET", query=(("q", text),))


async def until(condition: Callable[[], Any]) -> None:
    async with asyncio.timeout(PATIENCE_S):
        while not condition():
            await asyncio.sleep(0.001)


async def begin(backend: ShardBackend, *args: Any, **options: Any) -> asyncio.Task[Any]:
    task = asyncio.create_task(backend.call(*args, **options))
    await asyncio.sleep(0)
    return task


def data(call: Envelope, *events: Any) -> Envelope:
    payload = payload_of([encode_web(event) for event in events])
    return Envelope(Kind.DATA, call.call_id, codec=PayloadCodec.WEB, payload=payload)


# -- calls ---------------------------------------------------------------------------------------------------------


def test_many_calls_share_one_link_and_each_gets_its_own_answer() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        calls = [await begin(backend, PURE, 0, ask(str(n))) for n in range(500)]
        serving = asyncio.create_task((await node.link()).serve())
        replies = await asyncio.gather(*calls)
        assert [reply.body.decode() for reply in replies] == [f"{node.numbers['gateway']}:{n}" for n in range(500)]
        assert len(node.binds) == 1 and backend.running == 0
        serving.cancel()

    play(scenario)


def test_answers_in_any_order_and_any_pieces(record_exercised: Any) -> None:
    """The stream is cut at random places, replies come shuffled, some larger than the gateway's buffer."""

    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        chance = random.Random(7)
        calls = [await begin(backend, PURE, 0, ask()) for _ in range(40)]
        shard = await node.link()
        heard = [await shard.receive() for _ in calls]
        bodies = {call.call_id: os.urandom(chance.choice([0, 1, 900, 70_000, 700_000])) for call in heard}
        wire = bytearray()
        chance.shuffle(heard)

        class Taken(ShardEnd):
            async def send_raw(self, data: bytes) -> None:
                wire.extend(data)

        writer = object.__new__(Taken)
        for call in heard:
            await writer.reply(call, bodies[call.call_id])
        pieces = 0
        while wire:
            size = chance.choice([1, 3, 100, 5_000, 300_000])
            await shard.send_raw(bytes(wire[:size]))
            del wire[:size]
            pieces += 1
            if pieces % 5 == 0:
                await asyncio.sleep(0)
        replies = await asyncio.gather(*calls)
        assert sorted(reply.body for reply in replies) == sorted(bodies.values())
        record_exercised("pieces of a stream of replies", pieces)

    play(scenario)


def test_what_a_shard_raises_is_told_with_its_status_and_its_outcome() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        failures = [
            Failure("LookupError", "no such item", status=404),
            Failure("Overloaded", "full", "SW412", "not started", "come later"),
            Failure("ManifestError", "not its business", "SW100"),
            Failure("ValueError", "x" * 10_000),
        ]
        calls = [await begin(backend, PURE, 0, ask()) for _ in failures]
        shard = await node.link()
        for failure in failures:
            await shard.fail(await shard.receive(), failure)
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(found[0], Raised) and (found[0].status, found[0].type_name) == (404, "LookupError")
        assert isinstance(found[1], Overloaded) and (found[1].outcome, found[1].remedy) == ("not started", "come later")
        assert type(found[2]) is CallError  # a shard speaks of its calls alone
        assert isinstance(found[3], Raised) and found[3].status is None and len(found[3].message) < 3_000

    play(scenario)


def test_a_deadline_and_a_caller_that_goes_cancel_the_call() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        late = await begin(backend, PURE, 0, ask(), deadline_ns=time.monotonic_ns() + 50_000_000)
        shard = await node.link()
        first = await shard.receive()
        with pytest.raises(DeadlineExceeded):
            await late
        assert first.deadline_ns and (await shard.receive()).kind is Kind.CANCEL
        gone = await begin(backend, PURE, 0, ask())
        second = await shard.receive()
        gone.cancel()
        cancelled = await shard.receive()
        assert (cancelled.kind, cancelled.call_id) == (Kind.CANCEL, second.call_id)
        await shard.reply(first, b"")  # both answers come all the same, and harm nobody
        await shard.reply(second, b"")
        assert await gather_one(backend, shard) == b"ok"

    play(scenario)


async def gather_one(backend: ShardBackend, shard: ShardEnd) -> bytes:
    task = await begin(backend, PURE, 0, ask())
    await shard.reply(await shard.receive(), b"ok")
    body: bytes = (await task).body
    return body


def test_a_deadline_that_passes_before_a_shard_is_found_started_nothing() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        node.hold = asyncio.Event()
        with pytest.raises(DeadlineExceeded) as late:
            await backend.call(PURE, 0, ask(), deadline_ns=time.monotonic_ns() + 30_000_000)
        assert late.value.outcome == "not started"
        node.hold.set()
        task = await begin(backend, PURE, 0, ask())
        while not task.done():  # the link of the call that was late was closed; this call has another
            shard = await node.link()
            serving = asyncio.create_task(shard.serve())
            await asyncio.wait({task, serving}, return_when=asyncio.FIRST_COMPLETED)
            serving.cancel()
        assert task.result().status == 200

    play(scenario)


def test_a_refusal_of_the_node_is_shared_by_all_who_wait_for_it() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        node.hold = asyncio.Event()
        node.refusal = Bound(0, "no room", CompositionRefused.code, "come later")
        calls = [await begin(backend, PURE, 0, ask()) for _ in range(20)]
        await until(lambda: node.binds)
        node.hold.set()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert {type(error) for error in found} == {CompositionRefused} and len(node.binds) == 1
        assert str(found[0]) == "no room (come later)"

    play(scenario)


def test_calls_are_spread_over_the_instances_of_a_component() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        node.instances = 2
        calls = [await begin(backend, PURE, 0, ask()) for _ in range(20)]
        shards = [await node.link(), await node.link()]
        shards.append(node.give(0, "pure"))  # the node offers a third of its own accord
        await until(lambda: len(backend._hub.links) == 3)
        calls += [await begin(backend, PURE, 0, ask()) for _ in range(10)]
        heard = [[await shard.receive() for _ in range(10)] for shard in shards]
        for shard, envelopes in zip(shards, heard, strict=True):
            for envelope in envelopes:
                await shard.reply(envelope, b"")
        await asyncio.gather(*calls)

    play(scenario)


def test_a_replaced_shard_gets_no_new_call_and_finishes_the_old_ones() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        old = await begin(backend, PURE, 0, ask())
        first = await node.link()
        call = await first.receive()
        node.port.send(Retire(PURE.component, first.shard, False))
        await until(lambda: all(link._retired for link in backend._hub.links))
        new = await begin(backend, PURE, 0, ask())
        second = await node.link()
        await second.reply(await second.receive(), b"new")
        assert (await new).body == b"new"
        await first.reply(call, b"old")
        assert (await old).body == b"old"
        assert await first.closed() == []

    play(scenario)


def test_a_shard_of_request_scope_serves_one_call_and_is_given_back() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        for _ in range(2):
            task = await begin(backend, ONCE, 0, ask())
            shard = await node.link()
            await shard.reply(await shard.receive(), b"")
            await task
            assert await shard.closed() == []
        await until(lambda: len(node.unbinds) == 2)

    play(scenario)


def test_a_key_is_found_in_path_and_query_as_calls_inside_name_it() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        for request in (
            FunctionRequest("GET", {"world": "7"}),
            FunctionRequest("GET", query=(("a", "1"), ("world", "07"))),
        ):
            task = await begin(backend, WORLDS, 0, request)
            if len(node.binds) == 0:
                shard = await node.link()
            await shard.reply(await shard.receive(), b"")
            await task
        assert [bind.key for bind in node.binds] == ["7"]
        for wrong in (FunctionRequest("GET"), FunctionRequest("GET", {"world": "x'"})):
            reply = await backend.call(WORLDS, 0, wrong)
            assert (reply.status, reply.content_type) == (422, "application/problem+json")
            assert b"world" in reply.body

    play(scenario)


def test_descriptions_are_json_objects_or_a_violation() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        task = asyncio.create_task(backend.describe(PURE, "GET"))
        shard = await node.link()
        call = await shard.receive()
        payload = encode_web(Described(b'{"parameters": []}'))
        await shard.send(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.WEB, payload=payload))
        assert await task == {"parameters": []}
        for body in (b"[1]", b"{", b"\xff", b"[" * 100_000):
            task = asyncio.create_task(backend.describe(PURE, "GET"))
            call = await shard.receive()
            payload = encode_web(Described(body))
            await shard.send(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.WEB, payload=payload))
            with pytest.raises(ChannelClosed):
                await task

    play(scenario)


# -- losses --------------------------------------------------------------------------------------------------------


def test_the_death_of_a_shard_fails_what_it_was_running_and_the_next_call_finds_another() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        calls = [await begin(backend, PURE, 0, ask()) for _ in range(10)]
        shard = await node.link()
        for _ in range(10):
            call = await shard.receive()
        await shard.reply(call, b"the last")  # what it answered before it died counts
        shard.close()
        found = await asyncio.gather(*calls, return_exceptions=True)
        assert sum(isinstance(error, ShardLost) and error.outcome == "unknown" for error in found) == 9
        assert [reply.body for reply in found if not isinstance(reply, BaseException)] == [b"the last"]
        again = await begin(backend, PURE, 0, ask())
        other = await node.link()
        await other.reply(await other.receive(), b"")
        await again
        assert node.binds[-1].lost == (shard.shard,)

    play(scenario)


def test_lost_state_is_told_once_to_each_session_that_used_it() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        numbers = [await backend.begin_session(name) for name in ("a", "b", "c")]
        serving: list[asyncio.Task[None]] = []

        async def use(number: int) -> str:
            task = await begin(backend, MEMORY, number, ask())
            if not node._links.empty() or not serving:
                shards.append(await node.link())
                serving.append(asyncio.create_task(shards[-1].serve()))
            return (await task).body.decode()

        shards: list[ShardEnd] = []
        for number in numbers[:2]:
            assert await use(number) == f"{number}:"
        serving.pop().cancel()
        shards[0].close()
        await until(lambda: not backend._hub.links)
        for number in numbers[:2]:
            with pytest.raises(ShardLost, match="the state that this session had"):
                await backend.call(MEMORY, number, ask())
        assert await use(numbers[2]) == f"{numbers[2]}:"  # it had no state there
        assert await use(numbers[0]) == f"{numbers[0]}:"
        serving.pop().cancel()

    play(scenario)


def test_a_node_that_is_gone_is_an_error_and_no_hang() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        await backend.begin_session("a")
        node.port.close("gone")
        await until(lambda: backend._talk._closed)
        with pytest.raises(ShardLost):
            await backend.call(PURE, 0, ask())
        with pytest.raises(ShardLost):
            await backend.begin_session("b")

    play(scenario)


# -- exchanges -----------------------------------------------------------------------------------------------------


def test_an_exchange_carries_events_both_ways_until_the_application_returns() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE, trace_id=b"t" * 16)
        shard = await node.link()
        await exchange.send({"type": "http.request", "body": b"one", "more_body": True})
        call = await shard.receive()
        opened = decode_asked(call.payload)
        assert isinstance(opened, Open) and call.trace_id == b"t" * 16
        assert (opened.path, opened.method, opened.headers) == ("/a", "POST", ((b"host", b"h"),))
        assert opened.events == (HttpRequest(b"one", True),)
        await exchange.send({"type": "http.request", "body": b"two", "more_body": False})
        assert decode_client_events((await shard.receive()).payload) == (HttpRequest(b"two"),)
        await shard.send(data(call, ResponseStart(200, ((b"a", b"b"),)), ResponseBody(b"x", True)))
        assert (await exchange.receive() or {})["status"] == 200
        assert await exchange.receive() == {"type": "http.response.body", "body": b"x", "more_body": True}
        last = encode_web(Returned((ResponseBody(b"y"),)))
        await shard.send(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.WEB, payload=last))
        assert (await exchange.receive() or {})["body"] == b"y"
        assert await exchange.receive() is None
        await exchange.send({"type": "http.disconnect"})  # nobody listens any more
        exchange.cancel()
        assert await gather_one(backend, shard) == b"ok"

    play(scenario)


@pytest.mark.parametrize("body", [None, b"x" * 100, b"x" * 65_000])
@pytest.mark.parametrize("field", [100, 64_000, 130_000, 200_000])
def test_no_head_is_sent_that_would_cost_the_link(field: int, body: bytes | None) -> None:
    """What a shard's end takes for a breach of the protocol ends all that runs on the link: it stays here."""

    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        other = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        await other.send({"type": "http.request", "body": b"", "more_body": False})
        first = await shard.receive()
        scope = {**SCOPE, "headers": [(b"a", b"b" * field)]}
        exchange = await backend.open(APP, 0, scope)
        if field > MAX_EVENTS:
            with pytest.raises(HeadTooLarge) as refused:
                await (exchange.receive() if body is None else exchange.send({"type": "http.request", "body": body}))
            assert refused.value.outcome == "not started"
            with pytest.raises(HeadTooLarge):
                await exchange.receive()
        elif body is None:
            receiving = asyncio.create_task(exchange.receive())
            assert len((await shard.receive()).payload) <= MAX_EVENTS
            receiving.cancel()
        else:
            await exchange.send({"type": "http.request", "body": body})
            call = await shard.receive()
            assert len(call.payload) <= MAX_EVENTS
            opened = decode_asked(call.payload)
            assert isinstance(opened, Open)
            assert (opened.events or decode_client_events((await shard.receive()).payload)) == (HttpRequest(body),)
        exchange.cancel()
        waiting = asyncio.create_task(other.receive())  # it goes on
        await shard.send(data(first, ResponseStart(200)))
        assert (await waiting or {})["status"] == 200
        other.cancel()

    play(scenario)


def test_a_large_body_waits_for_the_credit_of_the_application(record_exercised: Any) -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        body = os.urandom(3 * WINDOW)
        exchange = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        sending = asyncio.create_task(exchange.send({"type": "http.request", "body": body, "more_body": False}))
        call = await shard.receive()
        got = bytearray()
        unpaid = 0
        while len(got) < len(body):
            message = await shard.receive()
            unpaid += cost(message.payload)
            assert unpaid <= WINDOW
            (event,) = decode_client_events(message.payload)
            got += event.body
            if unpaid > WINDOW // 2:
                assert len(got) + WINDOW > len(body) or not sending.done()
                await shard.send(Envelope(Kind.CREDIT, call.call_id, payload=CREDIT.pack(unpaid)))
                unpaid = 0
        await sending
        assert got == body
        record_exercised("bytes sent under credit", len(body))
        exchange.cancel()

    play(scenario)


def test_an_application_gets_credit_as_its_client_takes_what_it_sent() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        first = asyncio.create_task(exchange.receive())
        call = await shard.receive()
        piece = data(call, ResponseBody(b"x" * 50_000, True))
        for _ in range(5):
            await shard.send(piece)
        await first
        granted = 0
        for _ in range(4):
            await exchange.receive()
        message = await shard.receive()
        while message.kind is Kind.CREDIT:
            granted += read_credit(message.payload)
            if granted >= 3 * cost(piece.payload):
                break
            message = await shard.receive()
        assert granted <= 5 * cost(piece.payload)
        exchange.cancel()
        assert (await shard.receive()).kind is Kind.CANCEL

    play(scenario)


def test_pieces_of_a_websocket_message_are_joined() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, {"type": "websocket", "path": "/"})
        shard = await node.link()
        await exchange.send({"type": "websocket.connect"})
        call = await shard.receive()
        text = "é" * 40_000
        raw = text.encode()
        await shard.send(data(call, WebSocketSend(raw[:50_001], True, True)))
        await shard.send(data(call, WebSocketSend(raw[50_001:], True)))
        assert await exchange.receive() == {"type": "websocket.send", "text": text}
        exchange.cancel()

    play(scenario)


def test_the_loss_of_a_shard_ends_its_exchanges_after_what_it_had_sent() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        await exchange.send({"type": "http.request", "body": b"", "more_body": False})
        call = await shard.receive()
        await shard.send(data(call, ResponseStart(200)))
        shard.close()
        assert (await exchange.receive() or {})["status"] == 200
        with pytest.raises(ShardLost):
            await exchange.receive()
        exchange.cancel()
        assert backend.running == 0

    play(scenario)


def test_an_application_that_raises_is_told_as_such() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        waiting = asyncio.create_task(exchange.receive())
        await shard.fail(await shard.receive(), Failure("ZeroDivisionError", "by zero"))
        with pytest.raises(Raised, match="by zero"):
            await waiting
        exchange.cancel()

    play(scenario)


# -- hostile shards ------------------------------------------------------------------------------------------------


def garbage(call: Envelope) -> dict[str, bytes]:
    def framed(envelope: Envelope) -> bytes:
        from shardwright.transport import pack

        body = b"".join(map(bytes, pack(envelope)))
        return struct.pack("<I", len(body)) + body

    web = PayloadCodec.WEB
    overdraft = data(call, ResponseBody(b"x" * 60_000, True))
    return {
        "noise": b"\x10\0\0\0" + os.urandom(16),
        "a length beyond all bounds": struct.pack("<I", MAX_MESSAGE_BYTES + 1),
        "an empty message": b"\0\0\0\0",
        "a kind that is not for us": framed(Envelope(Kind.CALL, 1, codec=web, payload=b"\xc0")),
        "another codec": framed(Envelope(Kind.RESULT, call.call_id, codec=PayloadCodec.PICKLE5, payload=b"cos\nsystem\n")),
        "a payload that is none": framed(Envelope(Kind.RESULT, call.call_id, codec=web, payload=b"\xff\xff")),
        "an answer to a call that was not made": framed(Envelope(Kind.RESULT, call.call_id + 9, codec=web, payload=b"\xc0")),
        "two answers": 2 * framed(Envelope(Kind.ERROR, call.call_id, codec=web, payload=encode_web(Failure("E", "m")))),
        "a status of its own": framed(
            Envelope(Kind.RESULT, call.call_id, codec=web, payload=b"\x82\xa1t\xa5reply\xa6status\xcd\x7f\xff")
        ),
        "credit that is not owed": framed(Envelope(Kind.CREDIT, call.call_id, payload=CREDIT.pack(WINDOW))),
        "no credit at all": framed(Envelope(Kind.CREDIT, call.call_id, payload=b"")),
        "more than it was granted": 6 * framed(overdraft),
        "events of a client": framed(data(call, HttpRequest(b"x"))),
        "very deep nesting": framed(Envelope(Kind.RESULT, call.call_id, codec=web, payload=b"\x91" * 200_000)),
    }  # fmt: skip


@pytest.mark.parametrize("name", list(garbage(Envelope(Kind.CALL, 1))))
def test_a_shard_that_breaks_the_protocol_is_cut_off_and_nobody_else(name: str) -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE)
        waiting = asyncio.create_task(exchange.receive())
        shard = await node.link()
        call = await shard.receive()
        other = await begin(backend, MEMORY, 0, ask())
        good = await node.link()
        innocent = await good.receive()
        await shard.send_raw(garbage(call)[name])
        assert all(message.kind in (Kind.CANCEL, Kind.CREDIT) for message in await shard.closed())
        events: Any = None
        while not waiting.done() or (waiting.exception() is None and waiting.result() is not None):
            await asyncio.wait({waiting})
            if waiting.exception() is not None:
                break
            events = waiting.result()
            waiting = asyncio.create_task(exchange.receive())
        assert events is None or events["type"] == "http.response.body"
        assert isinstance(waiting.exception(), (ShardLost, Raised))
        exchange.cancel()
        await good.reply(innocent, b"unharmed")
        assert (await other).body == b"unharmed"
        await until(lambda: node.notes)
        assert node.notes[0].kind == "violation" and shard.shard in node.notes[0].message
        assert backend.running == 0

    play(scenario)


def test_what_a_cancelled_exchange_still_sends_is_bounded() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        exchange = await backend.open(APP, 0, SCOPE)
        shard = await node.link()
        await exchange.send({"type": "http.request", "body": b"", "more_body": False})
        call = await shard.receive()
        exchange.cancel()
        assert (await shard.receive()).kind is Kind.CANCEL
        for _ in range(20):  # it did not hear of it yet
            await shard.send(data(call, ResponseBody(b"x", True)))
        assert await gather_one(backend, shard) == b"ok"
        flood = data(call, ResponseBody(b"", True))
        for _ in range(2 * WINDOW // cost(b"")):
            await shard.send(flood)
        assert await shard.closed() == []

    play(scenario)


def test_a_shard_that_does_not_read_stops_its_own_callers_alone() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        large = FunctionRequest("POST", body=b"x" * FULL_BYTES)
        stuck = [await begin(backend, PURE, 0, large) for _ in range(8)]
        shard = await node.link()
        await until(lambda: backend._hub.links)
        (link,) = backend._hub.links
        await until(lambda: link.full)
        assert link._unsent_bytes < 3 * FULL_BYTES  # the others wait, and their requests are not kept
        quick = await begin(backend, MEMORY, 0, ask())
        good = await node.link()
        await good.reply(await good.receive(), b"")
        await quick
        late = backend.call(PURE, 0, ask(), deadline_ns=time.monotonic_ns() + 50_000_000)
        with pytest.raises(DeadlineExceeded) as error:
            await late
        assert error.value.outcome == "not started"
        for _ in stuck:  # then it reads after all
            call = await shard.receive()
            await shard.reply(call, b"")
        assert [reply.status for reply in await asyncio.gather(*stuck)] == [200] * 8

    play(scenario)


# -- sessions ------------------------------------------------------------------------------------------------------


def test_sessions_begin_once_are_told_of_and_end() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        ended: list[str] = []
        backend.on_session_ended = ended.append
        numbers = await asyncio.gather(*(backend.begin_session("a") for _ in range(10)))
        assert len(set(numbers)) == 1 and backend.session("a") == numbers[0]
        with pytest.raises(SessionRefused) as refused:
            await backend.begin_session("nobody")
        assert (refused.value.reason_code, refused.value.remedy) == ("SW601", "come later")
        await backend.end_session("a")
        await until(lambda: ended)
        assert ended == ["a"] and backend.session("a") is None
        with pytest.raises(NotPermitted, match="has ended"):
            await backend.call(CART, numbers[0], ask())

    play(scenario)


def test_the_end_of_a_session_closes_its_links() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        shards = []
        for name in ("a", "b"):
            number = await backend.begin_session(name)
            task = await begin(backend, CART, number, ask())
            shards.append(await node.link())
            await shards[-1].reply(await shards[-1].receive(), b"")
            await task
        assert [bind.session for bind in node.binds] == [1, 2]
        node.end_session("a")
        assert await shards[0].closed() == []
        task = await begin(backend, CART, 2, ask())
        await shards[1].reply(await shards[1].receive(), b"")
        await task

    play(scenario)


def test_the_node_hears_which_sessions_are_used() -> None:
    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        calls, exchanges = await backend.begin_session("calls"), await backend.begin_session("exchanges")
        task = await begin(backend, PURE, calls, ask())
        shard = await node.link()
        await shard.reply(await shard.receive(), b"")
        await task
        exchange = await backend.open(APP, exchanges, SCOPE)
        await until(lambda: {calls, exchanges} <= {number for used in node.used for number in used})
        await until(lambda: node.used[-1] == (exchanges,))  # open still, though nothing is sent
        exchange.cancel()

    play(scenario, session_idle_s=0.08)


def test_a_burst_of_small_calls_beyond_what_may_wait_goes_through() -> None:
    """What one turn of the loop gathers counts as unsent as well, and whoever waits for room is woken."""

    async def scenario(backend: ShardBackend, node: NodeEnd) -> None:
        request = FunctionRequest("POST", query=(("q", "x" * 12_000),))
        first = await begin(backend, PURE, 0, ask())
        shard = await node.link()
        serving = asyncio.create_task(shard.serve())
        await first
        calls = [asyncio.create_task(backend.call(PURE, 0, request)) for _ in range(3 * FULL_BYTES // 12_000)]
        replies = await asyncio.gather(*calls)
        assert all(len(reply.body) > 12_000 for reply in replies)
        serving.cancel()

    play(scenario)
