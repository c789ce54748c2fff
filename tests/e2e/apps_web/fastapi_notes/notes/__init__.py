"""Notes: a tutorial-size FastAPI application in three parts."""
