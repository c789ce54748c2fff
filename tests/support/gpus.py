"""NVIDIA's management library as our own stand-in: built once, loaded in place of the real one where a process is told so."""

from __future__ import annotations

import functools
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

TWO = "A100:40960:2:3b:7=3/20096/1,1/4864/7;T4:15360:5:af"  # a divided one, and one that cannot be


@functools.cache
def _built() -> Path:
    compiler = shutil.which(os.environ.get("CC", "cc")) or shutil.which("gcc")
    if compiler is None:
        pytest.skip("no C compiler")
    folder = Path(tempfile.mkdtemp(prefix="swt-nvml-"))
    source = Path(__file__).parent / "native" / "nvml_standin.c"
    library = folder / "libnvidia-ml.so.1"
    subprocess.run(
        [compiler, "-Wall", "-Wextra", "-Werror", "-shared", "-fPIC", "-o", str(library), str(source)], check=True
    )
    return folder


def gpu_machine(devices: str = TWO) -> dict[str, str]:
    """The environment of a process that finds these devices, in the stand-in's words."""
    return {"LD_LIBRARY_PATH": str(_built()), "SWT_NVML": devices}
