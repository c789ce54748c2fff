"""A component whose code is the enemy: it speaks the control protocol and the channels wrongly.

Whatever it does, the node and the other components run none of its code, do not crash, answer others meanwhile, and the
culprit is ended and stands in the journal.
"""

from __future__ import annotations

import contextlib
import os
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from guest_apps import journal_rows, running, write_application
from shardwright.errors import CallError, NotPermitted, ShardLost, ShardwrightError
from waiting import eventually, forked_ahead

MANIFEST = """
    [app]
    name = "den"
    root = "."
    [components.evil]
    code = "evil"
    scope = "session"
    state = "memory"
    depends_on = ["bank", "clerk"]
    start = "START"
    [components.bank]
    code = "bank"
    state = "memory"
    [components.clerk]
    code = "clerk"
    scope = "request"
    state = "none"
    [components.vault]
    code = "vault"
    scope = "session"
    state = "memory"
    [components.victim]
    code = "victim"
    scope = "session"
    state = "memory"
    depends_on = ["evil", "clerk"]
"""
EVIL = """
    import bank, clerk

    def run(source):
        scope = {}
        exec(source, scope)
        return scope.get("out")

    def answer():
        return "an honest answer"
"""
BANK = """
    import os
    money = {"a": 1}

    def balance(who):
        return money.get(who, 0)

    def shut():
        return "the bank is shut"

    def ask_back(n):
        return n

    class Account:
        def __init__(self, name):
            self.name = name
            self.total = 0

        def add(self, amount):
            self.total += amount
            return self.total

        def shut(self):
            raise SystemExit("closed by a name that is no entry point")

    def open_account(name):
        return Account(name)
"""
CLERK = """
    import os, time

    def stamp(seconds=0.0):
        time.sleep(seconds)
        return os.getpid()
"""
VAULT = """
    def gold():
        return 79
"""
VICTIM = """
    import evil, clerk

    def ask():
        return evil.answer()

    def trust(source):
        return evil.run(source)

    def stamp(seconds):
        return clerk.stamp(seconds)
"""
TOOLS = """
    import gc, os, socket, struct, threading, time
    from shardwright.guest._control_messages import *
    from shardwright.guest._control import ControlSocket, HEADER, frame
    from shardwright.guest._shard import Shard
    from shardwright.guest._link import Link
    from shardwright.model.envelope import Envelope, Kind, PayloadCodec
    from shardwright.transport import pack
    gc.unfreeze()
    shard = [o for o in gc.get_objects() if isinstance(o, Shard)][-1]
    control, runtime = shard.control, shard.runtime
    links = list(runtime._links)
    def raw(data):
        try:
            control._socket.sendall(data)
        except OSError as error:
            return error
    def say(*messages):
        for message in messages:
            raw(frame(message))
"""


