"""The C extension. ``_image`` says how to use it; ``_pages.c`` why it is sound."""

from collections.abc import Sequence

def image(ranges: Sequence[tuple[int, int]], changed: int, /) -> int:
    """Make the memory of those ranges (whole pages, in order) a private mapping of a sealed file. How many bytes.

    ``changed``: -1, or a file as ``written`` writes it, whose pages the file has instead. For a process with a single
    thread. Raises ValueError, OSError.
    """

def written(ranges: Sequence[tuple[int, int]], target: int, /) -> int:
    """Write this process' own pages there, each after its address. How many. Raises ValueError, OSError."""

def trim(signal: int, /) -> tuple[int, int, str]:
    """Drop pages that equal the image: how many were its own, how many were dropped, and why none were."""

def allocator() -> str:
    """The file that has malloc."""

def peek(address: int, /) -> int:
    """The 32 bits at an address, which must be readable."""
