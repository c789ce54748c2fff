"""The layout of ``shardwright.toml``: every key, its shape, its meaning. Reading and the JSON Schema both follow it.

One long table, kept in one piece (over 400 lines)."""

from __future__ import annotations

from typing import Any

from shardwright.manifest._shapes import Choice, Flag, Key, ListOf, Named, Number, Table, Text, quantity
from shardwright.manifest._texts import (
    ALLOWED_CLASSES,
    APP_NAME,
    CALL,
    CLASS_NAMES,
    CODE,
    COMPONENT_NAME,
    DESTINATION,
    FILE,
    FUNCTION,
    FUNCTIONS,
    GROUPS,
    ISOLATION,
    ISOLATIONS,
    LISTEN_ADDRESS,
    METHOD,
    PATHS,
    ROUTE_PATH,
    SCOPE,
    SECRET,
    VARIABLE_NAME,
    VARIABLE_PATTERN,
    VARIABLES,
)
from shardwright.model.ids import ComponentName
from shardwright.model.manifest import Component, Cost, Gateway, Policy, Scale, UsageModel, Warm
from shardwright.model.scope import Start, StateKind
from shardwright.model.units import (
    BIT_RATE,
    BYTE_RATE,
    DURATION,
    MEMORY,
    parse_bit_rate,
    parse_byte_rate,
    parse_bytes,
    parse_seconds,
)

_MANY = 1_000_000
_UNSTATED = Component(ComponentName(""), "")  # where the defaults stand


def _amounts(*, positive: bool) -> Table:
    return Table(
        {
            "cpu": Key(Number(0, 65536, above=positive), "Cores, fractions allowed.", examples=(0.25,)),
            "memory": Key(quantity(MEMORY, parse_bytes, positive=positive), "Memory.", examples=("64MiB",)),
            "io": Key(
                quantity(BYTE_RATE, parse_byte_rate, positive=positive), "Disk bandwidth.", examples=("20MiB/s",)
            ),
            "network": Key(
                quantity(BIT_RATE, parse_bit_rate, positive=positive), "Network bandwidth.", examples=("10Mbit/s",)
            ),
            "gpu": Key(Number(0, 1024, above=positive), "GPUs; below 1, a share of one device.", examples=(0.25,)),
            "gpu_memory": Key(quantity(MEMORY, parse_bytes, positive=positive), "Memory of a GPU.", examples=("2GiB",)),
        }
    )


_APP = Table(
    {
        "name": Key(
            APP_NAME,
            "Name of the application.",
            required=True,
            examples=("arena",),
        ),
        "root": Key(Text("a folder, relative to the manifest"), "Import root, relative to the manifest.", default="."),
        "main": Key(FUNCTION, "What `run` executes; its exit status is run's.", examples=("arena.tools:main",)),
        "visitors": Key(
            FUNCTION, "Generator function that `demo` drives, once per visitor.", examples=("arena.demo:visitor",)
        ),
        "context_variables": Key(
            VARIABLES,
            "Context variables of common modules that travel with calls and come back with replies.",
            default=[],
            examples=(["arena.common:player"],),
        ),
    }
)

_USAGE = Table(
    {
        "priority": Key(
            Number(0, 100, "integer"),
            "Importance from 0 to 100 when resources are short.",
            default=UsageModel().priority,
        ),
        "latency_slo": Key(
            quantity(DURATION, parse_seconds, positive=True), "Latency that calls should keep.", examples=("20ms",)
        ),
        "max_instances": Key(
            Number(1, _MANY, "integer"),
            "Most shards of this component at once, on all nodes. Unset, each caller uses at most 64 of scope request.",
        ),
        "max_nodes": Key(Number(1, _MANY, "integer"), "Most nodes that its shards may spread over."),
        "node_labels": Key(
            Named(Text(), "names of labels", r"^[^\x00]+$"),
            "Labels that a node must carry to run its shards.",
            examples=({"zone": "eu"},),
        ),
    }
)

