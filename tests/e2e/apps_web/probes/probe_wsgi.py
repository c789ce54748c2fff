"""A WSGI application that does what its path says, and keeps what it saw: the same file runs under gunicorn and in a shard."""

import io
import json
import os
import re
import sys
import tempfile
import threading

LOG = {}
MET = threading.Event()


def app(environ, start_response):
    case = environ.get("HTTP_X_CASE", "")
    log = LOG.setdefault(case, [])
    name = environ["PATH_INFO"].split("/")[1] or "root"
    handler = HANDLERS.get(name, not_found)
    quiet = name in ("log", "ping")
    try:
        result = handler(environ, start_response, log)
    except BaseException as error:
        log.append(f"raised {said(error)}")
        if not quiet:
            log.append("end")
        raise
    if not quiet and not hasattr(result, "noted"):
        log.append("end")
    return result


class Noted:
    """An iterable that notes how it is used, and that it is closed."""

    noted = True

    def __init__(self, parts, log):
        self.parts = iter(parts)
        self.log = log

    def __iter__(self):
        return self

    def __next__(self):
        try:
            return next(self.parts)
        except StopIteration:
            self.log.append("exhausted")
            raise
        except Exception as error:
            self.log.append(f"raised {said(error)}")
            raise

    def close(self):
        self.log.append("closed")
        self.log.append("end")


def whole(start_response, body, *headers, status="200 OK"):
    start_response(status, [("Content-Length", str(len(body))), *headers])
    return [body]


def told(start_response, found):
    return whole(start_response, json.dumps(found, sort_keys=True).encode(), ("Content-Type", "application/json"))


def said(error):
    """Which OSError it is, and its words, are the server's own."""
    return "an OSError" if isinstance(error, OSError) else f"{type(error).__name__}: {error}"


def attempt(log, what, call, *arguments):
    try:
        found = call(*arguments)
    except Exception as error:
        log.append(f"{what}: {type(error).__name__}")
    else:
        log.append(f"{what}: {type(found).__name__}")


def not_found(environ, start_response, log):
    return whole(start_response, b"nothing here", status="404 Not Found")


def ping(environ, start_response, log):
    return whole(start_response, b"pong")


def get_log(environ, start_response, log):
    return told(start_response, LOG.get(environ["QUERY_STRING"], []))


def show(environ, start_response, log):
    shown = {}
    for key, value in environ.items():
        if key == "REMOTE_PORT":
            shown[key] = str(value).isdigit()
        elif isinstance(value, (str, int, bool, tuple)):
            shown[key] = value
        else:
            shown[key] = key if key in ("wsgi.input", "wsgi.errors", "wsgi.file_wrapper") else "object"
    shown["SERVER_SOFTWARE"] = re.sub(r"[0-9.]+$", "VERSION", shown["SERVER_SOFTWARE"])
    body = json.dumps(shown, sort_keys=True).encode()
    return whole(start_response, body.ljust(2000), ("Content-Type", "application/json"))  # whatever each server adds


def echo(environ, start_response, log):
    return whole(start_response, environ["wsgi.input"].read())


def length(environ, start_response, log):
    return told(start_response, len(environ["wsgi.input"].read()))


def reads(environ, start_response, log):
    """All ways in which PEP 3333 lets a body be read."""
    body = environ["wsgi.input"]
    found = [body.read(0), body.read(3), body.readline(), body.readline(4), next(body), list(body), body.read()]
    found += [body.read(5), body.readline(), body.readlines()]
    return told(start_response, repr(found))


def hinted(environ, start_response, log):
    """PEP 3333 leaves it to the server whether the hint is taken."""
    return told(start_response, len(environ["wsgi.input"].readlines(6)))


def lines(environ, start_response, log):
    return told(start_response, [line.decode() for line in environ["wsgi.input"]])


def untaken(environ, start_response, log):
    return whole(start_response, b"not read")


