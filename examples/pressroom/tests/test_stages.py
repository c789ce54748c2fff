"""The stages of the press, one by one."""

from __future__ import annotations

from unittest import mock

import pytest
from pressroom.index import Index, tokenise
from pressroom.models import Document, Format, Page

from pressroom import highlight, index, markdown, thumbs

TEXT = "# Ships\n\nA *ship* sails.\n\n```python\nprint('ship')\n```\n"


@pytest.fixture
def document() -> Document:
    return Document("ships", "Ships", Format.MARKDOWN, TEXT)


def test_markdown_becomes_a_page(document: Document) -> None:
    page = markdown.render(document)
    assert isinstance(page, Page)
    assert (page.headings, page.code_blocks) == (("Ships",), 1)
    assert "<em>ship</em>" in page.body


def test_code_is_coloured_by_highlight(document: Document, monkeypatch: pytest.MonkeyPatch) -> None:
    seen = []

    def colour(source: str, language: str = "") -> str:
        seen.append((source, language))
        return "<pre>coloured</pre>"

    monkeypatch.setattr(markdown, "highlight", colour)
    assert "<pre>coloured</pre>" in markdown.render(document).body
    assert seen == [("print('ship')\n", "python")]


def test_plain_text_is_not_parsed() -> None:
    with mock.patch.object(markdown, "_headings") as headings:
        page = markdown.render(Document("notes", "Notes", Format.RESTRUCTURED, "Notes\n=====\n\ntext\n"))
    headings.assert_not_called()
    assert page.headings == ("Notes",)


def test_unknown_languages_are_shown_as_they_are() -> None:
    assert "&lt;x&gt;" in highlight.highlight("<x>", "no such language")
    assert f".{highlight.CSS_CLASS}" in highlight.stylesheet()


def test_the_longest_guess_can_be_shortened(monkeypatch: pytest.MonkeyPatch) -> None:
    source = "#!/usr/bin/env python\nimport os\n"
    guessed = highlight.highlight(source)
    monkeypatch.setattr(highlight, "LONGEST_GUESS", 5)
    assert highlight.highlight(source) != guessed


def test_words_are_weighed() -> None:
    weighed = Index(postings_per_word=1)
    assert weighed.add_document("a", "Ships", "ships and the sea") == 2 + index.TITLE_WEIGHT
    weighed.add_document("b", "Cars", "cars, not ships")
    assert len(weighed) == 2
    found = weighed.finish()
    assert [slug for slug, _ in found["ships"]] == ["a"]
    with pytest.raises(RuntimeError, match="finished"):
        weighed.finish()


def test_stop_words_are_no_words(monkeypatch: pytest.MonkeyPatch) -> None:
    assert tokenise("The ships and you") == ["ships"]
    monkeypatch.setattr(index, "STOP_WORDS", frozenset({"ships"}))
    assert tokenise("The ships") == ["the"]


def test_an_index_is_found_out_twice() -> None:
    weighed = Index()
    weighed.add_document("a", "A", "ships")
    with pytest.raises(ValueError, match="'a' is in the index already"):
        weighed.add_document("a", "A", "ships")


def test_covers_come_in_three_sizes(document: Document) -> None:
    covers = thumbs.covers(document)
    assert [(cover.width, cover.height) for cover in covers] == list(thumbs.SIZES)
    assert covers == thumbs.covers(document)
    assert covers[0].file_name == "ships-480x270.png"


def test_letters_have_shares() -> None:
    shares = thumbs.letter_shares("aab")
    assert shares[:3] == (1.0, 0.5, 0.0)
    assert thumbs.letter_shares("") == (0.0,) * 26
