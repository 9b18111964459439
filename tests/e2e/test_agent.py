#!/usr/bin/env python3
"""The agent of fast-node: real processes, started, watched, restarted, adopted and stopped."""
import json
import os
import random
import signal
import socket
import stat
import struct
import subprocess
import sys
import unittest
import urllib.request

import node
import wire

EINVAL, ENOENT, EEXIST = (wire.CODES.index(c) for c in ("EINVAL", "ENOENT", "EEXIST"))
ENOROOM, EPERM, EBUSY, EPROTO = (wire.CODES.index(c) for c in ("ENOROOM", "EPERM", "EBUSY", "EPROTO"))
STARTING, READY, UNHEALTHY, BACKOFF, STOPPING, STOPPED = range(6)


def start_fields(number=1, *args, **more):
    fields = {"replica": f"f.openfaas-fn.{number}", "function": "f", "ns": "openfaas-fn", "gpu": 0,
              "sm_pct": 24, "request_milli": 200, "limit_milli": 400, "mem_bytes": 1 << 30,
              "argv": [sys.executable, node.FUNCTION, *args], "start_timeout_ms": 20000,
              "stop_grace_ms": 10000}
    fields.update(more)
    fields["env"] = [*fields.get("env", []), wire.ASAN]
    return fields


def facts(row):
    with urllib.request.urlopen(f"http://127.0.0.1:{row.port}/", timeout=20) as answer:
        return json.load(answer)


class AgentTest(unittest.TestCase):
    def setUp(self):
        self.node = node.Node()
        self.addCleanup(self.node.close)
        self.open()

    def open(self):
        self.session = self.node.session()
        self.addCleanup(self.session.close)
        rows, done = self.session.ask("watch", period_ms=0)
        self.assertEqual(done.code, 0, done.text)
        return [r for r in rows if r.name == "replica_row"]

    def start(self, number=1, *args, **more):
        _, done = self.session.ask("replica_start", **start_fields(number, *args, **more))
        self.assertEqual(done.code, 0, done.text)

    def wait_state(self, state, number=1):
        name = f"f.openfaas-fn.{number}"
        return self.session.wait_row(lambda r: r.replica == name and r.state == state)

    def start_ready(self, number=1, *args, **more):
        self.start(number, *args, **more)
        return self.wait_state(READY, number)

    def rows(self):
        rows, done = self.session.ask("replica_list")
        self.assertEqual(done.code, 0)
        return [r for r in rows if r.name == "replica_row"]

    def log(self, number=1):
        with open(self.node.path("logs", f"f.openfaas-fn.{number}.log"), encoding="utf-8") as f:
            return f.read()


