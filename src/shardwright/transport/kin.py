"""The codec between a component and what was cut out of it: for those who need it alone, for few shards have such parts."""

from shardwright.transport.codec._kin import Drained, KinCodec, KinPickler, drained, executed, is_single, was_there

__all__ = ["Drained", "KinCodec", "KinPickler", "drained", "executed", "is_single", "was_there"]
