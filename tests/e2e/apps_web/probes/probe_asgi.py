"""An ASGI application that does what its path says, and keeps what it saw: the same file runs under uvicorn and in a shard."""

import asyncio
import json

LOG = {}
STATE = {"startups": 0}
GO = {}


async def app(scope, receive, send):
    if scope["type"] == "lifespan":
        await lifespan(scope, receive, send)
        return
    headers = dict(scope["headers"])
    case = headers.get(b"x-case", b"").decode()
    log = LOG.setdefault(case, [])
    name = scope["path"].removeprefix(scope["root_path"]).split("/")[1] or "root"
    handler = (WEBSOCKET if scope["type"] == "websocket" else HTTP).get(name, not_found)
    try:
        await handler(scope, receive, send, log)
    except BaseException as error:
        log.append(f"raised {said(error)}")
        raise
    else:
        log.append("returned")
    finally:
        if name not in ("log", "ping", "go"):
            log.append("end")


async def lifespan(scope, receive, send):
    assert (await receive())["type"] == "lifespan.startup"
    STATE["startups"] += 1
    scope["state"]["shared"] = []
    scope["state"]["own"] = 1
    await send({"type": "lifespan.startup.complete"})
    await receive()
    await send({"type": "lifespan.shutdown.complete"})


# -- small parts -------------------------------------------------------------------------------------------------


async def start(send, *headers, status=200, **more):
    await send({"type": "http.response.start", "status": status, "headers": list(headers), **more})


async def part(send, body=b"", more=False):
    await send({"type": "http.response.body", "body": body, "more_body": more})


async def whole(send, body, *headers, status=200):
    await start(send, (b"content-length", b"%d" % len(body)), *headers, status=status)
    await part(send, body)


async def told(send, found):
    await whole(send, json.dumps(found, sort_keys=True).encode(), (b"content-type", b"application/json"))


async def read(receive, log=None):
    body = b""
    while True:
        event = await receive()
        if event["type"] != "http.request":
            if log is not None:
                log.append(f"{event['type']} after {len(body)} bytes")
            return None
        body += event.get("body", b"")
        if not event.get("more_body"):
            return body


def said(error):
    """The words of an OSError are the server's own."""
    return f"{type(error).__name__}, an OSError" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


async def attempt(log, what, awaitable):
    """What the server says to something that is not allowed."""
    try:
        found = await awaitable
    except Exception as error:
        log.append(f"{what}: {said(error)}")
    else:
        log.append(f"{what}: {found!r}")


def shown(scope):
    found = {}
    for key, value in scope.items():
        if key == "state":
            value = sorted(value)
        elif key == "headers":
            value = [[name.decode("latin-1"), text.decode("latin-1")] for name, text in value]
        elif key == "client":
            value = [value[0], isinstance(value[1], int)]
        elif isinstance(value, bytes):
            value = value.decode("latin-1")
        elif key == "extensions":
            value = sorted(value)
        found[key] = value
    return found


# -- HTTP --------------------------------------------------------------------------------------------------------


async def not_found(scope, receive, send, log):
    await whole(send, b"nothing here", status=404)


async def ping(scope, receive, send, log):
    await whole(send, b"pong")


async def get_log(scope, receive, send, log):
    await told(send, LOG.get(scope["query_string"].decode(), []))


async def go(scope, receive, send, log):
    GO.setdefault(scope["query_string"].decode(), asyncio.Event()).set()
    await whole(send, b"gone")


async def show(scope, receive, send, log):
    body = json.dumps(shown(scope), sort_keys=True).encode()
    await whole(send, body.ljust(2000), (b"content-type", b"application/json"))


async def state(scope, receive, send, log):
    scope["state"]["shared"].append(len(scope["state"]["shared"]))
    own = scope["state"].pop("own", None)
    await told(send, {"startups": STATE["startups"], "shared": scope["state"]["shared"][:1], "own": own})


async def echo(scope, receive, send, log):
    body = await read(receive, log)
    if body is not None:
        await whole(send, body, (b"content-type", b"application/octet-stream"))


async def length(scope, receive, send, log):
    body = await read(receive, log)
    await told(send, len(body or b""))


async def talk(scope, receive, send, log):
    """Answers each piece as it comes: both directions at once."""
    await start(send)
    more = True
    while more:
        event = await receive()
        if event["type"] != "http.request":
            log.append(event["type"])
            return
        more = event["more_body"]
        if event["body"]:
            await part(send, event["body"].upper(), True)
    await part(send)


