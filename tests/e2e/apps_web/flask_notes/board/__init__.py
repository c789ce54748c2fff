"""A message board: a tutorial-size Flask application in three parts."""
