"""What stands for generator functions of other components: generator functions of Python, whose items are a stream's.

``yield from``, ``send``, ``throw`` and ``close`` lead to the generator where it runs; leaving a loop closes it there.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncGenerator, Callable, Generator
from typing import Any

from shardwright.errors import CallError, CannotCross
from shardwright.guest._frames import beyond
from shardwright.guest._stream_calls import Stream
from shardwright.guest._streams import CLOSE, GOES_ON, NEXT, SEND, THROW


def generator_proxy(make: Callable[..., Stream]) -> Callable[..., Generator[Any, Any, Any]]:
    """A generator function whose generators are streams; ``make`` takes its arguments."""

    def stub(*args: Any, **kwargs: Any) -> Generator[Any, Any, Any]:
        stream = make(*args, **kwargs)
        ready: deque[Any] = deque()
        try:
            state, items, value = stream.step()
            while True:
                ready.extend(items)
                while ready:
                    op, sent = NEXT, None
                    try:
                        sent = yield ready.popleft()
                        if sent is not None:
                            op = SEND
                    except GeneratorExit:
                        if state != GOES_ON or not stream.may_wait:
                            raise
                        op = CLOSE
                    except BaseException as thrown:
                        if state != GOES_ON:
                            raise
                        op, sent = THROW, thrown
                    if op != NEXT:
                        ready.clear()
                        break
                if state != GOES_ON:
                    return value
                try:
                    state, items, value = stream.step(
                        op, sent
                    )  # what CLOSE gives is yielded on, for Python to complain
                except CallError as error:
                    if op == CLOSE and error.outcome == "not started":
                        raise GeneratorExit from None  # it has ended with its session or shard: nothing is left to close
                    if op == THROW and isinstance(error, CannotCross) and not stream.over:
                        stream.step(CLOSE)
                    raise
                if op == CLOSE and state != GOES_ON and value is None:
                    raise GeneratorExit  # else it is what close() gives, from Python 3.13 on
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise
        finally:
            stream.forget()

    return stub


def async_generator_proxy(make: Callable[..., Stream]) -> Callable[..., AsyncGenerator[Any, Any]]:
    """The same of an async generator function."""

    async def stub(*args: Any, **kwargs: Any) -> AsyncGenerator[Any, Any]:
        stream = make(*args, **kwargs)
        ready: deque[Any] = deque()
        try:
            state, items, _ = await stream.astep()
            while True:
                ready.extend(items)
                while ready:
                    op, sent = NEXT, None
                    try:
                        sent = yield ready.popleft()
                        if sent is not None:
                            op = SEND
                    except GeneratorExit:
                        if state != GOES_ON or not stream.may_wait:
                            raise
                        op = CLOSE
                    except BaseException as thrown:
                        if state != GOES_ON:
                            raise
                        op, sent = THROW, thrown
                    if op != NEXT:
                        ready.clear()
                        break
                if state != GOES_ON:
                    return
                try:
                    state, items, _ = await stream.astep(op, sent)
                except CallError as error:
                    if op == CLOSE and error.outcome == "not started":
                        raise GeneratorExit from None
                    if op == THROW and isinstance(error, CannotCross) and not stream.over:
                        await stream.astep(CLOSE)
                    raise
                if op == CLOSE and state != GOES_ON:
                    raise GeneratorExit
        except BaseException as error:
            error.__traceback__ = beyond(error.__traceback__)
            raise
        finally:
            stream.forget()

    return stub
