"""Two interrupts at almost the same moment, as Ctrl-C and a supervisor's SIGTERM come, end a sweep."""

import subprocess
import sys

SCRIPT = """
import faulthandler, os, random, signal, threading, time
from kick.sweep.interrupts import FIRST, SECOND, Interrupts

faulthandler.dump_traceback_later(60, exit=True)

class Asked:
    def stop(self):
        stopped.append(1)

def both():
    time.sleep(0.002 * random.random())
    os.kill(os.getpid(), signal.SIGINT)
    time.sleep(0.0002 * random.random())
    os.kill(os.getpid(), signal.SIGTERM)

for _ in range(400):
    stopped, told = [], []
    sender = threading.Thread(target=both)
    with Interrupts(Asked(), told.append) as interrupts:
        sender.start()
        while True:
            interrupts.wait(0.001)
    sender.join()
    assert stopped == [1] and sorted(told) == sorted([FIRST, SECOND]), (stopped, told)
print("ended")
"""


def test_two_at_once_never_hang():
    """400 times: a handler that takes a lock stops for good in fewer."""
    done = subprocess.run([sys.executable, "-c", SCRIPT], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "ended\n", "")
