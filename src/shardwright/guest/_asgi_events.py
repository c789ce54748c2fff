"""What an ASGI application may send when: the state of its answer, and the message for each of its events.

The words of what is raised are uvicorn's, where uvicorn has any.
"""

from __future__ import annotations

from collections.abc import Iterable, MutableMapping
from typing import Any

from shardwright.guest._web_messages import (
    ApplicationEvent,
    DenialBody,
    DenialStart,
    EarlyHint,
    Headers,
    ResponseBody,
    ResponseStart,
    ResponseTrailers,
    WebSocketAccept,
    WebSocketClose,
    WebSocketSend,
    check_headers,
)

__all__ = ["Event", "HttpResponse", "WebSocketAnswer"]

Event = MutableMapping[str, Any]


class HttpResponse:
    """The answer to one request, as far as it has been sent."""

    def __init__(self, method: str, extensions: frozenset[str]) -> None:
        self.complete = False
        self.closed: dict[str, Any] | None = None
        self._extensions = extensions
        self._is_head = method == "HEAD"
        self._started = False
        self._trailers = False
        self._body_complete = False
        self._expected: int | None = None  # bytes of the body that the headers promise, less what was sent

    @property
    def missing(self) -> str:
        if not self._started:
            return "starting response"
        return "" if self.complete else "completing response"

    def accepts(self, event: Event) -> ApplicationEvent | None:
        """The message for ``event``; raises what uvicorn raises when it has no place here."""
        kind = event["type"]
        if self.complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}' sent, after response already completed.")
        if not self._started:
            if kind == "http.response.early_hint" and kind in self._extensions:
                return EarlyHint(tuple(_bytes(link, "a link") for link in event.get("links", ())))
            if kind != "http.response.start":
                raise RuntimeError(f"Expected ASGI message 'http.response.start', but got '{kind}'.")
            return self._start(event)
        if not self._body_complete:
            if kind != "http.response.body":
                raise RuntimeError(f"Expected ASGI message 'http.response.body', but got '{kind}'.")
            return self._body(event)
        if kind != "http.response.trailers":
            raise RuntimeError(f"Expected ASGI message 'http.response.trailers', but got '{kind}'.")
        more = bool(event.get("more_trailers", False))
        self.complete = not more
        return ResponseTrailers(_headers(event.get("headers", ())), more)

    def _start(self, event: Event) -> ApplicationEvent:
        status = _status(event["status"], 200)
        headers = _headers(event.get("headers", ()))
        if not self._is_head and status not in (204, 304):
            for name, value in headers:
                if name.lower() == b"content-length":
                    try:
                        self._expected = int(value)
                    except ValueError:
                        raise ValueError(f"Invalid Content-Length {value!r:.60}") from None
        self._started = True
        self._trailers = bool(event.get("trailers", False)) and "http.response.trailers" in self._extensions
        return ResponseStart(status, headers, self._trailers)

    def _body(self, event: Event) -> ApplicationEvent:
        body = _bytes(event.get("body", b""), "the body")
        more = bool(event.get("more_body", False))
        if self._expected is not None:
            if len(body) > self._expected:
                raise RuntimeError("Response content longer than Content-Length")
            self._expected -= len(body)
            if not more and self._expected:
                raise RuntimeError("Response content shorter than Content-Length")
        self._body_complete = not more
        self.complete = self._body_complete and not self._trailers
        return ResponseBody(b"" if self._is_head else body, more)


class WebSocketAnswer:
    """What one WebSocket application has answered so far."""

    def __init__(self) -> None:
        self.complete = False
        self.closed: dict[str, Any] | None = None  # what ``receive`` gives once the application itself closed
        self._accepted = False
        self._denying = False

    @property
    def missing(self) -> str:
        if self._denying and not self.complete:
            return "completing response"
        return "" if self._accepted or self.complete else "completing handshake"

    def accepts(self, event: Event) -> ApplicationEvent | None:
        """The message for ``event``; raises what uvicorn raises when it has no place here."""
        kind = event["type"]
        if self.complete:
            raise RuntimeError(f"Unexpected ASGI message '{kind}', after sending 'websocket.close'.")
        if self._denying:
            if kind != "websocket.http.response.body":
                raise RuntimeError(f"Expected ASGI message 'websocket.http.response.body' but got '{kind}'.")
            more = bool(event.get("more_body", False))
            if not more:
                self._end({"type": "websocket.disconnect", "code": 1006})
            return DenialBody(_bytes(event.get("body", b""), "the body"), more)
        if self._accepted:
            return self._talk(event, kind)
        if kind == "websocket.accept":
            subprotocol = event.get("subprotocol")
            if subprotocol is not None and not isinstance(subprotocol, str):
                raise TypeError(f"the subprotocol must be a str, not {type(subprotocol).__name__}")
            accepted = WebSocketAccept(subprotocol, _headers(event.get("headers") or ()))
            self._accepted = True
            return accepted
        if kind == "websocket.close":
            self._end({"type": "websocket.disconnect", "code": 1006})
            return _close(event)
        if kind == "websocket.http.response.start":
            denied = DenialStart(_status(event["status"], 200), _headers(event.get("headers", ())))
            self._denying = True
            return denied
        raise RuntimeError(
            "Expected ASGI message 'websocket.accept', 'websocket.close' "
            f"or 'websocket.http.response.start' but got '{kind}'."
        )

    def _talk(self, event: Event, kind: str) -> ApplicationEvent | None:
        if kind == "websocket.close":
            close = _close(event)
            self._end({"type": "websocket.disconnect", "code": close.code, "reason": close.reason})
            return close
        if kind != "websocket.send":
            raise RuntimeError(f"Expected ASGI message 'websocket.send' or 'websocket.close', but got '{kind}'.")
        data, text = event.get("bytes"), event.get("text")
        if data is not None:
            return WebSocketSend(_bytes(data, "a message"))
        if text is None:
            return None
        if not isinstance(text, str):
            raise TypeError(f"the text of a message must be a str, not {type(text).__name__}")
        return WebSocketSend(text.encode(), text=True)

    def _end(self, closed: dict[str, Any]) -> None:
        self.complete = True
        self.closed = closed


def _close(event: Event) -> WebSocketClose:
    code, reason = event.get("code", 1000), event.get("reason") or ""
    if not isinstance(code, int) or not 1000 <= code <= 4999:
        raise ValueError(f"{code!r:.60} is not a close code")
    if not isinstance(reason, str) or len(reason.encode()) > 123:
        raise ValueError("the reason must be a str of at most 123 bytes")
    return WebSocketClose(code, reason)


def _status(status: Any, least: int) -> int:
    if not isinstance(status, int):
        raise TypeError(f"the status must be an int, not {type(status).__name__}")
    if not least <= status <= 599:
        raise ValueError(f"{status} is not the status of a response")
    return int(status)


def _bytes(found: Any, what: str) -> bytes:
    if isinstance(found, bytes):
        return found
    if isinstance(found, (bytearray, memoryview)):
        return bytes(found)
    raise TypeError(f"{what} must be bytes, not {type(found).__name__}")


def _headers(found: Iterable[Iterable[Any]]) -> Headers:
    headers = []
    for pair in found:
        name, value = pair
        headers.append((_bytes(name, "the name of a header"), _bytes(value, "the value of a header").strip(b" \t")))
    check_headers(headers)
    return tuple(headers)
