"""Makers of sandboxes. Each backend is a room of its own, imported by whoever wires a node."""