_COMPONENT = Table(
    {
        "code": Key(
            CODE,
            "The code that the component owns: module, package, module:function, module:Class, or an ASGI or WSGI "
            "application. A package owns everything beneath it that no other component claims.",
            required=True,
            examples=("arena.physics:World",),
        ),
        "resources": Key(_amounts(positive=False), "The guarantee: what each shard always gets."),
        "limits": Key(_amounts(positive=True), "The ceiling: the most that each shard may borrow."),
        "scope": Key(
            SCOPE,
            "Who shares one shard: all (shared), one session, one request, or all calls with the same value of an "
            "argument (key:<argument name>).",
            default=str(_UNSTATED.scope),
            examples=("session", "key:world"),
        ),
        "secrets": Key(
            Named(SECRET, "names of environment variables", VARIABLE_PATTERN),
            "Environment variables that only this component sees, each from a file or the node's own environment.",
            examples=({"JWT_KEY": "file:secrets/jwt"},),
        ),
        "env": Key(
            ListOf(VARIABLE_NAME),
            "Environment variables that are passed on; all others are withheld.",
            default=[],
        ),
        "files": Key(
            Table(
                {
                    "read": Key(PATHS, "Files and folders to read.", default=[]),
                    "write": Key(PATHS, "Files and folders to read and write.", default=[]),
                }
            ),
            "Files that its shards reach, besides their own code.",
        ),
        "network": Key(
            Table({"egress": Key(ListOf(DESTINATION), "Destinations, as host:port.", default=[])}),
            "Network that its shards reach. Default: none.",
        ),
        "depends_on": Key(
            ListOf(COMPONENT_NAME),
            "Components that it calls; checked against, and completed by, analysis of the code.",
            default=[],
        ),
        "isolation": Key(
            ISOLATION,
            "The kind of sandbox: process, namespace for walls, oci:<runtime> and docker for containers, "
            "microvm for machines (docs/security.md); "
            "auto is namespace where the code is seen to reach no files, network or processes, else process.",
            default="auto",
            examples=ISOLATIONS,
        ),
        "start": Key(
            Choice(tuple(start.value for start in Start), Start),
            "How shards begin: forked from a warmed template, or spawned as a fresh interpreter.",
            default=Start.AUTO.value,
        ),
        "state": Key(
            Choice(tuple(kind.value for kind in StateKind), StateKind),
            "What becomes of a shard's state when it dies: there is none, it is lost with memory, it survives in the "
            "journal, or on another node (replica). auto: decided by analysis.",
            default=StateKind.AUTO.value,
        ),
        "sessions_per_shard": Key(
            Number(1, _MANY, "integer"),
            "More than 1 lets one shard of a session-scoped component serve several sessions.",
            default=1,
        ),
        "reuse": Key(Flag(), "Whether a used shard may serve another session.", default=False),
        "warm": Key(
            Table(
                {
                    "min": Key(Number(0, _MANY, "integer"), "Shards kept ready at all times.", default=Warm().min),
                    "max": Key(Number(0, _MANY, "integer"), "Most shards kept ready.", default=Warm().max),
                }
            ),
            "Bounds of the warm pool; inside them forecast and cost decide.",
        ),
        "scale": Key(
            Table(
                {
                    "min": Key(Number(0, _MANY, "integer"), "Fewest instances.", default=Scale().min),
                    "max": Key(Number(1, _MANY, "integer"), "Most instances.", default=Scale().max),
                    "target_concurrency": Key(
                        Number(0, _MANY, above=True),
                        "Calls in flight per instance to aim at.",
                        default=Scale().target_concurrency,
                    ),
                }
            ),
            "Bounds of the number of instances of a shared or keyed component.",
        ),
        "usage": Key(_USAGE, "The usage model: importance, requirements and restrictions."),
        "stateful": Key(CLASS_NAMES, "Classes of this component that others reach through handles.", default=[]),
        "value": Key(CLASS_NAMES, "Classes of this component that are copied, overruling analysis.", default=[]),
        "never_cut": Key(FUNCTIONS, "Functions that no cut inside the component moves.", default=[]),
        "idempotent": Key(
            FUNCTIONS,
            "Functions that may be called twice for once: where the component keeps no state, a call whose shard is lost is "
            "made again elsewhere.",
            default=[],
        ),
        "ahead": Key(
            FUNCTIONS, "Generators that may make items before they are asked for; they take no values sent.", default=[]
        ),
        "together": Key(
            GROUPS, "Functions that cuts inside the component move all, or none, to one shard.", default=[]
        ),
        "apart": Key(GROUPS, "Functions that cuts inside the component never move to one shard.", default=[]),
        "queue": Key(Number(1, _MANY, "integer"), "Calls that may wait in one shard.", default=_UNSTATED.queue),
        "start_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True), "Time that a shard has to become ready.", default="60s"
        ),
        "idle_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True),
            "Silence after which a session's shard is given back. Default: never.",
            examples=("5m",),
        ),
    }
)

_EDGE = Table(
    {
        "from": Key(COMPONENT_NAME, "The calling component.", required=True),
        "to": Key(COMPONENT_NAME, "The called component.", required=True),
        "codec": Key(
            Choice(("tagged", "pickle")),
            "How arguments and results travel. pickle lets either side run code in the other: trust both.",
            default="tagged",
        ),
        "allow": Key(
            ALLOWED_CLASSES, "Further classes, as module:Name, that may be copied across this edge.", default=[]
        ),
    }
)

_ROUTE = Table(
    {
        "path": Key(
            ROUTE_PATH,
            "Path; a segment in braces is an argument of the function, and `{rest:path}` at the end all segments that are "
            "left. An application takes every path beneath its own, without braces.",
            required=True,
            examples=("/api/items/{item}",),
        ),
        "methods": Key(
            ListOf(METHOD),
            "HTTP methods. Default: any.",
            default=[],
            examples=(["GET"],),
        ),
        "call": Key(
            CALL,
            "What to call, as component.name.",
            examples=("inventory.get",),
        ),
        "app": Key(COMPONENT_NAME, "The component whose ASGI or WSGI application answers.", examples=("web",)),
        "timeout": Key(
            quantity(DURATION, parse_seconds, positive=True),
            "Time that its function has to answer, or its application to begin to. Default: `gateway.call_timeout` for a "
            "function, none for an application.",
            examples=("2s",),
        ),
    }
)

