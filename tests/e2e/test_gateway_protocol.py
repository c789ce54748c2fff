"""One ASGI and one WSGI application behave through the gateway as under uvicorn and gunicorn, case by case.

The cases are in ``protocol_cases_*``; a difference that is meant is listed with its reason in ``protocol_differences``.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h2.events
import pytest

import protocol_cases_asgi
import protocol_cases_websocket
import protocol_cases_wsgi
import protocol_servers as servers
from protocol_differences import DIFFERENCES, compare
from protocol_http2 import Http2
from protocol_wire import Case, Request, Response, Talk, Wire, observe

PROBES = Path(__file__).parent / "apps_web" / "probes"
ASGI = {**protocol_cases_asgi.CASES, **protocol_cases_websocket.CASES}
WSGI = protocol_cases_wsgi.CASES
Record = Callable[[str, int], None]


@dataclass(frozen=True, slots=True)
class Pair:
    """The same application twice."""

    reference: servers.Address
    gateway: servers.Address


@pytest.fixture(scope="module")
def asgi(runtime_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("asgi")
    with (
        servers.uvicorn(servers.copied(PROBES, folder / "reference"), "probe_asgi:app") as reference,
        servers.node(servers.copied(PROBES, folder / "app"), "probe_asgi:app") as node,
    ):
        yield Pair(reference, servers.address_of(node))


@pytest.fixture(scope="module")
def wsgi(runtime_directory: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Pair]:
    folder = tmp_path_factory.mktemp("wsgi")
    with (
        servers.gunicorn(servers.copied(PROBES, folder / "reference"), "probe_wsgi:app") as reference,
        servers.node(servers.copied(PROBES, folder / "app"), "probe_wsgi:app") as node,
    ):
        yield Pair(reference, servers.address_of(node))


def check(name: str, script: Case, pair: Pair) -> None:
    compare(name, observe(name, script, pair.reference), observe(name, script, pair.gateway))


@pytest.mark.parametrize("name", ASGI)
def test_asgi(name: str, asgi: Pair, record_exercised: Record) -> None:
    check(name, ASGI[name], asgi)
    record_exercised("ASGI protocol cases, equal under uvicorn and through the gateway", 1)


@pytest.mark.parametrize("name", WSGI)
def test_wsgi(name: str, wsgi: Pair, record_exercised: Record) -> None:
    check(name, WSGI[name], wsgi)
    record_exercised("WSGI protocol cases, equal under gunicorn and through the gateway", 1)


def test_the_table_is_large_and_lists_no_difference_of_nothing() -> None:
    assert len(ASGI) >= 60 and len(WSGI) >= 60 and not set(ASGI) & set(WSGI)
    assert set(DIFFERENCES) <= {*ASGI, *WSGI}
    assert all(each.fields and each.reason for each in DIFFERENCES.values())
    assert len(DIFFERENCES) < len({*ASGI, *WSGI}) / 3


# -- HTTP/2: as the same request over HTTP/1.1 -------------------------------------------------------------------

# What a version of HTTP has of its own; everything else is equal.
OF_THE_VERSION = ("framing", "open", "told http_version", "told extensions", "told SERVER_PROTOCOL")


def both_versions(name: str, request: Request, address: servers.Address) -> tuple[dict[str, Any], dict[str, Any]]:
    def first(talk: Talk) -> None:
        talk.ask(request)
        talk.note_log()

    one = observe(name, first, address)
    heard = len(one["application"]) + 1

    def second(talk: Talk) -> None:
        with Http2(talk.address) as client:
            talk.note_response(client.response(client.begin(request, talk.case)))
        log = talk.until(lambda log: len(log) > heard and log[-1] == "end")
        talk.note("application", log[heard:-1])

    two = observe(name, second, address)
    return ({key: value for key, value in seen.items() if key not in OF_THE_VERSION} for seen in (one, two))  # type: ignore[return-value]


@pytest.mark.parametrize("name", protocol_cases_asgi.PLAIN)
def test_asgi_over_http2(name: str, asgi: Pair, record_exercised: Record) -> None:
    one, two = both_versions(f"h2-{name}", protocol_cases_asgi.PLAIN[name], asgi.gateway)
    assert two == one
    record_exercised("protocol cases, equal over HTTP/1.1 and HTTP/2", 1)


@pytest.mark.parametrize("name", protocol_cases_wsgi.PLAIN)
def test_wsgi_over_http2(name: str, wsgi: Pair, record_exercised: Record) -> None:
    one, two = both_versions(f"h2-{name}", protocol_cases_wsgi.PLAIN[name], wsgi.gateway)
    assert two == one
    record_exercised("protocol cases, equal over HTTP/1.1 and HTTP/2", 1)


@pytest.fixture
def http2(asgi: Pair) -> Iterator[Http2]:
    with Http2(asgi.gateway) as client:
        yield client


def log_of(asgi: Pair, case: str) -> Any:
    return Talk(case, asgi.gateway).until(lambda log: "end" in log)[:-1]


def test_trailers_of_a_response(asgi: Pair, http2: Http2) -> None:
    """Over HTTP/2, where every client takes them; not over HTTP/1.1, as under uvicorn."""
    request = Request("GET", "/trailers")
    response = http2.response(http2.begin(request, "h2-trailers"))
    assert response is not None and (response.body, response.trailers, response.whole) == (
        b"body",
        [("x-sum", "42")],
        True,
    )
    assert log_of(asgi, "h2-trailers") == ["trailers True", "returned"]

    def plain(talk: Talk) -> None:
        talk.ask(request)
        talk.note_log()

    check("trailers-over-http11", plain, asgi)


def test_streams_run_side_by_side_and_both_ways(asgi: Pair, http2: Http2) -> None:
    waiting = http2.begin(Request("GET", "/stepwise?h2-step"), "h2-step")
    talking = http2.begin(Request("POST", "/talk", chunks=()), "h2-talk", whole=False)
    quick = http2.response(http2.begin(Request("GET", "/pieces"), "h2-quick"))
    assert quick is not None and quick.body == b"one,two,three"
    for text in (b"one", b"two"):
        before = len(http2.events[talking])
        http2.send(talking, text, last=False)
        while len(http2.events[talking]) == before:
            http2._read()
    http2.send(talking, b"", last=True)
    found = http2.response(talking)
    assert found is not None and found.body == b"ONETWO"
    Talk("beside", asgi.gateway).get("/go?h2-step")
    found = http2.response(waiting)
    assert found is not None and found.body == b"firstsecond"


LEAVING = [("/wait-end", "client-leaves-unanswered"), ("/stream-end", "client-leaves-a-stream")]


@pytest.mark.parametrize(("target", "case"), LEAVING)
def test_a_reset_stream_is_a_client_that_leaves(asgi: Pair, http2: Http2, target: str, case: str) -> None:
    stream = http2.begin(Request("GET", target), f"h2-{case}")
    if "stream" in target:
        http2.wait(stream, h2.events.DataReceived)
    else:
        Talk(f"h2-{case}", asgi.gateway).until(bool)
    http2.reset(stream)
    assert log_of(asgi, f"h2-{case}") == observe(f"h1-{case}", ASGI[case], asgi.reference)["application"]
    assert http2.response(http2.begin(Request("GET", "/ping"), "ping")) is not None


def test_a_reset_upload_is_a_client_that_leaves(asgi: Pair, http2: Http2) -> None:
    stream = http2.begin(Request("POST", "/upload-end", chunks=(b"x" * 100,)), "h2-upload", whole=False)
    Talk("h2-upload", asgi.gateway).until(bool)
    http2.reset(stream)
    expected = observe("h1-upload", ASGI["client-leaves-an-upload"], asgi.reference)
    assert log_of(asgi, "h2-upload") == expected["application"]


# -- beneath a path ----------------------------------------------------------------------------------------------


def told(response: Response) -> dict[str, Any]:
    return {name.removeprefix("told "): value for name, value in response.shown().items() if name.startswith("told ")}


def test_an_asgi_application_beneath_a_path(tmp_path: Path, runtime_directory: Path) -> None:
    """A route of a path is uvicorn's root path; there a proxy takes it off, here nobody does."""
    with (
        servers.uvicorn(servers.copied(PROBES, tmp_path / "a"), "probe_asgi:app", "--root-path", "/mount") as reference,
        servers.node(servers.copied(PROBES, tmp_path / "b"), "probe_asgi:app", path="/mount") as node,
    ):
        expected = told(Talk("x", reference).get("/scope/x%20y?q=1"))
        found = told(Talk("x", servers.address_of(node)).get("/mount/scope/x%20y?q=1"))
        assert found.pop("server")[0] == expected.pop("server")[0]
        assert found == expected and found["root_path"] == "/mount" and found["path"] == "/mount/scope/x y"


