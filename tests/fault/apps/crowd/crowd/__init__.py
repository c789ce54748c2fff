"""A house with few rooms."""
