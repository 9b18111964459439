"""A fast-node for a test: its own state directory, simulated GPUs, nothing left at the end."""
import os
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time

import wire

HERE = os.path.dirname(os.path.abspath(__file__))
BUILD = os.path.abspath(os.environ.get("FAST_BUILD", os.path.join(HERE, "..", "..", "build")))
PROGRAM = os.path.join(BUILD, "src", "node", "fast-node")
FUNCTION = os.path.join(HERE, "function.py")
# For what should take milliseconds: the machine may be busy.
# Functions of tests lie where no other user may get to, Python's own folder included; where a test is about users,
# or this is set, they have users of their own.
OWN_USERS = bool(os.environ.get("FAST_TEST_USERS"))
WAIT_S = int(os.environ.get("FAST_WAIT_S", "30"))


def wait_until(what, message="it did not happen"):
    end = time.monotonic() + WAIT_S
    while time.monotonic() < end:
        value = what()
        if value:
            return value
        time.sleep(0.01)
    raise AssertionError(message)


def python_for_all():
    """A Python that every user can run, or None."""
    for path in (os.path.realpath(sys.executable), "/usr/bin/python3"):
        folders = [path]
        while folders[-1] != "/":
            folders.append(os.path.dirname(folders[-1]))
        if all(os.path.exists(f) and os.stat(f).st_mode & 0o001 for f in folders):
            return path
    return None


def built_with_asan():
    with open(PROGRAM, "rb") as program:
        return b"__asan_init" in program.read()


def no_sanitizer_reports(log):
    """For builds with sanitizers: what a program wrote about itself, which else nobody would read."""
    found = re.search(r"^.*(\w+Sanitizer: |\.[ch]:\d+:\d+: runtime error: ).*$", log, re.M)
    assert not found, log[found.start():]


def lives(pid):
    """Whether there is such a process; one that nobody has reaped yet is dead."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as f:
            return f.read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False


def kill_with_environment(mark):
    """Processes that nobody waits for, known by what a test alone put into their environment."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if mark.encode() in f.read().split(b"\0"):
                    os.kill(int(pid), signal.SIGKILL)
        except OSError:
            pass


reaper = None


def folder():
    """A new folder for servers of this test; what uses it ends when the test does, in whatever way."""
    global reaper
    # Short, since the path of a socket is at most 107 bytes.
    root = tempfile.mkdtemp(prefix="fast-", dir="/tmp")
    if not reaper:
        reaper = subprocess.Popen([sys.executable, "-S", os.path.join(HERE, "reaper.py")], stdin=subprocess.PIPE,
                                  start_new_session=True)
    reaper.stdin.write(root.encode() + b"\n")
    reaper.stdin.flush()
    return root


class Node:
    def __init__(self, gpus=2, args=(), libs=None, own_users=OWN_USERS, path=None):
        """|libs|: a folder with a driver's libraries, which it takes for those of a machine with one GPU."""
        self.root = folder()
        os.chmod(self.root, 0o755)  # functions may have a user of their own
        self.shared = os.path.join(self.root, "shared")  # where they may write
        os.mkdir(self.shared)
        os.chmod(self.shared, 0o777)
        self.state_dir = os.path.join(self.root, "state")
        sim = f"v100-16gb:{gpus}"
        self.args = ["--state-dir", self.state_dir, *([] if libs else ["--sim", sim]), *args]
        if not own_users:
            self.args += ["--function-users", "none"]
        self.env = dict(os.environ, FAST_SIM_DIR=os.path.join(self.root, "sim"))
        if libs:
            self.env["LD_LIBRARY_PATH"] = libs
            self.env.pop("FAST_SIM", None)
        if path:
            self.env["PATH"] = path  # of its functions too
        self.process = None
        self.start()

    def path(self, *parts):
        return os.path.join(self.state_dir, *parts)

    def spawn(self, **more):
        with open(os.path.join(self.root, "node.err"), "a", encoding="utf-8") as err:
            return subprocess.Popen([PROGRAM, *self.args], stderr=err, env=self.env,
                                    stdin=subprocess.DEVNULL, **more)

    def start(self):
        self.process = self.spawn()

        def answers():
            if self.process.poll() is not None:
                raise AssertionError(f"fast-node ended with {self.process.returncode}\n{self.log()}")
            try:
                wire.Session(self.path("control.sock")).close()
                return True
            except OSError:
                return False

        wait_until(answers, "fast-node does not listen")

    def log(self):
        with open(os.path.join(self.root, "node.err"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def session(self, **more):
        return wire.Session(self.path("control.sock"), **more)

    def kill(self):
        """As a crash."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        """SIGTERM; returns the exit status."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(WAIT_S)

    def close(self):
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        self.kill_leftovers()
        said = self.log()
        shutil.rmtree(self.root, ignore_errors=True)
        no_sanitizer_reports(said)

    def kill_leftovers(self):
        """Replicas of a node that a test has killed: known by the socket in their environment."""
        kill_with_environment("FAST_NODE_SOCKET=" + self.path("run", "node.sock"))
