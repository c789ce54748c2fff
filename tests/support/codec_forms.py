"""Runs a module's tests twice: over the codec's C extension, and over the Python code that serves where it was not built."""

from __future__ import annotations

from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

from shardwright.transport import _envelope
from shardwright.transport.codec import PickleCodec, TaggedCodec, _form, _memo, _pickle, _tagged
from shardwright.transport.codec._extension import native
from shardwright.transport.codec._form import PythonForm


def python_codec(codec: TaggedCodec) -> TaggedCodec:
    """The same codec without the extension."""
    twin = TaggedCodec(codec.classes, handles=codec.handles, limits=codec.limits)
    twin._form = PythonForm(twin)
    return twin


def codecs_in(module: ModuleType) -> Iterator[TaggedCodec]:
    for thing in vars(module).values():
        if isinstance(thing, TaggedCodec):
            yield thing
        elif isinstance(thing, PickleCodec):
            yield thing._errors
        elif isinstance(thing, ModuleType) and thing.__name__ == "fuzz_codec":
            yield from codecs_in(thing)


@pytest.fixture(scope="module", params=["native", "python"])
def codec_form(request: pytest.FixtureRequest) -> Iterator[str]:
    """Which form serves; use it by ``pytestmark``."""
    if request.param == "native":
        assert native is not None, "the extension was not built: run scripts/test where there is a compiler"
        yield request.param
        return
    refuse: Any = lambda _: NotImplemented  # noqa: E731
    with pytest.MonkeyPatch.context() as patch:
        for codec in set(codecs_in(request.module)):
            patch.setattr(codec, "_form", PythonForm(codec))
        patch.setattr(_tagged, "make_form", PythonForm)
        for room in (_form, _tagged, _pickle):
            patch.setattr(room, "Memo", _memo.PythonMemo)
        patch.setattr(_envelope, "_native_pack", refuse)
        patch.setattr(_envelope, "_native_unpack", refuse)
        yield request.param
