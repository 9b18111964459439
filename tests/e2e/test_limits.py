#!/usr/bin/env python3
"""What the machine does not give: descriptors, room on the disk. The gateway goes on for who can be served."""
import os
import resource
import signal
import socket
import sqlite3
import subprocess
import threading
import unittest

import gateway
import node
from gateway import wait_until


class Bounded(gateway.Gateway):
    """A gateway that begins with |descriptors|, a soft and a hard limit."""

    def __init__(self, the_node, descriptors, args=()):
        self.descriptors = descriptors
        super().__init__(the_node, args)

    def spawn(self, *more):
        with open(self.log_path, "a", encoding="utf-8") as err:
            return subprocess.Popen(
                [gateway.PROGRAM, *self.args, *more], stderr=err, env=self.env, stdin=subprocess.DEVNULL,
                preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, self.descriptors))


class Small(gateway.Gateway):
    """A gateway for which a file that may not grow is an error like any other."""

    def spawn(self, *more):
        with open(self.log_path, "a", encoding="utf-8") as err:
            return subprocess.Popen([gateway.PROGRAM, *self.args, *more], stderr=err, env=self.env,
                                    stdin=subprocess.DEVNULL, restore_signals=False,
                                    preexec_fn=lambda: signal.signal(signal.SIGXFSZ, signal.SIG_IGN))


class Descriptors(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=1)
        self.addCleanup(self.node.close)

    def begin(self, *descriptors, args=()):
        gw = Bounded(self.node, descriptors, args)
        self.addCleanup(gw.close)
        gw.up()
        return gw

    def connect_idle(self, gw, count):
        for _ in range(count):
            s = socket.create_connection(("127.0.0.1", gw.port), timeout=node.WAIT_S)
            self.addCleanup(s.close)

    def test_what_may_be_had_is_taken(self):
        gw = self.begin(64, 2048, args=("--connections", "500"))
        self.connect_idle(gw, 200)
        self.assertEqual(gw.get("/function/f").status, 200)
        self.assertNotIn("few descriptors", gw.log())

    def test_idle_ones_make_room(self):
        gw = self.begin(200, 200)
        self.assertIn("few descriptors: fewer connections limit=200 connections=4096 instead=68", gw.log())
        self.connect_idle(gw, 300)
        self.assertEqual(gw.get("/function/f").status, 200)

    @unittest.skipIf(os.geteuid(), "only root may look into the gateway")
    def test_none_left(self):
        gw = self.begin(1000, 1000)
        used = len(os.listdir(f"/proc/{gw.process.pid}/fd"))
        resource.prlimit(gw.process.pid, resource.RLIMIT_NOFILE, (used + 10, 1000))
        self.connect_idle(gw, 50)
        for _ in range(3):
            self.assertEqual(gw.get("/healthz").status, 200)


class Disk(unittest.TestCase):
    """A disk that is full for a while: files may not grow beyond a limit."""

    def setUp(self):
        self.node = node.Node(gpus=1)
        self.addCleanup(self.node.close)
        self.gw = Small(self.node)
        self.addCleanup(self.gw.close)
        self.gw.up()

    def fill(self, full):
        resource.prlimit(self.gw.process.pid, resource.RLIMIT_FSIZE,
                         (4096 if full else resource.RLIM_INFINITY, resource.RLIM_INFINITY))

    def test_calls_that_end_meanwhile(self):
        gw = self.gw
        flag = os.path.join(self.node.shared, "flag")
        for _ in range(66):
            self.assertEqual(gw.post(f"/async-function/f/until{flag}").status, 202)
        wait_until(lambda: gw.replicas()[0]["in_flight"] == 64)
        self.fill(True)
        self.assertEqual(gw.post("/async-function/f/echo").status, 500)
        self.assertEqual(gw.deploy("other").status, 500)
        with open(flag, "w", encoding="ascii"):
            pass
        wait_until(lambda: gw.status().get("invocationCount", 0) == 64)
        for _ in range(3):  # nothing is begun whose end cannot be written down
            self.assertEqual(gw.post("/async-function/f/echo").status, 500)
            self.assertEqual(gw.get("/function/f").status, 200)
        self.assertEqual(gw.status().get("invocationCount", 0), 64 + 3)
        self.fill(False)
        wait_until(lambda: gw.get("/system/async").json()["waiting"] == 0, "calls stay")
        self.assertEqual(gw.post("/async-function/f/echo").status, 202)
        self.assertEqual(gw.deploy("other").status, 202)
        self.assertGreaterEqual(gw.status().get("invocationCount", 0), 66 + 3)

    def test_a_queue_that_another_program_has_locked(self):
        """Nobody waits for it, and nothing that was promised is lost; a start waits for a while."""
        gw = self.gw
        other = sqlite3.connect(self.node.path("async.db"), isolation_level=None, check_same_thread=False)
        self.addCleanup(other.close)
        other.execute("BEGIN IMMEDIATE")
        self.assertEqual(gw.post("/async-function/f/echo").status, 500)
        self.assertEqual(gw.get("/function/f").status, 200)
        self.assertEqual(gw.get("/system/async").json()["waiting"], 0)
        other.execute("ROLLBACK")
        self.assertEqual(gw.post("/async-function/f/echo").status, 202)
        wait_until(lambda: gw.get("/system/async").json()["waiting"] == 0, "the call stays")
        gw.stop()
        other.execute("BEGIN IMMEDIATE")
        later = threading.Timer(0.5, other.execute, ("ROLLBACK",))
        later.start()
        gw.start()
        later.join()
        wait_until(lambda: gw.post("/async-function/f/echo").status == 202)

    def test_a_database_that_is_none(self):
        self.gw.stop()
        for name in ("gateway.db", "async.db", "profiles.db"):
            path = self.node.path(name)
            for more in ("-wal", "-shm"):
                if os.path.exists(path + more):
                    os.unlink(path + more)
            os.rename(path, path + ".kept")
            with open(path, "w", encoding="ascii") as f:
                f.write("something else" * 1000)
            done = subprocess.run([gateway.PROGRAM, "--state-dir", self.node.state_dir, "--metrics", "", "--listen",
                                   "127.0.0.1:0"], capture_output=True, text=True, check=False, timeout=node.WAIT_S)
            self.assertEqual(done.returncode, 1)
            self.assertIn(f"{path} (move it away to begin without ", done.stderr)
            os.rename(path + ".kept", path)
        self.gw.start()


if __name__ == "__main__":
    unittest.main()
