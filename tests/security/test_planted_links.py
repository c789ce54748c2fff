"""A shard that may write to a folder puts links there: nothing of the machine is read or written through them."""

from __future__ import annotations

import itertools
import os
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

import shardwright
from namespaces_here import need_namespaces
from shardwright.contracts.sandbox import LaunchSpec, Sight
from shardwright.errors import SandboxError, ShardwrightError
from shardwright.model.ids import ShardId
from shardwright.sandbox._linux import _libc
from shardwright.sandbox.namespace import NamespaceBackend, PlaceRefused, changing_places, followed, make_folder

MANIFEST = """
[app]
name = "planted"
[components.evil]
code = "evil"
scope = "session"
{more}
[components.victim]
code = "victim"
secrets = {{ KEY = "file:secrets/v" }}
"""
# What analysis finds harmless, so that `auto` puts it behind walls: the names come from the caller.
EVIL = """
import operator
import random

def reach(name, *given):
    return operator.attrgetter("_os." + name)(random)(*given)

def plant(name, target):
    if reach("path.lexists", name):
        reach("rename", name, name + ".old")
    reach("symlink", target, name)

def read(name):
    return reach("read", reach("open", name, 0), 100).decode()

def write(name):
    return reach("write", reach("open", name, 0o101), b"planted")
"""
STARTS = 150


def application(folder: Path, more: str) -> Path:
    app = folder / "app"
    for name in ("var/feed.d", "var/cache", "secrets"):
        (app / name).mkdir(parents=True)
    (app / "var" / "feed").write_text("honest")
    (app / "secrets" / "v").write_text("TOPSECRET")
    (app / "shardwright.toml").write_text(MANIFEST.format(more=more))
    (app / "evil.py").write_text(EVIL)
    (app / "victim.py").write_text("def ping():\n    return 'pong'\n")
    return app


@pytest.mark.parametrize("isolation", ["namespace", "auto"])
@pytest.mark.parametrize(
    ("link", "files", "path"),
    [
        ("var/feed", 'write = ["var"], read = ["var/feed"]', "var/feed"),
        ("var/feed.d", 'write = ["var/"], read = ["var/feed.d"]', "var/feed.d/v"),
        ("var/cache", 'write = ["var", "var/cache"]', "var/cache/v"),
    ],
)
def test_a_link_that_a_shard_made_shows_it_nothing(
    tmp_path: Path, isolation: str, link: str, files: str, path: str
) -> None:
    need_namespaces()
    app = application(tmp_path, f'isolation = "{isolation}"\nfiles = {{ {files} }}')
    target = app / "secrets" / ("v" if path == link else "")
    with shardwright.start(app) as node, node.session() as session:
        assert [each.isolation for each in node.shards() if each.component == "evil"] == ["namespace"]
        session.call("evil.plant", str(app / link), str(target))
        with pytest.raises(OSError):
            session.call("evil.read", str(app / path))
    with (
        pytest.raises(ShardwrightError, match="symbolic link") as refused,
        shardwright.start(app) as node,
        node.session() as session,  # where it is not refused at once
    ):
        for name in ("evil.read", "evil.write"):
            print(session.call(name, str(app / path)))
    assert str(app / link) in str(refused.value)
    assert (app / "secrets" / "v").read_text() == "TOPSECRET"


def test_folders_are_not_made_through_a_link(tmp_path: Path) -> None:
    need_namespaces()
    app = application(tmp_path, 'isolation = "namespace"\nfiles = { write = ["var", "var/a/b/"] }')
    (tmp_path / "elsewhere").mkdir()
    with shardwright.start(app) as node, node.session() as session:
        session.call("evil.plant", str(app / "var/a"), str(tmp_path / "elsewhere"))
    with pytest.raises(ShardwrightError, match="symbolic link"), shardwright.start(app):
        pass
    assert os.listdir(tmp_path / "elsewhere") == []
    (tmp_path / "real").mkdir()
    os.symlink(tmp_path / "elsewhere", tmp_path / "real" / "link")
    make_folder(str(tmp_path / "real" / "made" / "deep"))
    with pytest.raises(OSError, match="link/deep"):
        make_folder(str(tmp_path / "real" / "link" / "deep"))
    assert (tmp_path / "real" / "made" / "deep").is_dir() and os.listdir(tmp_path / "elsewhere") == []


def test_whoever_declares_what_another_may_write_is_not_led_away(tmp_path: Path) -> None:
    need_namespaces()
    more = 'isolation = "namespace"\nfiles = { write = ["var"] }\n[components.third]\ncode = "third"\n'
    more += 'isolation = "namespace"\nscope = "session"\nfiles = { read = ["var/out"] }\n'
    app = application(tmp_path, more)
    (app / "third.py").write_text("def read(name):\n    with open(name) as file:\n        return file.read()\n")
    (app / "var" / "out").mkdir()
    os.symlink(app / "secrets", app / "var" / "planted")
    os.rename(app / "var" / "out", app / "var" / "out.old")
    os.rename(app / "var" / "planted", app / "var" / "out")  # as evil could
    with (
        pytest.raises(ShardwrightError, match="symbolic link"),
        shardwright.start(app) as node,
        node.session() as session,
    ):
        print(session.call("third.read", str(app / "var" / "out" / "v")))


