"""Every kind of mistake in one key, with its place, what was expected, and the nearest valid name."""

from __future__ import annotations

from typing import Any

import pytest

HEAD = '[app]\nname = "a"\n[components.web]\ncode = "web"\n'  # four lines; the mistake begins on the fifth
STRINGS = "expected an array of strings"

MISTAKES = {
    # -- keys and types
    "unknown key": (
        "resorces = { cpu = 1 }",
        "5: components.web.resorces: unknown key; expected ahead, apart, code, … or warm; did you mean 'resources'?",
    ),
    "unknown key in an inline table": (
        "warm = { mim = 1 }",
        "5: components.web.warm.mim: unknown key; expected max or min; did you mean 'min'?",
    ),
    "unknown table": ("[polcy]", "5: polcy: unknown key; expected … did you mean 'policy'?"),
    "unknown key far from any": ('"x y" = 1', '5: components.web."x y": unknown key; expected …warm'),
    "unknown key of a route": (
        '[[routes]]\npath = "/"\napp = "web"\nmethod = ["GET"]',
        "8: routes[0].method: unknown key; expected app, call, methods, path or timeout; did you mean 'methods'?",
    ),
    "string for a number": (
        'queue = "many"',
        '5: components.web.queue: "many" is not a whole number; expected a whole number from 1 to 1000000',
    ),
    "fraction for a whole number": ("queue = 1.5", "5: components.web.queue: 1.5 is not a whole number; expected …"),
    "boolean for a number": ("queue = true", "5: components.web.queue: true is not a whole number; expected …"),
    "number for a string": ("scope = 7", "5: components.web.scope: 7 is not a string; expected shared, …"),
    "number for a boolean": ("reuse = 1", "5: components.web.reuse: 1 is not a boolean; expected true or false"),
    "string for a list": ('env = "TZ"', f'5: components.web.env: "TZ" is not an array; {STRINGS}'),
    "string for a table": (
        'warm = "2"',
        '5: components.web.warm: "2" is not a table; expected a table with max or min',
    ),
    "list for a table": ("warm = [2]", "5: components.web.warm: an array is not a table; expected …"),
    "table for a string": ("state = {}", "5: components.web.state: a table is none of the choices; expected …"),
    "date for a string": ("scope = 1979-05-27", "5: components.web.scope: 1979-05-27 is not a string; expected …"),
    "number for a component": ("[components]\nother = 5", "6: components.other: 5 is not a table; expected …"),
    "table for an array of tables": ("[routes]", "5: routes: a table is not an array; expected …[[routes]]"),
    "empty string": ('env = [""]', '5: components.web.env[0]: "" does not fit; expected the name of an …'),
    # -- units and ranges
    "memory without unit": (
        "resources.memory = 64",
        '5: components.web.resources.memory: 64 is not a string; expected an amount of memory such as "64MiB" or "2GB"',
    ),
    "unit in the wrong case": (
        'resources.memory = "64mib"',
        "5: components.web.resources.memory: \"64mib\" does not fit; expected an amount …; did you mean '64MiB'?",
    ),
    "bits for bytes": (
        'resources.io = "5Mbit/s"',
        '5: components.web.resources.io: "5Mbit/s" does not fit; expected a rate such as "20MiB/s"…',
    ),
    "rate without time": (
        'resources.network = "5Mbit"',
        "5: components.web.resources.network: …; expected a rate such as …; did you mean '5Mbit/s'?",
    ),
    "unknown duration": (
        'start_timeout = "5 sec"',
        '5: components.web.start_timeout: "5 sec" does not fit; expected a duration such as …',
    ),
    "no time at all": (
        'start_timeout = "0s"',
        '5: components.web.start_timeout: "0s" does not fit: it must be more than nothing; expected a duration …',
    ),
    "negative memory": ('resources.memory = "-1MiB"', '5: components.web.resources.memory: "-1MiB" does not fit; …'),
    "endless memory": (f'resources.memory = "{"9" * 400}"', "5: components.web.resources.memory: … too large; …"),
    "negative cores": (
        "resources.cpu = -0.5",
        "5: components.web.resources.cpu: -0.5 is out of range; expected a number from 0 to 65536",
    ),
    "no cores at most": (
        "limits.cpu = 0",
        "5: components.web.limits.cpu: 0 is out of range; expected a number above 0 and at most 65536",
    ),
    "infinite cores": ("resources.cpu = inf", "5: components.web.resources.cpu: inf is not finite; expected …"),
    "cores that are no number": ("resources.cpu = nan", "5: components.web.resources.cpu: nan is not finite; …"),
    "priority": (
        "usage.priority = 101",
        "5: components.web.usage.priority: 101 is out of range; expected a whole number from 0 to 100",
    ),
    "more digits than anybody prints": (
        f"queue = 0x{'f' * 6000}",
        "5: components.web.queue: an integer of more than 64 bits is out of range; expected …",
    ),
    # -- choices and names
    "start": (
        'start = "spwan"',
        '5: components.web.start: "spwan" is none of the choices; expected auto, template or spawn; '
        "did you mean 'spawn'?",
    ),
    "state": ('state = "jurnal"', "5: components.web.state: …; did you mean 'journal'?"),
    "isolation": (
        'isolation = "proces"',
        '5: components.web.isolation: "proces" does not fit; expected auto, process, namespace, docker or microvm; '
        "did you mean 'process'?",
    ),
    "oci without a runtime": ('isolation = "oci:"', '5: components.web.isolation: "oci:" does not fit; expected …'),
    "scope": (
        'scope = "sesion"',
        '5: components.web.scope: "sesion" does not fit; expected shared, session, request or key:<argument name>; '
        "did you mean 'session'?",
    ),
    "key scope without its argument": (
        'scope = "key:"',
        "5: components.web.scope: \"key:\" does not fit; …; did you mean 'key:<argument name>'?",
    ),
    "key scope with a keyword": ('scope = "key:class"', "5: components.web.scope: …: 'class' is no Python name; …"),
    "name of a component": (
        '[components.Web-2]\ncode = "w2"',
        "5: components.Web-2: not a name that fits here; expected names of lower-case letters, …",
    ),
    "name of a variable": ('env = ["A-B"]', '5: components.web.env[0]: "A-B" does not fit; expected the name …'),
    "name of a secret": (
        'secrets = { "A-B" = "file:x" }',
        "5: components.web.secrets.A-B: not a name that fits here; expected names of environment variables",
    ),
    "secret in plain text": (
        'secrets = { KEY = "hunter2" }',
        '5: components.web.secrets.KEY: "hunter2" does not fit; expected "env:<NAME>" or "file:<path>"',
    ),
    # -- code and paths
    "code with a slash": ('[components.b]\ncode = "b/c"', "6: components.b.code: …: 'b/c' is no Python name; …"),
    "code without an attribute": ('[components.b]\ncode = "b:"', '6: components.b.code: "b:" does not fit; …'),
    "code with two attributes": ('[components.b]\ncode = "b:c:d"', "6: components.b.code: …does not fit; …"),
    "code missing": (
        "[components.b]\n",
        "5: components.b.code: missing; expected a module, package, module:function or module:Class, …",
    ),
    "file outside": (
        'files.read = ["ok/../fine", "a/../../b"]',
        '5: components.web.files.read[1]: "a/../../b" does not fit: it leaves the application\'s folder; '
        "expected a path below the application's folder, or an absolute one",
    ),
    "secret outside": (
        'secrets.KEY = "file:../x"',
        "5: components.web.secrets.KEY: …: it leaves the application's folder; …",
    ),
    "NUL in a path": ('files.read = ["a\\u0000b"]', '5: components.web.files.read[0]: "a\\x00b" does not fit; …'),
    "destination": (
        'network.egress = ["db", "db:0", "db:70000", "[::g]:1", "[::1]:443"]',
        '5: components.web.network.egress[0]: "db" does not fit; expected "host:port"\n'
        "5: components.web.network.egress[1]: …: there is no port 0 to connect to; …\n"
        "5: components.web.network.egress[2]: …: a port is at most 65535; …\n"
        '5: components.web.network.egress[3]: "[::g]:1" does not fit; …',
    ),
}


@pytest.mark.parametrize("name", MISTAKES)
def test_mistakes_are_reported_at_their_lines(name: str, write: Any, problems: Any, fits: Any) -> None:
    text, expected = MISTAKES[name]
    write(HEAD + text)
    found, wanted = problems(), expected.split("\n")
    assert len(found) == len(wanted), found
    for problem, pattern in zip(found, wanted, strict=True):
        assert fits(problem, f"shardwright.toml:{pattern}"), problem


@pytest.mark.parametrize(
    ("line", "says"),
    [
        ('limits = { memory = "0MiB" }', ""), ('usage = { latency_slo = "0s" }', ""),
        ('limits = { memory = "12mb" }', " '12MB'?"), ('scope = "key"', " 'key:<argument name>'?"),
        ('scope = "sharde"', " 'shared'?"),
    ],
)  # fmt: skip
def test_what_is_proposed_could_stand_there(write: Any, problems: Any, line: str, says: str) -> None:
    write(HEAD + line + "\n")
    (problem,) = problems()
    assert problem.partition("did you mean")[2] == says
