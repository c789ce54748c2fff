"""Counters in every scope. Plain Python; it knows nothing of shards."""
