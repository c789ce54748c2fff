"""Every code of a finding of the plan, with one line of meaning and one of remedy.

The documentation's table is made from here (`codes_markdown`); codes are stable and never given a second meaning.
"""

from __future__ import annotations

from msgspec import Struct

from shardwright.model.shard import Diagnostic, Severity


class Code(Struct, frozen=True):
    """One row of the table. ``severity`` is ``None`` where the finding ends planning (a PlanError)."""

    code: str
    severity: Severity | None
    meaning: str
    remedy: str


_N, _W, _R = Severity.NOTE, Severity.WARNING, Severity.REFUSAL

CODES: dict[str, Code] = {
    code: Code(code, severity, meaning, remedy)
    for code, severity, meaning, remedy in (
        # -- planning ends ----------------------------------------------------------------------------------------
        ("SW202", None, "A source file cannot be parsed.", "Correct the syntax at the place named."),
        ("SW203", None, "The module that `code` or `main` names does not exist.", "Use the nearest module named."),
        ("SW204", None, "The attribute that the manifest names does not exist.", "Use the nearest name given."),
        ("SW205", None, "A component's module has no Python source.", "Leave compiled modules common."),
        ("SW206", None, "Two components own the same module.", "Give each component modules of its own."),
        ("SW207", None, "`depends_on` names an unknown component.", "Use the nearest component named."),
        ("SW208", None, "No entry point has the argument of `scope = \"key:...\"`.", "Name an argument that exists."),
        ("SW209", None, "A shared component that keeps state in memory may not have several instances.",
         "Set `scale.max = 1`, key its scope, or set `state = \"none\"` if the state does not matter."),
        ("SW211", None, "The kind of state asked for is not available in this version.", "Use `state = \"memory\"`."),
        # -- edges ------------------------------------------------------------------------------------------------
        ("SW220", _N, "An edge that the code needs is not in `depends_on`; it was added.", "Declare it."),
        ("SW221", _W, "An edge in `depends_on` is used nowhere in the code.", "Remove it, or keep it for hidden use."),
        ("SW222", _N, "A component takes only values of another one; no edge is needed.", "Nothing to do."),
        ("SW223", _W, "An `[[edges]]` rule names an edge that the plan does not have.", "Remove the rule."),
        ("SW224", _R, "A route names an entry point that the plan does not have.", "Use the nearest name given."),
        # -- state ------------------------------------------------------------------------------------------------
        ("SW230", _N, "Why the component's state was taken to be in memory.", "Set `state` to overrule."),
        ("SW231", _W, "A common module writes a global after import: every shard has a copy of its own.",
         "Give the module to one component."),
        ("SW232", _W, "Code changes a setting of the whole process after import; only its own shard sees it.",
         "Set it at import, in a common module."),
        ("SW233", _W, "Logging is configured where only one shard runs it; the other shards' logging stays as it is.",
         "Configure it at import, in a common module that every component imports."),
        # -- cuts inside components ---------------------------------------------------------------------------------
        ("SW330", _N, "A function is cut out of its component; calls, bytes, cost and gain are said.",
         "Name it in `never_cut` to keep it."),
        ("SW331", _N, "A function that takes time is not cut: a rule, a look while it ran, or the author forbids it.",
         "See the rule that is named."),
        ("SW332", _N, "A function that takes time is not cut: crossing costs more than running at once gains.",
         "Let each call do more, or carry less."),
        ("SW333", _N, "A function that takes time is not cut: no loop calls it in a way that lets calls run at once.",
         "Call it in a loop, a comprehension or `map`, on what is known when the round begins."),
        ("SW334", _N, "Nothing is cut inside a component that has a shard for each session, request or key.",
         "Give what is stateless a component of its own."),
        ("SW335", _R, "The profile is of another version of the code; the modules that differ are named.",
         "Profile again: `shardwright plan --profile -- COMMAND`."),
        ("SW336", _N, "A function uses what is outside of Python's values (output, files, clocks, chance); it is not cut.",
         "Let it return what its caller then writes, or hand it what it would read."),
        ("SW337", _N, "A look at a function while it ran forbids a cut: an effect, other results, what does not cross.",
         "See what was seen; change that, or leave the function where it is."),
        # -- routing ----------------------------------------------------------------------------------------------
        ("SW240", _R, "An entry point of a keyed component lacks the key argument and cannot be routed.",
         "Add the argument, or move the function to a component of another scope."),
        # -- classes ----------------------------------------------------------------------------------------------
        ("SW250", _W, "A value class cannot be rebuilt outside its component; it is reached by handle.",
         "Let its class body use literals only, or list it in `stateful`."),
        ("SW251", _R, "A class inherits across the cut from a class that is reached by handle.",
         "Keep both classes in one component, or wrap instead of inherit."),
        ("SW252", _N, "A data class changes itself in its methods; copies of it do not follow each other.",
         "List it in `stateful` if its instances are shared."),
        ("SW253", _W, "A value class writes globals of its module: every shard writes its own copy.",
         "List it in `stateful`, or move the write into a function."),
        ("SW254", _W, "A sentinel made by `object()` loses its identity across an edge.",
         "Use an Enum member or None instead."),
        ("SW255", _N, "Objects of a class reached by handle can be iterated over in their own component only.",
         "Give the class a method that returns a list."),
        ("SW256", _N, "A value class with code of its own may come to a component that does not import its module: as data.",
         "Import the module there, if only under TYPE_CHECKING, or define the class in a module that no component owns."),
        # -- hazards at edges -------------------------------------------------------------------------------------
        ("SW260", _N, "A generator is called across an edge; every item is a round trip, made when it is asked for.",
         "Return a list where that is small, or list the generator in `ahead`."),
        ("SW261", _W, "A module global that changes is read across an edge; each read asks the owner for a copy.",
         "Read it through a function of the owner."),
        ("SW262", _R, "An attribute of another component's module is written from outside (monkeypatching).",
         "Give the owner a function that sets it."),
        ("SW263", _R, "An attribute of an object behind a handle is written from outside its component.",
         "Give its class a method that sets it."),
        ("SW264", _R, "A context manager that cannot cross is entered across an edge: of `@contextmanager`, or a lock.",
         "Enter it inside its component, or offer a function that does the whole."),
        ("SW265", _R, "A global that changes is imported by name across an edge; the name would keep an old copy.",
         "Read it through a function of the owner."),
        ("SW266", _R, "A function, lambda or generator is an argument across an edge; it cannot be copied.",
         "Pass data, such as a name to choose by, or keep both sides in one component."),
        ("SW267", _W, "An attribute of a function is used across an edge (such as `cache_clear`).",
         "Offer it as a function of the owner."),
        ("SW268", _W, "A name is used across an edge that the owner's module does not define.", "Correct the name."),
        ("SW269", _R, "An object behind a handle is iterated over across an edge; its iterator does not cross.",
         "Give its class a method that returns a list, and iterate over that."),
        ("SW270", _R, "An attribute of a class that is reached by handle is used across an edge; the class stays.",
         "Give the class a class method that answers, or the owner a function."),
        ("SW271", _R, "A method is called across an edge that a decorator or call makes; its proxy does not have it.",
         "Write the method with `def` in its class."),
        ("SW272", _R, "A global that cannot be copied is used across an edge, such as a ContextVar or a lock.",
         "Give the owner functions that use it, or keep it in a common module."),
        ("SW273", _W, "A function waits for what another call must do; a shard takes one call at a time.",
         "Let the caller ask again instead of waiting, or keep both sides in one component."),
        # -- dividing a component ---------------------------------------------------------------------------------
        ("SW291", None, "Functions must be apart, and must stay together by way of others.", "Take back one of the two."),
        ("SW292", None, "What must stay together takes more than one part may hold.", "Allow more for one part."),
        ("SW293", None, "No division was found that keeps every cap.", "Allow more for one part, or more parts."),
    )
}  # fmt: skip


ALTERING = frozenset({"SW231", "SW232", "SW233", "SW253", "SW254", "SW261", "SW267", "SW268", "SW273"})
"""Warnings that say that the cut program may fail, or do something else than the uncut one, where it runs there."""


def alters(finding: Diagnostic) -> bool:
    """Whether a finding means that the cut program may fail or do something else than the uncut one."""
    return finding.severity is Severity.REFUSAL or finding.code in ALTERING


def codes_markdown() -> str:
    """The table of codes as Markdown, for the documentation."""
    lines = ["| code | severity | meaning | what to do |", "|---|---|---|---|"]
    for code in sorted(CODES):
        row = CODES[code]
        severity = "error" if row.severity is None else row.severity.value
        lines.append(f"| {row.code} | {severity} | {row.meaning} | {row.remedy} |".replace("key:...", "key:…"))
    return "\n".join(lines) + "\n"
