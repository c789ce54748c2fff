"""Types of modules that few shards import: the codec brings them when the first such value comes or goes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

PROGRAM = """
import sys
from shardwright.transport.codec import TaggedCodec, register
LATE = ("fractions", "ipaddress", "pathlib", "zoneinfo")
assert not [name for name in LATE if name in sys.modules], "what it costs was not paid"
codec = TaggedCodec()
def there_and_back(value):
    payload, buffers, _ = codec.encode_request(value, describe=lambda steps: "")
    return codec.decode_request(payload, buffers)[0]
assert there_and_back([1, "a", 2.5]) == [1, "a", 2.5]
assert not [name for name in LATE if name in sys.modules]
"""


def run(more: str, folder: str | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + more], capture_output=True, text=True, check=False, timeout=60, cwd=folder
    )
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_such_values_cross_all_the_same() -> None:
    values = (
        "(Fraction(2, 3), ip_address('::1'), PurePosixPath('/a'), Path('/b'), Fraction, Path, PurePath,"
        " datetime(2026, 1, 2, tzinfo=ZoneInfo('UTC')))"
    )
    imports = (
        "from fractions import Fraction\nfrom ipaddress import ip_address\nfrom pathlib import *\n"
        "from zoneinfo import ZoneInfo\nfrom datetime import datetime\n"
    )
    assert run(
        f"{imports}value = {values}\nassert there_and_back(value) == value\nprint(there_and_back(value)[-1])"
    ) == ("2026-01-02 00:00:00+00:00\n")


def test_a_peer_may_name_them_before_anybody_has_imported_them() -> None:
    """As bytes of another process: here nobody has such a value until it is read."""
    made = run(
        "from fractions import Fraction\nfrom pathlib import Path\n"
        "print(codec.encode_request((Fraction(2, 3), Path), describe=lambda steps: '')[0].hex())"
    ).strip()
    assert run(f"print(codec.decode_request(bytes.fromhex('{made}'), ())[0])") == (
        f"({'Fraction(2, 3)'}, <class '{'pathlib._local.Path' if sys.version_info >= (3, 13) else 'pathlib.Path'}'>)\n"
    )


def test_their_names_are_taken_before_they_are_there() -> None:
    register = (
        "class Mine: ...\ntry:\n    register(Mine, 'fraction', lambda v: (), Mine)\n"
        "except ValueError as error:\n    print(error)"
    )
    assert "is registered already" in run(register)


def test_an_application_may_have_a_module_of_such_a_name(tmp_path: Path) -> None:
    (tmp_path / "fractions.py").write_text("class Share:\n    pass\n")
    told = run(
        "from fractions import Share\nfrom pathlib import Path\n"
        "try:\n    there_and_back(Share())\nexcept Exception as error:\n    print(type(error).__name__)\n"
        "print(there_and_back(Path('/b')))",
        str(tmp_path),
    )
    assert told == "CannotCross\n/b\n"
