#!/usr/bin/env python3
"""Models that replicas share under fast-node: its stores, who may have what, and who is charged."""
import ctypes
import json
import os
import random
import signal
import subprocess
import sys
import time
import unittest
import urllib.request

import node
import store as e2e
import wire

e2e.begin_with_asan()
# As meson does, also for whoever runs this by hand: this process has the simulated driver.
ctypes.CDLL(os.path.join(e2e.SIM, "libcuda.so.1"))

MIB = 1 << 20
READY = wire.STATES.index("ready")
FUNCTION = os.path.join(node.HERE, "model_function.py")
SIZE = 48 * MIB
CONTEXT = 300 * MIB  # what a process costs on the simulated device

GET_A_LOT = f"""
import os, sys
sys.path[:0] = [{node.HERE!r}]
import store as e2e
lib = e2e.Lib(os.environ["FAST_STORE_LIB"])
store = lib.connect()
for _ in range(2000):
    lib.c.fast_store_release(lib.get(store, "m"))
"""


class ModelsTest(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=2)
        self.addCleanup(self.node.close)
        self.file = os.path.join(self.node.root, "m.safetensors")
        e2e.write_safetensors(self.file, {"w": ("U8", [SIZE], random.Random(1).randbytes(SIZE))})
        self.open()

    def open(self):
        self.session = self.node.session()
        self.addCleanup(self.session.close)
        _, done = self.session.ask("watch", period_ms=0)
        self.assertEqual(done.code, 0, done.text)

    def start(self, number, model="m", ns="openfaas-fn", gpu=0, mem=1 << 30, file=True):
        env = [f"FAST_MODEL={model}"] if model else []
        _, done = self.session.ask(
            "replica_start", replica=f"f.{ns}.{number}", function="f", ns=ns, gpu=gpu, sm_pct=10,
            request_milli=100, limit_milli=1000, mem_bytes=mem, argv=[sys.executable, FUNCTION],
            env=[*env, *([f"MODEL_FILE={self.file}"] if file else [])], start_timeout_ms=30000)
        self.assertEqual(done.code, 0, done.text)

    def ready(self, number, ns="openfaas-fn"):
        def look():
            rows, _ = self.session.ask("replica_list")
            return [r.port for r in rows
                    if r.get("state") == READY and r.replica == f"f.{ns}.{number}"]

        return node.wait_until(look, "a replica does not get ready")[0]

    def start_ready(self, number, **more):
        self.start(number, **more)
        return self.ready(number, more.get("ns", "openfaas-fn"))

    def get(self, port, path="/"):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=60) as answer:
            return json.load(answer)

    def gpu(self, index=0):
        time.sleep(0.05)  # the node's figures are up to 40 ms old
        rows, _ = self.session.ask("gpu_list")
        return [r for r in rows if r.gpu == index][0]

    def models(self):
        rows, done = self.session.ask("model_list")
        self.assertEqual(done.code, 0)
        return rows

    def own(self, number):
        """What the replica is charged for."""
        rows, _ = self.session.ask("replica_list")
        return [r.mem_bytes for r in rows
                if r.name == "replica_stats" and r.replica == f"f.openfaas-fn.{number}"][0]

    def stores(self):
        """Processes of this node's stores, by GPU."""
        out = {}
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().decode().split("\0")
            except OSError:
                continue
            if argv[0] == e2e.STORE and self.node.path("") in argv[2] and "--gpu" in argv:
                out[int(argv[argv.index("--gpu") + 1])] = int(pid)
        return out

    def test_no_store_without_a_model(self):
        self.start(1, model="", file=False)
        self.session.wait_row(lambda r: r.replica == "f.openfaas-fn.1")
        self.assertEqual(self.stores(), {})
        self.assertEqual(self.gpu().mem_shared, 0)

    def test_replicas_share_and_the_model_is_charged_once(self):
        ports = [self.start_ready(n) for n in range(1, 4)]
        said = [self.get(p) for p in ports]
        self.assertEqual([s["error"] for s in said], [""] * 3)
        self.assertEqual(sum(s["loaded"] for s in said), 1)
        self.assertEqual(len({str(s["hashes"]) for s in said}), 1)
        self.assertEqual(said[0]["via"], "vmm-read-only")
        self.assertEqual(list(self.stores()), [0])
        node.wait_until(lambda: self.gpu().mem_shared == SIZE)
        self.assertEqual([self.own(n) - self.own(3) for n in (1, 2)], [0, 0], "loading costs no more")
        node.wait_until(lambda: [m.refs for m in self.models()] == [3])
        m = self.models()[0]
        self.assertEqual((m.ns, m["name"], m.bytes, m.gpu, m.tensors), ("openfaas-fn", "m", SIZE, 0, 1))

    def test_the_store_ends_when_its_model_is_removed_and_comes_back(self):
        port = self.start_ready(1)
        self.get(port)
        _, done = self.session.ask("replica_stop", replica="f.openfaas-fn.1", grace_ms=1000)
        node.wait_until(lambda: [m.refs for m in self.models()] == [0])
        node.wait_until(lambda: self.gpu().mem_cached == SIZE)
        _, done = self.session.ask("model_remove", ns="openfaas-fn", name="m")
        self.assertEqual(done.code, 0, done.text)
        node.wait_until(lambda: not self.stores(), "an empty store does not end")
        node.wait_until(lambda: (self.models(), self.gpu().mem_shared) == ([], 0))
        self.assertEqual(self.get(self.start_ready(2))["loaded"], 1)

    def test_a_killed_store_leaves_its_replicas_and_is_started_again(self):
        port = self.start_ready(1)
        self.get(port)
        first = self.stores()[0]
        os.kill(first, signal.SIGKILL)
        node.wait_until(lambda: not self.models())
        self.assertEqual(self.get(port)["error"], "", "it keeps its mapping")
        other = self.start_ready(2)
        self.assertEqual(self.get(other)["loaded"], 1)
        self.assertNotEqual(self.stores()[0], first)
        self.assertEqual(self.get(port, "/again")["loaded"], 0, "the old one finds the new model")

    def test_a_store_outlives_its_node_and_is_adopted(self):
        port = self.start_ready(1)
        self.get(port)
        before = self.stores()
        self.session.close()
        self.node.kill()
        self.assertEqual(self.get(port)["error"], "")
        self.node.start()
        self.open()
        node.wait_until(lambda: [m.refs for m in self.models()] == [1])
        node.wait_until(lambda: self.gpu().mem_shared == SIZE)
        self.assertEqual(self.get(self.start_ready(2))["loaded"], 0)
        os.kill(before[0], signal.SIGKILL)
        node.wait_until(lambda: not self.models(), "the adopted one is not watched")
        self.assertEqual(self.get(self.start_ready(3))["loaded"], 1)
        self.session.close()
        self.assertEqual(self.node.stop(), 0)
        self.assertEqual(self.stores(), {}, "an orderly end leaves none")

    def test_a_node_that_was_away_finds_its_store_again(self):
        port = self.start_ready(1)
        self.get(port)
        store = self.stores()[0]
        rows, _ = self.session.ask("replica_list")
        with open(f"/proc/{rows[0].pid}/environ", "rb") as f:
            env = dict(e.split("=", 1) for e in f.read().decode().split("\0") if "=" in e)
        for name in ("LD_PRELOAD", "FAST_TICKET"):  # as the replica, but not kept by the node
            env.pop(name)
        os.kill(self.node.process.pid, signal.SIGSTOP)
        try:  # more news than a socket takes, so that the store gives the node up
            client = subprocess.run([sys.executable, "-c", GET_A_LOT], env=env, check=False, timeout=60)
            self.assertEqual(client.returncode, 0)
            with open(self.node.path("store-0.log"), encoding="utf-8") as log:
                self.assertIn("client dropped", log.read())
        finally:
            os.kill(self.node.process.pid, signal.SIGCONT)
        node.wait_until(lambda: "hung up" in self.node.log())
        node.wait_until(lambda: [m.refs for m in self.models()] == [1])
        self.assertEqual(self.stores(), {0: store})

    def test_namespaces_are_kept_apart(self):
        self.get(self.start_ready(1))
        other = self.get(self.start_ready(1, ns="other", file=False))
        self.assertIn("no model m for namespace other", other["error"])
        # The pass says who it is, and nobody gets in without one.
        lib, socket = e2e.Lib(), self.node.path("run", "store-0.sock")
        for forged in (None, "openfaas-fn", "1:1:openfaas-fn:x:0000000000000000"):
            with self.assertRaises(OSError) as e:
                lib.connect(socket, forged)
            self.assertEqual(e.exception.errno, wire.CODES.index("EPERM"))

    def test_a_greedy_namespace_leaves_room_for_others(self):
        self.session.close()
        self.assertEqual(self.node.stop(), 0)
        self.node.args += ["--model-limit", f"{2 * SIZE}"]
        self.node.start()
        self.open()
        for n in (1, 2):
            self.assertEqual(self.get(self.start_ready(n, ns="greedy", model=f"m{n}"))["error"], "")
        third = self.start_ready(3, ns="greedy", model="m3")
        self.refused(third)
        self.assertEqual(self.get(self.start_ready(4, ns="greedy", model="m1"))["loaded"], 0, "no more bytes")
        self.assertEqual(self.get(self.start_ready(1))["error"], "")
        node.wait_until(lambda: {(m.ns, m.limit) for m in self.models()} ==
                        {("greedy", 2 * SIZE), ("openfaas-fn", 2 * SIZE)})
        # The limit lives on with the store, and comes back with the node and with another store.
        self.session.close()
        self.node.kill()
        self.refused(third)
        self.node.args[-1] = f"{SIZE},greedy={3 * SIZE}"
        self.node.start()
        self.open()
        node.wait_until(lambda: {(m.ns, m.limit) for m in self.models()} ==
                        {("greedy", 3 * SIZE), ("openfaas-fn", SIZE)})
        self.assertEqual(self.get(third, "/again")["error"], "")
        store = self.stores()[0]
        os.kill(store, signal.SIGKILL)
        self.assertEqual(self.get(self.start_ready(2))["error"], "")
        self.assertIn("limit of 48.0 MiB", self.get(self.start_ready(3, model="m2"))["error"])
        # What nobody uses makes room.
        for number in (2, 3):
            self.session.ask("replica_stop", replica=f"f.openfaas-fn.{number}", grace_ms=1000)
        node.wait_until(lambda: [m.refs for m in self.models()] == [0])
        self.assertEqual(self.get(self.start_ready(5, model="m2"))["error"], "")
        self.assertEqual([m["name"] for m in self.models()], ["m2"])

    def refused(self, port):
        self.assertIn("namespace greedy has 96.0 MiB of models in use or pinned on this GPU, and 48.0 MiB more pass "
                      "its limit of 96.0 MiB", self.get(port, "/again")["error"])

    def test_each_gpu_has_its_own(self):
        self.get(self.start_ready(1))
        self.assertEqual(self.get(self.start_ready(2, gpu=1))["loaded"], 1)
        self.assertEqual(sorted(self.stores()), [0, 1])

    def test_unused_models_go_when_a_replica_needs_the_memory(self):
        self.get(self.start_ready(1))
        self.session.ask("replica_stop", replica="f.openfaas-fn.1", grace_ms=1000)
        total = self.gpu().mem_total
        port = self.start_ready(2, model="other", mem=total)
        node.wait_until(lambda: [m.refs for m in self.models() if m["name"] == "m"] == [0])
        # The context of the first one may outlive it for a moment.
        node.wait_until(lambda: self.gpu().mem_used - 2 * SIZE <= CONTEXT)
        rest = total - self.gpu().mem_used + 2 * MIB  # 2 MiB more than there is
        _, done = self.session.ask("model_pin", ns="openfaas-fn", name="m", pin=1)
        self.assertEqual(done.code, 0, done.text)
        room = self.get(port, f"/alloc?{rest}")
        self.assertEqual(room["code"], 2, "what is pinned stays")
        _, done = self.session.ask("model_pin", ns="openfaas-fn", name="m", pin=0)
        self.assertEqual(self.get(port, f"/alloc?{rest}")["code"], 0)
        self.assertEqual([m["name"] for m in self.models()], ["other"])

    def test_a_replica_cannot_make_the_model_writable(self):
        port = self.start_ready(1)
        self.assertEqual(self.get(port, "/writable")["code"], 800, "CUDA_ERROR_NOT_PERMITTED")
        # What is mapped there after the model may be written again: loading takes it.
        self.assertEqual(self.get(port, "/again")["error"], "")
        self.session.ask("model_remove", ns="openfaas-fn", name="m")
        again = self.get(port, "/again")
        self.assertEqual((again["error"], again["loaded"]), ("", 1))

    def test_what_the_hook_keeps_read_only(self):
        # Imported: writable until it is read-only, which then stays, also a part of it. Its own: at will.
        self.assertEqual(self.get(self.start_ready(1), "/seal")["codes"], [0, 0, 800, 800, 0, 0, 0, 0, 800])

    def functions(self, program, *args, count=2):
        """Replicas of a program that comes with this project, as they are ready."""
        for n in range(1, count + 1):
            _, done = self.session.ask(
                "replica_start", replica=f"f.openfaas-fn.{n}", function="f", ns="openfaas-fn", gpu=0,
                sm_pct=20, request_milli=200, limit_milli=1000, mem_bytes=4 << 30,
                argv=[os.path.join(node.BUILD, "functions", program), *args],
                env=[f"FAST_MODEL={program}-weights"], start_timeout_ms=30000)
            self.assertEqual(done.code, 0, done.text)
        return [self.ready(n) for n in range(1, count + 1)]

    def post(self, port, data):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", data, timeout=60) as answer:
            return json.load(answer)

    def test_digits_shares_its_weights(self):
        ports = self.functions("digits")
        with open(os.path.join(node.HERE, "..", "..", "functions", "digits", "seven.pgm"), "rb") as f:
            seven = f.read()
        self.assertEqual([self.post(p, seven)["digit"] for p in ports], [7, 7])
        node.wait_until(lambda: [(m["name"], m.refs) for m in self.models()] == [("digits-weights", 2)])
        node.wait_until(lambda: self.gpu().mem_shared == 2 * MIB)

    def test_replay_shares_the_weights_of_its_model(self):
        ports = self.functions("replay", "--model", "resnet50", "--memory-scale", "0.25", count=3)
        self.assertEqual([self.post(p, b"")["model"] for p in ports], ["resnet50"] * 3)
        node.wait_until(lambda: [(m["name"], m.refs) for m in self.models()] == [("replay-weights", 3)])
        # 98 MiB of weights, and 1525 less these and 300 of a context for each, a quarter of both.
        node.wait_until(lambda: self.gpu().mem_shared == 26 * MIB)
        self.assertEqual([self.own(n) // MIB for n in (1, 2, 3)], [282] * 3)

    def test_functions_without_a_library_have_their_own(self):
        _, done = self.session.ask(
            "replica_start", replica="f.openfaas-fn.1", function="f", ns="openfaas-fn", gpu=0,
            sm_pct=20, request_milli=200, limit_milli=1000, mem_bytes=4 << 30,
            argv=["/usr/bin/env", "FAST_STORE_LIB=/nowhere.so",
                  os.path.join(node.BUILD, "functions", "digits")],
            env=["FAST_MODEL=d"], start_timeout_ms=30000)
        self.assertEqual(done.code, 0, done.text)
        self.ready(1)
        self.assertEqual(self.models(), [])
        with open(self.node.path("logs", "f.openfaas-fn.1.log"), encoding="utf-8") as f:
            self.assertIn("weights are not shared: /nowhere.so", f.read())

    def test_push_rm_and_pin(self):
        push = {"gpu": 1, "ns": "openfaas-fn", "name": "m", "path": self.file}
        _, done = self.session.ask("model_push", **push)
        self.assertEqual(done.code, 0, done.text)
        self.assertIn("1 tensors", done.text)
        self.assertEqual(self.get(self.start_ready(1, gpu=1, file=False))["loaded"], 0)
        for name in ("model_pin", "model_remove"):
            _, done = self.session.ask(name, ns="openfaas-fn", name="not-there")
            self.assertEqual(done.code, wire.CODES.index("ENOENT"))
        _, done = self.session.ask("model_push", **dict(push, path=self.file + "x"))
        self.assertIn("No such file", done.text)
        _, done = self.session.ask("model_push", **dict(push, gpu=7))
        self.assertEqual(done.code, wire.CODES.index("EINVAL"))

    def test_what_one_gpu_cannot_do_is_said_and_done_again(self):
        for gpu in (0, 1):
            _, done = self.session.ask("model_push", gpu=gpu, ns="openfaas-fn", name="m", path=self.file)
            self.assertEqual(done.code, 0, done.text)
        os.kill(self.stores()[1], signal.SIGSTOP)
        try:  # more requests than its socket takes; its answers are missing until it goes on
            for n in range(2000):
                self.session.send("model_pin", 10000 + n, ns="openfaas-fn", name="m", pin=1)
                self.session.ask("gpu_list")
                said = [m.text for m in self.session.told if m.name == "done"]
                if any("GPU 1: the peer does not read" in text and "done on 1 of the GPUs" in text for text in said):
                    break  # earlier ones may have been too many for the other store as well
            else:
                self.fail(said)
        finally:
            os.kill(self.stores()[1], signal.SIGCONT)
        with self.node.session() as session:
            rows, _ = session.ask("model_list")
            self.assertEqual(sorted((r.gpu, r.pinned) for r in rows)[0], (0, 1))

            may_say = [0, wire.CODES.index("EBUSY"), wire.CODES.index("ENOENT")]

            def removed():  # again while the store still has what it was sent, or comes back from it
                _, done = session.ask("model_remove", ns="openfaas-fn", name="m")
                self.assertIn(done.code, may_say, done.text)
                return session.ask("model_list")[0] == []

            node.wait_until(removed)


if __name__ == "__main__":
    unittest.main()
