"""The second look at a program: at the functions that might be cut, while they run.

Of each, some calls are looked at: how many bytes their arguments and results take, whether those cross at all, what code
runs, and what the call does to the world outside of its arguments. The first few are run again, on copies of what the
arguments were: if the copy comes to another result, or changes its arguments otherwise, the function is not a function of
its arguments. So is one that names what modules hold and what changes while the program runs.

Looking takes a small share of the run: the first calls of each function are looked at, then as many as that share allows.
"""

from __future__ import annotations

import gc
import inspect
import os
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import FunctionType, GeneratorType
from typing import Any

from shardwright.errors import ShardwrightError
from shardwright.guest._alike import alike
from shardwright.guest._changes import Changes
from shardwright.guest._cut_code import Cutting, stub_code
from shardwright.guest._effects import of_call, of_code, of_event
from shardwright.guest._looked import Around, Looked
from shardwright.model.cut import CutFunction
from shardwright.model.ids import MethodId
from shardwright.transport.kin import Drained, KinCodec, drained

_HERE = os.path.dirname(os.path.dirname(__file__))
_SHADOWED = 4  # calls of each function that are run twice, at most
_ALWAYS = 2  # calls of each that are looked at whatever that takes
_MORE = 12  # so many, where some did not cross: to see whether those are few
_SHARE = 0.05  # of a function's own time may go into looking at its calls
_OF_RUN = 0.08  # of the whole run may go into it, but for the first calls of each function
_FEW = 0.1  # of the calls looked at may have arguments that do not cross
_EVENTS = 100_000  # of one call, after which its effects are no longer watched where tests decide
_MANY, _SHORT_S = 2000, 25e-6  # calls of so many that take so little are no longer seen: to cross would take longer