class Start(AgentTest):
    def test_row_and_environment(self):
        row = self.start_ready(1, "--child", env=["GREETING=a=b", "PORT=1", "EMPTY="], cwd="/usr")
        self.assertEqual((row.gpu, row.sm_pct, row.request_milli, row.limit_milli, row.mem_bytes),
                         (0, 24, 200, 400, 1 << 30))
        self.assertEqual((row.restarts, row.text), (0, ""))
        self.assertGreater(row.up_ms, 0)
        it = facts(row)
        env = it["env"]
        self.assertEqual((it["pid"], it["session"], it["group"]), (row.pid,) * 3)
        self.assertEqual((it["cwd"], it["argv"], it["mask"]), ("/usr", ["--child"], []))
        self.assertEqual((env["PORT"], env["port"]), (str(row.port),) * 2)
        self.assertEqual((env["GREETING"], env["EMPTY"]), ("a=b", ""))
        self.assertEqual((env["OPENFAAS_NAME"], env["OPENFAAS_NAMESPACE"]), ("f", "openfaas-fn"))
        self.assertEqual(env["FAST_NODE_SOCKET"], self.node.path("run", "node.sock"))
        self.assertRegex(env["FAST_TICKET"], "^[0-9a-f]{32}$")
        self.assertNotIn("FAST_BUILD", env)  # of this test, so in the node's environment
        self.assertEqual(it["fds"].pop("0"), "/dev/null")
        log = self.node.path("logs", "f.openfaas-fn.1.log")
        self.assertEqual((it["fds"].pop("1"), it["fds"].pop("2")), (log, log))
        self.assertEqual([f for f in it["fds"].values() if "/proc/" not in f], [])

    def test_tickets_differ(self):
        tickets = {facts(self.start_ready(i))["env"]["FAST_TICKET"] for i in (1, 2)}
        self.assertEqual(len(tickets), 2)

    def test_plain_process(self):
        """No slice, no hook, no GPU to be seen; started, watched and adopted like any other."""
        none = 2**32 - 1
        row = self.start_ready(1, gpu=none, sm_pct=0, request_milli=0, limit_milli=0, mem_bytes=0)
        self.assertEqual((row.gpu, row.sm_pct), (none, 0))
        env = facts(row)["env"]
        self.assertEqual(env["CUDA_VISIBLE_DEVICES"], "")
        self.assertNotIn("LD_PRELOAD", env)
        _, done = self.session.ask("replica_resize", replica=row.replica, sm_pct=1, limit_milli=1)
        self.assertEqual(done.code, EINVAL, done.text)
        stats = [r for r in self.session.ask("replica_list")[0] if r.name == "replica_stats"]
        self.assertEqual([(s.gpu, s.launches) for s in stats], [(none, 0)])
        self.session.close()
        self.node.kill()
        self.node.start()
        [again] = self.open()
        self.assertEqual((again.pid, again.state), (row.pid, READY))

    def test_driver_elsewhere(self):
        """A driver that the loader finds by the node's LD_LIBRARY_PATH is found by replicas too."""
        self.session.close()
        self.node.kill()
        self.node.env["LD_LIBRARY_PATH"] = "/opt/driver/lib"
        self.node.start()
        self.open()
        row = self.start_ready(1, gpu=2**32 - 1, sm_pct=0, request_milli=0, limit_milli=0, mem_bytes=0)
        self.assertEqual(facts(row)["env"]["LD_LIBRARY_PATH"], "/opt/driver/lib")
        env = facts(self.start_ready(2))["env"]  # the simulated driver is where it is
        self.assertTrue(env["LD_LIBRARY_PATH"].split(":")[0].endswith("/simdriver"))

    def test_same_again_and_another(self):
        row = self.start_ready()
        self.start()
        self.assertEqual([(r.pid, r.restarts) for r in self.rows()], [(row.pid, 0)])
        _, done = self.session.ask("replica_start", **start_fields(sm_pct=25))
        self.assertEqual(done.code, EEXIST, done.text)
        self.assertEqual([r.sm_pct for r in self.rows()], [24])

    def test_program_that_cannot_run(self):
        for argv, code in (["/nonexistent/program"], ENOENT), (["no-such-program-in-path"], ENOENT), \
                (["/etc/passwd"], EPERM):
            _, done = self.session.ask("replica_start", **start_fields(argv=argv))
            self.assertEqual(done.code, code, done.text)
            self.assertIn(argv[0], done.text)
        _, done = self.session.ask("replica_start", **start_fields(cwd="/nonexistent"))
        self.assertEqual(done.code, ENOENT, done.text)
        self.assertEqual(self.rows(), [])
        self.assertEqual(os.listdir(self.node.path("replicas")), [])
        self.assertEqual([n for n in os.listdir(self.node.path("logs")) if ".log" in n], [])

    def test_bad_requests_change_nothing(self):
        long = "a" * 64
        bad = [{"replica": ""}, {"replica": "f.openfaas-fn."}, {"replica": "f.openfaas-fn.01"},
               {"replica": "f.openfaas-fn.-1"}, {"replica": "g.openfaas-fn.1"},
               {"replica": "f.openfaas-fn.1/../x"}, {"replica": "../f.openfaas-fn.1"},
               {"function": "a/b", "replica": "a/b.openfaas-fn.1"},
               {"function": "..", "replica": "...openfaas-fn.1"},
               {"function": long, "replica": long + ".openfaas-fn.1"},
               {"ns": "", "replica": "f..1"}, {"argv": []}, {"argv": [""]},
               {"argv": ["x"] * 257}, {"env": ["NOVALUE"]}, {"env": ["=x"]}, {"cwd": "relative"},
               {"health_path": "no-slash"}, {"health_path": "/a b"}, {"health_path": "/" + "a" * 255},
               {"health_path": "/x\r\nHost: y"}, {"sm_pct": 0}, {"sm_pct": 101},
               {"sm_pct": 2**32 - 1}, {"request_milli": 1001}, {"limit_milli": 0},
               {"limit_milli": 199}, {"gpu": 2}, {"gpu": 2**32 - 2}, {"mem_bytes": 1 << 50},
               {"start_timeout_ms": 2**32 - 1}, {"stop_grace_ms": 3600001}]
        for fields in bad:
            with self.subTest(fields=fields):
                _, done = self.session.ask("replica_start", **start_fields(**fields))
                self.assertEqual(done.code, EINVAL, done.text)
                self.assertNotEqual(done.text, "")
        self.assertEqual(self.rows(), [])
        self.assertEqual(os.listdir(self.node.path("replicas")), [])


