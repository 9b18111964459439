#!/usr/bin/env python3
"""Replicas, stores and the node killed at random moments while models are taken, loaded and given back: nobody
hangs, whoever lives has the right bytes, and in the end no device memory is left behind.

FAST_STORE_CRASHES: how many (default 10). FAST_STORE_SEED: to see a failure again."""
import http.client
import json
import os
import random
import signal
import sys
import threading
import time
import unittest
import urllib.request

import node
import store as e2e
import wire

MIB = 1 << 20
READY = wire.STATES.index("ready")
FUNCTION = os.path.join(node.HERE, "model_function.py")
CRASHES = int(os.environ.get("FAST_STORE_CRASHES", "10"))
SEED = int(os.environ.get("FAST_STORE_SEED", "11"))
SETTLE = 25  # crashes between two looks at whether anything is left
REPLICAS = 4
HANG_S = 2 * node.WAIT_S


class Crash(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=1)
        self.addCleanup(self.node.close)
        self.addCleanup(lambda: self.session.close())
        self.session = self.node.session()
        self.rng = random.Random(SEED)
        self.file = os.path.join(self.node.root, "m.safetensors")
        e2e.write_safetensors(self.file, {
            name: ("U8", [5 * MIB], self.rng.randbytes(5 * MIB)) for name in ("a", "b", "c")})
        self.number, self.hashes = 0, None
        self.empty = self.gpu().mem_used

    def gpu(self):
        time.sleep(0.05)  # the node's figures are up to 40 ms old
        return self.session.ask("gpu_list")[0][0]

    def rows(self):
        return [r for r in self.session.ask("replica_list")[0] if r.name == "replica_row"]

    def start_one(self):
        self.number += 1
        _, done = self.session.ask(
            "replica_start", replica=f"f.openfaas-fn.{self.number}", function="f", ns="openfaas-fn", gpu=0,
            sm_pct=20, request_milli=200, limit_milli=1000, mem_bytes=1 << 30,
            argv=[sys.executable, FUNCTION], start_timeout_ms=HANG_S * 1000,
            # Two models, so that a store loads and gives out at the same time.
            env=[f"FAST_MODEL=m{self.number % 2}", f"MODEL_FILE={self.file}"])
        self.assertEqual(done.code, 0, done.text)

    def stores(self):
        out = []
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/cmdline", "rb") as f:
                    argv = f.read().decode(errors="replace").split("\0")
            except OSError:
                continue
            if argv[0] == e2e.STORE and self.node.path("") in argv[2] and "--gpu" in argv:
                out.append(int(pid))
        return out

    def get(self, port, path):
        with urllib.request.urlopen(f"http://127.0.0.1:{port}{path}", timeout=HANG_S) as answer:
            return json.load(answer)

    def again(self, port):
        try:
            self.get(port, "/again")
        except (OSError, http.client.HTTPException):
            pass  # it was the one that was killed

    def kill(self, what):
        if what == "node":
            self.session.close()
            self.node.kill()
            time.sleep(self.rng.random() * 0.1)
            self.node.start()
            self.session = self.node.session()
        elif what == "store":
            for pid in self.stores():
                os.kill(pid, signal.SIGKILL)
        else:
            row = self.rng.choice([r for r in self.rows() if r.pid])
            os.kill(row.pid, signal.SIGKILL)
            # Not started again by the node, whose pauses after several deaths are long.
            self.session.ask("replica_stop", replica=row.replica, grace_ms=1)
            node.wait_until(lambda: row.replica not in [r.replica for r in self.rows()])
            self.start_one()

    def is_well(self, row):
        """It answers, and has the bytes of the file; one whose loading was cut off tries again."""
        said = self.get(row.port, "/")
        if said["error"]:
            said = self.get(row.port, "/again")
        self.hashes = self.hashes or said.get("hashes")
        return not said["error"] and said["hashes"] == self.hashes

    def all_well(self):
        def well():
            rows = self.rows()
            return len(rows) == REPLICAS and all(r.state == READY for r in rows) and all(map(self.is_well, rows))

        node.wait_until(well, f"not all are well: seed {SEED}\n{self.node.log()[-3000:]}")

    def nothing_is_left(self):
        """Without replicas and models the device is as it was, and the store has ended."""
        for row in self.rows():
            self.session.ask("replica_stop", replica=row.replica, grace_ms=2000)
        node.wait_until(lambda: not self.rows(), "replicas stay")

        def gone():
            for model in self.session.ask("model_list")[0]:
                self.session.ask("model_remove", ns=model.ns, name=model["name"])
            gpu = self.gpu()
            return (gpu.mem_used, gpu.mem_shared) == (self.empty, 0) and not self.stores()

        node.wait_until(gone, f"seed {SEED}: memory is left: {self.gpu()}")

    def test_crashes(self):
        node.WAIT_S = max(node.WAIT_S, HANG_S)
        for _ in range(REPLICAS):
            self.start_one()
        self.all_well()
        for i in range(1, CRASHES + 1):
            callers = [threading.Thread(target=self.again, args=(r.port,)) for r in self.rows()]
            for t in callers:
                t.start()
            time.sleep(self.rng.random() * 0.06)
            for what in self.rng.sample(["replica", "store", "node"], self.rng.choice([1, 1, 1, 2, 3])):
                self.kill(what)
            for t in callers:
                t.join(HANG_S)
                self.assertFalse(t.is_alive(), f"seed {SEED}: a replica hangs after crash {i}")
            self.all_well()
            if i % SETTLE == 0 or i == CRASHES:
                self.nothing_is_left()
                for _ in range(REPLICAS if i < CRASHES else 0):
                    self.start_one()
        # Nobody died of something else than being killed or stopped: no abort, no bad access.
        self.assertNotRegex(self.node.log(), r"killed by signal (?!9 |15 )")
        with open(self.node.path("store-0.log"), encoding="utf-8", errors="replace") as f:
            self.assertNotRegex(f.read(), r"Z error |free\(\)|corrupt")


if __name__ == "__main__":
    e2e.begin_with_asan()
    unittest.main()
