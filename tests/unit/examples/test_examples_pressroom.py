"""Pressroom as an ordinary program."""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
from importlib.metadata import distributions
from pathlib import Path
from types import ModuleType

import pytest
from PIL import Image

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "pressroom"

GUIDE = """# Guide to *shelves*

Some words about shelves, <script>alert(1)</script> and books.

## Use

| book | shelf |
|------|-------|
| one  | two   |

```python
def place(book): return "shelf"
```
"""


@pytest.fixture
def texts(tmp_path: Path) -> Path:
    folder = tmp_path / "texts"
    (folder / "deep").mkdir(parents=True)
    (folder / "guide.md").write_text(GUIDE)
    (folder / "deep" / "guide.md").write_text("# Second\n\nbooks books books\n")
    (folder / "ignored.txt").write_text("not Markdown")
    return folder


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in sorted(folder.rglob("*")) if path.is_file()}


def test_folder_becomes_a_site(
    pressroom: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "out"
    assert pressroom.cli.main(["--source", str(texts), "--out", str(out)]) == 0
    files = tree(out)
    lines = "".join(f"{hashlib.sha256(content).hexdigest()}  {name}\n" for name, content in sorted(files.items()))
    digest = hashlib.sha256(lines.encode()).hexdigest()
    size = sum(map(len, files.values()))
    assert capsys.readouterr().out == f"2 documents, {len(files)} files, {size} bytes, sha256 {digest}\n"

    page = files["pages/guide.html"].decode()
    assert "<table>" in page and '<span class="k">def</span>' in page
    assert "<script>" not in page and "&lt;script&gt;" in page
    listed = json.loads(files["manifest.json"])["files"]
    assert listed == {n: hashlib.sha256(c).hexdigest() for n, c in files.items() if n != "manifest.json"}
    search = json.loads(files["index.json"])
    assert search["documents"] == {"deep-guide": "Second", "guide": "Guide to *shelves*"}
    assert [slug for slug, _ in search["words"]["books"]] == ["deep-guide", "guide"]


def test_same_bytes_from_another_process(pressroom: ModuleType, tmp_path: Path) -> None:
    assert pressroom.cli.main(["--limit", "6", "--out", str(tmp_path / "here")]) == 0
    command = [sys.executable, "-m", "pressroom", "--limit", "6", "--out", str(tmp_path / "there")]
    environment = {"PYTHONHASHSEED": "7", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(command, cwd=EXAMPLE, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert tree(tmp_path / "here") == tree(tmp_path / "there")


def test_this_machine_holds_at_least_a_hundred_texts(pressroom: ModuleType) -> None:
    documents = pressroom.sources.read_installed(100)
    assert len({document.slug for document in documents}) == 100
    assert documents == pressroom.sources.read_installed(100)
    assert all(len(document.text) >= 200 for document in documents)
    installed = {
        (distribution.name or "").lower().replace("_", "-").replace(".", "-") for distribution in distributions()
    }
    assert {document.slug for document in documents[:10]} <= installed  # long descriptions come first


def test_second_run_replaces_its_own_files_only(pressroom: ModuleType, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    run = ["--source", str(texts), "--out", str(out)]
    assert pressroom.cli.main(run) == 0
    (out / "mine.txt").write_text("keep me")
    (texts / "guide.md").unlink()
    assert pressroom.cli.main(run) == 0
    assert not (out / "pages" / "guide.html").exists()
    assert (out / "mine.txt").read_text() == "keep me"


def test_a_manifest_cannot_make_it_delete_elsewhere(pressroom: ModuleType, texts: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (tmp_path / "precious").write_text("x")
    (out / "manifest.json").write_text(json.dumps({"files": {"../precious": ""}}))
    assert pressroom.cli.main(["--source", str(texts), "--out", str(out)]) == 0
    assert (tmp_path / "precious").exists()


def test_bad_input_is_one_line_and_status_2(
    pressroom: ModuleType, texts: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "empty").mkdir()
    (tmp_path / "latin").mkdir()
    (tmp_path / "latin" / "a.md").write_bytes(b"caf\xe9")
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "manifest.json").write_text("[]")
    good = str(texts)
    for source, out, told in [
        (str(tmp_path / "nowhere"), "out", "no such folder"),
        (str(tmp_path / "empty"), "out", "no .md files"),
        (str(tmp_path / "latin"), "out", "not UTF-8 text (byte 3)"),
        (good, "texts/guide.md", "is a file"),
        (good, "foreign", "was not written by pressroom"),
    ]:
        assert pressroom.cli.main(["--source", source, "--out", str(tmp_path / out)]) == 2
        said = capsys.readouterr()
        assert said.out == "" and said.err.count("\n") == 1 and told in said.err
        assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("limit", ["0", "-1", "many"])
def test_limit_must_be_a_positive_number(pressroom: ModuleType, limit: str) -> None:
    with pytest.raises(SystemExit) as stopped:
        pressroom.cli.main(["--limit", limit])
    assert stopped.value.code == 2


def test_covers_differ_by_document_and_shrink(pressroom: ModuleType) -> None:
    models = pressroom.models
    one = models.Document("one", "One", models.Format.PLAIN, "words " * 50)
    other = models.Document("other", "Other", models.Format.PLAIN, "words " * 50)
    covers = pressroom.thumbs.covers(one)
    assert covers == pressroom.thumbs.covers(one)
    assert covers[0].png != pressroom.thumbs.covers(other)[0].png
    sizes = [Image.open(io.BytesIO(cover.png)).size for cover in covers]
    assert sizes == list(pressroom.thumbs.SIZES) == [(cover.width, cover.height) for cover in covers]


def test_restructured_text_is_shown_as_source(pressroom: ModuleType) -> None:
    models = pressroom.models
    page = pressroom.markdown.render(models.Document("r", "R", models.Format.RESTRUCTURED, "Title\n=====\n\n*text*\n"))
    assert page.headings == ("Title",)
    assert page.body.startswith('<pre class="code">') and '<span class="gh">Title</span>' in page.body


def test_unknown_language_is_shown_as_it_is(pressroom: ModuleType) -> None:
    assert pressroom.highlight.highlight("a < b", "no-such-language").strip() == (
        '<pre class="code"><code>a &lt; b\n</code></pre>'
    )


def test_index_ranks_rare_words_and_closes(pressroom: ModuleType) -> None:
    index = pressroom.index.Index(postings_per_word=1)
    assert index.add_document("a", "Alpha", "common rare rare the") == 8
    index.add_document("b", "Beta", "common common")
    with pytest.raises(ValueError, match="in the index already"):
        index.add_document("a", "Alpha", "")
    assert len(index) == 2
    words = index.finish()
    assert list(words) == sorted(words) and "the" not in words
    assert [slug for slug, _ in words["rare"]] == ["a"]
    assert [slug for slug, _ in words["common"]] == ["b"]
    with pytest.raises(RuntimeError):
        index.finish()
    with pytest.raises(RuntimeError):
        index.add_document("c", "C", "late")
