"""numpy values between shards of which just one has imported numpy, and where it is not installed."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from guest_apps import running, write_application
from shardwright.errors import CallError, CannotCross

MANIFEST = """
    [app]
    name = "numbers"
    [components.maths]
    code = "maths"
    state = "memory"
    [components.store]
    code = "store"
    state = "memory"
"""
MATHS = """
    import numpy, store
    kept = []

    def keep(x):
        kept.append(x)
        return len(kept)

    def mean(n):
        return numpy.arange(n).mean()

    def stored(n):
        return store.total(numpy.arange(n))
"""
STORE = """
    import sys
    PREPARE
    count = 0

    def total(values):
        global count
        count += 1
        return float(values.sum()), count

    def calls():
        return count

    def loaded():
        return "numpy" in sys.modules
"""
ABSENT = "sys.modules['numpy'] = None"


@pytest.fixture(autouse=True)
def _numpy() -> None:
    pytest.importorskip("numpy")


def test_who_is_sent_a_numpy_value_imports_numpy(tmp_path: Path) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, maths=MATHS, store=STORE.replace("PREPARE", ""))
    with running(folder) as node, node.session("one") as session:
        assert session.call("store.loaded") is False
        assert session.call("maths.stored", 5) == (10.0, 1)
        assert session.call("store.loaded") is True
        assert session.call("maths.mean", 5) == 2.0


def test_where_there_is_no_numpy_the_call_alone_fails(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, maths=MATHS, store=STORE.replace("PREPARE", ABSENT))
    with running(folder) as node, node.session("one") as session:
        with pytest.raises(CannotCross, match="numpy cannot be imported") as caught:
            session.call("maths.stored", 5)
        assert caught.value.outcome == "failed"  # of maths.stored, which ran
        assert session.call("store.calls") == 0
        assert session.call("maths.keep", "a") == 1
        monkeypatch.setitem(sys.modules, "numpy", None)  # as in a client without it
        with pytest.raises(CannotCross, match="install numpy"):
            session.call("maths.mean", 5)
        assert session.call("maths.keep", "b") == 2


def test_a_reply_that_cannot_be_read_is_no_loss_of_state(tmp_path: Path) -> None:
    liar = """
        kept = []

        def keep(x):
            kept.append(x)
            return len(kept)

        def lie():
            from shardwright.transport.codec import TaggedCodec
            honest = TaggedCodec.encode_reply

            def once(self, value, memo):
                TaggedCodec.encode_reply = honest
                return b"\\xff\\xff", ()

            TaggedCodec.encode_reply = once
    """
    folder = write_application(tmp_path / "app", MANIFEST.replace("store", "liar"), maths="", liar=liar)
    with running(folder) as node, node.session("one") as session:
        assert session.call("liar.keep", 1) == 1
        with pytest.raises(CallError, match="cannot be read"):
            session.call("liar.lie")
        assert session.call("liar.keep", 2) == 2
