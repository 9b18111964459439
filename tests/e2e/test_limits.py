#!/usr/bin/env python3
"""What the machine does not give: descriptors. The gateway goes on for who can be served."""
import os
import resource
import socket
import subprocess
import unittest

import gateway
import node


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

    def test_none_left(self):
        gw = self.begin(1000, 1000)
        used = len(os.listdir(f"/proc/{gw.process.pid}/fd"))
        resource.prlimit(gw.process.pid, resource.RLIMIT_NOFILE, (used + 10, 1000))
        self.connect_idle(gw, 50)
        for _ in range(3):
            self.assertEqual(gw.get("/healthz").status, 200)


if __name__ == "__main__":
    unittest.main()
