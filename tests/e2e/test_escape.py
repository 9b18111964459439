#!/usr/bin/env python3
"""What a replica may try to get more than its slice, and what stops it. Where nothing does, the test
says "advisory" and holds on to what is left: it takes nothing from the others' accounts.

Elsewhere: writing to the shared pages (test_manager, limits_are_read_only), lies in the counters page
(test_manager), changes of the environment after the start (test_hook, environment)."""
import os
import signal
import subprocess
import time
import unittest

import node
import wire

SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")
EPERM = wire.CODES.index("EPERM")


class EscapeTest(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=1, args=("--charge", "held"))
        self.addCleanup(self.node.close)
        self.session = self.node.session(timeout=60)
        self.addCleanup(self.session.close)
        self.start("mine", 300)

    def start(self, name, limit):
        _, done = self.session.ask(
            "replica_start", replica=f"{name}.openfaas-fn.1", function=name, ns="openfaas-fn",
            sm_pct=50, request_milli=limit, limit_milli=limit, mem_bytes=1 << 30,
            argv=[SPIN, "1000"], env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000,
            stop_grace_ms=200)
        self.assertEqual(done.code, 0, done.text)
        node.wait_until(lambda: self.row("replica_stats", name).tokens > 0, "it never had a token")

    def row(self, kind, name):
        rows, _ = self.session.ask("replica_list")
        return next(r for r in rows if r.name == kind and r.replica.startswith(name + "."))

    def environment(self, name):
        with open(f"/proc/{self.row('replica_row', name).pid}/environ", encoding="utf-8") as f:
            return dict(x.split("=", 1) for x in f.read().split("\0") if "=" in x)

    def hello(self, ticket):
        """Speaks to node.sock as a hook does; returns the answer."""
        with wire.Session(self.node.path("run", "node.sock"), hello=False) as s:
            s.send("hello", 1, version=wire.VERSION, ticket_hi=int(ticket[:16], 16),
                   ticket_lo=int(ticket[16:], 16))
            return s.receive()

    def run_beside(self, env, seconds=1.5):
        """Another process with |env| for a while; returns whether it lived until it was killed."""
        env = {k: v for k, v in env.items() if k not in ("PORT", "port")}
        with subprocess.Popen([SPIN, "1000"], env=env, stderr=subprocess.DEVNULL) as p:
            time.sleep(seconds)
            alive = p.poll() is None
            during = self.row("replica_stats", "mine")
            p.send_signal(signal.SIGKILL)
        return alive, during

    def test_guessed_ticket(self):
        """Stopped by: 128 random bits."""
        answer = self.hello("0123456789abcdef" * 2)
        self.assertEqual((answer.name, answer.code), ("refused", EPERM))

    def test_replayed_ticket(self):
        """Stopped by: a ticket ends with its replica, and a new one has another."""
        self.start("other", 500)
        ticket = self.environment("other")["FAST_TICKET"]
        self.assertEqual(self.hello(ticket).name, "welcome")
        self.session.ask("replica_stop", replica="other.openfaas-fn.1")
        node.wait_until(lambda: self.hello(ticket).name == "refused", "the ticket still works")
        self.assertEqual(self.hello(ticket).code, EPERM)

    def test_more_processes(self):
        """Stopped by: a replica has one token, whatever the number of its processes."""
        env = self.environment("mine")
        before, begin = self.row("replica_stats", "mine"), time.monotonic()
        alive, during = self.run_beside(env, 3)
        spent = time.monotonic() - begin
        after = self.row("replica_stats", "mine")
        self.assertTrue(alive)
        self.assertEqual(during.clients, 2)
        self.assertLess((after.held_ns - before.held_ns) / 1e9 / spent, 0.36)

    def test_child_without_hook(self):
        """Advisory: a process that takes LD_PRELOAD out of its environment reaches the driver as it
        is. The SM percentage of MPS is all that holds it, and it can change that too. The accounts of
        the others are as they were."""
        env = self.environment("mine")
        del env["LD_PRELOAD"]
        alive, during = self.run_beside(env)
        self.assertTrue(alive)
        self.assertEqual(during.clients, 1)

    def test_other_replicas_ticket(self):
        """Advisory: who may read the environment of another replica's process (the same user) can join
        that replica. It then shares that one's slice, and its own is no larger."""
        self.start("other", 200)
        stolen = dict(self.environment("mine"), FAST_TICKET=self.environment("other")["FAST_TICKET"])
        before, begin = self.row("replica_stats", "other"), time.monotonic()
        alive, during = self.run_beside(stolen, 3)
        spent = time.monotonic() - begin
        after = self.row("replica_stats", "other")
        self.assertTrue(alive)
        self.assertEqual(during.clients, 1)
        self.assertLess((after.held_ns - before.held_ns) / 1e9 / spent, 0.26)


if __name__ == "__main__":
    unittest.main(verbosity=2)
