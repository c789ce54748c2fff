"""Manifests that cannot be read, or are no TOML."""

from __future__ import annotations

import os
import pickle
from pathlib import Path
from typing import Any

import pytest

from shardwright.errors import ManifestError
from shardwright.manifest import load


def only_problem(path: str | Path) -> str:
    with pytest.raises(ManifestError) as caught:
        load(path)
    (problem,) = caught.value.problems
    return problem


def test_a_missing_folder(tmp_path: Path) -> None:
    missing = tmp_path / "nowhere"
    assert only_problem(missing) == (
        f"{missing}: no such file or folder; expected a folder with a shardwright.toml, or such a file"
    )
    assert "no such file or folder" in only_problem(missing / "deeper" / "shardwright.toml")


def test_a_folder_without_a_manifest_names_the_remedy(tmp_path: Path) -> None:
    assert only_problem(tmp_path) == (
        f"{tmp_path}/shardwright.toml: no such file; expected a manifest; `shardwright init {tmp_path}` writes one"
    )


def test_a_file_in_place_of_a_folder(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    assert "no such file or folder" in only_problem(tmp_path / "file" / "shardwright.toml")


def test_what_is_no_regular_file_is_refused_without_waiting_for_it(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "shardwright.toml")
    assert "not a regular file" in only_problem(tmp_path)


def test_an_unreadable_file(tmp_path: Path) -> None:
    (tmp_path / "shardwright.toml").symlink_to("shardwright.toml")
    assert "cannot be read: Too many levels of symbolic links; expected a readable file" in only_problem(tmp_path)


def test_a_file_without_permission(tmp_path: Path) -> None:
    file = tmp_path / "shardwright.toml"
    file.write_text("")
    if os.geteuid() == 0:  # root may read anything: become somebody else for a moment
        os.seteuid(65534)
        try:
            problem = only_problem(file)
        finally:
            os.seteuid(0)
    else:
        file.chmod(0)
        problem = only_problem(file)
    assert problem == f"{file}: cannot be read: Permission denied; expected a readable file"


def test_paths_that_no_file_can_have(tmp_path: Path) -> None:
    assert "cannot be read" in only_problem("a\0b")
    assert "cannot be read: File name too long" in only_problem("x" * 5000)


def test_a_huge_file_is_refused(tmp_path: Path) -> None:
    with (tmp_path / "shardwright.toml").open("wb") as file:
        file.truncate(2**20 + 1)
    assert "1048577 bytes are too many; expected at most 1048576" in only_problem(tmp_path)


def test_not_utf8_names_byte_and_line(write: Any, problems: Any) -> None:
    write(b'[app]\nname = "caf\xe9"\n')
    assert problems() == ("shardwright.toml:2: not UTF-8: byte 0xe9 at offset 17; expected text in UTF-8",)


@pytest.mark.parametrize(
    ("text", "place", "what"),
    [
        ('[app]\nname = "a"\nroot = \n', 3, "malformed TOML: Invalid value at column 8"),
        ('[app]\nname = "a"\n[app]\n', 3, "malformed TOML: Cannot declare ('app',) twice at column"),
        ('[app]\nname = "a"\nname = "b"\n', 3, "malformed TOML: Cannot overwrite a value at column"),
        ("[app\n", 1, "malformed TOML: Expected ']' at the end of a table declaration at column 5"),
        ('[app]\nname = """', 2, "malformed TOML: "),
        ("app.name = 'a'\nx = " + "[" * 5000 + "]" * 5000, 0, "nested too deeply"),
        ("x = " + "9" * 5000, 0, "malformed TOML: Exceeds the limit"),
        (".".join("a" * 1000) + " = 1", 0, "nested too deeply"),
        (".".join(["'='"] * 200_000) + " = 1", 0, "nested too deeply"),  # the square of that takes minutes
        ("[" + ". ".join("a" * 101) + "]", 0, "nested too deeply"),
        ("x = " + "{ a = " * 120 + "1" + "}" * 120, 0, "nested too deeply"),
        ('x = "' + '\\"' * 100_000 + "." * 100, 1, "malformed TOML: Unterminated string"),
    ],
)
def test_malformed_toml_names_the_line(text: str, place: int, what: str, write: Any, problems: Any) -> None:
    write(text)
    (problem,) = problems()
    assert problem.startswith(f"shardwright.toml:{place}: {what}" if place else f"shardwright.toml: {what}")


def test_dots_that_are_no_depth_are_as_many_as_they_are(write: Any, problems: Any) -> None:
    write("# " + "." * 500 + '\n[app]\nname = "' + "." * 300 + '"\nx = [' + "1.5," * 300 + "]\n")
    assert not any("nested" in problem for problem in problems())


def test_an_overlay_that_cannot_be_read_is_reported_beside_the_problems_of_the_manifest(
    write: Any, problems: Any
) -> None:
    write('[app]\nname = "a"\nmian = "x:y"\n')
    write("[app\n", "eu")
    first, second, *others = problems(profile="eu")
    assert first.startswith("shardwright.toml:1: components: there is nothing to run")
    assert second.startswith("shardwright.toml:3: app.mian: unknown key")
    assert [other.partition(":")[0] for other in others] == ["shardwright.eu.toml"]


def test_a_missing_overlay_suggests_the_one_that_is_there(write: Any, problems: Any, example: str) -> None:
    write(example)
    write("", "staging")
    assert problems(profile="stagin") == (
        "shardwright.stagin.toml: no such file; expected the overlay of the profile that was asked for; "
        "did you mean 'shardwright.staging.toml'?",
    )


@pytest.mark.parametrize("profile", ["", "../eu", "a/b", "a.b"])
def test_a_profile_is_a_plain_name(profile: str, write: Any, problems: Any, example: str) -> None:
    write(example)
    (problem,) = problems(profile=profile)
    assert "is no name; expected letters, digits" in problem


def test_the_error_says_how_many_and_survives_pickling(write: Any, tmp_path: Path) -> None:
    write('[app]\nnam = "a"\nmain = "x"\n')
    with pytest.raises(ManifestError) as caught:
        load(tmp_path)
    error = pickle.loads(pickle.dumps(caught.value))
    assert error.message == f"the manifest {tmp_path}/shardwright.toml cannot be used: 3 problems"
    assert error.problems == caught.value.problems
    assert str(error).splitlines()[1:] == list(error.problems)
