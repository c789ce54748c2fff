"""Requests for functions that are answered without a task: as those that have one, and nothing is left of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

import pytest

from gateway_standin import Raw, StandIn, ask, function_route, served
from shardwright.errors import (
    CallError,
    DeadlineExceeded,
    MessageTooLarge,
    NotPermitted,
    Overloaded,
    ShardLost,
    ShardwrightError,
)
from shardwright.guest import FunctionReply, FunctionRequest

PATIENCE_S = 15.0


class Awaited(StandIn):
    """It never begins a call at once."""

    def begin(self, *args: Any, **named: Any) -> None:  # type: ignore[override]
        return None


def replies(request: FunctionRequest) -> FunctionReply:
    match dict(request.query).get("case", ""):
        case "raw":
            return FunctionReply(404, b"\0raw", "text/x; y=z")
        case "none":
            return FunctionReply(204, b"not to be sent")
        case "unchanged":
            return FunctionReply(304, b"not to be sent")
        case "early":
            return FunctionReply(103, b"", "text/plain")
        case "split":
            return FunctionReply(200, b"", "text/plain\r\nx-evil: 1")
        case "teapot":
            error = RuntimeError("the secret")
            error.status_code = 418  # type: ignore[attr-defined]
            raise error
        case "raises":
            raise RuntimeError("the secret")
        case "empty":
            return FunctionReply(200, b"")
    return FunctionReply(200, request.path.get("x", "").encode() + repr(request.query).encode())


REQUESTS = (
    "GET /f/a%20b?q=1&q=2&e=&u=%C3%A9", "HEAD /f/a", "DELETE /f/a", "GET /f/?x", "GET /nowhere", "OPTIONS /f/a",
    "GET /f/a?q=%ff", "GET /f/%ff", "GET http://localhost/f/absolute?q=1", "GET /f/a?x#y", "GET /f/\xe9",
    *(f"{method} /f/a?case={case}" for method in ("GET", "HEAD")
      for case in ("raw", "none", "unchanged", "early", "split", "teapot", "raises", "empty")),
    "GET /f/a\nshardwright-session: forged", "GET /f/a\ncontent-length: 0", "GET /f/a\nexpect: 100-continue",
    "POST /f/a", "GET /f/a\nupgrade: h2c\nconnection: upgrade",
)  # fmt: skip


@pytest.mark.parametrize("fail", [
    None, Overloaded("busy"), ShardLost("gone", outcome="not started"), ShardLost("gone"), DeadlineExceeded("late"),
    NotPermitted("no"), MessageTooLarge("large", outcome="not started"), CallError("odd", outcome="failed"),
], ids=lambda error: error and type(error).__name__)  # fmt: skip
def test_clients_cannot_tell_which_way_a_request_took(
    fail: ShardwrightError | None, record_exercised: Callable[[str, int], None]
) -> None:
    def shown(answer: tuple[int, dict[str, str], bytes]) -> tuple[int, list[tuple[str, str]], bytes]:
        status, headers, body = answer
        trace = headers.pop("shardwright-trace")
        headers.pop("date")
        return status, list(headers.items()), body.replace(trace.encode(), b"TRACE")

    async def main() -> None:
        route = function_route("/f/{x}", "a.f")
        direct, awaited = StandIn({"a.f": replies}, fail=fail), Awaited({"a.f": replies}, fail=fail)
        async with served(direct, route) as one, served(awaited, route) as other:
            asked = REQUESTS if fail is None else REQUESTS[:3]
            for request in asked:
                text = request.encode("latin-1")
                assert shown(await ask(one.port, text)) == shown(await ask(other.port, text)), request
            assert direct.told >= (len(asked) * 2 // 3) and awaited.told == 0
            for front in (one.front, other.front):
                assert [gate.inside for gate in front.admission.gates.values()] == [0]
            record_exercised("requests answered the same by callback and by task", len(asked))

    asyncio.run(main())


def test_what_waits_for_something_has_a_task() -> None:
    async def main() -> None:
        backend = StandIn({"a.f": replies, "b.g": replies})
        async with served(backend, function_route("/f", "a.f"), function_route("/g", "b.g", session=True)) as server:
            for text, body, told in (
                ("POST /f", b"{}", 0),  # its body may come later
                ("GET /g", b"", 0),  # a session is to be begun
                ("GET /f", b"", 1),
                ("GET /_shardwright/health", b"", 1),
            ):
                status, headers, _ = await ask(server.port, text, body)
                assert (status, backend.told) == (200, told), text
                if text == "GET /g":
                    cookie = headers["set-cookie"].partition(";")[0]
            await ask(server.port, f"GET /g\ncookie: {cookie}")
            assert (backend.told, backend.calls[-1][1]) == (2, 1), "the session is known now"

    asyncio.run(main())


def test_a_session_that_ended_begins_anew() -> None:
    async def main() -> None:
        backend = StandIn({"b.g": replies})
        async with served(backend, function_route("/g", "b.g", session=True)) as server:
            _, headers, _ = await ask(server.port, "GET /g")
            cookie = headers["set-cookie"].partition(";")[0]

            def ended(request: FunctionRequest) -> FunctionReply:
                if backend.calls[-1][1] == 1:
                    backend.sessions.clear()
                    raise NotPermitted("the session has ended", outcome="not started")
                return FunctionReply(200, b"anew")

            backend.functions["b.g"] = ended
            assert (await ask(server.port, f"GET /g\ncookie: {cookie}"))[2] == b"anew"
            assert [call[1] for call in backend.calls] == [1, 1, 2] and backend.told == 1
            backend.rooms = 0
            backend.calls.clear()

            def forbidden(request: FunctionRequest) -> FunctionReply:
                backend.sessions.clear()
                raise NotPermitted("the session has ended", outcome="not started")

            backend.functions["b.g"] = forbidden
            assert (await ask(server.port, f"GET /g\ncookie: {cookie}"))[0] == 503, "there is no room for it now"
            assert len(backend.calls) == 1 and server.front.admission.gates["b"].inside == 0

    asyncio.run(main())


def test_a_client_that_leaves_cancels_its_call_and_its_place() -> None:
    async def main() -> None:
        never = asyncio.Event()

        async def waits(request: FunctionRequest) -> FunctionReply:
            await never.wait()
            raise AssertionError

        backend = StandIn({"a.f": waits})
        async with served(backend, function_route("/f", "a.f")) as server:
            raws = [await Raw.connect(server.port) for _ in range(3)]
            for raw in raws:
                await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                while len(backend.calls) < 3:
                    await asyncio.sleep(0.001)
                gate = server.front.admission.gates["a"]
                assert gate.inside == 3
                for raw in raws:
                    await raw.close()
                while gate.inside or backend.cancelled < 3:
                    await asyncio.sleep(0.001)
            families = {family.name: family for family in server.front.monitor.families()}
            (sample,) = families["shardwright_gateway_requests"].samples
            assert dict(sample.labels)["status"] == "gone" and sample.value == 3

    asyncio.run(main())


def test_pipelined_requests_are_answered_in_order_whatever_way_they_take() -> None:
    async def main() -> None:
        async def slow(request: FunctionRequest) -> FunctionReply:
            await asyncio.sleep(0.01 if request.path["x"] == "0" else 0)
            return FunctionReply(200, request.path["x"].encode())

        backend = StandIn({"a.f": slow})
        async with served(backend, function_route("/f/{x}", "a.f")) as server:
            raw = await Raw.connect(server.port)
            await raw.say(b"".join(b"GET /f/%d HTTP/1.1\r\nhost: x\r\n\r\n" % n for n in range(40)))
            assert [(await raw.answer())[2] for _ in range(40)] == [b"%d" % n for n in range(40)]
            await raw.say(b"GET /f/41 HTTP/1.1\r\nhost: x\r\n\r\n")
            assert (await raw.answer())[2] == b"41", "and what comes later"
            assert 0 < backend.told < 40
            await raw.close()

    asyncio.run(main())


def test_a_client_that_reads_nothing_is_not_answered_without_end() -> None:
    """Answers that nobody takes are held for one request, not for all that were sent."""

    async def main() -> None:
        backend = StandIn({"a.f": lambda request: FunctionReply(200, bytes(8 * 2**20))})
        async with served(backend, function_route("/f", "a.f")) as server:
            raw = await Raw.connect(server.port)
            for count in range(1, 60):
                await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
                await asyncio.sleep(0.005)
                if len(backend.calls) < count:
                    break
            assert len(backend.calls) < 10, "32 MiB are more than sockets hold"
            raw.writer.transport.abort()

    asyncio.run(main())


def test_a_drain_answers_what_runs_and_closes() -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def waits(request: FunctionRequest) -> FunctionReply:
            await go.wait()
            return FunctionReply(200, b"done")

        backend = StandIn({"a.f": waits})
        async with served(backend, function_route("/f", "a.f")) as server:
            raw = await Raw.connect(server.port)
            await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                while not backend.calls:
                    await asyncio.sleep(0.001)
                stopping = asyncio.ensure_future(server.stop())
                while not server.front.draining:
                    await asyncio.sleep(0.001)
                go.set()
                status, headers, body = await raw.answer()
                await stopping
            assert (status, headers["connection"], body) == (200, "close", b"done")
            assert await raw.rest() == b""
            await raw.close()

    asyncio.run(main())


def test_a_full_queue_and_a_defect_are_told(caplog: pytest.LogCaptureFixture) -> None:
    async def main() -> None:
        go = asyncio.Event()

        async def waits(request: FunctionRequest) -> FunctionReply:
            await go.wait()
            return FunctionReply(200, b"done")

        backend = StandIn({"a.f": waits})
        async with served(backend, function_route("/f", "a.f"), queue=1) as server:
            raw = await Raw.connect(server.port)
            await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
            async with asyncio.timeout(PATIENCE_S):
                while not backend.calls:
                    await asyncio.sleep(0.001)
            status, headers, _ = await ask(server.port, "GET /f")
            assert (status, headers["retry-after"], backend.told) == (503, "1", 1)
            go.set()
            assert (await raw.answer())[0] == 200
            await raw.close()

            def breaks(*args: Any, **named: Any) -> None:
                raise ZeroDivisionError("a defect")

            backend.begin = breaks  # type: ignore[method-assign, assignment]
            raw = await Raw.connect(server.port)
            await raw.say(b"GET /f HTTP/1.1\r\nhost: x\r\n\r\n")
            assert await raw.rest() == b""
            await raw.close()
            assert server.front.admission.gates["a"].inside == 0

    asyncio.run(main())
    assert "ZeroDivisionError: a defect" in caplog.text