def nothing(environ, start_response, log):
    start_response("204 No Content", [])
    return []


def unmodified(environ, start_response, log):
    start_response("304 Not Modified", [("ETag", '"x"')])
    return []


def pieces(environ, start_response, log):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Noted([b"one,", b"", b"two,", b"three"], log)


def empty(environ, start_response, log):
    start_response("200 OK", [("Content-Type", "text/plain")])
    return Noted([], log)


def lazy(environ, start_response, log):
    """Says its status when it is asked for its first part."""

    def parts():
        start_response("201 Created", [("Content-Type", "text/plain")])
        yield b"lazy"

    return Noted(parts(), log)


def late(environ, start_response, log):
    """A part without content may come before the status."""

    def parts():
        start_response("202 Accepted", [("X-When", "late")])
        yield b""
        yield b"late"

    return Noted(parts(), log)


def writes(environ, start_response, log):
    write = start_response("200 OK", [("Content-Type", "text/plain")])
    write(b"written,")
    write(b"")
    write(b"again,")
    return Noted([b"returned"], log)


def stepwise(environ, start_response, log):
    """Its client sends a byte once it has the first part."""
    start_response("200 OK", [])

    def parts():
        yield b"first"
        log.append(environ["wsgi.input"].read(1).decode())
        yield b"second"

    return Noted(parts(), log)


def large(environ, start_response, log):
    start_response("200 OK", [])
    return Noted((b"x" * 65536 for _ in range(48)), log)


def endless(environ, start_response, log):
    def parts():
        while True:
            yield b"x" * 65536

    start_response("200 OK", [])
    return Noted(parts(), log)


def exact(environ, start_response, log):
    start_response("200 OK", [("Content-Length", "6")])
    return Noted([b"abc", b"def"], log)


def too_long(environ, start_response, log):
    start_response("200 OK", [("Content-Length", "3")])
    return Noted([b"abc", b"def"], log)


def too_short(environ, start_response, log):
    start_response("200 OK", [("Content-Length", "6")])
    return Noted([b"abc"], log)


def cookies(environ, start_response, log):
    return whole(start_response, b"baked", ("Set-Cookie", "a=1; Path=/"), ("Set-Cookie", "b=2"), ("Vary", "cookie"))


def odd_headers(environ, start_response, log):
    return whole(
        start_response, b"odd", ("X-MiXed", "Case"), ("X-Latin", "caf\xe9"), ("X-Empty", ""), ("X-Comma", "a, b")
    )


def odd_status(environ, start_response, log):
    return whole(start_response, b"odd", status="299 Rather Fine")


def hop(environ, start_response, log):
    return whole(start_response, b"hop", ("Keep-Alive", "timeout=5"), ("X-After", "1"))


def temporary():
    return tempfile.TemporaryFile()


def file(environ, start_response, log):
    """A real file, by the wrapper of the server."""
    found = temporary()
    found.write(b"0123456789" * 20000)
    found.seek(0)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "200000")])
    return environ["wsgi.file_wrapper"](found, 4096)


def file_bare(environ, start_response, log):
    found = temporary()
    found.write(b"0123456789" * 2000)
    found.seek(0)
    start_response("200 OK", [("Content-Type", "text/plain")])
    return environ["wsgi.file_wrapper"](found)


def file_part(environ, start_response, log):
    """From the middle, and not to the end."""
    found = temporary()
    found.write(b"0123456789" * 10)
    found.seek(5)
    start_response("206 Partial Content", [("Content-Range", "bytes 5-14/100"), ("Content-Length", "10")])
    return environ["wsgi.file_wrapper"](found)


def file_memory(environ, start_response, log):
    """Something like a file, which is closed at the end."""

    class Memory(io.BytesIO):
        def close(self):
            if not self.closed:
                log.append("file closed")
                log.append("end")
            super().close()

    start_response("200 OK", [("Content-Type", "text/plain")])
    found = environ["wsgi.file_wrapper"](Memory(b"from memory"), 4)
    found.noted = True
    return found


