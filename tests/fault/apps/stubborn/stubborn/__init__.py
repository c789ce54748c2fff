"""Parts that are hard to end, each in its own way."""
