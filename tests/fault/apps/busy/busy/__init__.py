"""Answers that take their time."""
