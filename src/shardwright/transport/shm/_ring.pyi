from typing import Final

SEAL_SEAL: Final[int]
SEAL_SHRINK: Final[int]
SEAL_GROW: Final[int]
SEAL_WRITE: Final[int]
SEAL_FUTURE_WRITE: Final[int]
SEAL_EXEC: Final[int]

def create_memfd(name: str, size: int, /) -> int: ...
def seals(fd: int, /) -> int: ...
def check_memfd(fd: int, size: int, /) -> None: ...