_GATEWAY = Table(
    {
        "bind": Key(LISTEN_ADDRESS, "Address to listen on; port 0 takes any that is free.", default=Gateway().bind),
        "tls": Key(
            Table(
                {
                    "certificate": Key(FILE, "File of the certificate chain, PEM.", required=True),
                    "key": Key(FILE, "File of its private key, PEM.", required=True),
                }
            ),
            "Serve HTTPS with this certificate.",
        ),
        "plaintext": Key(
            Flag(), "Permits HTTP without TLS on an address that other machines reach.", default=Gateway().plaintext
        ),
        "session_idle": Key(
            quantity(DURATION, parse_seconds, positive=True),
            "Silence after which a session that the gateway began ends.",
            default="30m",
        ),
        "max_header": Key(
            quantity(MEMORY, parse_bytes, positive=True), "Most bytes of a request's head.", default="64KiB"
        ),
        "max_body": Key(
            quantity(MEMORY, parse_bytes, positive=True), "Most bytes of a request's body.", default="64MiB"
        ),
        "header_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True), "Time to send a request's head in.", default="10s"
        ),
        "body_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True),
            "Silence after which a body that was begun is given up.",
            default="30s",
        ),
        "idle_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True),
            "Silence between two requests after which a connection is closed.",
            default="75s",
        ),
        "call_timeout": Key(
            quantity(DURATION, parse_seconds, positive=True), "Time that a function has to answer.", default="30s"
        ),
        "max_connections": Key(
            Number(1, _MANY, "integer"), "Most connections at once.", default=Gateway().max_connections
        ),
        "queue": Key(
            Number(1, _MANY, "integer"),
            "Requests of one component that may run and wait at once; more are answered 503.",
            default=Gateway().queue,
        ),
        "drain": Key(
            quantity(DURATION, parse_seconds),
            "Time that requests in flight get when the gateway stops.",
            default="10s",
        ),
        "token": Key(
            SECRET,
            "Where the bearer token is that lets clients off this machine, or behind a proxy, read `/_shardwright` and "
            "`/metrics`. Default: only clients on this machine may.",
            examples=("file:secrets/operations",),
        ),
        "access_log": Key(
            Flag(), "Says a line for each request: method, route, status, time, trace.", default=Gateway().access_log
        ),
    }
)

_PRICE = Number(0, 1e12)
_POLICY = Table(
    {
        "cost": Key(
            Table(
                {
                    "cpu_hour": Key(_PRICE, "Price of a core for an hour.", default=Cost().cpu_hour),
                    "gib_hour": Key(_PRICE, "Price of a GiB of memory for an hour.", default=Cost().gib_hour),
                    "cold_start": Key(_PRICE, "Price of one cold start.", default=Cost().cold_start),
                }
            ),
            "Prices, in any currency, that pool and scaling weigh.",
        ),
        "reserve": Key(_amounts(positive=False), "What the machine keeps; never given to shards."),
        "overcommit": Key(
            Table(
                {
                    "cpu": Key(
                        Number(1, 64),
                        "Guaranteed cores may sum up to this many times the cores of the machine.",
                        default=Policy().overcommit_cpu,
                    )
                }
            ),
            "How far guarantees may exceed the machine.",
        ),
        "node_grace": Key(
            quantity(DURATION, parse_seconds),
            "Time that shards outlive a lost node process, waiting for it to return; 0 ends them at once.",
            default="0s",
        ),
        "transport": Key(
            Choice(("auto", "shm", "socket")),
            "How messages go between shards of one node: through shared memory where the sandboxes of both sides permit it, "
            "else through Unix sockets; or only one of them.",
            default="auto",
        ),
        "pool": Key(
            Choice(("minimum", "demand")),
            "What the warm pool holds between warm.min and warm.max: the minimum, or as many as demand so far makes worth "
            "their price.",
            default="minimum",
        ),
        "tick": Key(
            quantity(DURATION, parse_seconds),
            "How often guarantees and numbers of instances are decided anew, between the bounds that the manifest states; "
            "0 leaves them as they are.",
            default="1s",
        ),
    }
)

MANIFEST = Table(
    {
        "app": Key(_APP, "The application.", required=True),
        "components": Key(
            Named(
                _COMPONENT, "names of lower-case letters, digits and '_' that begin with a letter", "^[a-z][a-z0-9_]*$"
            ),
            "The components, by name.",
        ),
        "edges": Key(ListOf(_EDGE, "an array of tables, [[edges]]"), "Exceptions for single edges between components."),
        "gateway": Key(_GATEWAY, "Where requests from outside come in."),
        "routes": Key(ListOf(_ROUTE, "an array of tables, [[routes]]"), "Which requests reach which component."),
        "policy": Key(_POLICY, "System-level policies."),
    }
)


def schema() -> dict[str, Any]:
    """The JSON Schema (draft 2020-12) of ``shardwright.toml``, for editors and validators."""
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "shardwright.toml",
        "description": "The manifest of a Shardwright application. ${NAME} is replaced from the environment.",
        **MANIFEST.schema(),
    }
