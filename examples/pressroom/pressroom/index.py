"""The search index: for each word the documents that it is telling for, best first."""

from __future__ import annotations

import math
import re
from collections import Counter

# fmt: off
STOP_WORDS = frozenset({
    "about", "above", "after", "also", "and", "any", "are", "been", "but", "can", "could", "did", "does", "each",
    "for", "from", "had", "has", "have", "how", "into", "its", "may", "more", "most", "must", "not", "now", "only",
    "other", "our", "out", "over", "same", "should", "some", "such", "than", "that", "the", "their", "them", "then",
    "there", "these", "they", "this", "those", "through", "too", "under", "use", "used", "using", "very", "was",
    "were", "what", "when", "where", "which", "while", "who", "will", "with", "would", "you", "your",
})
# fmt: on
TITLE_WEIGHT = 5  # a word of the title counts as that many words of the text

_WORD = re.compile(r"[a-z][a-z0-9_]{2,29}")


def tokenise(text: str) -> list[str]:
    """The words of a text worth searching for, lower case, in their order."""
    return [word for word in _WORD.findall(text.lower()) if word not in STOP_WORDS]


class Index:
    """Collects documents, then weighs their words.

    ``add_document`` any number of times, ``finish`` once; after that, both raise RuntimeError.
    """

    def __init__(self, postings_per_word: int = 10) -> None:
        self.postings_per_word = postings_per_word
        self._counts: dict[str, Counter[str]] = {}
        self._lengths: dict[str, int] = {}
        self._finished = False

    def __len__(self) -> int:
        return len(self._lengths)

    def add_document(self, slug: str, title: str, text: str) -> int:
        """Count the words of one document; answers how many there are. Raises ValueError for a slug seen before."""
        self._still_open()
        if slug in self._lengths:
            raise ValueError(f"document {slug!r} is in the index already")
        words = tokenise(text) + tokenise(title) * TITLE_WEIGHT
        self._lengths[slug] = len(words)
        for word, count in Counter(words).items():
            self._counts.setdefault(word, Counter())[slug] = count
        return len(words)

    def finish(self) -> dict[str, list[tuple[str, float]]]:
        """Word to (slug, score) pairs, best first, words in alphabetical order.

        The score is term frequency times inverse document frequency, rounded so that it reads the same everywhere.
        """
        self._still_open()
        self._finished = True
        total = len(self._lengths)
        index: dict[str, list[tuple[str, float]]] = {}
        for word in sorted(self._counts):
            counts = self._counts[word]
            rarity = math.log((1 + total) / (1 + len(counts))) + 1
            scored = [(slug, round(count / self._lengths[slug] * rarity, 5)) for slug, count in counts.items()]
            scored.sort(key=lambda pair: (-pair[1], pair[0]))
            index[word] = scored[: self.postings_per_word]
        return index

    def _still_open(self) -> None:
        if self._finished:
            raise RuntimeError("the index is finished")
