"""Has children that leave its session and its process group, and one that was started as a program."""

import os
import signal
import subprocess
import sys
import time


def work() -> None:
    for _ in range(2):
        if os.fork() == 0:
            os.setsid()
            if os.fork() == 0:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    time.sleep(1)
            while True:
                time.sleep(1)
    subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
    time.sleep(600)
