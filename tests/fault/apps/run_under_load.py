"""``run_under_load.py APP STATE``: run a node, put every guest of APP to its work, and call on until ended.

Tells on standard output what it has reached, a line each: ``keeper PID``, ``ready``, ``working``, then the type of the error
that ended it.
"""

import sys
import threading

import shardwright
from shardwright.errors import ShardwrightError

STUBBORN = ("hasher", "deaf", "parent", "stopped")


def say(text: str) -> None:
    print(text, flush=True)


def main(app: str, state: str) -> int:
    say("begun")
    with shardwright.start(app, state=state) as node:
        say("ready")
        session = node.session("load")

        def put_to_work(component: str) -> None:
            try:
                session.call(f"{component}.work")
            except ShardwrightError:
                pass

        for component in STUBBORN:
            threading.Thread(target=put_to_work, args=(component,), daemon=True).start()
        say("working")
        number = 0
        while True:
            number += 1
            try:
                with node.session(f"visitor-{number}") as visitor:
                    visitor.call("plain.process")
            except shardwright.errors.ShardLost:
                continue
            except ShardwrightError as error:
                say(f"{type(error).__name__}: {error}")
                return 3


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
