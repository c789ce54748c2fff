"""Encoding with tags: the mirror of ``_tagged_decode``. Here its parts come together."""

from __future__ import annotations

from shardwright.transport.codec._encode_containers import CONTENTS, raw_contents
from shardwright.transport.codec._encode_containers import WRITERS as _CONTAINERS
from shardwright.transport.codec._encode_instances import contents_of, instance_encoder, write_attributes, write_slots
from shardwright.transport.codec._encode_values import WRITERS as _VALUES
from shardwright.transport.codec._encode_values import encode_named, refused
from shardwright.transport.codec._encoder import BASE_ENCODERS, Encode, Encoder

__all__ = [
    "BASE_ENCODERS",
    "CONTENTS",
    "Encode",
    "Encoder",
    "contents_of",
    "encode_named",
    "instance_encoder",
    "raw_contents",
    "refused",
    "write_attributes",
    "write_slots",
]

BASE_ENCODERS.update(_VALUES)
BASE_ENCODERS.update(_CONTAINERS)