@contextmanager
def swapping(place: Path, *others: Path) -> Iterator[list[int]]:
    """What is at ``place`` is another of ``others`` from moment to moment. How often, in the end."""
    stop, swaps = threading.Event(), [0]

    def swap() -> None:
        for other in itertools.cycle(others):
            if stop.is_set():
                return
            spare = place.with_name("spare")
            if other.is_symlink():
                os.symlink(os.readlink(other), spare)
            else:
                os.link(other, spare)
            os.rename(spare, place)
            swaps[0] += 1

    thread = threading.Thread(target=swap, name="swapping")
    thread.start()
    try:
        yield swaps
    finally:
        stop.set()
        thread.join()


def test_who_is_quicker_than_the_look_wins_nothing(
    tmp_path: Path, record_exercised: Callable[[str, int], None]
) -> None:
    """A shard swaps a file for a link to a secret, and back, while others are started that are to see that file."""
    need_namespaces()
    (tmp_path / "secret").write_text("TOPSECRET")
    var = tmp_path / "var"
    var.mkdir()
    (tmp_path / "honest").write_text("honest")
    (tmp_path / "link").symlink_to(tmp_path / "secret")
    os.link(tmp_path / "honest", var / "feed")
    sight = Sight(read=(str(var / "feed"),), changing=(str(var),))
    program = f"import sys; sys.stdout.write(open({str(var / 'feed')!r}).read())"
    backend, told = NamespaceBackend(), {"refused": 0, "honest": 0}
    try:
        with swapping(var / "feed", tmp_path / "link", tmp_path / "honest") as swaps:
            for number in range(STARTS):
                reading, writing = os.pipe()
                spec = LaunchSpec(
                    ShardId(f"reader-{number}"), (sys.executable, "-I", "-S", "-c", program), {}, "/",
                    {1: writing}, sight=sight,
                )  # fmt: skip
                try:
                    sandbox = backend.launch(spec)
                except (SandboxError, OSError):
                    told["refused"] += 1
                    os.close(writing)
                else:
                    os.close(writing)
                    with open(reading, closefd=False) as said:
                        assert said.read() == "honest"
                    told["honest"] += 1
                    sandbox.kill()
                    sandbox.delete()
                finally:
                    os.close(reading)
    finally:
        backend.close()
    assert swaps[0] > STARTS and min(told.values()) > 0, (swaps, told)
    record_exercised("starts while a file was swapped for a link to a secret", STARTS)
    record_exercised("of them refused for the link", told["refused"])


def test_links_of_others_are_followed_and_those_in_changing_places_are_not(tmp_path: Path) -> None:
    var = tmp_path / "real" / "var"
    (var / "deep").mkdir(parents=True)
    (tmp_path / "alias").symlink_to("real")
    (var / "in").symlink_to("deep")
    changing = changing_places((str(tmp_path / "alias" / "var"), str(tmp_path / "missing")))
    assert str(var) in changing
    links: dict[str, str] = {}
    assert followed(str(tmp_path / "alias" / "var" / "deep"), links, changing) == str(var / "deep")
    assert links == {str(tmp_path / "alias"): "real"}
    for path in (tmp_path / "alias" / "var" / "in", var / "in" / "x", var / "deep" / ".." / "in"):
        with pytest.raises(PlaceRefused, match="real/var/in"):
            followed(str(path), {}, changing)
    assert followed(str(var / "in"), {}, ()) == str(var / "deep")
    with pytest.raises(OSError, match="symbolic links"):
        os.close(_libc.open_plainly(str(var / "in")))
    os.close(_libc.open_plainly(str(var / "deep")))


@pytest.mark.parametrize("isolation", ["namespace", "auto"])
@pytest.mark.parametrize(("written", "named"), [("alias", "var"), ("var", "alias")])
def test_another_name_of_such_a_folder_is_the_same_folder(
    tmp_path: Path, isolation: str, written: str, named: str
) -> None:
    """A link of the application's own leads to the folder; what lies within is declared by the other name."""
    need_namespaces()
    files = f'files = {{ write = ["{written}"], read = ["{named}/feed.d"] }}'
    app = application(tmp_path, f'isolation = "{isolation}"\n{files}')
    os.symlink("var", app / "alias")
    with shardwright.start(app) as node, node.session() as session:
        assert [each.isolation for each in node.shards() if each.component == "evil"] == ["namespace"]
        session.call("evil.plant", str(app / "var" / "feed.d"), str(app / "secrets"))
    with pytest.raises(ShardwrightError, match="symbolic link"), shardwright.start(app) as node:
        print(node.session().call("evil.read", str(app / "var" / "feed.d" / "v")))
    text = (app / "shardwright.toml").read_text().replace("file:secrets/v", f"file:{named}/v")
    (app / "shardwright.toml").write_text(text.replace(f', read = ["{named}/feed.d"]', ""))
    (app / "var" / "v").write_text("TOPSECRET")
    said = f"secret KEY of victim: {named}/v lies where"
    with pytest.raises(ShardwrightError, match=said), shardwright.start(app):
        pass


@pytest.mark.parametrize("secret", ["var/key", "var/deep/key"])
def test_a_secret_must_not_lie_where_a_walled_shard_may_write(tmp_path: Path, secret: str) -> None:
    app = application(tmp_path, f'files = {{ write = ["var"] }}\nsecrets = {{ TOKEN = "file:{secret}" }}')
    with pytest.raises(ShardwrightError) as refused:
        shardwright.plan(app)
    assert "components.evil.secrets.TOKEN: shards of 'evil' may write to" in str(refused.value)
    stated = (app / "shardwright.toml").read_text().replace('code = "evil"', 'code = "evil"\nisolation = "process"')
    (app / "shardwright.toml").write_text(stated)
    shardwright.plan(app)  # it has no walls, and could read the secret where it lies