class Health(AgentTest):
    def test_server_without_health_path(self):
        self.start_ready(1, "--health", "404")

    def test_path_that_was_named_must_answer(self):
        self.start(1, "--health", "404", health_path="/_/health", start_timeout_ms=1500)
        row = self.wait_state(BACKOFF)
        self.assertIn("404", row.text)
        self.assertIn("1500 ms", row.text)
        self.assertEqual((row.pid, row.port), (0, 0))

    def test_other_path(self):
        self.start_ready(1, "--health", "500", health_path="/")

    def test_never_listens(self):
        self.start(1, "--deaf", start_timeout_ms=500)
        first = self.wait_state(STARTING)
        row = self.wait_state(BACKOFF)
        self.assertIn("nothing listens", row.text)
        self.assertFalse(node.lives(first.pid))
        self.assertEqual(self.wait_state(STARTING).restarts, 1)

    def test_late_server(self):
        self.assertGreaterEqual(self.start_ready(1, "--late", "0.6").up_ms, 600)

    def test_frozen_process(self):
        row = self.start_ready()
        os.kill(row.pid, signal.SIGSTOP)
        ill = self.wait_state(UNHEALTHY)
        self.assertEqual(ill.pid, row.pid)
        self.assertNotEqual(ill.text, "")
        os.kill(row.pid, signal.SIGCONT)
        well = self.wait_state(READY)
        self.assertEqual((well.pid, well.restarts, well.text), (row.pid, 0, ""))


class Death(AgentTest):
    def test_killed_replica_comes_back(self):
        old = self.start_ready()
        os.kill(old.pid, signal.SIGKILL)
        row = self.session.wait_row(lambda r: r.pid != old.pid)
        self.assertEqual((row.state, row.restarts, row.exit_status), (STARTING, 1, 137))
        self.assertIn("signal 9", row.text)
        new = self.wait_state(READY)
        self.assertEqual(new.pid, row.pid)
        self.assertEqual(facts(new)["pid"], new.pid)
        self.assertEqual(self.log().count("fast-node: start"), 2)

    def test_crash_loop_waits_longer_each_time(self):
        self.start(1, "--exit", "3")
        starts = []
        for restarts in range(4):
            row = self.wait_state(BACKOFF)
            self.assertEqual((row.exit_status, row.restarts), (3, restarts))
            self.assertIn("exit status 3: ", row.text)  # and what it said last
            starts.append(row.started_ms)
        gaps = [b - a for a, b in zip(starts, starts[1:])]
        for gap, least in zip(gaps, (100, 200, 400)):
            self.assertGreaterEqual(gap, least)
        _, done = self.session.ask("replica_stop", replica="f.openfaas-fn.1")
        self.assertEqual(done.code, 0)
        self.wait_state(STOPPED)
        self.assertEqual(self.rows(), [])

    def test_rest_of_the_group_dies_first(self):
        old = self.start_ready(1, "--child")
        child = facts(old)["child"]
        self.assertTrue(node.lives(child))
        os.kill(old.pid, signal.SIGKILL)
        self.session.wait_row(lambda r: r.pid != old.pid)
        node.wait_until(lambda: not node.lives(child), "the child goes on")

    def test_program_that_disappears(self):
        program = self.node.path("program")
        with open(program, "w", encoding="utf-8") as f:
            f.write(f"#!/bin/sh\nexec {sys.executable} {node.FUNCTION}\n")
        os.chmod(program, 0o755)
        row = self.start_ready(1, argv=[program])
        os.unlink(program)
        os.kill(row.pid, signal.SIGKILL)
        row = self.wait_state(BACKOFF)
        self.assertIn("No such file", row.text)


