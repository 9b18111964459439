#!/usr/bin/env python3
"""Replicas that go to another GPU behind a warm copy, on two simulated GPUs under load: for somebody who has
no room because of how the others lie, and when asked for. No request may be lost by it."""
import json
import os
import subprocess
import tempfile
import unittest

import node
from gateway import wait_until
from test_gateway import GatewayTest, Load, notes
from test_gateway_gpu import MODEL, Steady
from test_scaler import PROFILES

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
# Starts once, and fails when it is started again.
ONCE = f"""#!/bin/sh
mkdir "$ONCE" || exit 3
exec {os.path.join(node.HERE, 'gateway_function.py')}
"""


def half(quota="0.5", **more):
    return {"annotations": notes(sm_partition="100", quota_request=quota, mem="1Gi"), **more}


class Halves(GatewayTest):
    gpus = 2

    def gpu(self, name):
        return {r["gpu"] for r in self.gw.replicas(name)}

    def fragment(self, of=lambda name: {}):
        """Functions a and b, a half on each GPU."""
        gw = self.gw
        for name in ("a", "x", "b"):
            gw.up(name, **half(**of(name)))
        self.assertEqual(self.gpu("a"), self.gpu("x"))
        self.assertNotEqual(self.gpu("a"), self.gpu("b"))
        gw.ask("DELETE", "/system/functions", {"functionName": "x"})
        wait_until(lambda: not gw.replicas("x"))

    def fast(self, *args):
        return subprocess.run([FAST, *args, "--gateway", f"http://127.0.0.1:{self.gw.port}"],
                              capture_output=True, text=True, timeout=node.WAIT_S, check=False)

    def latest(self):
        return self.gw.get("/system/defrag").json()["latest"]

    def explained(self, name):
        return [(r["cause"], d["do"], d["why"]) for r in
                reversed(self.gw.get(f"/system/explain/{name}").json()["decisions"]) for d in r["did"]]

    def settle(self):
        wait_until(lambda: self.latest()["active"] == 0, "moves do not end")


