"""Builds the C extensions; everything else is declared in pyproject.toml.

They are optional: without a compiler or Python's headers the installation succeeds, shared-memory channels are off
(``shardwright doctor`` says so), and values are written and read in Python. ``SHARDWRIGHT_REQUIRE_EXTENSION=1`` makes a
failure an error: for release builds, which must not lose them silently.
"""

from __future__ import annotations

import os
import sys
import sysconfig

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

REQUIRED = os.environ.get("SHARDWRIGHT_REQUIRE_EXTENSION", "") not in ("", "0")
# The free-threaded build of Python 3.13 has no stable ABI.
STABLE_ABI = not sysconfig.get_config_var("Py_GIL_DISABLED")
WITHOUT = {
    "_ring": "shared-memory channels are off, sockets serve",
    "_native": "values are written and read in Python, some ten times slower",
}

_RING = "src/shardwright/transport/shm"
_TAGS = "src/shardwright/transport/codec/_tags.h"


class BuildOptionalExtension(build_ext):
    """build_ext that says plainly what a missing extension means."""

    def run(self) -> None:
        super().run()
        for extension in self.extensions:
            if not os.path.exists(self.get_ext_fullpath(extension.name)):
                print(
                    f"NOTE: {extension.name} was not built: {WITHOUT[extension.name.rpartition('.')[2]]}. To have it, "
                    "install a C compiler and Python's headers (Debian: gcc python3-dev) and reinstall.",
                    file=sys.stderr,
                )


def extension(name: str, *sources: str, depends: tuple[str, ...] = ()) -> Extension:
    return Extension(
        name,
        sources=list(sources),
        depends=list(depends),
        define_macros=[("Py_LIMITED_API", "0x030B0000")] if STABLE_ABI else [("SHARDWRIGHT_FULL_ABI", "1")],
        py_limited_api=STABLE_ABI,
        extra_compile_args=[
            "-std=c11",
            "-O2",
            "-Wall",
            "-Wextra",
            "-fvisibility=hidden",
            "-fstack-protector-strong",
        ],
        extra_link_args=["-Wl,-z,relro,-z,now"],
        optional=not REQUIRED,
    )


def extensions() -> list[Extension]:
    if not sys.platform.startswith("linux"):
        return []
    codec = "src/shardwright/transport/codec/_native"
    return [
        extension(
            "shardwright.transport.shm._ring",
            *(
                f"{_RING}/{name}.c"
                for name in ("_ring", "_calls", "_bell", "_end", "_flat", "_floor", "_memory", "_watch")
            ),
            depends=(
                *(f"{_RING}/{name}.h" for name in ("_area", "_bell", "_end", "_flat", "_floor", "_memory", "_ring")),
                _TAGS,
            ),
        ),
        extension(
            "shardwright.transport.codec._native",
            *(f"{codec}{part}.c" for part in ("", "_envelope", "_memo", "_read", "_write")),
            depends=(f"{codec}.h", _TAGS),
        ),
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildOptionalExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)