async def untaken(scope, receive, send, log):
    """Answers without a look at the body."""
    await whole(send, b"not read")


async def nothing(scope, receive, send, log):
    await start(send, status=204)
    await part(send)


async def unmodified(scope, receive, send, log):
    await start(send, (b"etag", b'"x"'), (b"content-length", b"5"), status=304)
    await part(send)


async def pieces(scope, receive, send, log):
    await start(send, (b"content-type", b"text/plain"))
    for text in (b"one,", b"", b"two,", b"three"):
        await part(send, text, True)
    await part(send)


async def stepwise(scope, receive, send, log):
    """Sends a piece, and the next one when somebody says so."""
    event = GO.setdefault(scope["query_string"].decode(), asyncio.Event())
    await start(send)
    await part(send, b"first", True)
    await event.wait()
    await part(send, b"second")


async def large(scope, receive, send, log):
    await start(send)
    for _ in range(48):
        await part(send, b"x" * 65536, True)
    await part(send)


async def exact(scope, receive, send, log):
    await start(send, (b"content-length", b"6"))
    await part(send, b"abc", True)
    await part(send, b"def", True)
    await part(send)


async def too_long(scope, receive, send, log):
    await start(send, (b"content-length", b"3"))
    await attempt(log, "abcd", part(send, b"abcd"))
    await part(send, b"abc")


async def too_short(scope, receive, send, log):
    await start(send, (b"content-length", b"6"))
    await part(send, b"abc", True)
    await part(send)


async def cookies(scope, receive, send, log):
    fields = [(b"set-cookie", b"a=1; Path=/"), (b"set-cookie", b"b=2; HttpOnly"), (b"vary", b"cookie")]
    await whole(send, b"baked", *fields)


async def odd_headers(scope, receive, send, log):
    await whole(send, b"odd", (b"X-MiXed", b"Case"), (b"x-latin", b"caf\xe9"), (b"x-empty", b""), (b"x-comma", b"a, b"))


async def closing(scope, receive, send, log):
    await whole(send, b"bye", (b"connection", b"close"))


async def chunked(scope, receive, send, log):
    """Says itself how its body travels, as some frameworks do."""
    await start(send, (b"transfer-encoding", b"chunked"))
    await part(send, b"one", True)
    await part(send, b"two")


async def injected(scope, receive, send, log):
    await attempt(log, "newline", start(send, (b"x-a", b"1\r\nx-b: 2")))
    raise ValueError("no header")


async def own_server(scope, receive, send, log):
    await whole(send, b"mine", (b"x-server", b"mine"), (b"cache-control", b"no-store"))


async def trailers(scope, receive, send, log):
    able = "http.response.trailers" in scope.get("extensions", {})
    log.append(f"trailers {able}")
    await start(send, (b"trailer", b"x-sum"), trailers=able)
    await part(send, b"body")
    if able:
        await send({"type": "http.response.trailers", "headers": [(b"x-sum", b"42")], "more_trailers": False})


async def boom(scope, receive, send, log):
    raise ValueError("before the first byte")


async def boom_read(scope, receive, send, log):
    await read(receive)
    raise ValueError("after the body")


async def boom_started(scope, receive, send, log):
    await start(send)
    raise ValueError("after the start")


async def boom_later(scope, receive, send, log):
    await start(send)
    await part(send, b"some", True)
    await asyncio.sleep(0.05)
    raise ValueError("after the first byte")


async def boom_length(scope, receive, send, log):
    await start(send, (b"content-length", b"10"))
    await part(send, b"some", True)
    await asyncio.sleep(0.05)
    raise ValueError("after the first byte")


async def boom_after(scope, receive, send, log):
    await whole(send, b"complete")
    await asyncio.sleep(0.02)
    raise ValueError("after the response")


async def silent(scope, receive, send, log):
    pass


async def unended(scope, receive, send, log):
    await start(send)
    await part(send, b"some", True)


async def returns(scope, receive, send, log):
    await whole(send, b"complete")
    return 5


async def exits(scope, receive, send, log):
    raise asyncio.CancelledError("given up")


async def grumble(scope, receive, send, log):
    """All that may not be sent, and then what may."""
    await attempt(log, "body first", part(send, b"x"))
    await attempt(log, "nonsense", send({"type": "http.response.nonsense"}))
    await attempt(log, "websocket", send({"type": "websocket.accept"}))
    await start(send)
    await attempt(log, "start twice", start(send))
    await part(send, b"fine")
    await attempt(log, "body after the end", part(send, b"more"))
    await attempt(log, "start after the end", start(send))