@pytest.fixture
def den(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    manifest = textwrap.dedent(MANIFEST).replace("START", getattr(request, "param", "template"))
    return write_application(tmp_path / "den", manifest, evil=EVIL, bank=BANK, clerk=CLERK, vault=VAULT, victim=VICTIM)


@pytest.fixture
def node(den: Path) -> Iterator[Any]:
    """A running node of the den. It must do without a single unhandled exception."""
    unhandled: list[object] = []
    with running(den) as node:
        node.running._loop.call_soon_threadsafe(
            node.running._loop.set_exception_handler, lambda _, context: unhandled.append(context)
        )
        yield node
        with node.session("afterwards") as session:
            assert session.call("bank.balance", "a") == 1
            assert session.call("victim.ask") == "an honest answer"
    assert not unhandled


def attack(session: Any, source: str, timeout_s: float = 15.0) -> Any:
    """Run ``source`` inside the evil shard with the tools at hand; the value of ``out``."""
    return session.with_timeout(timeout_s).call("evil.run", textwrap.dedent(TOOLS) + textwrap.dedent(source))


def loss_of(den: Path, shard: str) -> str:
    return " ".join(row[3] for row in journal_rows(den, "loss") if row[2] == shard)


def evil_shard(node: Any, name: str) -> Any:
    return next(s for s in node.shards() if s.component == "evil" and name in s.sessions)


BREAKS = {
    "random bytes": "raw(os.urandom(3000))",
    "a huge length": "raw(struct.pack('<IH', 2**32 - 1, 0) + b'x')",
    "a length just above the limit": "raw(struct.pack('<IH', 256 * 1024 + 1, 0) + b'x')",
    "descriptors announced that do not come": "raw(struct.pack('<IH', 1, 9) + b'x')",
    "no msgpack": "raw(struct.pack('<IH', 4, 0) + b'\\xc1\\xc1\\xc1\\xc1')",
    "a deep msgpack": "raw(struct.pack('<IH', 200000, 0) + b'\\x91' * 200000)",
    "a message of the node": "say(Stop(0.0))",
    "Ready again": "say(Ready(0.1))",
    "Hello again": "say(Hello(1))",
    "Failed long after": "say(Failed('it failed', 'x' * 100000))",
    "Forked by a shard": "say(Forked('bank-00000000'))",
    "Ended by a shard": "say(Ended('bank-00000000', 0))",
    "a wrong type in a field": "import msgspec; wrong = msgspec.msgpack.encode({'t': 'unbind', 'component': 3, 'shard': 1}); "
    "raw(HEADER.pack(len(wrong), 0) + wrong)",
}


@pytest.mark.parametrize("den", ["template", "spawn"], indirect=True)
def test_who_breaks_the_control_protocol_is_ended_and_stands_in_the_journal(node: Any, den: Path) -> None:
    for what, source in BREAKS.items():
        with node.session(what) as session:
            shard = evil_shard(node, what)
            with pytest.raises(ShardLost):
                attack(session, source + "\ntime.sleep(30)")
            assert eventually(lambda shard=shard: loss_of(den, shard.id) != ""), what
            reason = loss_of(den, shard.id)
            assert "it broke the control protocol" in reason or "out of turn" in reason, (what, reason)
            assert eventually(lambda shard=shard: _is_zombie(shard.pid)), what


def _is_zombie(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    except OSError:
        return True


def test_who_closes_its_control_socket_and_lives_on_is_ended(node: Any, den: Path) -> None:
    with node.session("mallory") as session:
        shard = evil_shard(node, "mallory")
        with pytest.raises(ShardLost):
            attack(session, "control._socket.shutdown(2); control._socket.close(); time.sleep(30)")
        assert eventually(lambda: loss_of(den, shard.id) != "")
        assert eventually(lambda: _is_zombie(shard.pid))


def test_descriptors_passed_to_the_node_are_closed(node: Any, den: Path) -> None:
    with node.session("mallory") as session:
        node.running.submit(node.running.core.launcher._ahead.close()).result()  # forks made ahead have some, too
        before = len(os.listdir("/proc/self/fd"))
        attack(
            session,
            """
            read, write = os.pipe()
            for _ in range(200):
                socket.send_fds(control._socket, [frame(Note("gift", "for you"))], [read] * 30)
            os.close(read)
            deadline = time.monotonic() + 10
            while time.monotonic() < deadline:  # a pipe whose last reader is gone says so
                try:
                    os.set_blocking(write, False)
                    os.write(write, b"x")
                    time.sleep(0.01)
                except BrokenPipeError:
                    out = "all closed"
                    break
                except BlockingIOError:
                    time.sleep(0.01)
            assert out == "all closed"
            """,
        )
        assert len(os.listdir("/proc/self/fd")) <= before + 4
        assert session.call("evil.answer") == "an honest answer"


def test_bindings_that_it_may_not_have_are_refused(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        alice.call("victim.ask")
        vault = next(s for s in node.shards() if s.component == "vault" and "alice" in s.sessions)
        others = next(s for s in node.shards() if s.component == "victim" and "alice" in s.sessions)
        number = alice._live.number
        found = attack(
            session,
            f"""
            from shardwright.guest._router import Route
            from shardwright.guest._context import CallContext, current_call
            mine = current_call.get().session
            tries = [
                (Route("vault", mine), mine), (Route("vault", {number}), {number}), (Route("bank", None), {number}),
                (Route("bank", None), 10**9), (Route("nobody", mine), mine), (Route("victim", mine), mine),
                (Route("vault", mine, None, {vault.id!r}), mine), (Route("bank", mine, None, {others.id!r}), mine),
                (Route("bank", mine, None, "bank-deadbeef"), mine), (Route("clerk", mine, None, "x" * 100000), mine),
                (Route("node", mine), mine), (Route("", mine), mine), (Route("bank", -1), -1),
                (Route("bank", mine, None, {vault.id!r}), mine), (Route("evil", {number}), {number}),
            ]
            out = []
            for route, session in tries:
                try:
                    shard.binder.bind(route, CallContext(session=session))
                    out.append("bound")
                except Exception as error:
                    out.append(type(error).__name__)
            """,
        )
        assert set(found) <= {"NotPermitted", "ShardLost"}
        assert alice.call("victim.ask") == "an honest answer"
    refused = journal_rows(den, "refuse")
    assert any("evil may not call vault" in row[3] for row in refused)
    assert all(row[1] == "evil" for row in refused)


def test_it_gives_back_nothing_that_others_use(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        import threading

        pids: list[int] = []
        thread = threading.Thread(target=lambda: pids.append(alice.call("victim.stamp", 1.0)))
        thread.start()
        assert eventually(lambda: any(s.component == "clerk" and s.sessions for s in node.shards()))
        targets = [s.id for s in node.shards()]
        attack(session, f"say(*[Unbind('clerk', name) for name in {targets!r}]); time.sleep(0.2)")
        assert any(s.component == "clerk" and "alice" in s.sessions for s in node.shards())
        thread.join(20)
        assert len(pids) == 1


def test_a_result_that_nobody_asked_for_is_nothing(node: Any, den: Path) -> None:
    with node.session("mallory") as session:
        attack(session, "say(Finished(0, ''), Finished(7, 'x' * 9999), Unbind('bank', 'bank-00000000'))")
        assert session.call("evil.answer") == "an honest answer"


def test_a_flood_of_bindings_is_cut_off_while_others_are_served(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        try:
            attack(
                session,
                """
                from shardwright.guest._context import current_call
                mine = current_call.get().session
                control._socket.settimeout(5)
                one = frame(Bind(1, "bank", mine))
                for _ in range(40):
                    raw(one * 100)
                """,
            )
        except CallError:
            pass
        begun = time.monotonic()
        assert alice.call("victim.ask") == "an honest answer"
        assert alice.call("bank.balance", "a") == 1
        assert time.monotonic() - begun < 5


def own_descriptors() -> set[str]:
    found = set()
    for number in os.listdir("/proc/self/fd"):
        with contextlib.suppress(FileNotFoundError):  # that of the listing
            found.add(f"{number} -> {os.readlink(f'/proc/self/fd/{number}')}")
    return found


def test_who_never_reads_its_control_socket_is_cut_off(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        shard = evil_shard(node, "mallory")
        assert eventually(lambda: forked_ahead(node))
        before = own_descriptors()
        with pytest.raises(ShardLost):
            attack(
                session,
                """
                from shardwright.guest._context import current_call
                mine = current_call.get().session
                control.receive = lambda: time.sleep(60)  # its control thread: one message more, then silence
                one = frame(Bind(7, "bank", mine))
                for _ in range(300):
                    raw(one * 10)
                    time.sleep(0.005)
                time.sleep(20)
                """,
                timeout_s=30,
            )
        assert alice.call("bank.balance", "a") == 1
        assert eventually(
            lambda: "control messages" in loss_of(den, shard.id) or "bindings at once" in loss_of(den, shard.id)
        )
        assert eventually(lambda: len(own_descriptors()) <= len(before) + 8), own_descriptors() - before


def test_notes_cannot_forge_or_fill_the_journal(node: Any, den: Path) -> None:
    with node.session("mallory") as session:
        attack(session, "for i in range(60): raw(frame(Note('loss', 'bank is gone' + 'x' * 5000)) * 50)")
        assert session.call("evil.answer") == "an honest answer"
    rows = journal_rows(den)
    assert not [row for row in rows if row[0] == "loss"]
    notes = [row for row in rows if row[0] == "note"]
    assert 1 <= len(notes) <= 1000
    assert all(row[1] == "evil" and len(row[3]) <= 2100 for row in notes)


REPLIES = {
    "garbage": "link.channel.send([os.urandom(500)])",
    "a wrong call id": "give(Kind.RESULT, number=10**12)",
    "an empty frame": "link.channel.send([b''])",
    "a payload that is none": "give(Kind.RESULT, b'\\xff' * 50)",
    "a pickle": "give(Kind.RESULT, bomb, PayloadCodec.PICKLE5)",
    "a pickle that says it is tagged": "give(Kind.RESULT, bomb)",
    "a pickled error": "give(Kind.ERROR, bomb, PayloadCodec.PICKLE5)",
    "a huge message": "raw(struct.pack('<I', 2**32 - 1) + b'x' * 1000, 60 * 2**20)",
    "half a message": "raw(struct.pack('<I', 1000) + b'x' * 10, 1000); link.channel.close()",
    "a call the other way": "give(Kind.CALL, number=1)",
    "duplicate replies": "[give(Kind.RESULT) for _ in range(3)]",
}


@pytest.mark.parametrize("caller", ["node", "victim"])
def test_replies_of_a_liar_harm_no_caller(node: Any, tmp_path: Path, caller: str) -> None:
    for what in REPLIES:
        _lie(node, tmp_path / "owned", what, caller)


def _lie(node: Any, mark: Path, what: str, caller: str) -> None:
    source = textwrap.dedent(TOOLS) + textwrap.dedent(
        f"""
        import pickle
        class Bomb:
            def __reduce__(self): return (open, ({str(mark)!r}, "w"))
        bomb = pickle.dumps(Bomb(), 5)
        calls = list(runtime.responder._running.values())
        link, call = calls[-1].link, calls[-1].envelope.call_id
        def give(kind, payload=b"\\0", codec=PayloadCodec.TAGGED, number=call):
            link.channel.send(pack(Envelope(kind, number, session=1, codec=codec, payload=payload)))
        def raw(data, size):
            if hasattr(link.channel, "_socket"):
                link.channel._socket.sendall(data)
            else:  # a ring: a message that is begun and goes no further
                link.channel.begin(size)
                link.channel.push_more(data, 0)
        {REPLIES[what]}
        """
    )
    with node.session(what) as session:
        begun = time.monotonic()
        try:
            session.with_timeout(10).call("evil.run" if caller == "node" else "victim.trust", source)
        except ShardwrightError:
            pass
        assert time.monotonic() - begun < 12, what
        assert not mark.exists(), what
        pids = {s.id: s.pid for s in node.shards() if s.component == "victim" and s.status == "ready"}
        assert all(Path(f"/proc/{pid}").exists() for pid in pids.values())


CALLS = {
    "a pickle": "post(Kind.CALL, bomb, PayloadCodec.PICKLE5)",
    "a pickle that says it is tagged": "post(Kind.CALL, bomb)",
    "an entry point that there is not": "post(Kind.CALL, call(), method=2**32 - 1)",
    "a call in no form": "post(Kind.CALL, encode([1, 2, 3]))",
    "keywords that are no names": "post(Kind.CALL, encode((None, (), {1: 2})))",
    "a method without its object": "post(Kind.CALL, call(5, 5), method=entry('Account.add'))",
    "a function as a method": "post(Kind.CALL, encode((account._sw_object, (), {})), method=entry('shut'))",
    "an object id out of the air": "post(Kind.CALL, encode((12345, (1,), {})), method=entry('Account.add'))",
    "a handle out of the air": "post(Kind.CALL, call(forged), method=entry('balance'))",
    "dunder": "post(Kind.GET, encode(('bank', '__builtins__')))",
    "dunder of an object": "post(Kind.GET, encode((account._sw_object, '__class__')))",
    "a dotted name": "post(Kind.GET, encode(('bank', 'os.environ._data')))",
    "a dotted dunder": "post(Kind.GET, encode(('bank', 'balance.__globals__')))",
    "another module": "post(Kind.GET, encode(('os', 'environ')))",
    "a name that is none": "post(Kind.GET, encode(('bank', '')))",
    "an attribute of no object": "post(Kind.GET, encode((1, 'total')))",
}


def test_calls_of_a_liar_run_nothing_that_they_may_not(node: Any, tmp_path: Path) -> None:
    for what in CALLS:
        _overreach(node, tmp_path / "owned", what)


def _overreach(node: Any, mark: Path, what: str) -> None:
    with node.session(what) as session:
        bank = next(s for s in node.shards() if s.component == "bank")
        found = attack(
            session,
            f"""
            import pickle, bank, queue
            class Bomb:
                def __reduce__(self): return (open, ({str(mark)!r}, "w"))
            bomb = pickle.dumps(Bomb(), 5)
            account = bank.open_account("a")
            forged = runtime.proxies.handles.get(type(account), "bank-00000000", 99)
            link = [l for l in runtime._links if l.peer.component == "bank"][0]
            def encode(value): return link.codec.encode_request(value)[0]
            def call(*args): return encode((None, args, {{}}))
            def entry(name): return runtime.plan.definition("bank").entry(name).method_id
            class Ticket:
                def __init__(self): self.got = queue.Queue()
                def deliver(self, outcome): self.got.put(outcome)
            from shardwright.guest._context import current_call
            def post(kind, payload, codec=PayloadCodec.TAGGED, method=0):
                global out
                ticket, mine = Ticket(), current_call.get().session
                link.begin(Envelope(kind, link.next_id(), session=mine, method=method, codec=codec, payload=payload), ticket)
                outcome = ticket.got.get(timeout=10)
                if isinstance(outcome, Envelope):
                    if outcome.kind is Kind.ERROR:
                        out = type(link.codec.decode_error(outcome.payload, outcome.buffers)).__name__
                    else:
                        out = "it was answered"
                else:
                    out = type(outcome).__name__
            {CALLS[what]}
            """,
        )
        # the bank's own code may find a handle of nowhere strange; it never runs what it may not
        refusals = ("NotPermitted", "CallError", "HandleExpired", "CannotCross", "ProtocolViolation", "ShardLost")
        assert found in refusals or what == "a handle out of the air", (what, found)
        assert not mark.exists(), what
        assert next(s for s in node.shards() if s.component == "bank").pid == bank.pid
        assert session.call("bank.balance", "a") == 1


def test_channels_that_it_opens_without_end_are_refused_by_the_callee(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        bank = next(s for s in node.shards() if s.component == "bank")
        try:
            attack(
                session,
                """
                from shardwright.guest._router import Route
                from shardwright.guest._context import current_call
                kept = []
                for _ in range(1500):
                    kept += shard.binder.bind(Route("bank"), current_call.get())
                """,
                timeout_s=40,
            )
        except CallError:
            pass
        assert alice.call("bank.balance", "a") == 1
        assert next(s for s in node.shards() if s.component == "bank").pid == bank.pid


def test_a_caller_that_reads_no_replies_holds_up_others_for_a_bounded_time(node: Any, den: Path) -> None:
    with node.session("mallory") as session, node.session("alice") as alice:
        attack(
            session,
            """
            import bank
            bank.balance("a")
            link = [l for l in runtime._links if l.peer.component == "bank"][0]
            hub = runtime._hub
            if hasattr(hub, "bell"):
                from types import SimpleNamespace
                hub.bell = SimpleNamespace(take=lambda limit: time.sleep(0.01) or [], poke=hub.bell.poke, kept=hub.bell)
            else:
                hub._poll.unregister(hub._readers[link])
            from shardwright.guest._context import current_call
            mine = current_call.get().session
            payload = link.codec.encode_request((None, ("x" * 20,), {}))[0]
            end = time.monotonic() + 3
            def flood():
                n = 0
                while time.monotonic() < end:
                    try:
                        n += 1
                        call = Envelope(Kind.CALL, 1000 + n, mine, 999, codec=link.codec_id, payload=payload)
                        link.channel.send(pack(call), deadline_ns=time.monotonic_ns() + 10**9)
                    except Exception:
                        break
            threading.Thread(target=flood, daemon=True).start()
            """,
        )
        begun = time.monotonic()
        for _ in range(5):
            assert alice.with_timeout(20).call("bank.balance", "a") == 1
        assert time.monotonic() - begun < 12


def test_forged_log_tags_are_text_or_at_least_harmless(node: Any, den: Path) -> None:
    lines: list[Any] = []
    node.running.core.logs.subscribe(lines.append)
    with node.session("mallory") as session, node.session("alice") as alice:
        attack(
            session,
            f"""
            S = b"\\x1e"; E = b"\\x1f"
            os.write(1, S + b"not json" + E + b"one\\n")
            os.write(1, S + b'[1, 2]' + E + b"two\\n")
            os.write(1, S + b'{{"o": {{"a": 1}}, "s": "x", "l": 9, "n": null}}' + E + b"three\\n")
            os.write(1, S + b"[" * 50000 + E + b"four\\n")
            os.write(1, S + b'{{"o": "stdout", "s": {alice._live.number}}}' + E + b"five: I am alice\\n")
            os.write(1, S + b'{{"s": ' + b"9" * 5000 + b'}}' + E + b"six\\n")
            os.write(1, b"\\xff\\xfe\\0 seven\\n")
            """,
        )
        assert eventually(lambda: any("seven" in line.text for line in lines))
        told = [line for line in lines if "five" in line.text]
        assert told and all(line.shard.startswith("evil-") and line.session != "alice" for line in told)
        for word in ("one", "two", "three", "four", "six"):
            assert any(word in line.text for line in lines), word


def test_a_template_that_lies_is_ended_and_replaced(tmp_path: Path) -> None:
    folder = write_application(
        tmp_path / "app",
        """
        [app]
        name = "liar"
        root = "."
        [components.liar]
        code = "liar"
        scope = "session"
        state = "memory"
        start = "template"
        """,
        liar="""
        import os, socket, threading, pathlib
        from shardwright.guest._control import frame
        from shardwright.guest._control_messages import Bind
        once = pathlib.Path(__file__).with_name("lied")
        if not once.exists():
            once.write_text("")
            from shardwright.guest import _template
            whole = _template.ForkServer.run
            def run(self):
                self._control.send(Bind(1, "liar", 0))
                return whole(self)
            _template.ForkServer.run = run
        def hello(): return "hello"
        """,
    )
    with running(folder) as node:
        assert eventually(lambda: bool(journal_rows(folder, "template lost")))
        with node.session("one") as session:
            assert session.call("liar.hello") == "hello"
    assert "out of turn" in journal_rows(folder, "template lost")[0][3]


def test_a_template_cannot_pass_off_another_process_as_its_shard(tmp_path: Path) -> None:
    """A forked shard says who it is by the kernel's word; root could have the kernel say anything."""
    if os.geteuid() != 0:
        pytest.skip("only root may give another's pid")
    folder = write_application(
        tmp_path / "app",
        """
        [app]
        name = "liar"
        root = "."
        [components.liar]
        code = "liar"
        scope = "session"
        state = "memory"
        start = "template"
        """,
        liar=f"""
        import array, os, socket, struct
        from shardwright.guest import _control
        from shardwright.guest._control import frame
        from shardwright.guest._control_messages import Hello
        whole = _control.ControlSocket.send
        def send(self, message):
            if isinstance(message, Hello):
                forged = struct.pack("3i", {os.getpid()}, 0, 0)
                self._socket.sendmsg([frame(message)], [(socket.SOL_SOCKET, 2, forged)])
            else:
                whole(self, message)
        _control.ControlSocket.send = send
        def hello(): return "hello"
        """,
    )
    with running(folder) as node:
        with pytest.raises(ShardwrightError) as caught, node.session("one", timeout_s=5) as session:
            session.call("liar.hello")
        assert not isinstance(caught.value, NotPermitted)
        assert "no child of its template" in str(caught.value)


def test_a_shard_that_ends_whenever_it_begins_keeps_nobody_busy(tmp_path: Path) -> None:
    folder = write_application(
        tmp_path / "app",
        """
        [app]
        name = "mad"
        root = "."
        [components.mad]
        code = "mad"
        state = "memory"
        """,
        mad="""
        import os
        from shardwright.guest import _shard
        _shard.Shard.serve = lambda self: os._exit(3)
        def hello(): return "hello"
        """,
    )
    with running(folder):
        assert eventually(lambda: len(journal_rows(folder, "loss")) >= 4)
        begun, before = time.monotonic(), len(journal_rows(folder, "launch"))
        assert not eventually(lambda: len(journal_rows(folder, "launch")) > before + 3, 3.0), time.monotonic() - begun
