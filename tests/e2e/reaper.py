#!/usr/bin/env python3
"""Ends what a test leaves behind, however it ended itself: servers, MPS daemons and replicas outlive who is killed.
The test writes the folder of each of its servers to stdin; when that closes, the test is over."""
import os
import shutil
import signal
import sys
import time


def processes_of(root):
    """Those that have something in |root| among their arguments or in their environment."""
    mark, found = (root + "/").encode(), []
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            for name in ("cmdline", "environ"):
                with open(f"/proc/{pid}/{name}", "rb") as f:
                    if mark in f.read():
                        found.append(int(pid))
                        break
        except OSError:
            pass
    return found


def end_all(root):
    for _ in range(100):  # a server that is still there may have started others meanwhile
        left = processes_of(root)
        if not left:
            break
        for pid in left:
            try:
                os.kill(pid, signal.SIGKILL)
            except OSError:
                pass
        time.sleep(0.05)
    shutil.rmtree(root, ignore_errors=True)


if __name__ == "__main__":
    for folder in sys.stdin.read().split():
        if os.path.exists(folder):  # it was not closed in order
            end_all(folder)
