"""``shardwright export image``: the same bytes each time, layers kept once, and an image that an OCI runtime runs by itself."""

from __future__ import annotations

import hashlib
import json
import os
import shutil
import subprocess
import sys
import tarfile
from pathlib import Path
from typing import Any

import pytest

from containers import need
from shardwright.errors import SandboxError
from shardwright.sandbox.oci import Layout, OciBackend

MANIFEST = """
[app]
name = "boxed"
[components.desk]
code = "desk"
files = { read = ["words.txt"] }
[components.store]
code = "store"
"""


def export(app: Path, component: str, *more: str, limit: str = "unlimited") -> subprocess.CompletedProcess[str]:
    command = [
        "sh",
        "-c",
        f'ulimit -f {limit}; exec "$@"',
        "sh",
        sys.executable,
        "-m",
        "shardwright",
        "export",
        "image",
    ]
    return subprocess.run([*command, str(app), component, *more], capture_output=True, text=True, timeout=100)


def test_an_image_is_made_once_and_runs_alone(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "desk.py").write_text(
        "import json, sqlite3, ssl, msgspec\nimport store\n\ndef sold():\n    return store.left() - 1\n"
    )
    (app / "store.py").write_text("def left():\n    return 3\n")
    (app / "words.txt").write_text("hello")
    layout, archive = tmp_path / "layout", tmp_path / "desk.tar"
    done = export(app, "desk", "-o", str(archive), "--layout", str(layout), "--json")
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    assert {"msgspec", "shardwright"} <= set(told["distributions"]) and "pytest-xdist" not in told["distributions"]
    rootfs = tmp_path / "rootfs"
    config = _unpacked(archive, told, rootfs)
    # the other component shares the first layer, and whatever is the same is written once
    second = json.loads(
        export(app, "store", "-o", str(tmp_path / "store.tar"), "--layout", str(layout), "--json").stdout
    )
    digests = [[layer["digest"] for layer in each["layers"]] for each in (told, second)]
    assert digests[0][0] == digests[1][0] and digests[0][2] != digests[1][2]
    blobs = {path.name for path in (layout / "blobs" / "sha256").iterdir()}
    assert all(hashlib.sha256((layout / "blobs/sha256" / name).read_bytes()).hexdigest() == name for name in blobs)
    need("runc")
    words = "open(desk.__file__[:-7] + 'words.txt').read()"
    said = _run(rootfs, config, f"import desk; print(desk.sold(), {words}, desk.ssl.OPENSSL_VERSION[:7])")
    assert said == "2 hello OpenSSL\n"
    for large in (layout, rootfs):  # pytest keeps folders of the last runs
        shutil.rmtree(large)
    for large in tmp_path.glob("*.tar"):
        large.unlink()


def _unpacked(archive: Path, told: dict[str, Any], rootfs: Path) -> dict[str, Any]:
    """Its configuration; each blob is what its digest, its size and the specification say."""
    with tarfile.open(archive) as tar:

        def blob(descriptor: dict[str, Any]) -> bytes:
            file = tar.extractfile(f"blobs/sha256/{descriptor['digest'].removeprefix('sha256:')}")
            assert file is not None
            content = file.read()
            assert len(content) == descriptor["size"]
            assert f"sha256:{hashlib.sha256(content).hexdigest()}" == descriptor["digest"]
            return content

        layout, index = tar.extractfile("oci-layout"), tar.extractfile("index.json")
        assert layout is not None and index is not None
        assert json.load(layout) == {"imageLayoutVersion": "1.0.0"}
        (entry,) = json.load(index)["manifests"]
        assert entry["digest"] == told["image"]
        manifest = json.loads(blob(entry))
        assert manifest["schemaVersion"] == 2 and len(manifest["layers"]) == 3
        config: dict[str, Any] = json.loads(blob(manifest["config"]))
        assert config["rootfs"]["diff_ids"] == [layer["digest"] for layer in manifest["layers"]]
        for layer in manifest["layers"]:
            blob(layer)
            file = tar.extractfile(f"blobs/sha256/{layer['digest'][7:]}")
            with tarfile.open(fileobj=file) as inner:
                assert all(each.mtime == 0 and not os.path.isabs(each.name) for each in inner)
                inner.extractall(rootfs, **({"filter": "fully_trusted"} if hasattr(tarfile, "data_filter") else {}))
    return config


def _run(rootfs: Path, config: dict[str, Any], code: str) -> str:
    bundle = rootfs.parent
    process = config["config"]
    (bundle / "config.json").write_text(
        json.dumps(
            {
                "ociVersion": "1.0.2",
                "process": {
                    "args": [*process["Entrypoint"], "-c", code], "env": process["Env"], "cwd": "/",
                    "user": {"uid": 65532, "gid": 65532}, "noNewPrivileges": True,
                },
                "root": {"path": "rootfs", "readonly": True},
                "mounts": [{"destination": "/proc", "type": "proc", "source": "proc"}],
                "linux": {"namespaces": [{"type": kind} for kind in ("pid", "mount", "network", "ipc", "uts")]},
            }
        )
    )  # fmt: skip
    command = [
        OciBackend("runc").program,
        "--root",
        str(bundle / "state"),
        "run",
        "-b",
        str(bundle),
        f"image-{os.getpid()}",
    ]
    return subprocess.run(
        command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=60, check=True
    ).stdout


def test_what_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    app = tmp_path / "app"
    app.mkdir()
    (app / "shardwright.toml").write_text(MANIFEST)
    (app / "desk.py").write_text("")
    (app / "store.py").write_text("")
    full = export(app, "store", "-o", str(tmp_path / "store.tar"), "--layout", str(tmp_path / "layout"), limit="2000")
    assert full.returncode == 1 and "cannot be written: File too large" in full.stderr and "make room" in full.stderr
    assert not [path for path in tmp_path.rglob("*") if "writing" in path.name or "store.tar" in path.name]
    unknown = export(app, "nobody")
    assert unknown.returncode != 0 and "choose from desk, store" in unknown.stderr
    missing = export(app, "store", "--with", "no-such-thing", "-o", str(tmp_path / "store.tar"))
    assert missing.returncode != 0 and "no-such-thing is not installed here" in missing.stderr
    (tmp_path / "file").write_text("")
    with pytest.raises(SandboxError, match="cannot be written"):
        Layout(tmp_path / "file")