def test_a_wsgi_application_beneath_a_path(tmp_path: Path, runtime_directory: Path) -> None:
    with (
        servers.gunicorn(
            servers.copied(PROBES, tmp_path / "a"), "probe_wsgi:app", "--env", "SCRIPT_NAME=/mount"
        ) as reference,
        servers.node(servers.copied(PROBES, tmp_path / "b"), "probe_wsgi:app", path="/mount") as node,
    ):
        expected, found = (
            told(Talk("x", address).get("/mount/scope/x%20y?q=1")) for address in (reference, servers.address_of(node))
        )
        names = ("SCRIPT_NAME", "PATH_INFO", "QUERY_STRING", "RAW_URI")
        assert [found[name] for name in names] == [expected[name] for name in names]
        assert (found["SCRIPT_NAME"], found["PATH_INFO"]) == ("/mount", "/scope/x y")


# -- lifespan ----------------------------------------------------------------------------------------------------


def lived(folder: Path, talk: Callable[[servers.Address], Any], app: str, *, reference: bool) -> tuple[Any, list[str]]:
    """What a client saw of a server that lived and was stopped, and what the application heard."""
    servers.copied(PROBES, folder)
    (folder / "out").mkdir()
    if reference:
        with servers.uvicorn(folder, f"probe_life:{app}") as address:
            seen = talk(address)
    else:
        with servers.node(folder, f"probe_life:{app}", component='files = { write = ["out/"] }') as node:
            seen = talk(servers.address_of(node))
    return seen, (folder / "out" / "heard").read_text().splitlines()


