from __future__ import annotations

import asyncio
import os
import random
import subprocess
import sys

import pytest

from shardwright.telemetry import Metrics, TraceContext, current_trace, use_trace


def test_children_stay_in_the_trace():
    source = random.Random(1)
    root = TraceContext.new_trace(source)
    child = root.child(source)
    assert child.trace_id == root.trace_id and len(root.trace_id) == 16
    assert child.parent_span_id == root.span_id != child.span_id
    assert root.parent_span_id == 0
    assert TraceContext.new_trace(random.Random(1)) == root
    assert str(root) == f"{root.trace_id.hex()}-{root.span_id:016x}"


@pytest.mark.parametrize("arguments", [(b"short", 1), (bytes(16), 0), (bytes(16), 2**64), (bytes(16), 1, -1)])
def test_ids_that_do_not_fit_the_wire_are_refused(arguments):
    with pytest.raises(ValueError, match=r"trace id|span ids"):
        TraceContext(*arguments)


def test_the_current_trace_nests_and_is_restored_after_an_error():
    outer, inner = TraceContext.new_trace(), TraceContext.new_trace()
    assert current_trace() is None
    with use_trace(outer):
        with pytest.raises(KeyError), use_trace(inner):
            assert current_trace() is inner
            raise KeyError
        assert current_trace() is outer
    assert current_trace() is None


def test_tasks_inherit_the_trace_of_their_start():
    async def main():
        async def look():
            await asyncio.sleep(0)
            return current_trace()

        contexts = [TraceContext.new_trace() for _ in range(3)]
        tasks = []
        for context in contexts:
            with use_trace(context):
                tasks.append(asyncio.create_task(look()))
        return contexts, await asyncio.gather(*tasks)

    contexts, seen = asyncio.run(main())
    assert seen == contexts


_FORK_TWICE = """
import os
from shardwright.telemetry import TraceContext
for _ in range(2):
    child = os.fork()
    if child == 0:
        print(TraceContext.new_trace(), flush=True)
        os._exit(0)
    os.waitpid(child, 0)
"""


def test_forked_siblings_draw_different_ids():
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    printed = subprocess.run(
        [sys.executable, "-c", _FORK_TWICE], env=environment, capture_output=True, text=True, check=True
    ).stdout.split()
    assert len(printed) == len(set(printed)) == 2


def test_metrics_count_set_and_show_a_frozen_snapshot():
    metrics = Metrics()
    metrics.count("calls", component="render", outcome="ok")
    metrics.count("calls", 2, outcome="ok", component="render")
    metrics.set("warm", 3, component="render")
    metrics.set("warm", 1, component="render")
    before = metrics.snapshot()
    metrics.count("calls", component="render", outcome="ok")
    assert before[("calls", (("component", "render"), ("outcome", "ok")))] == 3
    assert before[("warm", (("component", "render"),))] == 1
    with pytest.raises(TypeError):
        before["x"] = 1
    with pytest.raises(ValueError, match="cannot fall"):
        metrics.count("calls", -1)
    assert repr(metrics) == "Metrics(2 series)"
