"""A server that answers as Firecracker's API does, and holds every request to the published description of that API.

``firecracker_api.json`` is that description's skeleton (paths, names, types, bounds; version in ``of``). Requests before and
after the start are held to the order that it states, too.
"""

from __future__ import annotations

import http.server
import json
import re
import socketserver
import threading
from pathlib import Path
from typing import Any

import jsonschema

DESCRIPTION = json.loads(Path(__file__).with_name("firecracker_api.json").read_text())
_BEFORE = {"/boot-source", "/machine-config", "/vsock", "/entropy", "/drives/{drive_id}", "/snapshot/load"}


class FirecrackerStandIn:
    """Serves at ``path``; ``taken`` lists what it accepted, ``faults`` why it refused what it refused."""

    def __init__(self, path: Path) -> None:
        self.taken: list[tuple[str, str, Any]] = []
        self.faults: list[str] = []
        self.state = "Not started"
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def address_string(self) -> str:
                return "local"

            def log_message(self, format: str, *args: object) -> None:
                pass

            def _answer(self) -> None:
                raw = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                fault = outer.judge(self.command, self.path, raw)
                body = json.dumps({"fault_message": fault}).encode() if fault else b""
                self.send_response(400 if fault else 204)
                if fault:
                    self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            do_PUT = do_PATCH = do_GET = _answer

        class Server(socketserver.UnixStreamServer):
            def get_request(self) -> tuple[Any, Any]:
                connection, _ = super().get_request()
                return connection, ("local", 0)

        self._server = Server(str(path), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    def __enter__(self) -> FirecrackerStandIn:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def judge(self, method: str, path: str, raw: bytes) -> str:
        """Why it is refused; empty when it is taken."""
        fault = self._fault(method, path, raw)
        if fault:
            self.faults.append(f"{method} {path}: {fault}")
        else:
            self.taken.append((method, path, json.loads(raw) if raw else None))
        return fault

    def _fault(self, method: str, path: str, raw: bytes) -> str:
        known = next((each for each in DESCRIPTION["paths"] if re.fullmatch(re.sub(r"{\w+}", "[^/]+", each), path)), "")
        described = DESCRIPTION["paths"].get(known, {}).get(method)
        if described is None:
            return f"Invalid request method and/or path: {method} {path}"
        body = json.loads(raw) if raw else None
        if described["body"] is not None and body is not None:
            schema = {**described["body"], "definitions": _closed(DESCRIPTION["definitions"])}
            try:
                jsonschema.Draft4Validator(schema).validate(body)
            except jsonschema.ValidationError as error:
                return str(error.message)
        elif described["required"]:
            return "a body is required"
        if "{drive_id}" in known and (body or {})["drive_id"] != path.rpartition("/")[2]:
            return "the id in the path is not the one in the body"
        return self._order(method, known, body or {})

    def _order(self, method: str, path: str, body: dict[str, Any]) -> str:
        if path in _BEFORE and self.state != "Not started":
            return "The requested operation is not supported after starting the microVM."
        if path == "/actions" and body["action_type"] == "InstanceStart":
            if not any(each[1] == "/boot-source" for each in self.taken):
                return "Cannot start microvm without kernel configuration."
            self.state = "Running"
        if path == "/vm":
            if self.state == "Not started":
                return "The requested operation is not supported before starting the microVM."
            self.state = "Paused" if body["state"] == "Paused" else "Running"
        if path == "/snapshot/create" and self.state != "Paused":
            return "save/restore unavailable while running"
        if path == "/snapshot/load":
            if ("mem_backend" in body) == ("mem_file_path" in body):
                return "exactly one of mem_backend and mem_file_path"
            self.state = "Running" if body.get("resume_vm") else "Paused"
        if path == "/balloon" and method == "PATCH" and not any(e[:2] == ("PUT", path) for e in self.taken):
            return "No balloon device found."
        return ""


def _closed(definitions: dict[str, Any]) -> dict[str, Any]:
    """Firecracker refuses fields that it does not know."""
    return {
        name: {**each, "additionalProperties": False} if "properties" in each else each
        for name, each in definitions.items()
    }
