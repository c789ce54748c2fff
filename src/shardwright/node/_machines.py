"""Virtual machines, from the node's side: their backend, and which files a machine is made of."""

from __future__ import annotations

import os
import sys
from pathlib import Path

from shardwright.errors import SandboxError
from shardwright.node._export import Files, files_beneath, files_for, with_links
from shardwright.node._keeper_client import keeper_environment, python_command
from shardwright.sandbox._linux._cgroup import ControlGroups
from shardwright.sandbox.microvm import MicrovmBackend, Runner


def machine_backend_of(name: str, groups: ControlGroups | None = None) -> MicrovmBackend:
    """The backend of a name that ``_machine_names.machine_backend`` made. Raises SandboxError for any other."""
    kind, monitor, kernel, store = [*name.split(":", 3), "", "", ""][:4]
    if kind != "microvm" or not os.path.isabs(kernel) or not os.path.isabs(store):
        raise SandboxError(f"there is no backend {name!r}")
    runner = Runner(tuple(python_command("shardwright.node._machine_runner")), keeper_environment())
    return MicrovmBackend(runner, Path(kernel), Path(store), monitor=monitor, name=name, groups=groups)


def machine_files(read: tuple[str, ...]) -> tuple[Files, Files]:
    """What every machine of this environment has, and what this one has beside it: ``read``, files and folders."""
    code: Files = {}
    for path in read:
        code.update({str(each): each for each in files_beneath(Path(path))})
    base, _, _ = files_for(code)
    with_links(sys.executable, base)
    for folder in (Path(sys.executable).parent, *Path(sys.executable).parents[1:2]):
        if (settings := folder / "pyvenv.cfg").exists():
            base[str(settings)] = settings
    return base, {path: content for path, content in code.items() if path not in base}
