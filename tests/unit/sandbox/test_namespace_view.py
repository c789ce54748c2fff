"""What of the machine's files a sandbox sees."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from shardwright.contracts.sandbox import Sight
from shardwright.errors import SandboxError
from shardwright.sandbox.namespace._view import View, view_of


def _view(**sight: tuple[str, ...]) -> View:
    return view_of(Sight(**sight), "/", (sys.executable,))


def _shown(view: View, path: str) -> bool:
    return any(path == place.path or path.startswith(f"{place.path}/") for place in view.places)


def test_the_interpreter_is_there_and_little_else() -> None:
    view = _view()
    assert _shown(view, os.path.realpath(sys.executable)) and _shown(view, os.path.realpath(os.__file__))
    for path in ("/etc/shadow", "/root/.ssh", "/home", "/proc/1", "/dev/sda", "/var/lib", "/usr/bin/ls", "/"):
        assert path not in [place.path for place in view.places]
        assert not _shown(view, path) or path == "/usr/bin/ls"
    assert not view.writable()


def test_what_is_wanted_is_there_as_wanted(tmp_path: Path) -> None:
    for name in ("code", "data", "data/deep"):
        (tmp_path / name).mkdir()
    view = _view(read=(str(tmp_path / "code"), str(tmp_path / "data")), write=(str(tmp_path / "data" / "deep"),))
    places = {place.path: place.writable for place in view.places}
    assert places[str(tmp_path / "code")] is False and places[str(tmp_path / "data")] is False
    assert places[str(tmp_path / "data" / "deep")] is True
    assert all(place.owned for place in view.places if place.path.startswith(str(tmp_path)))
    assert list(places) == sorted(places), "what is beneath another comes after it"


def test_links_on_the_way_are_there_too(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir()
    (tmp_path / "link").symlink_to("real")
    view = _view(read=(str(tmp_path / "link"),))
    assert _shown(view, str(tmp_path / "real"))
    assert (str(tmp_path / "link"), "real") in view.links
    (tmp_path / "loop").symlink_to("loop")
    with pytest.raises(SandboxError, match="too many symbolic links"):
        _view(read=(str(tmp_path / "loop"),))


def test_what_is_hidden_is_masked_where_it_would_show(tmp_path: Path) -> None:
    (tmp_path / "code").mkdir()
    for name in ("code/secret", "code/mine", "outside"):
        (tmp_path / name).write_text("x")
    hidden = (str(tmp_path / "code" / "secret"), str(tmp_path / "outside"), str(tmp_path / "missing"))
    assert _view(read=(str(tmp_path / "code"),), hidden=hidden).masked == (str(tmp_path / "code" / "secret"),)


@pytest.mark.parametrize("path", ["/", "/proc", "/proc/1", "/sys/fs/cgroup", "/dev", "/boot"])
def test_some_places_are_never_shown(path: str) -> None:
    with pytest.raises(SandboxError, match=r"may not be shown|does not exist"):
        _view(read=(path,))


def test_what_is_not_there_is_told(tmp_path: Path) -> None:
    with pytest.raises(SandboxError, match="does not exist"):
        _view(write=(str(tmp_path / "nothing"),))