class Looking:
    """Puts stubs in place that look and call the original. ``modules``: the application's, by the path of their files.

    ``lenient``: code that only the first of several calls ran is what prepares a function, as a wrapper that is compiled when
    it is first called; a shard prepares its own. What a class keeps to itself may change where calls that were run twice came
    to the same all the same. Whoever asks for that runs the program's tests.
    """

    def __init__(self, functions: Sequence[str], modules: Mapping[str, str], *, lenient: bool = False) -> None:
        self._lenient = lenient
        self._outermost = Around(None)
        self._modules = {**modules, **{os.path.realpath(path): name for path, name in modules.items()}}
        wanted = []
        for name in functions:
            module, _, qualname = name.partition(":")
            wanted.append(CutFunction(module, qualname, 0, MethodId(0)))
        self._changes = Changes(modules.values())
        self._cutting = Cutting(
            wanted, [], self._replace, lambda items, number, bind: items,
            watched=modules.values(), executed=self._changes.loaded,
        )  # fmt: skip
        self._looked: dict[str, Looked] = {}
        self._codec = KinCodec()
        self._own = threading.local()
        self._swapped: list[FunctionType] = []
        self._began_s = 0.0
        self.look_s = 0.0

    def start(self) -> None:
        self._began_s = time.perf_counter()
        self._cutting.install()
        sys.addaudithook(self._heard)

    def forked(self) -> None:
        pass

    def end(self) -> dict[str, Any]:
        self._own.shadow = True
        self._changes.end()
        for looked in self._looked.values():
            if looked.unsent > _FEW * (looked.sampled + looked.unsent):
                looked.refuse(
                    f"arguments of {looked.unsent} of {looked.sampled + looked.unsent} calls do not cross: {looked.why_unsent}"
                )
            if not looked.veto:
                codes = looked.codes if self._lenient and looked.shadowed > 1 else looked.codes | looked.first
                looked.refuse(
                    self._changes.read_by(codes, self._modules, private=not (self._lenient and looked.shadowed))
                )
        return {
            "shadow_s": self.look_s + self._changes.spent_s,
            "looked": [item.told() for item in sorted(self._looked.values(), key=lambda item: item.name)],
            "contexts": self._outermost.told(),
        }

    def _replace(self, wanted: CutFunction, found: FunctionType) -> None:
        if found in self._swapped:
            return
        looked = self._looked.setdefault(wanted.id, Looked(wanted.id))
        looked.streams = bool(found.__code__.co_flags & inspect.CO_GENERATOR)
        original = FunctionType(
            found.__code__, found.__globals__, found.__name__, found.__defaults__, found.__closure__
        )
        original.__kwdefaults__ = found.__kwdefaults__
        original.__qualname__ = found.__qualname__
        found.__code__ = stub_code(
            found.__code__, lambda args, kwargs: self._call(looked, found, original, args, kwargs), "look"
        )
        self._swapped.append(found)

    # -- one call ----------------------------------------------------------------------------------------------------

    def _call(
        self,
        looked: Looked,
        found: FunctionType,
        original: FunctionType,
        args: tuple[Any, ...],
        kwargs: dict[str, Any],
    ) -> Any:
        if getattr(self._own, "shadow", False) or getattr(self._own, "alone", False):
            return original(*args, **kwargs)
        looked.calls += 1
        if looked.inside:
            return original(*args, **kwargs)
        if looked.veto and self._lenient:  # nothing more is to be learnt: from now on it runs as it is
            looked.short = True
            found.__code__ = original.__code__
            return original(*args, **kwargs)
        if looked.veto or not self._due(looked):
            if looked.calls == _MANY and looked.total_s < _MANY * _SHORT_S:
                looked.short = True
                found.__code__ = original.__code__
            return self._timed(looked, original, args, kwargs)
        return self._closely(looked, original, args, kwargs)

    def _due(self, looked: Looked) -> bool:
        if looked.calls <= _ALWAYS or (looked.unsent and looked.sampled + looked.unsent < _MORE):
            return True
        return looked.look_s < _SHARE * looked.total_s and self.look_s < _OF_RUN * (time.perf_counter() - self._began_s)

    def _timed(self, looked: Looked, original: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        own = self._own.__dict__
        outer: Around = own.get("around", self._outermost)
        around = outer.inner.get(looked)
        if around is None:
            around = outer.inner[looked] = Around(looked)
        around.calls += 1
        own["around"] = around
        looked.inside = True
        begun_s = time.perf_counter()
        try:
            return original(*args, **kwargs)
        finally:
            took_s = time.perf_counter() - begun_s
            looked.total_s += took_s
            around.total_s += took_s
            looked.inside = False
            own["around"] = outer

    def _spent(self, looked: Looked, begun_s: float) -> float:
        took_s = time.perf_counter() - begun_s
        looked.look_s += took_s
        self.look_s += took_s
        return took_s

    def _closely(self, looked: Looked, original: FunctionType, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self._own.shadow = True
        self._changes.begin()
        begun_s = time.perf_counter()
        try:
            payload, buffers, memo = self._codec.encode_request((None, args, kwargs or None))
            kept = [bytes(buffer) for buffer in buffers]
        except (ShardwrightError, RecursionError) as error:
            looked.unsent += 1  # such calls run where they are made
            looked.why_unsent = getattr(error, "message", str(error))
            return self._timed_after(looked, original, args, kwargs, begun_s)
        finally:
            self._own.shadow = False
        looked.encode_s += self._spent(looked, begun_s)
        looked.request_bytes += len(payload) + sum(map(len, kept))
        looked.sampled += 1
        shadows = looked.shadowed < (_SHADOWED if looked.look_s < _SHARE * looked.total_s else _ALWAYS)
        outcome: tuple[str, Any, Any]
        try:
            result = self._watched(looked, original, args, kwargs, shadows)
            outcome = "returned", args, (kwargs, result)
        except Exception as error:
            outcome = "raised", type(error), str(error)
            if shadows and not looked.veto:
                self._again(looked, original, payload, kept, outcome)
            raise
        if type(result) is GeneratorType:
            looked.streams = True
            if shadows and not looked.veto:
                return self._streamed(looked, original, payload, kept, result)
            return result
        begun_s = time.perf_counter()
        self._own.shadow = True
        try:
            written, more, _ = self._codec.encode_request(result)
            looked.result_bytes += len(written) + sum(map(len, more))
            if shadows and not looked.veto:  # what can be written may be of a class that cannot be made anew from it
                self._codec.decode_request(written, [bytes(buffer) for buffer in more])
        except (ShardwrightError, RecursionError) as error:
            looked.refuse(f"its result does not cross: {getattr(error, 'message', error)}")
        finally:
            self._own.shadow = False
            looked.encode_s += self._spent(looked, begun_s)
        if shadows and not looked.veto:
            self._again(looked, original, payload, kept, outcome)
        self._own.shadow = True
        self._changes.look()
        self._own.shadow = False
        del memo  # until now: it keeps alive what objects are known by
        return result

    def _timed_after(self, looked: Looked, original: FunctionType, args: Any, kwargs: Any, begun_s: float) -> Any:
        self._own.shadow = False
        self._spent(looked, begun_s)
        return self._timed(looked, original, args, kwargs)

    def _watched(self, looked: Looked, original: FunctionType, args: Any, kwargs: Any, closely: bool) -> Any:
        """The call itself, with its effects noted, and with ``closely`` the code that runs."""
        own = self._own.__dict__
        stack, closest = own.setdefault("looked", []), own.setdefault("closest", [])
        stack.append(looked)
        mine = closely and sys.getprofile() is None
        if closely and (mine or closest):
            closest.append(looked.codes if looked.shadowed else looked.first)
        if mine:
            self._listen(own)
        try:
            return self._timed(looked, original, args, kwargs)
        finally:
            if mine:
                sys.setprofile(None)
                closest.clear()
            elif closely and closest:
                closest.pop()
            stack.pop()

    def _again(
        self, looked: Looked, original: FunctionType, payload: Any, buffers: Any, outcome: tuple[str, Any, Any]
    ) -> None:
        """Run it once more, on copies of what its arguments were, and compare what it comes to."""
        looked.shadowed += 1
        self._own.shadow = True
        begun_s = time.perf_counter()
        again: tuple[str, Any, Any]
        try:
            (_, args, kwargs), _ = self._codec.decode_request(payload, buffers)
            kwargs = kwargs or {}
            try:
                again = "returned", args, (kwargs, original(*args, **kwargs))
            except Exception as error:
                again = "raised", type(error), str(error)
            if again[0] != outcome[0]:
                looked.refuse(f"run twice it ended in two ways: {outcome[0]} and {again[0]}")
            elif not (again[1:] == outcome[1:] if again[0] == "raised" else alike(again[1:], outcome[1:])):
                looked.refuse("run twice on equal arguments it gave another result or other changes of its arguments")
        except ShardwrightError as error:
            looked.refuse(f"its arguments cannot be copied: {error.message}")
        finally:
            self._own.shadow = False
            self._spent(looked, begun_s)

    def _streamed(self, looked: Looked, original: FunctionType, payload: Any, buffers: Any, result: Any) -> Any:
        """A generator: run to its end on copies now, and compared with what the program draws from its own."""
        looked.shadowed += 1
        own = self._own.__dict__
        stack, closest = own.setdefault("looked", []), own.setdefault("closest", [])
        begun_s = time.perf_counter()
        mine = sys.getprofile() is None
        stack.append(looked)
        closest.append(looked.codes if looked.shadowed > 1 else looked.first)
        own["alone"] = True
        if mine:
            self._listen(own)
        try:
            (_, args, kwargs), _ = self._codec.decode_request(payload, buffers)
            streamed_s = time.perf_counter()
            made = original(*args, **(kwargs or {}))
            expected = drained(made) if type(made) is GeneratorType else None
            looked.streamed_s += time.perf_counter() - streamed_s
        except Exception as error:
            looked.refuse(f"run twice it came to {type(error).__name__}: {error}")
            expected = None
        finally:
            if mine:
                sys.setprofile(None)
            own["alone"] = False
            closest.pop()
            stack.pop()
        if expected is None:
            looked.refuse("run twice it gave something else than a generator")
            return result
        own["shadow"] = True
        try:
            written, more, _ = self._codec.encode_request((expected.items, expected.value))
            looked.result_bytes += len(written) + sum(map(len, more))
        except (ShardwrightError, RecursionError) as error:
            looked.refuse(f"what it yields does not cross: {getattr(error, 'message', error)}")
        finally:
            own["shadow"] = False
            self._spent(looked, begun_s)
        return self._compared(looked, result, expected)

    def _compared(self, looked: Looked, result: Any, expected: Drained) -> Any:
        """The program's own generator, each item beside the one that the copy gave."""
        number = 0
        step: Callable[[], Any] = result.__next__
        try:
            while True:
                try:
                    item = step()
                except StopIteration as end:
                    if (
                        number != len(expected.items)
                        or expected.error is not None
                        or not alike(end.value, expected.value)
                    ):
                        looked.refuse("run twice it yielded another number of items")
                    return end.value
                except Exception:
                    if expected.error is None or number != len(expected.items):
                        looked.refuse("run twice it ended in two ways")
                    raise
                if number >= len(expected.items) or not alike(item, expected.items[number]):
                    looked.refuse("run twice on equal arguments it yielded other items")
                number += 1
                step = result.__next__
                try:
                    sent = yield item
                except GeneratorExit:
                    if number < len(expected.items):  # of another graph there may be more than anybody can wait for
                        looked.refuse(
                            "the program does not draw all that it yields, and a shard would run it to its end"
                        )
                    raise
                except BaseException as error:
                    looked.refuse("the program throws into it, and a shard would run it to its end")
                    step = partial(result.throw, error)
                else:
                    if sent is not None:
                        looked.refuse("the program sends to it, and a shard would run it to its end")
                        step = partial(result.send, sent)
        finally:
            result.close()

    # -- effects -----------------------------------------------------------------------------------------------------

    def _listen(self, own: dict[str, Any]) -> None:
        own["events"], own["aside"] = 0, None
        self._collectors = {getattr(callback, "__code__", None) for callback in gc.callbacks}
        sys.setprofile(self._event)

    def _event(self, frame: Any, event: str, called: Any) -> None:
        own = self._own.__dict__
        aside = own["aside"]
        if aside is not None:
            if event == "return" and frame is aside:
                own["aside"] = None
            return
        if self._lenient:
            own["events"] = events = own.get("events", 0) + 1
            if events > _EVENTS:
                sys.setprofile(None)
                return
        if own.get("shadow") or frame.f_code.co_filename.startswith(_HERE):
            return
        if event == "call":
            code = frame.f_code
            if code in self._collectors:  # garbage is collected: that is no call of the function's
                own["aside"] = frame
                return
            fresh = [codes for codes in own["closest"] if code not in codes]
            for codes in fresh:
                codes.add(code)
            why = of_code(code) if fresh else ""
        else:
            why = of_call(called) if event == "c_call" else ""
        if why:
            self._refuse(why)

    def _heard(self, event: str, given: Any) -> None:
        if not getattr(self._own, "looked", None) or getattr(self._own, "shadow", False):
            return
        why = of_event(event, given)
        if why:
            self._refuse(why)

    def _refuse(self, why: str) -> None:
        for looked in self._own.looked:
            looked.refuse(why)
