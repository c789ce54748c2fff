"""Fresh randomness after a fork, except for seeds that the program chose."""

from __future__ import annotations

import os
import random
import ssl
import struct
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from shardwright.guest._fresh import SeedWatch, refresh


def in_child(work: Callable[[], bytes]) -> bytes:
    """What a forked child computes."""
    read, write = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.write(write, work())
        os._exit(0)
    os.close(write)
    data = os.read(read, 65536)
    os.close(read)
    os.waitpid(pid, 0)
    return data


def drawn(watch: SeedWatch) -> Callable[[], bytes]:
    def draw() -> bytes:
        refresh(watch)
        return struct.pack("d", random.random()) + ssl.RAND_bytes(8)

    return draw


def test_children_differ() -> None:
    with SeedWatch("/nowhere") as watch:
        pass
    assert not watch.random_seeded
    found = [in_child(drawn(watch)) for _ in range(4)]
    assert len({each[:8] for each in found}) == len({each[8:] for each in found}) == 4


def test_a_chosen_seed_is_kept_as_far_as_it_was_drawn_from() -> None:
    state = random.getstate()
    try:
        with SeedWatch("/nowhere") as watch:
            random.seed(5)
            random.random()
        expected = random.Random(5)
        expected.random()
        found = [in_child(drawn(watch)) for _ in range(3)]
        assert {each[:8] for each in found} == {struct.pack("d", expected.random())}
        assert len({each[8:] for each in found}) == 3
    finally:
        random.setstate(state)
    assert random.seed.__self__ is random._inst  # type: ignore[attr-defined]


def test_it_sees_numpy_seeded_by_the_application_alone(tmp_path: Path) -> None:
    module = ModuleType("seeds_of_test")
    module.__file__ = str(tmp_path / "seeds_of_test.py")
    before = sys.modules.get("numpy.random")
    sys.modules["seeds_of_test"] = module
    sys.modules.setdefault("numpy.random", ModuleType("numpy.random"))
    try:
        for source, seeded in (("np.random.seed(3)\n", True), ("x = 1\n", False)):
            Path(module.__file__).write_text(source)
            with SeedWatch(str(tmp_path)) as watch:
                pass
            assert watch.numpy_seeded is seeded
        with SeedWatch("/elsewhere") as watch:
            pass
        assert not watch.numpy_seeded
    finally:
        del sys.modules["seeds_of_test"]
        if before is None:
            del sys.modules["numpy.random"]
