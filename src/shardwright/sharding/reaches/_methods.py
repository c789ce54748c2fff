"""Methods by whose names paths, files, arrays, event loops and loaders reach out, on objects of which nothing is known."""

from __future__ import annotations

from types import MappingProxyType

from shardwright.sharding.reaches._known import FILES, LIBRARY, NETWORK, PROCESS

WRITING = frozenset({
    "write_text", "write_bytes", "mkdir", "rmdir", "unlink", "touch", "symlink_to", "hardlink_to", "link_to", "lchmod",
    "chmod", "tofile", "save", "dump", "move_into", "copy_into",
})  # fmt: skip
_READING = frozenset({
    "read_text", "read_bytes", "iterdir", "glob", "rglob", "walk", "readlink", "is_file", "is_dir", "is_symlink",
    "is_mount", "is_socket", "is_fifo", "is_block_device", "is_char_device", "is_junction", "lstat", "stat", "exists",
    "expanduser", "samefile", "resolve", "absolute", "open", "owner", "open_binary", "open_text",
})  # fmt: skip
_BY_KIND = {
    FILES: WRITING | _READING,
    NETWORK: frozenset({
        "create_connection", "create_server", "create_unix_connection", "create_unix_server", "create_datagram_endpoint",
        "sock_connect", "getaddrinfo", "getnameinfo", "serve_forever", "start_tls", "sendfile",
    }),
    PROCESS: frozenset({"subprocess_exec", "subprocess_shell", "add_signal_handler"}),
    LIBRARY: frozenset({"load_module", "exec_module", "get_data", "find_spec", "__subclasses__", "__globals__"}),
}  # fmt: skip
METHODS = MappingProxyType({name: kind for kind, names in _BY_KIND.items() for name in names})
INTO_BUFFERS = frozenset({"save", "dump", "open"})  # quiet with a buffer in memory as first argument


def likeness(kind: str) -> str:
    """What an object with such a method may be."""
    return {FILES: "a path or a file", LIBRARY: "a loader or a class"}.get(kind, "an event loop")
