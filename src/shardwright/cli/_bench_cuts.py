"""``bench cuts``: a program of one component, cut by what a profile of it showed, beside itself uncut and pools by hand.

The program is the press room with nothing said about its parts. All cases are whole commands, from nothing to their exit,
run in turn, round after round. The spin ceiling is what two processes that share nothing make of this machine's cores: what
the best cut in two could reach at that moment.
"""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
import textwrap
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from statistics import median
from typing import Any

from shardwright.cli._calibrate import at_once
from shardwright.errors import NodeError
from shardwright.node import cores

POOLS = (1, 4, 8)
_MANIFEST = '[app]\nname = "pressroom-one"\nmain = "pressroom.cli:main"\n[components.press]\ncode = "pressroom"\n'
_POOL = """
    import sys
    from concurrent.futures import ProcessPoolExecutor
    from pressroom import cli, highlight
    from pressroom.index import Index
    from pressroom.markdown import render
    from pressroom.site import Site
    from pressroom.thumbs import covers

    def both(document):
        return render(document), covers(document)

    def press(documents, out):
        site, index = Site(out), Index()
        with ProcessPoolExecutor(WORKERS) as pool:
            for document, (page, images) in zip(documents, pool.map(both, documents, chunksize=CHUNK)):
                site.add(page, images)
                index.add_document(document.slug, document.title, document.text)
        return site.finish(index.finish(), highlight.stylesheet())

    if __name__ == "__main__":
        cli.press = press
        sys.exit(cli.main())
"""


def measure(
    folder: Path, limit: int, source: str, rounds: int, environment: Mapping[str, str], say: Callable[[str], None]
) -> list[dict[str, Any]]:
    """A record for each case. ``folder`` holds the package ``pressroom``."""
    if not (folder / "pressroom" / "__init__.py").is_file():
        raise NodeError(
            f"{folder} does not hold the press room",
            remedy="run it in a clone, or name the folder of examples/pressroom",
        )
    with tempfile.TemporaryDirectory(prefix="shardwright-bench-cuts-") as place:
        app = Path(place, "app")
        shutil.copytree(folder / "pressroom", app / "pressroom", ignore=shutil.ignore_patterns("__pycache__"))
        (app / "shardwright.toml").write_text(_MANIFEST, encoding="utf-8")
        own = {
            **environment,
            "PYTHONPATH": os.pathsep.join(filter(None, (str(app), environment.get("PYTHONPATH", "")))),
        }
        arguments = ["--limit", str(limit), "--source", source, "--out"]
        command = [sys.executable, "-m", "shardwright"]
        say("profiling")
        _run([*command, "plan", str(app), "--profile", "--", *arguments, str(app / "out")], own, app)
        cases: dict[str, Sequence[str]] = {
            "uncut": (sys.executable, "-m", "pressroom"),
            "cut": (*command, "run", str(app), "--quiet", "--"),
        }
        for chunk in POOLS:
            script = app / f"pool{chunk}.py"
            text = textwrap.dedent(_POOL).replace("CHUNK", str(chunk)).replace("WORKERS", str(cores()))
            script.write_text(text, encoding="utf-8")
            cases[f"pool of {cores()}, chunks of {chunk}"] = (sys.executable, str(script))
        times: dict[str, list[float]] = {name: [] for name in cases}
        ceilings: list[float] = []
        said: set[str] = set()
        for number in range(rounds):
            ceilings.append(at_once(cores(), loops=8_000_000, rounds=1))
            for name in [*cases][number % len(cases) :] + [*cases][: number % len(cases)]:
                begun_s = time.perf_counter()
                said.add(_run([*cases[name], *arguments, str(app / "out")], own, app).strip())
                times[name].append(time.perf_counter() - begun_s)
            shown = ", ".join(f"{name} {taken[-1]:.2f}" for name, taken in times.items())
            say(f"round {number + 1}: {shown} s, ceiling {ceilings[-1]:.2f}")
        if len(said) != 1:
            raise NodeError(f"the cases wrote different sites: {sorted(said)}")
    best_s = min(median(taken) for name, taken in times.items() if name.startswith("pool"))
    uncut_s = median(times["uncut"])
    return [
        {
            "case": name,
            "rounds": rounds,
            "documents": limit,
            "median_s": round(median(taken), 3),
            "min_s": round(min(taken), 3),
            "throughput_to_uncut": round(uncut_s / median(taken), 3),
            "throughput_to_best_pool": round(best_s / median(taken), 3),
            "paired_to_uncut": round(median(a / b for a, b in zip(times["uncut"], taken, strict=True)), 3),
            "spin_ceiling": round(median(ceilings), 3),
            "spin_ceiling_min": round(min(ceilings), 3),
        }
        for name, taken in times.items()
    ]


def _run(command: Sequence[str], environment: Mapping[str, str], folder: Path) -> str:
    done = subprocess.run(command, env=dict(environment), cwd=folder, capture_output=True, text=True, check=False)
    if done.returncode:
        raise NodeError(f"{' '.join(command[:4])} ended with status {done.returncode}: {done.stderr[-600:]}")
    return done.stdout
