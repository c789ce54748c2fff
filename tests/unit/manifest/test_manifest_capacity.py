"""Guarantees against the capacity of a machine."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from shardwright.manifest import capacity_problems, load
from shardwright.model.limits import Resources

GIB = 2**30
MACHINE = Resources(cpu=4, memory_bytes=8 * GIB, gpu=0)
HEAD = 'app.name = "a"\n'


@pytest.fixture
def judged(write: Any, tmp_path: Path) -> Any:
    def judged(text: str, capacity: Resources = MACHINE) -> list[str]:
        found = capacity_problems(load(write(HEAD + text)), capacity)
        return [problem.replace(f"{tmp_path}/", "") for problem in found]

    return judged


def test_what_fits_is_no_problem(judged: Any) -> None:
    assert judged('components.a = {code = "a", resources = {cpu = 4, memory = "8GiB"}}') == []
    assert judged('components.a.code = "a"') == []


def test_fractions_that_sum_to_the_whole_fit(judged: Any) -> None:
    text = "\n".join(f'components.c{i} = {{code = "c{i}", resources.cpu = 0.1}}' for i in range(40))
    assert judged(text) == []


def test_a_single_guarantee_above_the_machine(judged: Any) -> None:
    text = (
        '[components.a]\ncode = "a"\nscope = "session"\n[components.a.resources]\ncpu = 4.5\nmemory = "9GiB"\ngpu = 1'
    )
    assert judged(text) == [
        "shardwright.toml:6: components.a.resources.cpu: the guarantee is 4.5 cores; "
        "expected at most 4 cores on this machine",
        "shardwright.toml:7: components.a.resources.memory: the guarantee is 9GiB; "
        "expected at most 8GiB on this machine",
        "shardwright.toml:8: components.a.resources.gpu: the guarantee is 1 GPU; "
        "expected at most 0 GPUs on this machine",
    ]


def test_the_reserve_is_not_for_shards(judged: Any) -> None:
    text = 'policy.reserve = {cpu = 0.5}\ncomponents.a = {code = "a", scope = "session", resources.cpu = 4}'
    assert judged(text) == [
        "shardwright.toml:3: components.a.resources.cpu: the guarantee is 4 cores beside the reserve of 0.5 cores; "
        "expected at most 4 cores on this machine"
    ]
    assert judged('policy.reserve.memory = "9GiB"\ncomponents.a = {code = "a", resources.cpu = 1}') == [
        "shardwright.toml:2: policy.reserve.memory: the reserve is 9GiB; expected at most 8GiB on this machine"
    ]


def test_what_always_runs_must_fit_together(judged: Any) -> None:
    text = (
        'policy.reserve = {memory = "1GiB"}\n'
        'components.a = {code = "a", scale = {min = 2, max = 9}, resources = {cpu = 1, memory = "1GiB"}}\n'
        'components.b = {code = "b", scope = "session", warm.min = 3, resources = {cpu = 1, memory = "2GiB"}}\n'
        'components.c = {code = "c", scope = "session", resources = {cpu = 4}}\n'
    )
    assert judged(text) == [
        "shardwright.toml:4: components.b.resources.cpu: the shards that always run are guaranteed 5 cores together "
        "(b 3 x 1 core, a 2 x 1 core); expected at most 4 cores on this machine",
        "shardwright.toml:4: components.b.resources.memory: the shards that always run are guaranteed 8GiB together "
        "(b 3 x 2GiB, a 2 x 1GiB) beside the reserve of 1GiB; expected at most 8GiB on this machine",
    ]


def test_warm_shards_of_a_shared_component_are_its_instances(judged: Any) -> None:
    text = 'components.a = {code = "a", scale.min = 3, warm.min = 4, resources.cpu = 1}'
    assert judged(text) == []
    assert len(judged(text.replace("warm.min = 4", "warm.min = 5"))) == 1


def test_cores_may_be_promised_more_than_once_memory_never(judged: Any) -> None:
    text = 'components.a = {code = "a", scale.min = 2, resources = {cpu = 3, memory = "4GiB"}}\n'
    assert len(judged(text)) == 1
    assert judged(text + "policy.overcommit.cpu = 1.5") == []
    assert len(judged(text.replace("4GiB", "5GiB") + "policy.overcommit.cpu = 2")) == 1


def test_a_guarantee_too_large_by_itself_is_told_once(judged: Any) -> None:
    assert len(judged('components.a = {code = "a", resources.cpu = 5}')) == 1


def test_resources_that_the_machine_does_not_state_are_not_judged(judged: Any) -> None:
    text = 'components.a = {code = "a", resources = {network = "10Gbit/s", io = "9GiB/s", gpu_memory = "99GiB"}}'
    assert judged(text) == []
    found = judged(text, Resources(io_bytes_s=GIB, network_bits_s=10**9))
    assert [problem.partition("; ")[2] for problem in found] == [
        "expected at most 1GiB/s on this machine",
        "expected at most 1000Mbit/s on this machine",
    ]
