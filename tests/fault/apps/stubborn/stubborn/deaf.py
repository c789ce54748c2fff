"""Hears no signal that it can ignore, and does not look up from its work."""

import signal

for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGIO, signal.SIGQUIT):
    signal.signal(number, signal.SIG_IGN)


def work() -> None:
    while True:
        pass