async def after_end(scope, receive, send, log):
    """What is heard once the response is complete."""
    await read(receive)
    await whole(send, b"complete")
    for _ in range(3):
        log.append((await receive())["type"])


async def wait_end(scope, receive, send, log):
    """Waits for the client to leave, without an answer."""
    log.append(f"body {await read(receive, log)!r}")
    log.append((await receive())["type"])
    await attempt(log, "start", start(send))
    await attempt(log, "body", part(send, b"nobody reads this"))
    log.append((await receive())["type"])


async def stream_end(scope, receive, send, log):
    """Sends until the client leaves."""
    await read(receive)
    listening = asyncio.ensure_future(receive())
    await start(send)
    count = 0
    while not listening.done():
        await part(send, b"tick", True)
        await asyncio.sleep(0.005)
        count += 1
    log.append(f"some: {count > 0}")
    log.append(listening.result()["type"])
    await attempt(log, "body", part(send, b"tick", True))


async def upload_end(scope, receive, send, log):
    """Its client leaves once a hundred bytes are here."""
    here = 0
    while here < 100:
        here += len((await receive())["body"])
    log.append(f"{here} bytes")
    await read(receive, log)
    log.append((await receive())["type"])


async def behind(scope, receive, send, log):
    """Work behind the response, as background tasks are."""
    event = GO.setdefault(scope["query_string"].decode(), asyncio.Event())
    await read(receive)
    await whole(send, b"answered")
    await event.wait()
    log.append("worked")


async def slow(scope, receive, send, log):
    """The query says which request of a connection it is: answers must keep their order."""
    number = int(scope["query_string"] or b"0")
    await asyncio.sleep(0.05 * (3 - number))
    await whole(send, b"number %d" % number)


HTTP = {
    "log": get_log, "ping": ping, "go": go, "scope": show, "state": state, "echo": echo, "length": length, "talk": talk,
    "untaken": untaken, "nothing": nothing, "unmodified": unmodified, "pieces": pieces, "stepwise": stepwise,
    "large": large, "exact": exact, "too-long": too_long, "too-short": too_short, "cookies": cookies,
    "odd-headers": odd_headers, "closing": closing, "chunked": chunked, "injected": injected, "own": own_server,
    "trailers": trailers, "boom": boom, "boom-read": boom_read, "boom-started": boom_started, "boom-later": boom_later,
    "boom-length": boom_length, "boom-after": boom_after, "silent": silent, "unended": unended, "returns": returns,
    "exits": exits, "grumble": grumble, "after-end": after_end, "wait-end": wait_end, "stream-end": stream_end,
    "upload-end": upload_end, "behind": behind, "slow": slow,
}  # fmt: skip


# -- WebSocket ---------------------------------------------------------------------------------------------------


async def accept(receive, send, log, **more):
    log.append((await receive())["type"])
    await send({"type": "websocket.accept", **more})


async def say(send, text):
    await send({"type": "websocket.send", "text": text})


async def heard(receive, log):
    event = await receive()
    log.append({key: value.decode("latin-1") if isinstance(value, bytes) else value for key, value in event.items()})
    return event


async def ws_echo(scope, receive, send, log):
    await accept(receive, send, log)
    while True:
        event = await receive()
        if event["type"] == "websocket.disconnect":
            log.append({"code": event["code"], "reason": event.get("reason") or ""})
            return
        if event.get("text") is not None:
            await send({"type": "websocket.send", "text": event["text"]})
        else:
            await send({"type": "websocket.send", "bytes": event["bytes"]})


async def ws_length(scope, receive, send, log):
    await accept(receive, send, log)
    event = await receive()
    await say(send, str(len(event.get("text") or event.get("bytes") or b"")))
    await receive()


async def ws_large(scope, receive, send, log):
    await accept(receive, send, log)
    await send({"type": "websocket.send", "bytes": b"y" * 1_000_000})
    await receive()


async def ws_scope(scope, receive, send, log):
    await accept(receive, send, log)
    await say(send, json.dumps(shown(scope), sort_keys=True))
    await receive()


async def ws_protocol(scope, receive, send, log):
    await accept(receive, send, log, subprotocol=scope["subprotocols"][-1] if scope["subprotocols"] else None)
    await receive()


async def ws_stranger(scope, receive, send, log):
    await accept(receive, send, log, subprotocol="never-offered")
    await receive()


