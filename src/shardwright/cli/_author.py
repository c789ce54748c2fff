"""Commands of an application's author: init, plan, explain, schema."""

from __future__ import annotations

from pathlib import Path

import click

from shardwright.cli._calibrate import calibrate
from shardwright.cli._invocation import Invocation, clock_time, common_options, shown
from shardwright.cli._profile import measure, merged
from shardwright.errors import ManifestError, PlanError
from shardwright.manifest import FILE_NAME
from shardwright.manifest import load as load_manifest
from shardwright.manifest import schema as manifest_schema
from shardwright.model.manifest import Manifest
from shardwright.node import (
    ApiClient,
    choose,
    lacking_secrets,
    measured_plan,
    no_walls,
    read_constants,
    read_profile,
    runtime_folder,
    unbuilt,
    unenforced,
    withheld,
    write_constants,
    write_profile,
)
from shardwright.sharding import explain as explain_function
from shardwright.sharding import (
    explanation_json,
    explanation_text,
    plan_json,
    plan_mermaid,
    plan_svg,
    plan_text,
    propose_manifest,
)
from shardwright.sharding import plan as plan_manifest


@click.command()
@click.argument("path", default=".")
@click.option("--force", is_flag=True, help="Replace a manifest that is there already.")
@click.option("--print", "only_print", is_flag=True, help="Print the manifest, write nothing.")
@common_options
def init(invocation: Invocation, path: str, force: bool, only_print: bool) -> None:
    """Write a manifest for an application that has none.

    Reads the code below PATH (nothing of it is run), takes its submodules for components, and fills in what they read
    from the environment, from files and from the network. Check what it wrote: it is a proposal.

    \b
    Examples:
      shardwright init myapp
      shardwright init . --print
    """
    folder = Path(path)
    target = folder / FILE_NAME
    if target.exists() and not force and not only_print:
        raise ManifestError(
            f"{target} is there already", remedy="--force replaces it; --print shows what would be written"
        )
    text = propose_manifest(folder)
    if not only_print:
        partial = target.with_name(f".{FILE_NAME}.part")
        partial.write_text(text, encoding="utf-8")
        partial.replace(target)
    if invocation.json:
        invocation.result({"path": None if only_print else str(target), "manifest": text})
    elif only_print:
        click.echo(text, nl=False)
    else:
        click.echo(f"wrote {target}; see how it would be cut: shardwright plan {path}")


_MEASURE = "\0measure"


@click.command()
@click.argument("path", default=".")
@click.argument("command", nargs=-1, metavar="[-- COMMAND]...")
@click.option(
    "--profile", "profiles", metavar="[NAME]", multiple=True, is_flag=False, flag_value=_MEASURE,
    help="With NAME, lay shardwright.NAME.toml over the manifest. Without, run COMMAND (or app.main with these arguments) and "
    "keep what is seen of it: then what pays is cut inside components, too.",
)  # fmt: skip
@click.option("--mermaid", "picture", flag_value="mermaid", help="As a Mermaid flowchart, for documents.")
@click.option("--svg", "picture", flag_value="svg", help="As an SVG picture.")
@common_options
def plan(
    invocation: Invocation, path: str, command: tuple[str, ...], profiles: tuple[str, ...], picture: str | None
) -> None:
    """Show how an application would be cut into shards, and why.

    Definitions, edges with the places in the code they come from, cuts inside components by what a profile showed, and
    what was refused, with the remedy. Reads code; runs none, unless asked to profile a command.

    \b
    Examples:
      shardwright plan examples/arena
      shardwright plan . --json
      shardwright plan . --svg > plan.svg
      shardwright plan . --profile -- python -m app --quick
    """
    profile = next((name for name in profiles if name != _MEASURE), None)
    manifest = load_manifest(path, profile=profile, environment=invocation.environment)
    if command and _MEASURE not in profiles:
        raise click.UsageError("a command is for --profile, which runs it: shardwright plan --profile -- COMMAND")
    if _MEASURE in profiles:
        _keep_profile(invocation, manifest, command)
    try:
        made = measured_plan(manifest, invocation.environment)
    except PlanError as error:
        if problems := unbuilt(manifest):
            first = f"{error.code} {error.message}"
            raise ManifestError(f"{manifest.path} cannot be planned", problems=(first, *problems)) from None
        raise
    if picture:
        click.echo(plan_svg(made) if picture == "svg" else plan_mermaid(made), nl=False)
        return
    hindered = (*unbuilt(manifest), *lacking_secrets(manifest, invocation.environment))
    walls = no_walls(made)
    idle = unenforced(manifest, made, invocation.environment, walls=not walls)
    kept_back = withheld(manifest, made, invocation.environment)
    if invocation.json:
        told = {
            "hinders_start": list(hindered),
            "not_enforced": list(idle),
            "no_walls": walls,
            "withheld": list(kept_back),
        }
        invocation.result({**plan_json(made), **told})
        return
    click.echo(plan_text(made).rstrip("\n"))
    plain = (f"auto is process for all, for this machine permits no walls: {walls}",) if walls else ()
    for title, lines in (
        ("it cannot be started here as it is:", hindered),
        ("isolation:", plain),
        ("limits:", idle),
        ("environment:", kept_back),
    ):
        if lines:
            click.echo("\n".join(["", title, *(f"  {line}" for line in lines)]))


