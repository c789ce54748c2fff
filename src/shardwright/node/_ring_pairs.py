"""What calls through shared memory are compared with: two futex words in C, and a bare ring, between two processes; and what
channels cost that nobody uses.

Run as a script (``python -m shardwright.node._ring_pairs floor|ring|idle``) by ``bench call``, and told on standard input what
to do as its peers are (``cli/_bench_peers``).
"""

from __future__ import annotations

import json
import os
import resource
import sys
import time
from array import array
from collections.abc import Callable
from typing import Any

from shardwright.transport import shm
from shardwright.transport.shm import _ring

_ROUNDS = 500
_WARM = 20


def _pin(pid: int, cpus: list[int]) -> None:
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), cpus)


def _floor(asked: dict[str, Any]) -> list[int]:
    size, gap_ns = int(asked["size"]), int(asked["gap_us"]) * 1000
    spin_ns = _ring.DEFAULT_SPIN_NS if asked["cpus"][0] != asked["cpus"][1] else 0
    memory = shm.create_memfd("floor", _ring.FLOOR_BYTES)
    child = os.fork()
    if not child:
        _pin(os.getpid(), asked["cpus"][1])
        _ring.floor_answer(memory, size, spin_ns)
        os._exit(0)
    _pin(os.getpid(), asked["cpus"][0])
    taken = array("q")
    end_s = time.monotonic() + asked["for_s"]
    rounds = _ROUNDS if not gap_ns else 20
    _ring.floor_ask(memory, size, _WARM, 0, spin_ns, False)
    while not taken or time.monotonic() < end_s:
        taken.frombytes(_ring.floor_ask(memory, size, rounds, gap_ns, spin_ns, False))
    _ring.floor_ask(memory, size, 1, 0, spin_ns, True)
    os.waitpid(child, 0)
    os.close(memory)
    return taken.tolist()


class _Rings:
    """One ring pair, with the answerer in a process of its own."""

    def __init__(self) -> None:
        near, far = shm.RingTransport().pair()
        self.child = os.fork()
        if not self.child:
            shm.RingTransport().dispose(near)
            self._answer(far)
            os._exit(0)
        shm.RingTransport().dispose(far)
        self._bell: Any = shm.Doorbell()
        self._channel = shm.RingTransport(doorbell=self._bell).open(near)
        self._ear = self._bell.waiter()

    @staticmethod
    def _answer(far: Any) -> None:
        bell: Any = shm.Doorbell()
        channel = shm.RingTransport(doorbell=bell).open(far)
        take, wait = bell.take, bell.waiter().wait
        while True:
            wait()
            for _, message in take(64):
                if isinstance(message, Exception):
                    return
                parts = (message,)
                if channel.push(parts) != _ring.SENT:
                    channel.send(parts)

    def ask(self, payload: bytes) -> None:
        take, wait, parts = self._bell.take, self._ear.wait, (payload,)
        if self._channel.push(parts) != _ring.SENT:
            self._channel.send(parts)
        while wait() != _ring.READS or not take(1):
            pass

    def measure(self, asked: dict[str, Any]) -> list[int]:
        _pin(self.child, asked["cpus"][1])
        _pin(os.getpid(), asked["cpus"][0])
        payload, gap_s = bytes(asked["size"]), asked["gap_us"] / 1e6
        for _ in range(_WARM):
            self.ask(payload)
        taken: list[int] = []
        clock, ask = time.perf_counter_ns, self.ask
        end_s = time.monotonic() + asked["for_s"]
        while not taken or (time.monotonic() < end_s and len(taken) < 50_000):
            if gap_s:
                time.sleep(gap_s)
            begun = clock()
            ask(payload)
            taken.append(clock() - begun)
        return taken


def _idle(asked: dict[str, Any]) -> list[int]:
    """Processor time and time that passed, of channels that nobody uses; both ends of each are here."""
    wanted = 4 * int(asked["channels"]) + 100
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard), hard))
    bell: Any = shm.Doorbell()
    transport = shm.RingTransport(doorbell=bell)
    ends = [transport.open(endpoint) for _ in range(int(asked["channels"])) for endpoint in transport.pair()]
    bell.take(1 << 16)
    began = time.monotonic_ns(), time.process_time_ns()
    time.sleep(asked["for_s"])
    passed_ns, spent_ns = time.monotonic_ns() - began[0], time.process_time_ns() - began[1]
    for end in ends:
        end.close()
    bell.close()
    return [spent_ns, passed_ns]


def main(case: str) -> None:
    cases: dict[str, Callable[[dict[str, Any]], list[int]]] = {"floor": _floor, "idle": _idle}
    measure = cases.get(case) or _Rings().measure
    print("ready", flush=True)
    for line in sys.stdin:
        print(json.dumps(measure(json.loads(line))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
