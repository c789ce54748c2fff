"""Codecs: values to payloads and back. Across trust domains ``TaggedCodec``, inside one ``PickleCodec``."""

from shardwright.transport.codec._classes import ClassTable
from shardwright.transport.codec._exceptions import text_that_came
from shardwright.transport.codec._memo import Memo, joined
from shardwright.transport.codec._paths import Describe, Step, describe_call, describe_value
from shardwright.transport.codec._pickle import PickleCodec
from shardwright.transport.codec._registry import register
from shardwright.transport.codec._tagged import HandleHook, TaggedCodec
from shardwright.transport.codec._wire import CodecLimits

__all__ = [
    "ClassTable",
    "CodecLimits",
    "Describe",
    "HandleHook",
    "Memo",
    "PickleCodec",
    "Step",
    "TaggedCodec",
    "describe_call",
    "describe_value",
    "joined",
    "register",
    "text_that_came",
]
