"""What a program that is measured does besides its work: it counts its calls, or looks closely at some.

The errand is a JSON file that the command line wrote; what was found is written beside it when the process ends, under a
name of its own for each process.
"""

from __future__ import annotations

import atexit
import importlib
import json
import os
import sys
import threading
import time
from pathlib import Path
from typing import Any


def begin(errand: str) -> None:
    """Take part. Never fails the program: what goes wrong is said in the answer."""
    told: dict[str, Any] = json.loads(Path(errand).read_text(encoding="utf-8"))
    folder = Path(told["folder"])
    began_s, pid = time.perf_counter(), os.getpid()
    found: Any
    if told["kind"] == "count":
        from shardwright.guest._counting import Counting

        found = Counting(told["modules"])
    elif told["kind"] == "look":
        from shardwright.guest._looking import Looking

        found = Looking(told["functions"], told["modules"])
    else:  # a room above this one has it
        found = importlib.import_module(told["kind"]).begin(told)
    found.start()

    def end() -> None:
        if os.getpid() != pid:
            return  # a fork of the program's own
        answer = {
            "wall_s": time.perf_counter() - began_s,
            "cpu_s": time.process_time(),
            "argv": sys.argv,
            **found.end(),
        }
        partial = folder / f"{pid}.part"
        partial.write_text(json.dumps(answer), encoding="utf-8")
        partial.replace(folder / f"{pid}.json")

    if told["kind"] in ("count", "look"):
        atexit.register(end)
    else:  # while threads can still be used; what was registered later goes first, and executors end here as well
        importlib.import_module("concurrent.futures.thread")
        threading._register_atexit(end)  # type: ignore[attr-defined]
    os.register_at_fork(after_in_child=found.forked)
