"""numpy while another thread is still importing it: a module that is half there is neither used nor complained of."""

from __future__ import annotations

import subprocess
import sys

IMPORTING = """
import fractions, importlib.abc, sys, threading
from shardwright.transport.codec import TaggedCodec

begun, go_on = threading.Event(), threading.Event()

class Pause(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        if name == "numpy._core":
            begun.set()
            assert go_on.wait(30)

codec = TaggedCodec()
array = bytes.fromhex(sys.argv[1])
sys.meta_path.insert(0, Pause())
importing = threading.Thread(target=__import__, args=("numpy",))
importing.start()
assert begun.wait(30)
assert "numpy" in sys.modules and not hasattr(sys.modules["numpy"], "ndarray"), "half there"
sent = [1.5, {"a": (2, 3)}, fractions.Fraction(1, 3)]
payload, buffers, _ = codec.encode_request(sent)
back, _ = codec.decode_request(payload, buffers)
assert back == sent, back
found = []
reading = threading.Thread(target=lambda: found.append(codec.decode_request(array)[0]))
reading.start()
reading.join(0.2)
assert not found, "it waits for the import"
go_on.set()
reading.join(30)
importing.join(30)
print(type(found[0]).__name__, found[0].tolist())
"""


def test_values_cross_while_numpy_is_being_imported() -> None:
    import numpy as np

    from shardwright.transport.codec import TaggedCodec

    sent = bytes(TaggedCodec().encode_request(np.arange(3))[0]).hex()
    done = subprocess.run([sys.executable, "-c", IMPORTING, sent], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stdout.strip()) == (0, "ndarray [0, 1, 2]"), done.stderr