class Stop(AgentTest):
    def stop(self, **more):
        _, done = self.session.ask("replica_stop", replica="f.openfaas-fn.1", **more)
        self.assertEqual(done.code, 0, done.text)

    def test_term_is_enough(self):
        row = self.start_ready()
        self.stop()
        self.wait_state(STOPPING)
        last = self.wait_state(STOPPED)
        self.assertEqual(last.exit_status, 128 + signal.SIGTERM)
        self.assertFalse(node.lives(row.pid))
        self.assertEqual(self.rows(), [])
        self.assertEqual(os.listdir(self.node.path("replicas")), [])

    def test_kill_after_grace(self):
        row = self.start_ready(1, "--ignore-term", "--child")
        child = facts(row)["child"]
        self.stop(grace_ms=300)
        _, done = self.session.ask("replica_start", **start_fields(1, "--ignore-term", "--child"))
        self.assertEqual(done.code, EBUSY, done.text)
        last = self.wait_state(STOPPED)
        self.assertEqual(last.exit_status, 128 + signal.SIGKILL)
        node.wait_until(lambda: not node.lives(row.pid) and not node.lives(child))

    def test_unknown_replica(self):
        for name in ("f.openfaas-fn.9", "", "../../etc/passwd"):
            _, done = self.session.ask("replica_stop", replica=name)
            self.assertEqual(done.code, ENOENT, done.text)

    def test_node_stops_everything(self):
        pids = [self.start_ready(i).pid for i in (1, 2)]
        self.start(3, "--exit", "1")
        self.wait_state(BACKOFF, 3)
        self.assertEqual(self.node.stop(), 0, self.node.log())
        self.assertFalse(any(map(node.lives, pids)))
        self.assertEqual(os.listdir(self.node.path("replicas")), [])
        self.assertFalse(os.path.exists(self.node.path("control.sock")))


