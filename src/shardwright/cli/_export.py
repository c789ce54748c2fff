"""``export``: what others can run of an application."""

from __future__ import annotations

import tempfile
from pathlib import Path

import click

from shardwright.cli._errors import OK
from shardwright.cli._invocation import Invocation, common_options
from shardwright.errors import NodeError
from shardwright.manifest import load as load_manifest
from shardwright.model.units import format_bytes
from shardwright.node import export_image
from shardwright.sharding import plan as plan_manifest


@click.group()
def export() -> None:
    """Write what others can run.

    \b
    Example:
      shardwright export image examples/arena physics --output physics.tar
    """


@export.command()
@click.argument("path")
@click.argument("component")
@click.option("--output", "-o", metavar="FILE", help="The archive to write; COMPONENT.tar here otherwise.")
@click.option("--layout", metavar="DIR", help="Keep layers there: images that share them share the files.")
@click.option("--with", "extra", multiple=True, metavar="NAME", help="A distribution that the code imports by name.")
@click.option("--profile", metavar="NAME", help="Lay shardwright.NAME.toml over the manifest.")
@common_options
def image(
    invocation: Invocation,
    path: str,
    component: str,
    output: str | None,
    layout: str | None,
    extra: tuple[str, ...],
    profile: str | None,
) -> int:
    """Write an OCI image of a component, from this environment and without a network.

    It holds the interpreter, the system libraries and distributions that the code needs, and the code. The same content makes
    the same bytes. It is started as Python, with the component's code on its path.

    \b
    Examples:
      shardwright export image examples/arena physics
      skopeo copy oci-archive:physics.tar docker://registry.example/physics
    """
    manifest = load_manifest(path, profile=profile, environment=invocation.environment)
    if component not in {each.name for each in manifest.components}:
        names = ", ".join(each.name for each in manifest.components)
        raise NodeError(f"there is no component {component!r}", remedy=f"choose from {names}")
    target = Path(output or f"{component}.tar").absolute()
    root = plan_manifest(manifest).root
    with tempfile.TemporaryDirectory(dir=target.parent) as folder:
        found = export_image(manifest, root, component, target, Path(layout or folder), extra=extra)
    sizes = dict(zip(("system", "packages", "code"), (layer.size for layer in found.layers), strict=True))
    if invocation.json:
        invocation.result(
            {
                "archive": str(target), "image": found.image, "distributions": list(found.distributions),
                "layers": [{"name": name, "digest": layer.digest, "size_bytes": layer.size}
                           for name, layer in zip(sizes, found.layers, strict=True)],
            }
        )  # fmt: skip
        return OK
    told = ", ".join(f"{name} {format_bytes(size)}" for name, size in sizes.items())
    click.echo(f"{target}: {told}; {len(found.distributions)} distributions")
    return OK
