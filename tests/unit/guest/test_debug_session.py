"""What a terminal is told, and when."""

from __future__ import annotations

import subprocess
import sys

import pytest

# In a process of its own: watching takes the trace functions of all threads away from whoever else has them.
PROGRAM = """
import io, sys, threading
from shardwright.guest._debug_session import Attachment

class Terminal(io.StringIO):
    def write(self, text):
        traced.append(threading.gettrace())
        return super().write(text)

traced = []
terminal = Terminal()
before = threading.gettrace()
attached = Attachment("desk-1", "/nowhere", terminal, 1, lambda: None)
if {impatient}:
    attached.break_in()
attached.wait(now=False, entry=True, saying="attached\\n")
assert terminal.getvalue() == "attached\\n"
assert traced == [attached.watch], traced
assert (attached._now, attached._entry) == ({impatient}, not {impatient})
attached.detach(lost=True)
assert attached.over and threading.gettrace() == before
print("done")
"""


@pytest.mark.parametrize("impatient", [False, True])
def test_who_reads_that_it_is_attached_is(impatient: bool) -> None:
    """The program stops from the moment on at which the terminal says so, and Ctrl-C that came before that counts."""
    program = PROGRAM.format(impatient=impatient)
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout) == (0, "done\n"), done.stderr