class Adoption(AgentTest):
    def crash(self):
        self.session.close()
        self.node.kill()

    def again(self):
        self.node.start()
        return self.open()

    def test_running_replica_is_adopted(self):
        before = self.start_ready()
        ticket = facts(before)["env"]["FAST_TICKET"]
        self.crash()
        self.assertEqual(facts(before)["pid"], before.pid)  # it lives without a node
        [row] = self.again()
        self.assertEqual((row.pid, row.port, row.state, row.restarts, row.started_ms, row.up_ms),
                         (before.pid, before.port, READY, 0, before.started_ms, before.up_ms))
        self.start()  # the same message again is still the same replica
        os.kill(row.pid, signal.SIGKILL)
        row = self.wait_state(READY)
        self.assertNotEqual(row.pid, before.pid)
        self.assertEqual(facts(row)["env"]["FAST_TICKET"], ticket)
        self.crash()
        [row] = self.again()
        _, done = self.session.ask("replica_stop", replica=row.replica)
        self.assertEqual(done.code, 0)
        self.wait_state(STOPPED)
        node.wait_until(lambda: not node.lives(row.pid))

    def test_dead_replica_is_started_again(self):
        before = self.start_ready(1, "--child")
        child = facts(before)["child"]
        self.crash()
        os.kill(before.pid, signal.SIGKILL)
        node.wait_until(lambda: not node.lives(before.pid))
        self.again()
        row = self.wait_state(READY)
        self.assertNotEqual(row.pid, before.pid)
        self.assertEqual(row.restarts, 1)
        self.assertFalse(node.lives(child))  # what it left behind was killed first

    def test_resize_is_remembered(self):
        self.start_ready()
        _, done = self.session.ask("replica_resize", replica="f.openfaas-fn.1", sm_pct=40,
                                   request_milli=300, limit_milli=500, mem_bytes=2 << 30)
        self.assertEqual(done.code, 0, done.text)
        self.crash()
        [row] = self.again()
        self.assertEqual((row.sm_pct, row.request_milli, row.limit_milli, row.mem_bytes),
                         (24, 300, 500, 2 << 30))
        os.kill(row.pid, signal.SIGKILL)
        self.assertEqual(self.session.wait_row(lambda r: r.restarts == 1 and r.pid).sm_pct, 40)

    def test_process_without_a_record(self):
        row = self.start_ready()
        self.crash()
        os.unlink(self.node.path("replicas", row.replica))
        self.assertEqual(self.again(), [])
        node.wait_until(lambda: not node.lives(row.pid), "it goes on without limits")

    def test_damaged_records(self):
        row = self.start_ready()
        self.crash()
        path = self.node.path("replicas", row.replica)
        with open(path, "rb") as f:
            good = f.read()
        others = {"f.openfaas-fn.2": good, "f.openfaas-fn.3": good[:100], "f.openfaas-fn.4": b"",
                  "f.openfaas-fn.5": os.urandom(500), "f.openfaas-fn.6": good + b"x" * 70000}
        with open(path + "~", "wb") as f:  # as if it had been killed while it wrote
            f.write(good[:50])
        for name, data in others.items():
            with open(self.node.path("replicas", name), "wb") as f:
                f.write(data)
        self.assertEqual([r.pid for r in self.again()], [row.pid])
        left = sorted(os.listdir(self.node.path("replicas")))
        self.assertEqual(left, sorted([row.replica] + [name + ".bad" for name in others]))

    def test_pid_of_somebody_else(self):
        """A record whose pid was given to another process: that one is not touched."""
        row = self.start_ready()
        self.crash()
        os.kill(row.pid, signal.SIGKILL)
        with subprocess.Popen(["sleep", "600"], start_new_session=True) as other:
            path = self.node.path("replicas", row.replica)
            with open(path, "rb") as f:
                data = f.read()
            # struct record: magic 8, boot 40, ticket 16, ticks 8, started 8, then the pid.
            self.assertEqual(struct.unpack_from("<I", data, 80)[0], row.pid)
            with open(path, "wb") as f:
                f.write(data[:80] + struct.pack("<I", other.pid) + data[84:])
            self.again()
            new = self.wait_state(READY)
            self.assertNotIn(new.pid, (row.pid, other.pid))
            self.assertIsNone(other.poll())
            other.kill()


class Resize(AgentTest):
    def resize(self, **more):
        fields = {"replica": "f.openfaas-fn.1", "sm_pct": 24, "request_milli": 100,
                  "limit_milli": 200, "mem_bytes": 1 << 30}
        fields.update(more)
        return self.session.ask("replica_resize", **fields)[1]

    def test_quota_at_once_partition_at_next_start(self):
        old = self.start_ready()
        done = self.resize(sm_pct=50)
        self.assertEqual(done.code, 0, done.text)
        self.assertIn("24 %", done.text)
        [row] = self.rows()
        self.assertEqual((row.pid, row.sm_pct, row.request_milli), (old.pid, 24, 100))
        os.kill(old.pid, signal.SIGKILL)
        self.assertEqual(self.session.wait_row(lambda r: r.pid not in (0, old.pid)).sm_pct, 50)
        self.wait_state(READY)
        self.assertEqual(self.resize(sm_pct=50).text, "")

    def test_bad_resize_changes_nothing(self):
        self.start_ready()
        for bad in ({"sm_pct": 0}, {"sm_pct": 101}, {"limit_milli": 50}, {"mem_bytes": 1 << 50}):
            self.assertEqual(self.resize(**bad).code, EINVAL)
        self.assertEqual(self.resize(replica="f.openfaas-fn.2").code, ENOENT)
        [row] = self.rows()
        self.assertEqual((row.sm_pct, row.request_milli, row.limit_milli, row.mem_bytes),
                         (24, 200, 400, 1 << 30))


