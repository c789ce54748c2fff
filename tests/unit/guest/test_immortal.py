"""What forks only read is made immortal where the interpreter can; what is the application's own lives and dies as ever."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from shardwright.guest._immortal import permitted

CHILD = """
import gc, re, sys, weakref
sys.path.insert(0, sys.argv[1])
import own
from shardwright.guest._immortal import make_immortal, permitted
made = make_immortal(sys.argv[1])
assert (made > 10_000) == permitted(), made
IMMORTAL = (1 << 32) - 1
def immortal(one):
    return sys.getrefcount(one) >= IMMORTAL
assert immortal(re.compile) == immortal(re.compile.__code__) == immortal(re.Pattern) == immortal(vars(re)) == permitted()
assert immortal(own.work.__code__) == immortal(own.NAME) == permitted()
for one in (own, own.work, own.Thing, own.THING, own.TABLE, own.PAIR):
    assert not immortal(one), one
ends = []
for name in ("THING", "work", "Thing"):
    weakref.finalize(getattr(own, name), ends.append, name)
    delattr(own, name)
del own.TABLE, own.PAIR, one
gc.collect()
assert sorted(ends) == ["THING", "Thing", "work"], ends
print(made)
"""
OWN = """
NAME = "a name of the application's, seldom seen elsewhere"
TABLE = {"one": object()}

class Thing:
    pass

THING = Thing()
PAIR = (THING, NAME)

def work(x=THING):
    return x
"""


def test_what_could_be_seen_to_end_does_end(tmp_path: Path) -> None:
    (tmp_path / "own.py").write_text(OWN)
    done = subprocess.run([sys.executable, "-c", CHILD, str(tmp_path)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert (int(done.stdout) > 0) == permitted()


def test_it_is_used_where_pep_683_is_there() -> None:
    assert permitted() == ((3, 12) <= sys.version_info[:2] <= (3, 13))