def twice(address: servers.Address) -> list[dict[str, Any]]:
    return [Talk("life", address).get("/").shown() for _ in range(2)]


@pytest.mark.parametrize("app", ["full", "unsupported", "returns", "failing_shutdown", "double"])
def test_lifespan(app: str, tmp_path: Path, runtime_directory: Path) -> None:
    expected = lived(tmp_path / "a", twice, app, reference=True)
    assert lived(tmp_path / "b", twice, app, reference=False) == expected
    assert expected[1].count("http") == 2


def test_a_startup_that_fails(tmp_path: Path, runtime_directory: Path) -> None:
    """Otherwise than uvicorn, which ends: a request is answered 503 each time, and the startup tried again."""
    with pytest.raises(AssertionError, match="Application startup failed"):
        lived(tmp_path / "a", twice, "failing", reference=True)
    seen, heard = lived(tmp_path / "b", twice, "failing", reference=False)
    assert [each["status"] for each in seen] == [503, 503]
    assert "no database" not in str(seen) and set(heard) == {"startup"}


def test_websockets_at_the_end_of_a_server(tmp_path: Path, runtime_directory: Path) -> None:
    """An open WebSocket hears that the service restarts (1012), as from uvicorn, and its application that it is over."""

    def start(address: servers.Address) -> Wire:
        wire = Wire(address)
        assert wire.shake_hands("life", "/").status == 101
        assert wire.frames(1) == ["text: here"]
        return wire

    ends = []
    for reference in (True, False):
        wire, heard = lived(tmp_path / str(reference), start, "full", reference=reference)
        with wire:
            ends.append((wire.frames(), heard))
    assert ends[1] == ends[0]
    assert ends[0][0] == ["close 1012", "the end"] and "websocket.disconnect" in ends[0][1]
