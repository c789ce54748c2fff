"""Turn a pile of README texts into a small static site: pages, covers and a search index."""
