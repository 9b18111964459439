#!/usr/bin/env python3
"""fast-node and its MPS daemon: a scripted stand-in (fake_mps.py), and the simulated one."""
import os
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

import node
import reaper
import wire

READY = wire.STATES.index("ready")
SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")
FAKE = os.path.join(node.HERE, "fake_mps.py")
HOARDER = os.path.join(node.HERE, "hoarder.py")
ADVISORY, SOFT = 0, 1
ILLEGAL_ADDRESS = 700


KILLED_TEST = f"""
import os, signal, sys
sys.path[:0] = [{node.HERE!r}]
import node
n = node.Node(gpus=1, args=("--mps-control", {FAKE!r}, "--mps", "on"))
n.kill()  # its daemon goes on
n.start()
print(n.root, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""


class KilledTest(unittest.TestCase):
    def test_nothing_is_left_of_a_test_that_is_killed(self):
        with subprocess.Popen([sys.executable, "-c", KILLED_TEST], stdout=subprocess.PIPE, text=True) as test:
            root = test.stdout.readline().strip()
        self.assertEqual(test.returncode, -signal.SIGKILL)
        node.wait_until(lambda: not os.path.exists(root), "its folder stays")
        self.assertEqual(reaper.processes_of(root), [])


class MpsTest(unittest.TestCase):
    args = ("--mps-control", FAKE, "--mps", "on")

    def make(self, *args, script=()):
        n = node.Node.__new__(node.Node)
        self.node = n
        self.addCleanup(self.end_daemon)
        self.addCleanup(lambda: n.close() if n.process else None)
        original = node.Node.start

        def start(n):
            os.makedirs(n.path("mps"), exist_ok=True)
            for name in script:
                open(n.path("mps", name), "w", encoding="utf-8").close()
            n.process = None
            original(n)

        n.start = start.__get__(n)
        n.__init__(gpus=1, args=(*self.args, *args))
        self.connect()

    def connect(self):
        self.session = self.node.session(timeout=60)
        self.addCleanup(self.session.close)

    def daemon(self):
        try:
            with open(self.node.path("mps", "nvidia-cuda-mps-control.pid"), encoding="utf-8") as f:
                pid = int(f.read())
        except (OSError, ValueError):
            return None
        return pid if node.lives(pid) else None

    def end_daemon(self):
        """Of a node that did not end in order; found by the directory in its environment."""
        node.kill_with_environment("CUDA_MPS_PIPE_DIRECTORY=" + self.node.path("mps"))

    def holding(self):
        """The daemon that waits before it listens."""
        try:
            with open(self.node.path("mps", "holding"), encoding="utf-8") as f:
                text = f.read()
        except OSError:
            return None
        return int(text) if text.endswith("\n") else None

    def commands(self):
        try:
            with open(self.node.path("mps", "commands"), encoding="utf-8") as f:
                return f.read().split("\n")
        except OSError:
            return []

    def spin(self, name, argv=None, **more):
        fields = dict(replica=f"{name}.openfaas-fn.1", function=name, ns="openfaas-fn", sm_pct=30,
                      request_milli=200, limit_milli=400, mem_bytes=1 << 30, argv=argv or [SPIN, "1000"],
                      env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000, stop_grace_ms=500)
        _, done = self.session.ask("replica_start", **dict(fields, **more))
        self.assertEqual(done.code, 0, done.text)
        return fields["replica"]

    def row(self, replica, kind="replica_row"):
        rows, _ = self.session.ask("replica_list")
        return next((r for r in rows if r.name == kind and r.replica == replica), None)

    def working(self, replica):
        node.wait_until(lambda: self.row(replica, "replica_stats").tokens > 3, "it does not run")
        return self.row(replica).pid

    def log_has(self, *words):
        node.wait_until(lambda: any(all(w in line for w in words)
                                    for line in self.node.log().split("\n")),
                        f"the log has no {words}:\n{self.node.log()}")

    def gpu(self):
        rows, _ = self.session.ask("gpu_list")
        return rows[0]


class FakeTest(MpsTest):
    def test_start_is_read_back(self):
        self.make()
        self.log_has("mps started")
        self.assertIn("set_default_active_thread_percentage 100", self.commands())
        self.assertEqual((self.gpu().hold_sm, self.gpu().hold_time, self.gpu().hold_mem), (SOFT,) * 3)
        daemon = self.daemon()
        self.assertEqual(self.node.stop(), 0)
        self.assertFalse(node.lives(daemon))
        self.assertTrue(os.path.exists(self.node.path("mps", "control")))  # as the real one leaves it
        self.node.start()
        self.assertTrue(self.daemon())

    def test_a_value_that_is_not_taken(self):
        self.args = ("--mps-control", FAKE)
        self.make(script=["no-percent"])
        self.log_has("no mps", "does not take 100")
        self.assertEqual(self.gpu().hold_sm, ADVISORY)

    def test_daemon_of_another_user(self):
        self.args = ("--mps-control", FAKE)
        self.make(script=["foreign"])
        self.log_has("no mps", "belongs to another user")

    def test_no_program(self):
        self.args = ()
        self.make()
        out = subprocess.run([node.PROGRAM, "--mps-control", "/none"], capture_output=True, text=True,
                             check=False)
        self.assertEqual(out.returncode, 2)
        self.assertIn("/none is not a program", out.stderr)

    def test_adopted_and_hung(self):
        self.make()
        daemon = self.daemon()
        self.node.kill()
        self.node.start()
        self.log_has("mps adopted")
        self.assertEqual(self.daemon(), daemon)
        self.node.kill()
        os.kill(daemon, signal.SIGSTOP)
        self.node.start()
        self.log_has("mps hangs")
        self.assertFalse(node.lives(daemon))
        self.assertTrue(self.daemon())

    def test_fault_takes_replicas(self):
        self.make()
        one, two = self.spin("one"), self.spin("two")
        before = [self.working(one), self.working(two)]
        open(self.node.path("mps", "fault"), "w", encoding="utf-8").close()
        self.log_has("mps fault")
        for replica, pid in zip((one, two), before):
            self.log_has("replica taken", f"replica={replica}", "fault")
            node.wait_until(lambda r=replica, p=pid: self.row(r).pid not in (0, p), "not restarted")
            self.working(replica)
        self.log_has("mps works again")

    def test_server_ends(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        self.log_has("mps server", "pid=")
        server = next(int(line.rsplit("pid=", 1)[1].split()[0]) for line in self.node.log().split("\n")
                      if "mps server" in line and "pid=" in line)
        os.kill(server, signal.SIGKILL)
        self.log_has("replica taken", "server ended")
        node.wait_until(lambda: self.row(one).pid not in (0, pid), "not restarted")
        self.working(one)

    def test_daemon_dies(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        os.kill(self.daemon(), signal.SIGKILL)
        self.log_has("mps again")
        self.log_has("replica taken", "daemon died")
        node.wait_until(lambda: self.row(one).pid not in (0, pid), "not restarted")

    def test_a_daemon_that_starts_slowly_holds_up_nobody(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        open(self.node.path("mps", "hold"), "w", encoding="utf-8").close()
        os.kill(self.daemon(), signal.SIGKILL)
        node.wait_until(self.holding, "it is not started")
        for _ in range(10):
            tokens = self.row(one, "replica_stats").tokens
            node.wait_until(lambda t=tokens: self.row(one, "replica_stats").tokens > t, "no tokens")
        self.assertNotIn("mps does not start", self.node.log())
        os.unlink(self.node.path("mps", "hold"))
        self.log_has("mps again")
        node.wait_until(lambda: self.row(one).pid not in (0, pid), "not restarted")

    def test_a_daemon_that_does_not_start(self):
        self.make()
        open(self.node.path("mps", "hold"), "w", encoding="utf-8").close()
        os.kill(self.daemon(), signal.SIGKILL)
        pid = node.wait_until(self.holding, "it is not started")
        self.log_has("mps does not start")
        node.wait_until(lambda: not node.lives(pid), "it is left")

    def test_stopped_while_mps_starts(self):
        self.make()
        open(self.node.path("mps", "hold"), "w", encoding="utf-8").close()
        os.kill(self.daemon(), signal.SIGKILL)
        pid = node.wait_until(self.holding, "it is not started")
        self.assertEqual(self.node.stop(), 0)
        self.assertFalse(node.lives(pid))

    def test_who_asks_and_does_not_end(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        open(self.node.path("mps", "linger"), "w", encoding="utf-8").close()
        before = len(self.commands())
        node.wait_until(lambda: len(self.commands()) > before + 2, "nobody asks any more")
        self.assertEqual(self.row(one).pid, pid)

    def test_terminated_before_the_kill(self):
        self.make()
        stubborn = ["sh", "-c", f"trap '' TERM; {SPIN} 1000 & wait; wait"]
        one = self.spin("one", argv=stubborn)
        self.working(one)
        node.wait_until(lambda: any(c.startswith("get_server_status") for c in self.commands()),
                        "the server is not looked at")
        self.session.ask("replica_stop", replica=one, grace_ms=200)
        node.wait_until(lambda: self.row(one) is None, "it is not stopped")
        self.assertTrue([c for c in self.commands() if c.startswith("terminate_client")])

    def test_old_driver(self):
        self.make(script=["old"])
        one = self.spin("one")
        pid = self.working(one)
        node.wait_until(lambda: sum(c.startswith("get_server_status") for c in self.commands()) > 1,
                        "the server is not looked at")
        self.assertEqual(self.row(one).pid, pid)

    def test_a_client_without_mps(self):
        self.make()
        one = self.spin("one", argv=["sh", "-c", f"CUDA_MPS_PIPE_DIRECTORY=/none exec {SPIN} 1000"])
        self.log_has("client without mps", one)
        self.assertEqual(self.row(one, "replica_stats").without_mps, 1)


class SimulatedTest(MpsTest):
    args = ("--mps", "on")

    def test_partition_is_read_back(self):
        self.make()
        one = self.spin("one")
        self.working(one)
        stats = self.row(one, "replica_stats")
        self.assertEqual(stats.without_mps, 0)
        self.assertLess(stats.sm_count, self.gpu().sms // 2)
        self.assertGreater(stats.sm_count, 0)

    def test_a_client_outside_its_partition(self):
        self.make()
        one = self.spin("one", argv=["sh", "-c", f"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=100 exec {SPIN} 1000"])
        self.log_has("client outside its partition", one)
        self.assertEqual(self.row(one, "replica_stats").without_mps, 1)

    def test_off_ends_what_is_left(self):
        self.make()
        daemon = self.daemon()
        self.node.kill()
        self.node.args += ["--mps", "off"]
        self.node.start()
        self.log_has("mps ended")
        node.wait_until(lambda: not node.lives(daemon), "it is left")

    def test_server_ends(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        with open(f"/proc/{self.daemon()}/task/{self.daemon()}/children", encoding="ascii") as f:
            server = int(f.read().split()[0])
        self.log_has("mps server")
        time.sleep(0.1)
        os.kill(server, signal.SIGKILL)
        self.log_has("replica taken", "server ended")
        node.wait_until(lambda: self.row(one).pid not in (0, pid), "not restarted")

    def test_a_second_node_on_the_same_directory(self):
        self.make()
        one = self.spin("one")
        pid, daemon = self.working(one), self.daemon()
        for mps in ("off", "on"):
            out = subprocess.run([node.PROGRAM, *self.node.args, "--mps", mps], capture_output=True, text=True,
                                 check=False, env=self.node.env, timeout=node.WAIT_S)
            self.assertEqual(out.returncode, 1)
            self.assertIn("is in use by another fast-node", out.stderr)
        self.assertEqual(self.daemon(), daemon)
        self.assertEqual(self.row(one).pid, pid)

    def test_a_second_signal_leaves_replicas(self):
        self.make()
        one = self.spin("one", argv=["sh", "-c", f"trap '' TERM; exec {SPIN} 1000"],
                        stop_grace_ms=60000)
        pid = self.working(one)
        self.node.process.send_signal(signal.SIGTERM)
        self.log_has("stopping")
        time.sleep(0.6)  # one that comes at once is the first one again
        self.node.process.send_signal(signal.SIGTERM)
        self.assertEqual(self.node.process.wait(node.WAIT_S), 0)
        self.log_has("client gone", f"replica={one} ")
        self.assertTrue(node.lives(pid))

    def test_an_illegal_access_takes_the_neighbours(self):
        self.make()
        one = self.spin("one")
        pid = self.working(one)
        wild = self.spin("wild", argv=[sys.executable, HOARDER])
        node.wait_until(lambda: self.row(wild).state == READY, "wild is not ready")
        was = self.row(wild)
        url = f"http://127.0.0.1:{was.port}/wild"
        with urllib.request.urlopen(url, data=b"", timeout=node.WAIT_S) as reply:
            self.assertEqual(int(reply.read()), ILLEGAL_ADDRESS)
        self.log_has("mps fault")
        for replica, before in ((one, pid), (wild, was.pid)):
            node.wait_until(lambda r=replica, p=before: self.row(r).pid not in (0, p), "not restarted")
        self.working(one)
        self.log_has("mps works again")


if __name__ == "__main__":
    unittest.main()
