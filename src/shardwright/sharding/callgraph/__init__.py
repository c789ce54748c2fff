"""Who calls whom, found by reading: names, classes and values are followed through packages without importing them."""

from shardwright.sharding.callgraph._build import Scanned, call_graph, scan_packages
from shardwright.sharding.callgraph._graph import CallGraph, Calling, Candidate, FunctionPlace, How

__all__ = ["CallGraph", "Calling", "Candidate", "FunctionPlace", "How", "Scanned", "call_graph", "scan_packages"]
