"""Which object of a program a web server would serve: ``app = FastAPI()``, ``application = get_wsgi_application()``."""

from __future__ import annotations

import ast
from collections.abc import Iterable

from shardwright.sharding._source import SourceModule

__all__ = ["web_application"]

# Best first where a program has several: Django writes both forms.
_MAKERS = (
    "fastapi.FastAPI", "starlette.applications.Starlette", "litestar.Litestar", "quart.Quart", "blacksheep.Application",
    "flask.Flask", "falcon.asgi.App", "falcon.App", "bottle.Bottle", "pyramid.config.Configurator.make_wsgi_app",
    "django.core.wsgi.get_wsgi_application", "django.core.asgi.get_asgi_application",
)  # fmt: skip


def web_application(modules: Iterable[SourceModule]) -> tuple[str, str]:
    """Module and name of the application that is made where a module is imported; two empty texts without one.

    A function of the same module that makes one (``app = create_app()``) counts as its maker.
    """
    found: list[tuple[int, str, str]] = []
    for module in modules:
        known = _imported(module)
        if not known:
            continue
        makers = {
            each.name: rank
            for each in module.tree.body
            if isinstance(each, ast.FunctionDef) and (rank := _rank_within(each, known)) is not None
        }
        for statement in module.tree.body:
            if isinstance(statement, ast.Assign) and len(statement.targets) == 1:
                target: ast.expr = statement.targets[0]
            elif isinstance(statement, ast.AnnAssign):
                target = statement.target
            else:
                continue
            if isinstance(target, ast.Name) and isinstance(statement.value, ast.Call):
                made = statement.value.func
                rank = _rank(made, known)
                if rank is None and isinstance(made, ast.Name):
                    rank = makers.get(made.id)
                if rank is not None:
                    found.append((rank, module.name, target.id))
    return min(found)[1:] if found else ("", "")


def _imported(module: SourceModule) -> dict[str, str]:
    """What names of the module mean, of packages that make applications."""
    tops = {maker.partition(".")[0] for maker in _MAKERS}
    known: dict[str, str] = {}
    for item in ast.walk(module.tree):
        if isinstance(item, ast.Import):
            for alias in item.names:
                if alias.name.partition(".")[0] in tops:
                    top = alias.name.partition(".")[0]
                    known[alias.asname or top] = alias.name if alias.asname else top
        elif isinstance(item, ast.ImportFrom) and not item.level and (item.module or "").partition(".")[0] in tops:
            known.update({alias.asname or alias.name: f"{item.module}.{alias.name}" for alias in item.names})
    return known


def _rank(made: ast.expr, known: dict[str, str]) -> int | None:
    names: list[str] = []
    while isinstance(made, ast.Attribute):
        names.append(made.attr)
        made = made.value
    if not isinstance(made, ast.Name) or made.id not in known:
        return None
    full = ".".join([known[made.id], *reversed(names)])
    return _MAKERS.index(full) if full in _MAKERS else None


def _rank_within(function: ast.FunctionDef, known: dict[str, str]) -> int | None:
    ranks = [
        rank
        for item in ast.walk(function)
        if isinstance(item, ast.Call) and (rank := _rank(item.func, known)) is not None
    ]
    return min(ranks, default=None)
