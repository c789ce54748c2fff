"""Busy in C code for a long time."""

import hashlib


def work() -> str:
    return hashlib.pbkdf2_hmac("sha256", b"password", b"salt", 200_000_000).hex()
