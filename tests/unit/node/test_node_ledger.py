"""Whatever a Composer can be asked, its Ledger has brought the books up to date before."""

from __future__ import annotations

from shardwright.composition import Composer
from shardwright.node._ledger import Ledger

# Why these need not look: what they do goes through another that does, or concerns no shard that may be set apart.
ASIDE = {
    "acquire": "composes",
    "start_failed": "is an exit",
    "cancel": "gives back by release_request what it holds, and what was set apart holds nothing",
    "at_hand": "is asked by who sets apart, after settling",
    "would_take": "is asked by who decides, after settling",
    "check": "compares the books with themselves",
    "started": "a shard that was starting cannot have been set apart",
    "launch": "adds a shard",
    "keep": "concerns a successor",
    "resize": "concerns limits",
    "left": "counts guarantees",
    "reserved": "counts guarantees",
    "most_shards": "is of the manifest",
    "next_deadline_s": "is of the queue",
    "queued": "is of the queue",
}


def public(kind: type) -> set[str]:
    return {name for name, value in vars(kind).items() if callable(value) and not name.startswith("_")}


def test_the_ledger_knows_every_question_and_decision_of_the_composer() -> None:
    asked = public(Composer) | public(Composer.__base__)
    assert asked == public(Ledger) | ASIDE.keys()
    assert not public(Ledger) & ASIDE.keys()