async def ws_headers(scope, receive, send, log):
    await accept(
        receive, send, log, headers=[(b"x-greeting", b"hello"), (b"set-cookie", b"a=1"), (b"set-cookie", b"b=2")]
    )
    await receive()


async def ws_close(scope, receive, send, log):
    await accept(receive, send, log)
    code, _, reason = scope["query_string"].decode().partition("-")
    await send({"type": "websocket.close", **({"code": int(code)} if code else {}), "reason": reason})
    await heard(receive, log)
    await attempt(log, "send after close", say(send, "late"))


async def ws_reject(scope, receive, send, log):
    await receive()
    await send({"type": "websocket.close", "code": 3000})
    await heard(receive, log)
    await attempt(log, "send after refusal", say(send, "late"))


async def ws_deny(scope, receive, send, log):
    await receive()
    fields = [(b"content-type", b"text/plain"), (b"x-why", b"no ticket"), (b"set-cookie", b"a=1")]
    await send({"type": "websocket.http.response.start", "status": 401, "headers": fields})
    await send({"type": "websocket.http.response.body", "body": b"no ", "more_body": True})
    await send({"type": "websocket.http.response.body", "body": b"ticket"})
    await heard(receive, log)


async def ws_deny_half(scope, receive, send, log):
    await receive()
    await send({"type": "websocket.http.response.start", "status": 401, "headers": []})


async def ws_boom(scope, receive, send, log):
    await receive()
    raise ValueError("before accept")


async def ws_boom_open(scope, receive, send, log):
    await accept(receive, send, log)
    await say(send, "here")
    raise ValueError("after accept")


async def ws_silent(scope, receive, send, log):
    pass


async def ws_returns(scope, receive, send, log):
    await accept(receive, send, log)
    await say(send, "here")


async def ws_grumble(scope, receive, send, log):
    log.append((await receive())["type"])
    await attempt(log, "send before accept", say(send, "early"))
    await attempt(log, "http", send({"type": "http.response.start", "status": 200}))
    await send({"type": "websocket.accept"})
    await attempt(log, "accept twice", send({"type": "websocket.accept"}))
    await attempt(log, "deny late", send({"type": "websocket.http.response.start", "status": 401, "headers": []}))
    await attempt(log, "nonsense", send({"type": "websocket.nonsense"}))
    await say(send, "fine")
    await send({"type": "websocket.close"})
    await attempt(log, "close twice", send({"type": "websocket.close"}))


async def ws_gone(scope, receive, send, log):
    await accept(receive, send, log)
    while (await heard(receive, log))["type"] != "websocket.disconnect":
        pass
    await asyncio.sleep(0.1)
    await attempt(log, "send", say(send, "nobody hears"))


async def ws_gone_raises(scope, receive, send, log):
    """Sends until it hears, by an exception, that nobody is there; it does not catch it, and need not."""
    await accept(receive, send, log)
    while True:
        await say(send, "tick")
        await asyncio.sleep(0.01)


async def ws_push(scope, receive, send, log):
    await accept(receive, send, log)
    for number in range(300):
        await say(send, str(number))
    await send({"type": "websocket.close", "code": 1000})


async def ws_count(scope, receive, send, log):
    await accept(receive, send, log)
    found = [(await receive())["text"] for _ in range(200)]
    await say(send, "in order" if found == [str(n) for n in range(200)] else "out of order")
    await receive()


async def ws_both(scope, receive, send, log):
    """A message without anything in it is no message; text and bytes at once are bytes."""
    await accept(receive, send, log)
    await attempt(log, "none", send({"type": "websocket.send"}))
    await attempt(log, "empty", send({"type": "websocket.send", "text": ""}))
    await attempt(log, "empty bytes", send({"type": "websocket.send", "bytes": b""}))
    await attempt(log, "bytes", send({"type": "websocket.send", "bytes": b"b", "text": None}))
    await receive()


async def ws_http(scope, receive, send, log):
    await accept(receive, send, log)


WEBSOCKET = {
    "echo": ws_echo, "length": ws_length, "large": ws_large, "scope": ws_scope, "protocol": ws_protocol,
    "stranger": ws_stranger, "headers": ws_headers, "close": ws_close, "reject": ws_reject, "deny": ws_deny,
    "deny-half": ws_deny_half, "boom": ws_boom, "boom-open": ws_boom_open, "silent": ws_silent, "returns": ws_returns,
    "grumble": ws_grumble, "gone": ws_gone, "gone-raises": ws_gone_raises, "push": ws_push, "count": ws_count,
    "both": ws_both,
}  # fmt: skip
