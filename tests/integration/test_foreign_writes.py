"""Writing to another component's module or class from outside is refused when it happens, and changes nothing."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

import shardwright
from guest_apps import write_application

MANIFEST = """
    [app]
    name = "foreign"
    [components.conf]
    code = "pkg"
    [components.desk]
    code = "desk"
"""
PKG = """
    LIMIT = 5
    def limit(): return LIMIT
    class Store:
        size = 3
        def __init__(self): self.n = 0
        def add(self): self.n += 1; return self.n
"""
DESK = """
    import importlib
    import pkg
    from pkg import Store, limit

    def attempt(what):
        def assign(): pkg.LIMIT = 9
        def set_by_name(): setattr(pkg, "LIMIT", 9)
        def new_name(): pkg.brand_new = 9
        def patch_function(): pkg.limit = lambda: 9
        def delete(): del pkg.LIMIT
        def class_attribute(): Store.size = 9
        def patch_method(): Store.add = lambda self: 9
        def delete_method(): del Store.add
        try:
            locals()[what]()
        except Exception as error:
            found = type(error).__name__ + " " + str(error)
        else:
            found = "done"
        return found, pkg.LIMIT, limit(), Store().add()

    def imports():
        import pkg.part
        importlib.reload(pkg.part)
        pkg.__doc__ = "mine"
        return pkg.part.three(), pkg.part.__spec__.name, pkg.__path__ is not None
"""
WRITES = (
    *("assign", "set_by_name", "new_name", "patch_function", "delete"),
    *("class_attribute", "patch_method", "delete_method"),
)


@pytest.mark.parametrize("inproc", [False, True], ids=["processes", "inproc"])
def test_a_write_from_outside_is_refused(tmp_path: Path, inproc: bool, record_exercised: Any) -> None:
    folder = write_application(tmp_path / "app", MANIFEST, desk=DESK)
    (folder / "pkg").mkdir()
    write_application(folder / "pkg", MANIFEST, __init__=PKG, part="def three():\n    return 3\n")
    with shardwright.start(folder, inproc=inproc, state=folder / ".state") as node, node.session("one") as session:
        for what in WRITES:
            found, *after = session.call("desk.attempt", what)
            assert found.startswith("CutRefused") and "component conf" in found and "give conf a function" in found, (
                what
            )
            assert after == [5, 5, 1], what
        if not inproc:
            assert session.call("desk.imports") == (3, "pkg.part", True)
    record_exercised("writes from outside refused", len(WRITES))
