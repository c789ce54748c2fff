"""A caller that is in an enemy's hands uses of its neighbour what its edge opens, and nothing else."""

from __future__ import annotations

import textwrap
from pathlib import Path
from typing import Any

import pytest

from guest_apps import running, write_application

MANIFEST = """
    [app]
    name = "permits"
    [components.evil]
    code = "evil"
    [components.bank]
    code = "bank"
    secrets = { BANK_KEY = "file:key" }
    [components.broker]
    code = "broker"
"""
EVIL = """
    import bank, broker

    def run(source):
        scope = {}
        exec(source, scope)
        return scope["out"]

    def honest():
        receipt = bank.pay(3)
        account = broker.account()
        return [
            bank.balance("a"), receipt.text(), account.add(2), account.limit(), account.total,
            hasattr(account, "_repr_html_"), bank.RATE,
        ]

    def names_a_secret():
        return bank.SHOWN
"""
BANK = """
    import os
    _KEY = os.environ["BANK_KEY"]
    SHOWN = ("key " + _KEY).encode()
    _money = {"a": 100}
    _RATES = dict(_money)
    RATE = len(_money)

    def balance(who):
        return _money.get(who, 0)

    def wipe():
        _money.clear()

    class Receipt:
        def __init__(self, n):
            self.n = n

        def text(self):
            return f"{_format(self.n)} at {_RATES}"

    def _format(n):
        return f"<{n}>"

    def pay(n):
        return Receipt(n)

    class Account:
        opened = 0

        def __init__(self):
            self.total, self._pin = 0, 1234

        def add(self, n):
            self.total += n
            return self.total

        @staticmethod
        def limit():
            return 1000

        @classmethod
        def close_all(cls):
            _money.clear()
"""
BROKER = """
    import bank

    def account():
        return bank.Account()
"""
TOOLS = """
    import gc, queue, bank, broker
    from shardwright.guest._shard import Shard
    from shardwright.guest._context import current_call
    from shardwright.model.envelope import Envelope, Kind
    gc.unfreeze()
    runtime = [o for o in gc.get_objects() if isinstance(o, Shard)][-1].runtime
    account = broker.account()
    bank.balance("a")
    link = [l for l in runtime._links if l.peer.component == "bank"][0]

    class Ticket:
        def __init__(self): self.got = queue.Queue()
        def deliver(self, outcome): self.got.put(outcome)

    def post(kind, value, entry=""):
        ticket = Ticket()
        method = runtime.plan.definition("bank").entry(entry).method_id if entry else 0
        payload, buffers, memo = link.codec.encode_request(value)
        link.begin(
            Envelope(kind, link.next_id(), current_call.get().session, method, codec=link.codec_id, payload=payload),
            ticket,
        )
        answer = ticket.got.get(timeout=10)
        if answer.kind is Kind.ERROR:
            return type(link.codec.decode_error(answer.payload, answer.buffers, memo)).__name__
        return ["answered", repr(link.codec.decode_reply(answer.payload, answer.buffers, memo))]
"""
REFUSED = (
    "post(Kind.GET, ('bank', '_KEY'))",
    "post(Kind.GET, ('bank', '_money'))",
    "post(Kind.GET, ('bank', 'os'))",
    "post(Kind.GET, ('bank', 'SHOWN'))",
    "post(Kind.CALL, (None, (), None), 'wipe')",
    "post(Kind.CALL, (None, (), None), 'Account')",
    "post(Kind.CALL, (None, (), None), 'Account.close_all')",
    "post(Kind.CALL, (account._sw_object, (), None), 'wipe')",
    "post(Kind.GET, (account._sw_object, '_pin'))",
)


def test_a_hostile_caller_uses_what_its_edge_opens(tmp_path: Path, record_exercised: Any) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, evil=EVIL, bank=BANK, broker=BROKER)
    (folder / "key").write_text("k-1234567890")
    with running(folder) as node, node.session("mallory") as session:
        uncut = [100, "<3> at {'a': 100}", 2, 1000, 2, False, 1]
        assert session.call("evil.honest") == uncut
        for source in REFUSED:
            found = session.call("evil.run", textwrap.dedent(TOOLS) + f"\nout = {source}")
            assert found == "NotPermitted", source
        read = session.call("evil.run", textwrap.dedent(TOOLS) + "\nout = post(Kind.GET, ('bank', 'RATE'))")
        assert read == ["answered", "1"]
        with pytest.raises(Exception, match="'SHOWN' holds a secret of bank"):
            session.call("evil.names_a_secret")
        assert session.call("evil.honest")[:2] == uncut[:2]
        assert session.call("bank.wipe") is None  # the node itself may
    record_exercised("uses refused to a hostile caller", len(REFUSED))
