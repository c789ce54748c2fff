"""The state folder and the journal are their user's alone: nothing that others planted is opened."""

from __future__ import annotations

import os
import pwd
import sqlite3
import stat
from pathlib import Path

import pytest

from shardwright.errors import NodeError
from shardwright.node import state_folder
from shardwright.node._journal import Journal


@pytest.mark.parametrize(
    "environment",
    [{}, {"HOME": ""}, {"HOME": "here"}, {"XDG_STATE_HOME": ""}, {"XDG_STATE_HOME": "here", "HOME": "./there"}],
)
def test_without_a_home_the_list_of_users_says_where_it_is(environment: dict[str, str]) -> None:
    home = Path(pwd.getpwuid(os.geteuid()).pw_dir)
    assert state_folder(environment) == home / ".local/state/shardwright"


def test_a_user_without_a_home_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 2**31 - 7)
    with pytest.raises(NodeError, match="no home folder") as caught:
        state_folder({})
    assert "XDG_STATE_HOME" in caught.value.remedy


def test_every_folder_that_is_made_is_ours_alone(tmp_path: Path) -> None:
    before = os.umask(0)
    try:
        Journal(tmp_path / "a" / "b" / "c" / "j.sqlite3", "n").close()
    finally:
        os.umask(before)
    for folder in ("a", "a/b", "a/b/c"):
        assert stat.S_IMODE((tmp_path / folder).stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a/b/c/j.sqlite3").stat().st_mode) == 0o600


def _refused(path: Path, why: str) -> None:
    with pytest.raises(NodeError, match=why) as caught:
        Journal(path, "n")
    assert "XDG_STATE_HOME" in caught.value.remedy and str(path.parent) in caught.value.message


def test_a_link_in_place_of_the_folder_or_the_file(tmp_path: Path) -> None:
    (tmp_path / "real").mkdir(mode=0o700)
    (tmp_path / "link").symlink_to(tmp_path / "real")
    _refused(tmp_path / "link" / "j.sqlite3", "link")
    (tmp_path / "dangling").symlink_to(tmp_path / "nowhere")
    _refused(tmp_path / "dangling" / "j.sqlite3", "link")
    for target in (tmp_path / "victim", tmp_path / "nothing"):
        (tmp_path / "real" / "j.sqlite3").unlink(missing_ok=True)
        (tmp_path / "real" / "j.sqlite3").symlink_to(target)
        _refused(tmp_path / "real" / "j.sqlite3", "no regular file")
        assert not target.exists()


def test_what_others_can_write_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Journal(folder / "j.sqlite3", "n").close()
    for mode in (0o770, 0o702):
        folder.chmod(mode)
        _refused(folder / "j.sqlite3", "open to other users")
    folder.chmod(0o755)
    Journal(folder / "j.sqlite3", "n").close()
    (folder / "j.sqlite3").chmod(0o620)
    _refused(folder / "j.sqlite3", "open to other users")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files to others")
def test_what_belongs_to_others_is_refused(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    Journal(folder / "j.sqlite3", "n").close()
    os.chown(folder / "j.sqlite3", 65534, 65534)
    _refused(folder / "j.sqlite3", "another user")
    os.chown(folder, 65534, 65534)
    _refused(folder / "j.sqlite3", "another user")


def test_no_folder_and_no_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    _refused(tmp_path / "file" / "app" / "j.sqlite3", "no folder")
    os.mkfifo(tmp_path / "j.sqlite3", 0o600)
    _refused(tmp_path / "j.sqlite3", "no regular file")


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE TRIGGER t AFTER INSERT ON decisions BEGIN DELETE FROM decisions; END",
        "CREATE VIEW v AS SELECT 1",
        "CREATE TABLE other (x)",
        "CREATE INDEX i ON decisions (kind)",
        "DROP TABLE decisions; CREATE TABLE decisions (x)",
    ],
)
def test_a_planted_schema_is_refused_and_left_alone(tmp_path: Path, planted: str) -> None:
    path = tmp_path / "j.sqlite3"
    Journal(path, "n").close()
    database = sqlite3.connect(path)
    database.executescript(planted)
    database.close()
    before, descriptors = path.read_bytes(), os.listdir("/proc/self/fd")
    _refused(path, "no journal of this version")
    assert path.read_bytes() == before and os.listdir("/proc/self/fd") == descriptors


def test_a_folder_above_that_others_may_write_is_refused(tmp_path: Path) -> None:
    above = tmp_path / "above"
    Journal(above / "state" / "j.sqlite3", "n").close()
    above.chmod(0o707)
    _refused(above / "state" / "j.sqlite3", "above it is open to other users")
    above.chmod(0o1777)  # as /tmp: what is there can be put away by its owner alone
    Journal(above / "state" / "j.sqlite3", "n").close()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give folders to others")
def test_a_folder_above_that_is_another_s_is_refused(tmp_path: Path) -> None:
    home = tmp_path / "home"
    Journal(home / "state" / "j.sqlite3", "n").close()
    os.chown(home, 4242, 4242)
    _refused(home / "state" / "j.sqlite3", "home above it belongs to another user")
    (tmp_path / "hers").symlink_to(home)
    os.chown(home, 0, 0)
    os.chown(tmp_path / "hers", 4242, 4242, follow_symlinks=False)
    _refused(tmp_path / "hers" / "state" / "j.sqlite3", "hers above it belongs to another user")
