"""Builds the one C extension; everything else is declared in pyproject.toml.

The extension is optional: without a compiler or Python's headers the installation succeeds and shared-memory
channels are off (``shardwright doctor`` says so). ``SHARDWRIGHT_REQUIRE_EXTENSION=1`` makes its failure an error:
for release builds, which must not lose it silently.
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

_RING = "src/shardwright/transport/shm"


class BuildOptionalExtension(build_ext):
    """build_ext that says plainly what a missing extension means."""

    def run(self) -> None:
        super().run()
        for extension in self.extensions:
            if not os.path.exists(self.get_ext_fullpath(extension.name)):
                print(
                    f"NOTE: {extension.name} was not built: shared-memory channels are off, sockets serve. To have "
                    "them, install a C compiler and Python's headers (Debian: gcc python3-dev) and reinstall.",
                    file=sys.stderr,
                )


def extensions() -> list[Extension]:
    if not sys.platform.startswith("linux"):
        return []
    return [
        Extension(
            "shardwright.transport.shm._ring",
            sources=[f"{_RING}/{name}.c" for name in ("_ring", "_bell", "_end", "_floor", "_memory", "_watch")],
            depends=[f"{_RING}/{name}.h" for name in ("_area", "_bell", "_end", "_floor", "_memory")],
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
    ]


setup(
    ext_modules=extensions(),
    cmdclass={"build_ext": BuildOptionalExtension},
    options={"bdist_wheel": {"py_limited_api": "cp311"}} if STABLE_ABI else {},
)
