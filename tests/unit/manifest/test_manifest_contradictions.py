"""Keys that are right each by itself and wrong together."""

from __future__ import annotations

from typing import Any

import pytest

from shardwright.manifest import load

HEAD = '[app]\nname = "a"\n[components.web]\ncode = "web"\n'  # four lines; the mistake begins on the fifth

CONTRADICTIONS = {
    "guarantee above ceiling": (
        "resources = { cpu = 2, memory = '2GiB' }\nlimits = { cpu = 1, memory = '1GiB' }",
        "5: components.web.resources.cpu: the guarantee is above the ceiling at …:6; expected at most limits.cpu\n"
        "5: components.web.resources.memory: the guarantee is above the ceiling at …:6; …",
    ),
    "warm bounds": (
        "warm = { min = 3, max = 2 }",
        "5: components.web.warm.min: 3 is above warm.max; expected at most 2",
    ),
    "scale bounds": ("scale.max = 2\nscale.min = 3", "6: components.web.scale.min: 3 is above scale.max; …"),
    "fewest above most instances": (
        "scale = { min = 3, max = 4 }\nusage.max_instances = 2",
        "5: components.web.scale.min: scale.min is 3 and usage.max_instances 2; expected scale.min of at most 2",
    ),
    "shards of sessions without sessions": (
        "sessions_per_shard = 2",
        "5: components.web.sessions_per_shard: more than 1 contradicts scope 'shared'; expected scope = \"session\", "
        "or 1",
    ),
    "scaling of a session's shard": (
        'scope = "session"\nscale.max = 2',
        "6: components.web.scale.max: instances follow the sessions with scope 'session'; "
        "expected usage.max_instances to restrict them",
    ),
    "stateful and value": (
        'stateful = ["A", "B"]\nvalue = [\n"C",\n"B"]',
        "8: components.web.value[1]: 'B' is listed in stateful too; expected one of the two",
    ),
    "the same code twice": (
        '[components.b]\ncode = "web:app"',
        "6: components.b.code: component 'web' owns module web already; expected a module that no other …",
    ),
    "depends on nobody": (
        'depends_on = [\n  "wev",\n  "web",\n]',
        "6: components.web.depends_on[0]: there is no component 'wev'; expected web; did you mean 'web'?\n"
        "7: components.web.depends_on[1]: a component cannot depend on itself; expected other components",
    ),
    "route to nobody": (
        '[[routes]]\npath = "/"\napp = "weeb"\n[[routes]]\npath = "/x"\ncall = "wob.get"',
        "7: routes[0].app: there is no component 'weeb'; expected web; did you mean 'web'?\n"
        "10: routes[1].call: there is no component 'wob'; expected web; did you mean 'web'?",
    ),
    "route to both and to neither": (
        '[[routes]]\npath = "/"\napp = "web"\ncall = "web.get"\n[[routes]]\npath = "/x"',
        "5: routes[0]: both call and app are given; expected one of call and app\n"
        "9: routes[1]: neither call nor app is given; expected one of call and app",
    ),
    "route without a path": ('[[routes]]\napp = "web"', "5: routes[0].path: missing; expected a path such as …"),
    "paths of routes": (
        '[[routes]]\npath = "x"\napp = "web"\n[[routes]]\npath = "/{a}b"\napp = "web"\n'
        '[[routes]]\npath = "/{a}/{a}"\napp = "web"',
        '6: routes[0].path: "x" does not fit; expected a path such as …\n'
        "9: routes[1].path: …: '{a}b' is no whole segment like {item}; …\n"
        "12: routes[2].path: …: 'a' is used twice; …",
    ),
    "a parameter in a part of a segment": (
        '[[routes]]\npath = "/api/{x}.json"\napp = "web"\n[[routes]]\npath = "/{rest:path}/b"\napp = "web"',
        "6: routes[0].path: …: '{x}.json' is no whole segment like {item}; make it one, and take its text apart in the "
        "function; …\n"
        "9: routes[1].path: …: '{rest:path}' takes all that is left, and comes last; …",
    ),
    "arguments for an application": (
        '[[routes]]\npath = "/flask/{rest:path}"\napp = "web"\n[[routes]]\npath = "/{x}"\napp = "web"\n'
        '[[routes]]\npath = "/get/{rest:path}"\ncall = "web.get"',
        "6: routes[0].path: an application takes every path beneath its own, and no arguments from it; expected "
        'path = "/flask"\n'
        '9: routes[1].path: …; expected path = "/"',
    ),
    "time of a route, token of the gateway": (
        '[gateway]\ntoken = "hunter2"\n[[routes]]\npath = "/"\napp = "web"\ntimeout = "0s"',
        '6: gateway.token: "hunter2" does not fit; expected "env:<NAME>" or "file:<path>"\n'
        "10: routes[0].timeout: …it must be more than nothing; …",
    ),
    "method": (
        '[[routes]]\npath = "/"\napp = "web"\nmethods = ["get"]',
        "8: routes[0].methods[0]: \"get\" does not fit; expected an HTTP method …; did you mean 'GET'?",
    ),
    "the same route twice": (
        '[[routes]]\npath = "/"\napp = "web"\nmethods = ["GET"]\n'
        '[[routes]]\npath = "/"\napp = "web"\nmethods = ["PUT", "GET"]',
        "9: routes[1]: routes[0] answers GET / already; expected another path or method",
    ),
    "edges": (
        '[components.b]\ncode = "b"\n'
        '[[edges]]\nfrom = "web"\nto = "c"\n'
        '[[edges]]\nfrom = "b"\nto = "b"\n'
        '[[edges]]\nfrom = "web"\nto = "b"\nallow = ["Item"]\n'
        '[[edges]]\nfrom = "web"\nto = "b"\ncodec = "pikle"\n'
        '[[edges]]\nto = "b"\n',
        "9: edges[0].to: there is no component 'c'; expected b or web…\n"
        "12: edges[1].to: an edge joins two different components; expected another component\n"
        '16: edges[2].allow[0]: "Item" does not fit; expected a class as "module:Name"\n'
        "17: edges[3]: edges[2] speaks of 'web' to 'b' already; expected one [[edges]] for each edge\n"
        "20: edges[3].codec: \"pikle\" is none of the choices; expected tagged or pickle; did you mean 'pickle'?\n"
        "21: edges[4].from: missing; expected the name of a component",
    ),
    "address to listen on": ('[gateway]\nbind = "8000"', '6: gateway.bind: "8000" does not fit; expected "host:port"'),
    "an open address without encryption": (
        '[gateway]\nbind = "0.0.0.0:80"\ntls = { certificate = "c.pem" }\n',
        "7: gateway.tls.key: missing; expected a path below the application's folder, or an absolute one",
    ),
    "encryption by halves": (
        '[gateway]\nbind = "0.0.0.0:80"\n',
        "6: gateway.bind: other machines reach 0.0.0.0:80, and nothing is encrypted; "
        "expected tls = { certificate, key }, a loopback address, or plaintext = true",
    ),
    "the gateway's name": (
        '[components.gateway]\ncode = "x.y"\n[gateway]\n',
        "5: components.gateway: 'gateway' is the component that serves [gateway] and [[routes]]; expected another name",
    ),
    "policy": (
        '[policy]\ncost.cpu_hour = -1\novercommit = { cpu = 0.5 }\nnode_grace = "later"\nreserve.memory = "1Gb"',
        "6: policy.cost.cpu_hour: -1 is out of range; …\n"
        "7: policy.overcommit.cpu: 0.5 is out of range; expected a number from 1 to 64\n"
        '8: policy.node_grace: "later" does not fit; expected a duration …\n'
        "9: policy.reserve.memory: \"1Gb\" does not fit; …; did you mean '1GB'?",
    ),
}


