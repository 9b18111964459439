#!/usr/bin/env python3
"""A program on two simulated GPUs beside one on each of them, under one fast-node with the hook: tokens of both at
once, everybody's request on each GPU, and nothing left behind when it dies or goes."""
import os
import signal
import time
import unittest

import node
import wire

READY = wire.STATES.index("ready")
SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")
MEASURE_S = 2
NO_GPU = 0xffffffff


def replica(name):
    return f"{name}.openfaas-fn.1"


class GangTest(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=2, args=("--charge", "held"))
        self.addCleanup(self.node.close)
        self.session = self.node.session(timeout=60)
        self.addCleanup(lambda: self.session.close())

    def ask(self, name, **more):
        fields = {"replica": replica(name), "function": name, "ns": "openfaas-fn", "sm_pct": 60,
                  "limit_milli": 1000, "mem_bytes": 1 << 30, "argv": [SPIN, "500"],
                  "start_timeout_ms": 30000, "stop_grace_ms": 1000, **more}
        fields["env"] = [f"SPIN_IMAGE={IMAGE}", *more.get("env", [])]
        return self.session.ask("replica_start", **fields)[1]

    def start(self, name, **more):
        done = self.ask(name, **more)
        self.assertEqual(done.code, 0, done.text)

    def start_all(self):
        self.start("pair", gpu=0, more_gpus=2, request_milli=400, env=["SPIN_GPUS=2"])
        self.start("left", gpu=0, request_milli=400)
        self.start("right", gpu=1, request_milli=300)
        node.wait_until(lambda: all(s.tokens > 2 for s in self.stats().values()), "somebody never had a token")

    def stats(self):
        rows, _ = self.session.ask("replica_list")
        return {(r.replica.split(".")[0], r.gpu): r for r in rows if r.name == "replica_stats"}

    def shares(self):
        before, begin = self.stats(), time.monotonic()
        time.sleep(MEASURE_S)
        after, spent = self.stats(), time.monotonic() - begin
        return {r: (after[r].held_ns - before[r].held_ns) / 1e9 / spent for r in before}, before, after

    def check(self):
        shares, before, after = self.shares()
        for gpu, name, request in ((0, "left", 0.4), (1, "right", 0.3)):
            self.assertGreater(shares[name, gpu], request * 0.8, shares)
            self.assertGreater(shares["pair", gpu], 0.4 * 0.8, shares)
            # Two of 60 % never run together.
            self.assertLess(shares["pair", gpu] + shares[name, gpu], 1.05, shares)
            # Both threads of the pair were let in.
            self.assertGreater(after["pair", gpu].launches, before["pair", gpu].launches)
            busy = (after["pair", gpu].busy_ns - before["pair", gpu].busy_ns) / 1e9 / MEASURE_S
            self.assertGreater(busy, shares["pair", gpu] * 0.6, shares)
        self.assertEqual(len(shares), 4)

    def test_two_gpus_at_once(self):
        self.start_all()
        self.check()
        rows, _ = self.session.ask("replica_list")
        pid = next(r.pid for r in rows if r.name == "replica_row" and r.replica == replica("pair"))
        os.kill(pid, signal.SIGKILL)
        node.wait_until(lambda: self.stats()["pair", 0].clients == 1 and self.stats()["pair", 0].tokens > 2,
                        "it did not come back")
        self.check()
        self.session.close()
        self.node.kill()
        self.node.start()
        self.session = self.node.session(timeout=60)
        node.wait_until(lambda: all(s.tokens > 2 for s in self.stats().values()),
                        "somebody has no token of the new node")
        self.check()
        self.session.ask("replica_stop", replica=replica("pair"))
        node.wait_until(lambda: ("pair", 0) not in self.stats(), "it does not go")
        shares, _, _ = self.shares()
        self.assertGreater(min(shares.values()), 0.85, shares)
        self.assertNotIn("wish was lost", self.node.log())

    def test_what_is_refused(self):
        done = self.ask("pair", gpu=0, more_gpus=4, request_milli=100)
        self.assertIn("GPU 2: this node has 2", done.text)
        done = self.ask("pair", gpu=NO_GPU, more_gpus=1, request_milli=100)
        self.assertIn("more GPUs", done.text)


if __name__ == "__main__":
    unittest.main()
