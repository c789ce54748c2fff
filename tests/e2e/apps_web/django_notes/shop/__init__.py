"""A small shop: a tutorial-size Django application in three parts."""
