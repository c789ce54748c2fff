"""The whole press."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pressroom.models import Document, Format, PressError, Summary

from pressroom import cli, sources

TEXTS = {"ships.md": "# Ships\n\nShips sail.\n", "sea/waves.md": "# Waves\n\n```sh\nls\n```\n"}


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    for name, text in TEXTS.items():
        path = tmp_path / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return tmp_path / "texts"


def test_a_folder_is_printed(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    out = tmp_path / "site"
    assert cli.main(["--source", str(folder), "--out", str(out)]) == 0
    assert capsys.readouterr().out.startswith("2 documents, ")
    assert sorted(path.name for path in (out / "pages").iterdir()) == ["sea-waves.html", "ships.html"]
    assert set(json.loads((out / "index.json").read_text())["documents"]) == {"ships", "sea-waves"}


def test_the_same_texts_give_the_same_bytes(folder: Path, tmp_path: Path) -> None:
    texts = sources.read_folder(folder, 10)
    first = cli.press(texts, tmp_path / "first")
    assert isinstance(first, Summary)
    assert cli.press(texts, tmp_path / "second") == first


def test_a_missing_folder(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--source", str(tmp_path / "nowhere"), "--out", str(tmp_path / "site")]) == 2
    assert "no such folder" in capsys.readouterr().err


def test_the_output_must_be_a_folder(folder: Path, tmp_path: Path) -> None:
    (tmp_path / "site").write_text("a file")
    with pytest.raises(PressError, match="is a file"):
        cli.press([Document("a", "A", Format.PLAIN, "a\n")], tmp_path / "site")


def test_arguments_are_checked(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["--limit", "0"])
    assert ended.value.code == 2
    assert "must be at least 1" in capsys.readouterr().err


def test_installed_texts_are_read_when_nothing_is_said(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    limits = []

    def read_installed(limit: int) -> list[Document]:
        limits.append(limit)
        return [Document("a", "A", Format.PLAIN, "one text\n")]

    monkeypatch.setattr(sources, "read_installed", read_installed)
    assert cli.main(["--limit", "7", "--out", str(tmp_path / "site")]) == 0
    assert limits == [7]
    assert capsys.readouterr().out.startswith("1 documents, ")
