"""A plan as a picture: Mermaid text for documents, SVG for everything else. The same plan gives the same picture."""

from __future__ import annotations

from html import escape

from shardwright.model.cut import Cut
from shardwright.model.shard import PlanEdge, ShardDefinition, ShardPlan
from shardwright.model.units import format_bytes

_WIDE, _HIGH, _GAP_X, _GAP_Y, _EDGE = 210, 64, 110, 26, 20
_STYLE = (
    "text{font:12px sans-serif;fill:#1b2733}.n{font-weight:bold}.s{font-size:10px;fill:#52606d}"
    "rect{fill:#eef4fb;stroke:#3b6ea5}.cut rect{fill:#fdf3e1;stroke:#b7791f}path{fill:none;stroke:#7b8794}"
)


def plan_mermaid(plan: ShardPlan) -> str:
    """A flowchart: a box for each shard definition, an arrow for each edge, with what was measured of cut ones."""
    numbers = {definition.component: f"s{number}" for number, definition in enumerate(plan.definitions)}
    lines = ["flowchart LR"]
    for definition in plan.definitions:
        shown = "<br/>".join(_mermaid(text) for text in (definition.component, *_facts(definition, plan)))
        ends = ("([", "])") if definition.cut_of else ("[", "]")
        lines.append(f'    {numbers[definition.component]}{ends[0]}"{shown}"{ends[1]}')
    for edge in _drawn(plan):
        label = _label(edge, plan)
        arrow = f'-->|"{_mermaid(label)}"|' if label else "-->"
        lines.append(f"    {numbers[edge.caller]} {arrow} {numbers[edge.callee]}")
    return "\n".join(lines) + "\n"


def plan_svg(plan: ShardPlan) -> str:
    """The same as one SVG document without anything outside of it: callers to the left of those they call."""
    columns = _columns(plan)
    places: dict[str, tuple[int, int]] = {}
    for x, column in enumerate(columns):
        for y, name in enumerate(column):
            places[name] = (_EDGE + x * (_WIDE + _GAP_X), _EDGE + y * (_HIGH + _GAP_Y))
    width = 2 * _EDGE + len(columns) * (_WIDE + _GAP_X) - _GAP_X
    height = 2 * _EDGE + max(map(len, columns), default=1) * (_HIGH + _GAP_Y) - _GAP_Y
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" viewBox="0 0 {width} {height}" role="img" '
        f'aria-label="{escape(f"Plan of {plan.app}")}">',
        f"<style>{_STYLE}</style>",
        '<defs><marker id="a" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="8" markerHeight="8" orient="auto">'
        '<path d="M0,0 L8,4 L0,8 z" style="fill:#7b8794"/></marker></defs>',
    ]
    for edge in _drawn(plan):
        parts.append(_arrow(places[edge.caller], places[edge.callee], _label(edge, plan)))
    for definition in plan.definitions:
        x, y = places[definition.component]
        facts = _facts(definition, plan)
        kind = ' class="cut"' if definition.cut_of else ""
        parts.append(f'<g{kind}><rect x="{x}" y="{y}" width="{_WIDE}" height="{_HIGH}" rx="6"/>')
        parts.append(f'<text class="n" x="{x + 10}" y="{y + 19}">{escape(_short(definition.component, 28))}</text>')
        for number, text in enumerate(facts[:2]):
            parts.append(f'<text class="s" x="{x + 10}" y="{y + 36 + 15 * number}">{escape(_short(text, 36))}</text>')
        parts.append(f"<title>{escape('; '.join((definition.component, *facts)))}</title></g>")
    return "\n".join([*parts, "</svg>"]) + "\n"


def _drawn(plan: ShardPlan) -> list[PlanEdge]:
    known = {definition.component for definition in plan.definitions}
    return [edge for edge in plan.edges if edge.caller in known and edge.callee in known]


def _facts(definition: ShardDefinition, plan: ShardPlan) -> tuple[str, ...]:
    """What a box says besides its name."""
    cut = _cut_to(definition.component, plan)
    if cut is not None:
        names = ", ".join(function.qualname for function in cut.functions)
        return f"{cut.shards} shards, {len(cut.functions)} functions, {cut.moved_s:.2f} s", names
    guarantee = definition.limits.guarantee
    cpu = f"{guarantee.cpu:g} CPU" if guarantee.cpu is not None else ""
    memory = format_bytes(guarantee.memory_bytes) if guarantee.memory_bytes is not None else ""
    size = ", ".join(filter(None, (cpu, memory)))
    return f"{definition.scope}, state {definition.state.value}", size or f"{len(definition.code.modules)} modules"


def _cut_to(component: str, plan: ShardPlan) -> Cut | None:
    return next((cut for cut in plan.cuts if cut.part == component), None)


def _label(edge: PlanEdge, plan: ShardPlan) -> str:
    """What was measured of an edge; nothing where nobody has."""
    cut = _cut_to(edge.callee, plan)
    if cut is None:
        return ""
    return f"{cut.calls} calls, {format_bytes(cut.size_bytes)}, gains {cut.gain_s:.2f} s"


def _columns(plan: ShardPlan) -> list[list[str]]:
    """Components by how many edges lie before them; what leads back is left out of the count."""
    names = [str(definition.component) for definition in plan.definitions]
    callees: dict[str, list[str]] = {name: [] for name in names}
    for edge in _drawn(plan):
        callees[edge.caller].append(edge.callee)
    depth: dict[str, int] = {}

    def visit(name: str, at: int, above: frozenset[str]) -> None:
        if name in above or depth.get(name, -1) >= at:
            return
        depth[name] = at
        for callee in callees[name]:
            visit(callee, at + 1, above | {name})

    called = {edge.callee for edge in _drawn(plan)}
    for name in [name for name in names if name not in called] or names[:1]:
        visit(name, 0, frozenset())
    for name in names:
        visit(name, depth.get(name, 0), frozenset())
    columns: list[list[str]] = [[] for _ in range(max(depth.values(), default=0) + 1)]
    for name in names:
        columns[depth[name]].append(name)
    return columns


def _arrow(start: tuple[int, int], end: tuple[int, int], label: str) -> str:
    if start[0] < end[0]:
        x, y, to_x, to_y = start[0] + _WIDE, start[1] + _HIGH // 2, end[0], end[1] + _HIGH // 2
    else:  # back, or down
        x, y, to_x, to_y = start[0] + _WIDE // 2, start[1] + _HIGH, end[0] + _WIDE // 2, end[1] + _HIGH
    bend = (x + to_x) // 2
    made = f'<path marker-end="url(#a)" d="M{x},{y} C{bend},{y} {bend},{to_y} {to_x},{to_y}"/>'
    if label:
        made += f'<text class="s" text-anchor="middle" x="{bend}" y="{(y + to_y) // 2 - 5}">{escape(label)}</text>'
    return made


def _short(text: str, most: int) -> str:
    return text if len(text) <= most else text[: most - 1] + "…"


def _mermaid(text: str) -> str:
    return text.replace("&", "&amp;").replace('"', "&quot;").replace("<", "&lt;").replace(">", "&gt;")
