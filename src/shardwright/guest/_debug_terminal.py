"""A terminal that came by descriptor, as pdb reads and writes it: its loss is the end of its input, never an error."""

from __future__ import annotations

import codecs
import os
import threading

MAX_INPUT = 1 << 16  # characters of one line


class Terminal:
    """One end of a pseudo terminal, ours to close. Lines are edited by the terminal's own discipline."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._rest = ""
        self._mutex = threading.Lock()

    def __repr__(self) -> str:
        return f"<Terminal {'closed' if self._descriptor < 0 else self._descriptor}>"

    def fileno(self) -> int:
        return self._descriptor

    def isatty(self) -> bool:
        return True

    def readline(self, limit: int = -1) -> str:
        """The next line; empty at Ctrl-D, and once the other end is closed."""
        while "\n" not in self._rest and len(self._rest) < MAX_INPUT:
            try:
                data = os.read(self._descriptor, 4096)
            except OSError:
                data = b""
            if not data:
                line, self._rest = self._rest, ""
                return line
            self._rest += self._decoder.decode(data)
        line, newline, self._rest = self._rest.partition("\n")
        return line + newline

    def write(self, text: str) -> int:
        data = text.encode("utf-8", "backslashreplace")
        with self._mutex:
            try:
                while data and self._descriptor >= 0:
                    data = data[os.write(self._descriptor, data) :]
            except OSError:
                pass  # nobody reads it any more
        return len(text)

    def flush(self) -> None:
        """Nothing is kept back."""

    def close(self) -> None:
        with self._mutex:
            descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            os.close(descriptor)