@pytest.mark.parametrize("name", CONTRADICTIONS)
def test_contradictions_are_reported_at_their_lines(name: str, write: Any, problems: Any, fits: Any) -> None:
    text, expected = CONTRADICTIONS[name]
    write(HEAD + text)
    found, wanted = problems(), expected.split("\n")
    assert len(found) == len(wanted), found
    for problem, pattern in zip(found, wanted, strict=True):
        assert fits(problem, f"shardwright.toml:{pattern}"), problem


def test_main_is_reserved_for_app_main_unless_a_component_owns_its_module(write: Any, problems: Any) -> None:
    reserved = 'app = {name = "a", main = "tools.cli:main"}\n[components.main]\ncode = "other"\n'
    write(reserved)
    assert problems() == (
        "shardwright.toml:2: components.main: 'main' is reserved for app.main, whose module tools.cli no component "
        "owns; expected another name, or code that owns that module",
    )
    assert load(write(reserved + '[components.tools]\ncode = "tools"\n')).component("main").code == "other"
    assert load(write(reserved.replace("other", "tools.cli:main"))).component("main").module == "tools.cli"


def test_the_implicit_main_may_call_by_edges_and_is_not_called(write: Any, problems: Any) -> None:
    text = 'app = {name = "a", main = "tools:main"}\ncomponents.web.code = "web"\n'
    assert load(write(text + '[[edges]]\nfrom = "main"\nto = "web"')).edges[0].caller == "main"
    write(text + '[[edges]]\nfrom = "web"\nto = "main"')
    assert problems() == ("shardwright.toml:5: edges[0].to: there is no component 'main'; expected web",)


@pytest.mark.parametrize("text", ['app.name = "a"', 'app.name = "a"\n[components]'])
def test_a_manifest_with_nothing_to_run(text: str, write: Any, problems: Any) -> None:
    write(text)
    (problem,) = problems()
    assert problem.endswith("there is nothing to run; expected at least one [components.<name>], or app.main")


def test_an_empty_manifest_lacks_everything(write: Any, problems: Any) -> None:
    write("")
    assert [problem.partition(";")[0] for problem in problems()] == [
        "shardwright.toml:1: app: missing",
        "shardwright.toml:1: components: there is nothing to run",
    ]


def test_the_import_root_must_exist(write: Any, problems: Any) -> None:
    write('[app]\nname = "a"\nmain = "a:b"\nroot = "nowhere"')
    assert problems() == (
        "shardwright.toml:4: app.root: there is no such folder; expected the import root, relative to the manifest",
    )


def test_one_mistake_is_told_once(write: Any, problems: Any) -> None:
    """A key that is faulty by itself takes no part in contradictions, nor does its default in its place."""
    write(
        HEAD
        + 'scope = "sesion"\nsessions_per_shard = 4\nwarm = { min = 40, max = "x" }\ndepends_on = ["b"]\n'
        + 'resources.cpu = 4\nlimits.cpu = "2"\n[components.b]\ncode = 5\n[components.c]\ncode = "web c"'
    )
    assert [problem.split(": ")[0:2] for problem in problems()] == [
        ["shardwright.toml:5", "components.web.scope"],
        ["shardwright.toml:7", "components.web.warm.max"],
        ["shardwright.toml:10", "components.web.limits.cpu"],
        ["shardwright.toml:12", "components.b.code"],
        ["shardwright.toml:14", "components.c.code"],
    ]
