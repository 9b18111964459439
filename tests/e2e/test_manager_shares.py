#!/usr/bin/env python3
"""Eight spinning programs under one fast-node with the hook on a simulated GPU: who gets what, that the
SMs of all holders fit in the GPU at any time, and that neither the death of programs nor of the node
changes that."""
import os
import random
import signal
import time
import unittest

import node
import wire

READY = wire.STATES.index("ready")
SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")
MEASURE_S = 4

# SM partition, request, limit. {w0, w1}, {x0, x1} and the four slim ones fill the window to 95 %.
SLICES = {"w0": (50, 400, 400), "w1": (50, 400, 1000), "x0": (50, 400, 1000), "x1": (50, 400, 1000),
          "s0": (25, 150, 150), "s1": (25, 150, 1000), "s2": (25, 150, 1000), "s3": (25, 150, 1000)}


def replica(name):
    return f"{name}.openfaas-fn.1"


class SharesTest(unittest.TestCase):
    args = ("--charge", "held")

    def setUp(self):
        self.node = node.Node(gpus=1, args=self.args)
        self.addCleanup(self.node.close)
        self.session = self.node.session(timeout=60)
        self.sm = {replica(name): slice[0] for name, slice in SLICES.items()}

    def tearDown(self):
        self.session.close()

    def start_all(self, microseconds=1000):
        for name, (sm, request, limit) in SLICES.items():
            _, done = self.session.ask(
                "replica_start", replica=replica(name), function=name, ns="openfaas-fn", sm_pct=sm,
                request_milli=request, limit_milli=limit, mem_bytes=1 << 30,
                argv=[SPIN, str(microseconds)], env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000,
                stop_grace_ms=1000)
            self.assertEqual(done.code, 0, done.text)
        node.wait_until(lambda: all(s.tokens > 0 for s in self.rows()[1].values()),
                        "somebody never had a token")

    def rows(self):
        """The replicas by id: their rows, and their statistics, all of one moment."""
        rows, _ = self.session.ask("replica_list")
        by = [{r.replica: r for r in rows if r.name == kind}
              for kind in ("replica_row", "replica_stats")]
        held = sum(self.sm[r] for r, s in by[1].items() if s.holds_token)
        self.assertLessEqual(held, 100)
        self.held_max = max(getattr(self, "held_max", 0), held)
        return by

    def measure(self):
        """The share of time that each one held a token, looking at the holders all the while."""
        before, begin = self.rows()[1], time.monotonic()
        while time.monotonic() - begin < MEASURE_S:
            self.rows()
            time.sleep(0.002)
        after, spent = self.rows()[1], time.monotonic() - begin
        return {r: (after[r].held_ns - before[r].held_ns) / 1e9 / spent for r in before}

    def check(self, shares):
        text = ", ".join(f"{r.split('.')[0]} {v:.3f}" for r, v in sorted(shares.items()))
        for name, (_, request, limit) in SLICES.items():
            share = shares[replica(name)]
            self.assertGreater(share, 0.75 * request / 1000, text)  # the machine has other work
            self.assertLess(share, 1.1 * limit / 1000 + 0.02, text)

    def test_shares(self):
        self.start_all()
        shares = self.check_soon()
        self.assertGreaterEqual(self.held_max, 75)
        # What is left over goes to those who may have more than they asked for.
        used = sum(shares[r] * self.sm[r] for r in shares)
        self.assertGreater(used, 60)

    def check_soon(self, tries=3):
        """The machine has other work, which takes a spinning program off its core for a while: a share
        that is wrong has to be wrong in every measurement."""
        for left in reversed(range(tries)):
            shares = self.measure()
            try:
                self.check(shares)
                return shares
            except AssertionError:
                if not left:
                    raise
        return None

    def test_killed_programs(self):
        """Whoever is killed in the middle of its work leaves nothing behind: the others go on, and it is
        started again and gets its share."""
        self.start_all()
        pick = random.Random(1)
        for _ in range(12):
            row = self.rows()[0][replica(pick.choice(list(SLICES)))]
            if row.pid and row.state == READY:
                os.kill(row.pid, signal.SIGKILL)
            time.sleep(0.05)
            self.rows()
        node.wait_until(lambda: all(r.state == READY for r in self.rows()[0].values()),
                        "a program did not come back")
        node.wait_until(lambda: all(s.clients == 1 for s in self.rows()[1].values()),
                        "a client did not come back")
        self.check_soon()

    def test_killed_node(self):
        self.start_all()
        pids = {r: row.pid for r, row in self.rows()[0].items()}
        for _ in range(2):
            self.session.close()
            self.node.kill()
            time.sleep(0.3)
            self.node.start()
            self.session = self.node.session(timeout=60)
            node.wait_until(lambda: all(s.clients == 1 and s.tokens > 0
                                        for s in self.rows()[1].values()),
                            "a client did not come back to the new node")
        self.assertEqual({r: row.pid for r, row in self.rows()[0].items()}, pids)
        self.check_soon()


class StoppedTest(unittest.TestCase):
    """A program that hangs with a token that another one waits for is killed, and starts again."""

    def test_it_is_killed(self):
        self.node = node.Node(gpus=1, args=("--overrun", "1s"))
        self.addCleanup(self.node.close)
        session = self.node.session(timeout=60)
        self.addCleanup(session.close)
        for name in ("one", "two"):
            _, done = session.ask(
                "replica_start", replica=replica(name), function=name, ns="openfaas-fn", sm_pct=100,
                request_milli=400, limit_milli=1000, mem_bytes=1 << 30, argv=[SPIN, "1000"],
                env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000, stop_grace_ms=1000)
            self.assertEqual(done.code, 0, done.text)

        def row(name, kind):
            rows, _ = session.ask("replica_list")
            return next(r for r in rows if r.name == kind and r.replica == replica(name))

        def tokens(name):
            return row(name, "replica_stats").tokens

        node.wait_until(lambda: tokens("one") > 3 and tokens("two") > 3, "they do not run")
        pid = row("one", "replica_row").pid
        os.kill(pid, signal.SIGSTOP)
        node.wait_until(lambda: f"replica overran replica={replica('one')} pid={pid}" in self.node.log(),
                        "it is not killed")
        node.wait_until(lambda: not node.lives(pid), "it lives on")
        before = tokens("two")
        node.wait_until(lambda: tokens("two") > before + 10, "the other one does not run")
        node.wait_until(lambda: row("one", "replica_row").pid not in (0, pid), "it is not started again")


class TimeshareTest(SharesTest):
    """One token at a time; as the requests add up to more than the window, all get less."""
    args = ("--charge", "held", "--policy", "timeshare")

    def setUp(self):
        super().setUp()
        self.sm = dict.fromkeys(self.sm, 100)

    def check(self, shares):
        self.assertLess(sum(shares.values()), 1.02)
        self.assertGreater(sum(shares.values()), 0.6)

    def test_killed_programs(self):
        self.skipTest("as under policy fast")

    def test_killed_node(self):
        self.skipTest("as under policy fast")


if __name__ == "__main__":
    unittest.main(verbosity=2)