class Moves(Halves):
    def test_room_for_one_that_fits_only_after_a_move(self):
        gw = self.gw
        self.fragment()
        before = {name: gw.replicas(name)[0]["replica"] for name in "ab"}
        loads = [Load(gw, f"/function/{name}/sleep/0.02") for name in "ab"]
        for load in loads:
            load.more(5)
        gw.up("large", **half("0.8"))
        self.settle()
        for load in loads:
            load.more(20)
            self.assertEqual(set(load.stop()), {200})
        self.assertEqual(self.gpu("a"), self.gpu("b"))
        self.assertNotEqual(self.gpu("a"), self.gpu("large"))
        latest = self.latest()
        self.assertEqual((latest["cause"], [m["state"] for m in latest["moves"]]), ("room for large", ["moved"]))
        moved = latest["moves"][0]
        self.assertIn(moved["replica"], before.values())
        name = moved["replica"][0]
        self.assertEqual([r["replica"] for r in gw.replicas(name)], [moved["copy"]])
        self.assertIn(("room", "start", "no GPU has room for it: 1 of others move first"), self.explained("large"))
        self.assertEqual([(c, d) for c, d, _ in self.explained(name)], [("move", "start"), ("move", "stop")])
        self.assertIn("its copy serves", self.fast("explain", name).stdout)
        # Nothing but how they lie can be cured: what is too much stays too much.
        self.assert_answer(gw.deploy("more", **half("0.3")), 409)
        self.assert_answer(gw.deploy("fits", **half("0.2")), 202)

    def test_empty_a_gpu_when_asked(self):
        gw = self.gw
        self.fragment()
        plan = json.loads(self.fast("defrag", "--dry-run", "--json").stdout)
        self.assertEqual((plan["cost"], plan["gain"]),
                         ({"moves": 1, "bytes": 1 << 30}, {"gpus": 1, "area": 0.5}))
        self.assertEqual(plan["moves"][0]["quota"], 0.5)
        self.assertEqual(len(gw.get("/system/replicas").json()), 2)
        slow = Load(gw, "/function/a/sleep/0.5"), Load(gw, "/function/b/sleep/0.5")
        for load in slow:
            load.more(2)
        done = self.fast("defrag")
        self.assertEqual(done.returncode, 0, done.stderr)
        for words in ("cost  1 moves, copies fill 1024 MiB", "gain  1 GPUs idle", ": moved"):
            self.assertIn(words, done.stdout)
        for load in slow:
            load.more(4)
            self.assertEqual(set(load.stop()), {200})
        self.assertEqual(self.gpu("a"), self.gpu("b"))
        self.assertEqual(len(gw.get("/system/replicas").json()), 2)
        self.assertIn("Nothing to move", self.fast("defrag").stdout)
        self.assertIn('fast_moves_total{outcome="moved"}', gw.metrics())

    def test_a_copy_that_fails_changes_nothing(self):
        gw = self.gw
        with tempfile.TemporaryDirectory(dir=self.node.shared) as d:
            os.chmod(d, 0o777)
            program = os.path.join(d, "once")
            with open(program, "w", encoding="utf-8") as f:
                f.write(ONCE)
            os.chmod(program, 0o755)
            self.fragment(lambda name: {"image": program, "envVars": {"ONCE": os.path.join(d, name)}})
            before = {r["replica"]: r["pid"] for r in gw.get("/system/replicas").json()}
            loads = [Load(gw, f"/function/{name}") for name in "ab"]
            done = self.fast("defrag", "--json")
            self.assertEqual(done.returncode, 1, done.stdout)
            move = json.loads(done.stdout)["latest"]["moves"][0]
            self.assertEqual(move["state"], "given up")
            self.assertTrue(move["why"])
            self.assertIn("it stays where it is: " + move["why"][:80],
                          [why for _, _, why in self.explained(move["replica"][0])])
            wait_until(lambda: {r["replica"]: r["pid"] for r in gw.get("/system/replicas").json()} == before,
                       "it is not as it was")
            for load in loads:
                load.more(5)
                self.assertEqual(set(load.stop()), {200})

    def test_a_gateway_that_starts_anew_leaves_one(self):
        gw = self.gw
        self.fragment()
        self.assert_answer(gw.post("/system/defrag"), 202)
        wait_until(lambda: len(gw.get("/system/replicas").json()) == 3, "no copy")
        gw.kill()
        gw.start()
        wait_until(lambda: len(gw.replicas("a", "ready")) == len(gw.replicas("b", "ready")) == 1 and
                   len(gw.get("/system/replicas").json()) == 2, "a replica too many stays")
        for name in "ab":
            self.assertEqual(gw.post(f"/function/{name}").status, 200)

    def test_a_function_that_is_removed_meanwhile(self):
        gw = self.gw
        self.fragment()
        self.assert_answer(gw.post("/system/defrag"), 202)
        for name in "ab":
            gw.ask("DELETE", "/system/functions", {"functionName": name})
        wait_until(lambda: not gw.get("/system/replicas").json(), "replicas stay")
        self.settle()


class Elastic(Halves):
    args = PROFILES

    def test_one_whose_quota_follows_its_work(self):
        """An idle replica holds no quota, and has its place and its share where it goes to all the same."""
        gw = self.gw
        elastic = {"annotations": {**notes(sm_partition="100", quota_request="0.5", mem="1800Mi"),
                                   "fastgshare/profile": "half", "fastgshare/slo": "60s"},
                   "labels": {"com.openfaas.scale.max": "2"}, **MODEL}
        self.fragment(lambda name: elastic if name == "a" else {})
        first = gw.replicas("a")[0]
        load = Steady(gw, "/function/a", 2)
        self.addCleanup(load.stop)
        gw.up("large", **half("0.8"))
        self.settle()
        self.assertEqual(set(load.stop()), {200})
        self.assertEqual(self.gpu("a"), self.gpu("b"), self.latest())
        copy = gw.replicas("a")[0]
        self.assertNotEqual(copy["replica"], first["replica"])
        self.assertEqual(copy["quota_request"], first["quota_request"])
        wait_until(lambda: gw.replicas("a")[0]["quota_held"] == 0, "idle, the copy holds its quota")
        load = Steady(gw, "/function/a", 2)
        self.addCleanup(load.stop)
        wait_until(lambda: gw.replicas("a")[0]["quota_held"] == 0.5, "at work it has no guarantee")
        self.assertEqual(set(load.stop()), {200})


class Off(Halves):
    args = ("--moves", "0")

    def test_it_is_refused(self):
        self.fragment()
        self.assert_answer(self.gw.deploy("large", **half("0.8")), 409, "0.8")


if __name__ == "__main__":
    unittest.main()
