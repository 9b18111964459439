#!/usr/bin/env python3
"""What a replica may try to get more than its slice, and what stops it. Where nothing does, the test
says "advisory" and holds on to what is left: it takes nothing from the others' accounts.

Elsewhere: writing to the shared pages (test_manager, limits_are_read_only), lies in the counters page
(test_manager), changes of the environment after the start (test_hook, environment)."""
import os
import signal
import subprocess
import sys
import time
import unittest

import gateway
import node
import wire

SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
ESCAPE = os.path.join(node.BUILD, "tests", "e2e", "escape")
AUDIT = os.path.join(node.BUILD, "tests", "e2e", "audit.so")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")
EPERM = wire.CODES.index("EPERM")


class EscapeTest(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=1, args=("--charge", "held"))
        self.addCleanup(self.node.close)
        self.session = self.node.session(timeout=60)
        self.addCleanup(self.session.close)
        self.start("mine", 300)

    def quiet(self):
        """The environment of a replica that does not use its GPU itself."""
        _, done = self.session.ask(
            "replica_start", replica="quiet.openfaas-fn.1", function="quiet", ns="openfaas-fn", sm_pct=20,
            request_milli=100, limit_milli=500, mem_bytes=1 << 30, argv=[sys.executable, node.FUNCTION],
            start_timeout_ms=30000, stop_grace_ms=200)
        self.assertEqual(done.code, 0, done.text)
        node.wait_until(lambda: self.row("replica_row", "quiet").pid > 0, "it does not start")
        return self.environment("quiet")

    def escape(self, env, *args):
        """The "name=value" pairs that the program prints."""
        out = subprocess.run([ESCAPE, *args], env=env, stdout=subprocess.PIPE, check=True, timeout=60, text=True)
        return {k: int(v) for k, v in (pair.split("=") for pair in out.stdout.split())}

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

    def launches_through(self, *ways):
        """For each way to get a launch function: is it the driver's own, and how many launches were counted."""
        env, said, before = self.quiet(), [], 0
        for way in ways:
            got = self.escape(env, "pointer", way)
            self.assertEqual(got["launched"], 10)
            node.wait_until(lambda: self.row("replica_stats", "quiet").clients == 0, "it is still there")
            after = self.row("replica_stats", "quiet").launches
            said.append((way, got["drivers_own"], after - before))
            before = after
        return said

    def test_other_ways_to_the_driver(self):
        """Stopped by: dlsym and cuGetProcAddress tell of wrappers, whatever library they are asked about and however
        it was opened."""
        ways = ["dlsym", "next", "path", "lookup", "namespace"]
        if node.built_with_asan():  # which ends a process in which it is a second time
            ways.remove("namespace")
        self.assertEqual(self.launches_through(*ways), [(way, 0, 10) for way in ways])

    def test_own_dynamic_linker(self):
        """Advisory: code that looks into the driver's table of symbols itself calls the driver, and nobody counts that.
        The same is true of what patches its own tables or the hook's: the hook is in the same process."""
        self.assertEqual(self.launches_through("symbols"), [("symbols", 1, 0)])

    def test_writing_to_the_page(self):
        """Stopped by: a sealed memfd that was opened for reading, in whatever way it is mapped or reached."""
        got = self.escape(self.quiet(), "page")
        self.assertEqual((got["written"], got["changed"]), (0, 0))
        self.assertGreaterEqual(got["counters_written"], 3)

    def test_child_without_hook(self):
        """Advisory: a process that takes LD_PRELOAD out of its environment, or has an auditor of the dynamic linker
        that keeps the hook out, reaches the driver as it is. The SM percentage of MPS is all that holds it, and it
        can change that too. The accounts of the others are as they were."""
        env = self.environment("mine")
        audited = dict(env, LD_AUDIT=AUDIT)
        del env["LD_PRELOAD"]
        for way in (env,) if node.built_with_asan() else (env, audited):  # the auditor would have it a second time
            alive, during = self.run_beside(way)
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


class UsersNode(node.Node):
    """A node without rights over other processes of its user: as another one, where the test is root."""
    user = {"user": 65534, "group": 65534, "extra_groups": []} if os.geteuid() == 0 else {}

    def start(self):
        if self.user:
            os.chown(self.root, self.user["user"], self.user["group"])
        super().start()

    def spawn(self, **more):
        return super().spawn(**self.user, **more)


class UsersGateway(gateway.Gateway):
    def spawn(self, *more):
        with open(self.log_path, "a", encoding="utf-8") as err:
            return subprocess.Popen([gateway.PROGRAM, *self.args, *more], stderr=err, stdin=subprocess.DEVNULL,
                                    **UsersNode.user)


class SameUserTest(unittest.TestCase):
    def into(self, pid):
        out = subprocess.run([ESCAPE, "into", str(pid)], stdout=subprocess.PIPE, check=True, timeout=60, text=True,
                             **UsersNode.user)
        return dict(pair.split("=") for pair in out.stdout.split())

    def test_node(self):
        """Stopped by: the node is not dumpable, and the kernel treats it as another user's. In it are the tickets of
        all replicas and their connections. Siblings are open to each other, but for what Yama forbids: advisory."""
        try:
            sleeper = subprocess.Popen(["sleep", "100"], **UsersNode.user)
            self.addCleanup(sleeper.wait)
            self.addCleanup(sleeper.kill)
            self.assertEqual(self.into(sleeper.pid)["environment"], "1")
            one = UsersNode(gpus=1)
        except PermissionError:
            self.skipTest("the programs are in a folder that only root can see")
        self.addCleanup(one.close)
        self.assertEqual(set(self.into(one.process.pid).values()), {"0"})
        session = one.session(timeout=60)
        self.addCleanup(session.close)
        _, done = session.ask(
            "replica_start", replica="f.openfaas-fn.1", function="f", ns="openfaas-fn", sm_pct=20, request_milli=100,
            limit_milli=500, mem_bytes=1 << 30, argv=[SPIN, "1000"], env=[f"SPIN_IMAGE={IMAGE}"],
            start_timeout_ms=30000, stop_grace_ms=200)
        self.assertEqual(done.code, 0, done.text)
        rows, _ = session.ask("replica_list")
        pid = next(r.pid for r in rows if r.name == "replica_row")
        self.assertEqual(self.into(pid)["environment"], "1")

    def test_gateway(self):
        """Stopped in the same way: in it are the password, secrets on their way, and everybody's requests."""
        try:
            one = UsersNode(gpus=1)
        except PermissionError:
            self.skipTest("the programs are in a folder that only root can see")
        self.addCleanup(one.close)
        gw = UsersGateway(one)
        self.addCleanup(gw.close)
        self.assertEqual(set(self.into(gw.process.pid).values()), {"0"})
        gw.up(image="functions/alpine:latest", envProcess="cat")  # and it still sees what it has to
        self.assertEqual(gw.post("/function/f", b"x").text, "x")
        levels = {v["what"]: v for v in gw.status()["isolationLevels"]}
        self.assertEqual(levels["privileges"]["level"], "hard")
        self.assertIn("cpu", gw.get("/system/function/f?usage=1").json()["usage"])


if __name__ == "__main__":
    unittest.main(verbosity=2)
