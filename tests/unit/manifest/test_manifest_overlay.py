"""Overlays by profile, and variables from the environment."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.manifest import load
from shardwright.model.limits import Resources
from shardwright.model.manifest import Scale

BASE = """\
[app]
name = "a"
[components.web]
code = "web"
env = ["TZ", "LANG"]
resources = { cpu = 1, memory = "1GiB" }
scale = { min = 1, max = 4 }
[components.stock]
code = "stock"
[[routes]]
path = "/"
app = "web"
[[routes]]
path = "/stock"
call = "stock.all"
"""


def test_tables_merge_and_everything_else_is_replaced(write: Any) -> None:
    write(BASE)
    folder = write(
        """
        [components.web]
        env = ["HOME"]
        resources.cpu = 2
        [components.web.scale]
        max = 9
        [components.extra]
        code = "extra"
        [[routes]]
        path = "/extra"
        app = "extra"
        """,
        "eu",
    )
    manifest = load(folder, profile="eu")
    web = manifest.component("web")
    assert (web.env, web.scale) == (("HOME",), Scale(1, 9))
    assert web.limits.guarantee == Resources(cpu=2.0, memory_bytes=2**30)
    assert [component.name for component in manifest.components] == ["web", "stock", "extra"]
    assert [route.path for route in manifest.routes] == ["/extra"]
    assert load(folder).component("web").env == ("TZ", "LANG"), "without the profile the overlay has no part"


def test_places_name_the_file_that_had_the_last_word(write: Any, tmp_path: Any) -> None:
    write(BASE)
    write('[components.web]\nenv = ["HOME"]\nresources.cpu = 2', "eu")
    manifest = load(tmp_path, profile="eu")
    assert manifest.place("components.web") == f"{tmp_path}/shardwright.toml:3"
    assert manifest.place("components.web.env[0]") == f"{tmp_path}/shardwright.eu.toml:2"
    assert manifest.place("components.web.resources.cpu") == f"{tmp_path}/shardwright.eu.toml:3"
    assert manifest.place("components.web.resources.memory") == f"{tmp_path}/shardwright.toml:6"


def test_problems_of_both_files_come_in_file_order(write: Any, problems: Any) -> None:
    write(BASE + "[policy]\nnode_grace = 5\n")
    write('[[routes]]\npath = "/"\napp = "wbe"\n[components.web]\nlimits.cpu = 0.5\nscale = { min = 7 }', "eu")
    assert [problem.split(": ")[:2] for problem in problems(profile="eu")] == [
        ["shardwright.toml:6", "components.web.resources.cpu"],
        ["shardwright.toml:17", "policy.node_grace"],
        ["shardwright.eu.toml:3", "routes[0].app"],
        ["shardwright.eu.toml:6", "components.web.scale.min"],
    ]


def test_an_overlay_may_repair_what_it_overrides(write: Any) -> None:
    write(BASE + '[components.bad]\ncode = "${MISSING}"\n')
    assert load(write('components.bad.code = "good"', "eu"), profile="eu").component("bad").code == "good"


@pytest.mark.parametrize("overlay", ["components = 5", "components.web = []", 'app = ""'])
def test_an_overlay_of_another_type_is_a_problem_of_the_overlay(overlay: str, write: Any, problems: Any) -> None:
    write(BASE)
    write(overlay, "eu")
    assert any(
        problem.startswith("shardwright.eu.toml:1: ") and "is not a table" in problem
        for problem in problems(profile="eu")
    )


def test_variables_are_replaced_in_strings_only_there_and_only_from_the_argument(
    write: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOST", "never read")
    folder = write(
        BASE
        + """
        [components.db]
        code = "db"
        network.egress = ["${HOST}:${PORT}"]
        files.read = ["$${HOST}/$HOME/$$5"]
        queue = "${QUEUE}"
        reuse = "${REUSE}"
        scope = "${SCOPE}"
        resources = { cpu = "${CPU}", memory = "${MEMORY}MiB" }
        """
    )
    environment = {
        "HOST": "h.internal",
        "PORT": "80",
        "QUEUE": "7",
        "REUSE": "true",
        "SCOPE": "session",
        "CPU": "0.5",
        "MEMORY": "8",
    }
    component = load(folder, environment=environment).component("db")
    assert component.network.egress == ("h.internal:80",)
    assert component.files.read == ("${HOST}/$HOME/$$5",)
    assert (component.queue, component.reuse, str(component.scope)) == (7, True, "session")
    assert component.limits.guarantee == Resources(cpu=0.5, memory_bytes=8 * 2**20)
    assert type(component.network.egress[0]) is str


def test_a_value_of_the_environment_cannot_become_structure(write: Any, problems: Any) -> None:
    write(BASE + '[components.x]\ncode = "${CODE}"\n')
    (problem,) = problems({"CODE": 'x"\nqueue = 5\n#'})
    assert problem.startswith('shardwright.toml:17: components.x.code: "${CODE}" does not fit')


def test_missing_and_malformed_variables_are_reported_at_their_own_line(write: Any, problems: Any) -> None:
    write(
        'app.name = "a"\ncomponents.web.code = "web"\n'
        'components.web.secrets.KEY = """\nfile:\n$${OK}\n${OK}\n${GONE}\n"""\n'
        'components.web.env = [\n  "${FIRST}",\n  # in between\n  "${no-name} ${OPEN",\n]\n'
    )
    assert problems({"OK": "x"}) == (
        "shardwright.toml:7: components.web.secrets.KEY: the environment has no variable GONE; "
        "expected GONE in the environment, or $${ for a plain ${",
        "shardwright.toml:10: components.web.env[0]: the environment has no variable FIRST; "
        "expected FIRST in the environment, or $${ for a plain ${",
        "shardwright.toml:12: components.web.env[1]: '${no-name}' is no variable; "
        "expected ${NAME}, or $${ for a plain ${",
        "shardwright.toml:12: components.web.env[1]: '${OPEN' is no variable; expected ${NAME}, or $${ for a plain ${",
    )


def test_messages_do_not_repeat_what_the_environment_filled_in(write: Any, problems: Any) -> None:
    write(BASE + '[components.x]\ncode = "x"\nqueue = "${A}"\nstart = "${A}"\nreuse = "${A}"\nenv = ["${A}"]\n')
    found = problems({"A": "s3cret word"})
    assert len(found) == 4
    assert all('"${A}"' in problem and "s3cret" not in problem for problem in found)


def test_bytes_of_the_environment_that_are_no_text_are_refused(write: Any, problems: Any) -> None:
    write(BASE + '[components.x]\ncode = "x"\nfiles.read = ["${DIR}"]\n')
    (problem,) = problems({"DIR": "caf\udce9"})
    assert problem.startswith('shardwright.toml:18: components.x.files.read[0]: "${DIR}" does not fit')
