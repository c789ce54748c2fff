"""Decoding with tags: the mirror of ``_tagged_encode``, for input that may be hostile. Here its parts come together."""

from __future__ import annotations

from shardwright.transport.codec import _decode_containers, _decode_instances, _decode_values
from shardwright.transport.codec._decode_containers import CONTENTS
from shardwright.transport.codec._decode_instances import (
    contents_of,
    fill_slots,
    read_attributes,
    read_slots,
    same_slots,
)
from shardwright.transport.codec._decoder import DISPATCH, UNSET, Contents, Decoder

__all__ = [
    "CONTENTS",
    "DISPATCH",
    "UNSET",
    "Contents",
    "Decoder",
    "contents_of",
    "fill_slots",
    "read_attributes",
    "read_slots",
    "same_slots",
]

for _part in (_decode_values, _decode_containers, _decode_instances):
    for _tag, _read in _part.READERS.items():
        DISPATCH[_tag] = _read
