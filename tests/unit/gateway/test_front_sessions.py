"""Signed names of sessions; who is let in."""

from __future__ import annotations

import asyncio
import math

import pytest

from gateway_standin import KEY, StandIn
from shardwright.gateway._admission import Admission
from shardwright.gateway._front_asgi import safe_headers, trace_of
from shardwright.gateway._problems import Problem
from shardwright.gateway._sessions import COOKIE, HEADER, Seal, Sessions, without_session


class Clock:
    now_s = 1_800_000_000.0

    def __call__(self) -> float:
        return self.now_s


def test_a_value_is_believed_as_it_was_given_and_no_other_way() -> None:
    clock = Clock()
    seal = Seal(KEY, "trial", 1000.0, clock)
    value = seal.value("web-abcdefghijklmnopqr")
    assert seal.name(value) == ("web-abcdefghijklmnopqr", False)
    assert Seal(KEY, "trial", 1000.0, clock).name(value) is not None
    for position in range(len(value)):
        forged = value[:position] + (b"A" if value[position : position + 1] != b"A" else b"B") + value[position + 1 :]
        assert seal.name(forged) is None, position
    for other in (Seal(KEY, "another", 1000.0, clock), Seal(b"another key of enough bytes", "trial", 1000.0, clock)):
        assert other.name(value) is None
    for nonsense in (b"", b"1...", value[:-1], value + b"x", value * 9, b"\xff" * 80):
        assert seal.name(nonsense) is None


def test_a_value_expires_and_is_renewed_before() -> None:
    clock = Clock()
    seal = Seal(KEY, "trial", 1000.0, clock)
    value = seal.value("web-abcdefghijklmnopqr")
    clock.now_s += 501
    assert seal.name(value) == ("web-abcdefghijklmnopqr", True)
    clock.now_s += 500
    assert seal.name(value) is None


def test_a_short_key_is_no_key() -> None:
    with pytest.raises(ValueError, match="signs nothing"):
        Seal(b"short", "trial", 1.0)


def test_entering() -> None:
    async def enter() -> None:
        backend, clock = StandIn(), Clock()
        sessions = Sessions(Seal(KEY, "trial", 1000.0, clock), backend, lasting_s=1000.0, secure=True)
        nobody = await sessions.enter(False, {b"cookie": b"sw_session=nonsense"})
        assert (nobody.number, nobody.headers, backend.begun) == (0, (), 0)

        first = await sessions.enter(True, {})
        ((name, cookie),) = first.headers
        assert name == b"set-cookie"
        assert cookie.startswith(COOKIE + b"=1.web-")
        for attribute in (b"; Path=/", b"; HttpOnly", b"; SameSite=Lax", b"; Secure", b"; Max-Age=1000"):
            assert attribute in cookie
        value = cookie.partition(b"=")[2].partition(b";")[0]

        again = await sessions.enter(True, {b"cookie": b"a=b; sw_session=forged; sw_session=" + value})
        assert (again.number, again.headers) == (first.number, ())
        by_header = await sessions.enter(False, {HEADER: value})
        assert (by_header.number, by_header.headers) == (first.number, ())

        forged = await sessions.enter(True, {b"cookie": COOKIE + b"=" + value[:-2] + b"xx"})
        assert forged.number != first.number
        assert forged.headers
        with pytest.raises(Problem) as caught:
            await sessions.enter(True, {HEADER: value[:-2] + b"xx"})
        assert caught.value.status == 401

        asked = await sessions.enter(False, {HEADER: b"new"})
        assert asked.headers[0][0] == HEADER
        assert (await sessions.enter(False, {HEADER: asked.headers[0][1]})).number == asked.number

        clock.now_s += 600
        renewed = await sessions.enter(True, {b"cookie": COOKIE + b"=" + value})
        assert renewed.number == first.number
        assert renewed.headers[0][0] == b"set-cookie"
        clock.now_s += 600
        assert (await sessions.enter(True, {b"cookie": COOKIE + b"=" + value})).number != first.number

    asyncio.run(enter())


def test_applications_never_see_the_value() -> None:
    headers = [
        (b"host", b"x"),
        (HEADER, b"secret"),
        (b"cookie", b"a=1; sw_session=secret; b=2"),
        (b"cookie", b"sw_session=secret"),
        (b"cookie", b"sw_session=secret; c=3"),
    ]
    assert without_session(headers) == [(b"host", b"x"), (b"cookie", b"a=1; b=2"), (b"cookie", b"c=3")]
    assert without_session(headers[:1]) is not None


def test_a_full_gate_refuses_and_an_idle_one_never_does() -> None:
    admission = Admission(queue=2)
    gate = admission.enter("a", 0.0, math.inf)
    admission.enter("a", 0.0, math.inf)
    admission.enter("b", 0.0, math.inf)
    with pytest.raises(Problem) as caught:
        admission.enter("a", 0.0, math.inf)
    assert caught.value.status == 503
    assert caught.value.headers == ((b"retry-after", b"1"),)
    gate.left(10.0, answered=True)
    gate.left(20.0, answered=True)
    assert admission.enter("a", 20.0, 20.001) is gate, "one that nobody uses is tried, however slow it was"


def test_who_would_wait_too_long_is_told_at_once() -> None:
    admission = Admission(queue=100)
    for second in range(30):  # one answer a second while busy
        admission.enter("a", float(second), math.inf)
        if second:
            admission.gates["a"].left(float(second), answered=True)
    gate = admission.gates["a"]
    assert gate.inside == 1
    for _ in range(5):
        admission.enter("a", 30.0, math.inf)
    assert gate.wait_s() == pytest.approx(7.0, rel=0.2)
    admission.enter("a", 30.0, 40.0)
    with pytest.raises(Problem) as caught:
        admission.enter("a", 30.0, 33.0)
    assert int(caught.value.headers[0][1]) >= 7
    assert gate.shed == 1


def test_requests_that_were_given_up_teach_nothing() -> None:
    admission = Admission(queue=4)
    gate = admission.enter("a", 0.0, math.inf)
    gate.left(50.0, answered=False)
    assert (gate.inside, gate.interval_s) == (0, 0.0)


def test_traces() -> None:
    given = b"00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"
    assert trace_of(given).hex() == "0af7651916cd43dd8448eb211c80319c"
    for wrong in (
        None,
        b"",
        b"ff" + given[2:],
        given.upper(),
        given.replace(b"0af7651916cd43dd8448eb211c80319c", b"0" * 32),
    ):
        assert len(trace_of(wrong)) == 16
        assert trace_of(wrong).hex() != "0af7651916cd43dd8448eb211c80319c"


def test_headers_of_an_application_cannot_change_the_framing() -> None:
    given = [
        (b"X-A", b"1"),
        (b"Transfer-Encoding", b"chunked"),
        (b"connection", b"upgrade"),
        (b"set-cookie", b"sw_session=stolen"),
        (b"set-cookie", b"a=b"),
        (b"content-length", b"12"),
    ]
    assert safe_headers(given) == [(b"x-a", b"1"), (b"set-cookie", b"a=b"), (b"content-length", b"12")]
    for wrong in (
        [(b"x", b"a\r\nb: c")],
        [(b"x y", b"a")],
        [(b"", b"a")],
        [(b"content-length", b"1_0")],
        [(b"content-length", b"+1")],
        [(b"content-length", b"1"), (b"content-length", b"2")],
    ):
        with pytest.raises(ValueError, match=r"header|length"):
            safe_headers(wrong)