def file_pipe(environ, start_response, log):
    """A file that has no length and cannot be sought."""
    reading, writing = os.pipe()
    os.write(writing, b"from a pipe")
    os.close(writing)
    start_response("200 OK", [("Content-Type", "text/plain"), ("Content-Length", "11")])
    return environ["wsgi.file_wrapper"](os.fdopen(reading, "rb"))


def boom(environ, start_response, log):
    raise ValueError("before the first byte")


def boom_status(environ, start_response, log):
    start_response("200 OK", [])
    raise ValueError("before the first byte, after the status")


def boom_first(environ, start_response, log):
    def parts():
        raise ValueError("at the first part")
        yield b""

    start_response("200 OK", [])
    return Noted(parts(), log)


def boom_later(environ, start_response, log):
    def parts():
        yield b"some"
        raise ValueError("after the first byte")

    start_response("200 OK", [])
    return Noted(parts(), log)


def boom_length(environ, start_response, log):
    def parts():
        yield b"some"
        raise ValueError("after the first byte")

    start_response("200 OK", [("Content-Length", "10")])
    return Noted(parts(), log)


def boom_close(environ, start_response, log):
    class Closing(Noted):
        def close(self):
            super().close()
            raise ValueError("at the close")

    start_response("200 OK", [("Content-Length", "4")])
    return Closing([b"fine"], log)


def replaced(environ, start_response, log):
    """An error page in place of what was begun."""
    start_response("200 OK", [("X-First", "1")])
    try:
        raise ValueError("changed my mind")
    except ValueError:
        start_response("500 Oh", [("X-Second", "1")], sys.exc_info())
    return Noted([b"replaced"], log)


def replaced_late(environ, start_response, log):
    def parts():
        yield b"some"
        try:
            raise ValueError("too late")
        except ValueError:
            start_response("500 Oh", [], sys.exc_info())
        yield b"never"

    start_response("200 OK", [])
    return Noted(parts(), log)


def grumble(environ, start_response, log):
    attempt(log, "status", start_response, "OK", [])
    attempt(log, "number", start_response, 200, [])
    start_response("200 OK", [])
    attempt(log, "twice", start_response, "200 OK", [])
    return Noted([b"fine"], log)


def injected(environ, start_response, log):
    attempt(log, "newline", start_response, "200 OK", [("X-A", "1\r\nX-B: 2")])
    raise ValueError("no header")


def unstarted(environ, start_response, log):
    return Noted([b"no status"], log)


def text(environ, start_response, log):
    start_response("200 OK", [])
    return Noted(["text"], log)


def none(environ, start_response, log):
    start_response("200 OK", [])
    return None


def errors(environ, start_response, log):
    environ["wsgi.errors"].write("a line of the application\n")
    environ["wsgi.errors"].writelines(["and ", "another\n"])
    environ["wsgi.errors"].flush()
    return whole(start_response, b"said")


def meet(environ, start_response, log):
    """Waits a while for another request to be served beside it."""
    log.append("waits")
    return whole(start_response, b"met" if MET.wait(2.0) else b"alone")


def met(environ, start_response, log):
    MET.set()
    return whole(start_response, b"here")


def upload_end(environ, start_response, log):
    """Its client leaves before the body is whole."""
    log.append("begun")
    try:
        found = environ["wsgi.input"].read()
        log.append(f"read {len(found)}")
    except OSError as error:
        log.append("OSError")
        raise error
    return whole(start_response, b"nobody reads this")


def exits(environ, start_response, log):
    raise SystemExit(3)


HANDLERS = {
    name.replace("_", "-"): found
    for name, found in list(globals().items())
    if callable(found)
    and name.islower()
    and name not in ("app", "attempt", "told", "whole", "not_found", "temporary", "said")
}
HANDLERS["log"] = get_log
HANDLERS["scope"] = show
