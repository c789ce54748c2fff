"""Readiness: one pollable descriptor for "bytes wait in the kernel, or a whole message waits in our buffer"."""

from __future__ import annotations

import os
import select


class Readiness:
    """An epoll descriptor over the socket and an eventfd that stands for our own buffer.

    Made only for channels that are polled. Holds two descriptors until ``close``.
    """

    __slots__ = ("_epoll", "_event", "_shown")

    def __init__(self, socket_descriptor: int) -> None:
        self._shown = False
        self._event = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)
        try:
            self._epoll = select.epoll()
            try:
                self._epoll.register(socket_descriptor, select.EPOLLIN | select.EPOLLRDHUP)
                self._epoll.register(self._event, select.EPOLLIN)
            except BaseException:
                self._epoll.close()
                raise
        except BaseException:
            os.close(self._event)
            raise

    def fileno(self) -> int:
        return self._epoll.fileno()

    def show(self, buffered: bool) -> None:
        """Say whether a whole message is buffered. A system call only when that changed."""
        if buffered is self._shown:
            return
        self._shown = buffered
        if buffered:
            os.eventfd_write(self._event, 1)
        else:
            os.eventfd_read(self._event)

    def close(self) -> None:
        self._epoll.close()
        os.close(self._event)
