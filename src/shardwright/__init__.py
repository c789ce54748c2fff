"""Shardwright runs an unmodified Python application as isolated, pre-warmed, right-sized shards."""
