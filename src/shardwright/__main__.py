"""``python -m shardwright``: the same as the ``shardwright`` command."""

from shardwright.cli import main

if __name__ == "__main__":
    main()
