"""What all forks of a template only read, made so that reading does not write.

A fork shares its template's pages until somebody writes to them, and Python writes a count of references wherever it looks
at an object. Since 3.12 an object may be *immortal* (PEP 683): its count is never written. What this makes immortal has no end
that anybody could see: text, numbers, code; and of modules that are not the application's own also functions, classes,
module namespaces; and of our own objects the frozen data of which a plan is made. Other objects live and die as ever.
"""

from __future__ import annotations

import ctypes
import gc
import os
import sys
import sysconfig
import types
from collections.abc import Iterable, Iterator

LARGEST = 4096  # bytes of a value; what is larger may be meant to be freed
# of 3.12 and 3.13: the lower half of the count (Include/object.h, _Py_IMMORTAL_REFCNT)
_COUNT = b"\xff\xff\xff\xff"
_KNOWN = ((3, 12), (3, 13))
_VALUES = frozenset((str, bytes, int, float))
_DESCRIPTORS = frozenset(
    (
        *(types.MethodDescriptorType, types.WrapperDescriptorType, types.ClassMethodDescriptorType),
        *(types.GetSetDescriptorType, types.MemberDescriptorType),
    )
)
_OURS = "shardwright."


def permitted() -> bool:
    """Whether this interpreter's counts are known to us: their layout is nobody's promise."""
    return (
        sys.implementation.name == "cpython"
        and sys.version_info[:2] in _KNOWN
        and sys.byteorder == "little"
        and sys.maxsize > 2**32
        and not sysconfig.get_config_var("Py_GIL_DISABLED")
        and not sysconfig.get_config_var("Py_DEBUG")
    )


def make_immortal(root: str) -> int:
    """Do so for what is loaded now; how many objects they are, 0 where it cannot be done.

    ``root``: the application's own modules lie in there. To be called once, while the process has one thread of Python's.
    """
    if not permitted():
        return 0
    own = {name for name, module in list(sys.modules.items()) if _beneath(getattr(module, "__file__", None), root)}
    found: dict[int, object] = {}
    gc.unfreeze()  # the collector does not list what was frozen before
    for each in gc.get_objects():
        for one in _readable(each, own, root):
            found[id(one)] = one
    for number in found:
        ctypes.memmove(number, _COUNT, len(_COUNT))
    return len(found)


def _readable(each: object, own: set[str], root: str) -> Iterator[object]:
    """Of an object, and of what it refers to directly: what may be immortal."""
    kind = type(each)
    yield from _values(gc.get_referents(each))
    if kind is types.FunctionType:
        assert isinstance(each, types.FunctionType)
        yield from _code(each.__code__)
        if not _beneath(each.__code__.co_filename, root):
            yield each
            yield from each.__closure__ or ()
    elif kind is types.ModuleType:
        assert isinstance(each, types.ModuleType)
        if each.__name__ not in own:
            yield each
            yield each.__dict__
    elif isinstance(each, type):
        if each.__module__ not in own and each.__flags__ & _HEAP_TYPE:
            yield each
            yield each.__mro__
    elif kind in _DESCRIPTORS:
        if getattr(each, "__objclass__", type).__module__ not in own:  # it holds its class
            yield each
    elif kind is types.BuiltinFunctionType:
        if isinstance(getattr(each, "__self__", None), types.ModuleType | None):  # it holds what it is a method of
            yield each
    elif str(getattr(kind, "__module__", "")).startswith(_OURS) and _is_frozen(kind):
        yield each


def _is_frozen(kind: type) -> bool:
    """Whether it is data of ours, of which a plan is made: it does nothing when it ends."""
    return _frozen(kind.__dict__.get("__dataclass_params__")) or _frozen(getattr(kind, "__struct_config__", None))


def _frozen(parameters: object) -> bool:
    return bool(getattr(parameters, "frozen", False))


_HEAP_TYPE = 1 << 9


def _code(code: types.CodeType) -> Iterator[object]:
    yield code
    for group in (code.co_consts, code.co_names):
        yield group
        yield from _values(group)
    for constant in code.co_consts:
        if isinstance(constant, types.CodeType):
            yield from _code(constant)


def _values(objects: Iterable[object]) -> Iterator[object]:
    for each in objects:
        if type(each) in _VALUES and sys.getsizeof(each) <= LARGEST:
            yield each


def _beneath(path: object, root: str) -> bool:
    return isinstance(path, str) and path.startswith(root + os.sep)