class Control(AgentTest):
    def expect_refused(self, packet, hello=True):
        with self.node.session(hello=hello) as s:
            s.send_raw(packet)
            msg = s.receive()
            self.assertEqual((msg.name, msg.code), ("refused", EPROTO))
            with self.assertRaises((EOFError, ConnectionResetError)):
                s.receive()

    def test_socket_is_private(self):
        mode = os.stat(self.node.path("control.sock")).st_mode
        self.assertEqual(stat.S_IMODE(mode), 0o600)

    def test_welcome(self):
        w = self.session.welcome
        self.assertEqual((w.name, w.gpus, w.simulated, w.state_dir),
                         ("ctl_welcome", 2, 1, self.node.state_dir))
        self.assertGreater(w.window_ns, 0)

    def test_gpu_list(self):
        rows, done = self.session.ask("gpu_list")
        self.assertEqual(done.code, 0)
        self.assertEqual([r.gpu for r in rows], [0, 1])
        self.assertTrue(all(r.sms > 0 and r.mem_total > 0 for r in rows))

    def test_hello_comes_first(self):
        self.expect_refused(wire.encode("gpu_list", 1), hello=False)
        self.expect_refused(wire.encode("ctl_hello", 1, version=99), hello=False)

    def test_malformed_packets(self):
        good = wire.encode("replica_start", 5, **start_fields())
        rng = random.Random(1)
        for packet in (b"x", b"\0" * 8, good[:-1], good[:20], good + b"x",
                       struct.pack("<HHI", 1, 999, 1), struct.pack("<HHI", 2, 33, 1),
                       rng.randbytes(400), rng.randbytes(65000)):
            self.expect_refused(packet)
        self.assertEqual(self.rows(), [])  # and this session does not notice

    def test_messages_of_others(self):
        _, done = self.session.ask("hello", version=1)
        self.assertEqual(done.code, EPROTO, done.text)

    @unittest.skipIf(os.geteuid(), "only root may look into the node")
    def test_descriptors_are_closed(self):
        before = len(os.listdir(f"/proc/{self.node.process.pid}/fd"))
        with self.node.session() as s:
            r, w = os.pipe()
            socket.send_fds(s.socket, [wire.encode("gpu_list", 9)], [w])
            os.close(w)
            self.assertEqual(os.read(r, 1), b"")  # end of file: nobody holds the other end
            os.close(r)
        node.wait_until(lambda: len(os.listdir(f"/proc/{self.node.process.pid}/fd")) <= before)

    def test_statistics_are_told(self):
        self.start_ready()
        _, done = self.session.ask("watch", period_ms=50)
        self.assertEqual(done.code, 0)
        names = {self.session.receive().name for _ in range(9)}
        self.assertEqual(names, {"replica_stats", "gpu_row"})
        _, done = self.session.ask("watch", period_ms=1)
        self.assertEqual(done.code, EINVAL)

    def test_reader_that_does_not_read(self):
        """Its answers fill the socket, then the queue; then it is dropped, and nobody else waits."""
        for i in range(3):
            self.start(i, argv=["sleep", "600"])
        with self.node.session() as slow:
            slow.socket.settimeout(20)
            ask = wire.encode("replica_list", 7)
            with self.assertRaises((BrokenPipeError, ConnectionResetError)):
                for _ in range(100000):
                    slow.send_raw(ask)
        self.assertEqual(len(self.rows()), 3)

    def test_long_answers_arrive_whole(self):
        """More than a socket buffer holds, to a reader that is only a little late."""
        for i in range(3):
            self.start(i, argv=["sleep", "600"])
        with self.node.session() as s:
            for i in range(300):
                s.send("replica_list", 10 + i)
            for i in range(300):
                names = [s.receive() for _ in range(7)]
                self.assertEqual([m.id for m in names], [10 + i] * 7)
                self.assertEqual(names[-1].name, "done")

    def test_one_node_per_state_directory(self):
        row = self.start_ready()
        second = self.node.spawn()
        self.assertNotEqual(second.wait(node.WAIT_S), 0)
        self.assertIn("in use", self.node.log())
        self.assertEqual([r.pid for r in self.rows()], [row.pid])
        self.session.close()
        self.open()  # the socket is still the first one's


if __name__ == "__main__":
    unittest.main(verbosity=1)