def _keep_profile(invocation: Invocation, manifest: Manifest, command: tuple[str, ...]) -> None:
    """Run a command, and store what was seen of it; measure this machine if nobody has."""
    found, ran = measure(manifest, plan_manifest(manifest), command, invocation.environment)
    if ran.status:
        click.echo(f"the command ended with status {ran.status}; what it did until then counts", err=True)
    kept = merged(read_profile(manifest), found)
    target = write_profile(manifest, kept)
    if not read_constants(invocation.environment).host:
        write_constants(invocation.environment, calibrate(invocation.environment))
    click.echo(f"wrote {target}: {kept.runs} runs, {len(kept.functions)} functions, {kept.wall_s:.2f} s", err=True)


@click.command()
@click.argument("name")
@click.argument("path", default=".")
@click.option("--profile", metavar="NAME", help="Lay shardwright.NAME.toml over the manifest.")
@click.option(
    "-a", "--app", metavar="APP", help="Of a decision: which node decided it; a name, a path or a process id."
)
@common_options
def explain(invocation: Invocation, name: str, path: str, profile: str | None, app: str | None) -> None:
    """Tell why a function is where it is: what it calls, what it does besides, and which rules follow.

    NAME is module:function, or as much of its end as is unique. Reads code, runs none.

    `explain decision NUMBER` tells of a running node what was decided, why, and from which inputs; `shardwright
    decisions` has the numbers. With several nodes running, --app says whose.

    \b
    Examples:
      shardwright explain arena.inventory:reserve examples/arena
      shardwright explain World.step . --json
      shardwright explain decision 42
    """
    if name == "decision" and path.isdecimal():
        _explain_decision(invocation, int(path), app)
        return
    found = explain_function(load_manifest(path, profile=profile, environment=invocation.environment), name)
    if invocation.json:
        invocation.result(explanation_json(found))
    else:
        click.echo(explanation_text(found), nl=False)


def _explain_decision(invocation: Invocation, number: int, app: str | None) -> None:
    with ApiClient(choose(runtime_folder(invocation.environment), app).socket) as node:
        [row] = node.ask("decisions", number=number)["decisions"]
    if invocation.json:
        invocation.result(row)
        return
    of = ", ".join(f"{name} {row[name]}" for name in ("component", "shard", "session") if row[name])
    click.echo(
        shown(f"decision {row['sequence']}, {clock_time(row['wall_s'])}: {row['kind']}{f' of {of}' if of else ''}")
    )
    click.echo(shown(f"because {row['reason']}"))
    if row["inputs"]:
        click.echo("from")
        invocation.table(("INPUT", "VALUE"), [(str(key), str(value)) for key, value in row["inputs"].items()])


@click.command()
@common_options
def schema(invocation: Invocation) -> None:
    """Print the JSON Schema of shardwright.toml, for editors and validators.

    \b
    Example:
      shardwright schema > shardwright.schema.json
    """
    invocation.result(manifest_schema())
