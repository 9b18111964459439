#!/usr/bin/env python3
"""Replicas of several GPUs through `fast`, the gateway, the node and the hook on simulated GPUs: placed together,
listed on each GPU, kept over restarts, given back, and refused where they cannot be."""
import json
import os
import subprocess
import unittest

import node
import wire
from gateway import wait_until
from test_gateway import GatewayTest, notes

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
SPIN = os.path.join(node.BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(node.BUILD, "functions", "spin.sim.so")


class GangTest(GatewayTest):
    def run_fast(self, *args):
        return subprocess.run([FAST, *args, "--gateway", f"http://127.0.0.1:{self.gw.port}"],
                              capture_output=True, text=True, timeout=node.WAIT_S, check=False)

    def fast(self, *args):
        done = self.run_fast(*args)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout

    def refused(self, words, *args):
        def done():  # while the node is away it is refused for that
            it = self.run_fast(*args)
            return "fast-node is not there" not in it.stderr and it
        it = wait_until(done, "the node is not there")
        self.assertNotEqual(it.returncode, 0, it.stdout)
        self.assertIn(words, it.stderr)

    def options(self, name, gpus, request, *more):
        return ("deploy", name, "--image", SPIN, "--process", f"{SPIN} 500", "--sm", "60", "--request", request,
                "--limit", "1", "--mem", "1Gi", "--env", f"SPIN_IMAGE={IMAGE}", "--env", f"SPIN_GPUS={gpus}",
                "--env", wire.ASAN, *(("--gpus", str(gpus)) if gpus > 1 else ()), *more)

    def deploy(self, name, gpus, request, *more):
        self.fast(*self.options(name, gpus, request, *more))
        return self.gw.wait_ready(1, name)[0]

    def who(self):
        """Names of functions with a rectangle, for each GPU."""
        return [sorted(r["function"] for r in g["rectangles"]) for g in self.gw.get("/system/gpus").json()]

    def on(self, name):
        return [g["gpu"] for g in self.gw.replicas(name)[0]["gpus"]]

    def quotas(self, name):
        return [round(r["quota_to"] - r["quota_from"], 6) for g in self.gw.get("/system/gpus").json()
                for r in g["rectangles"] if r["function"] == name]

    def used(self, name):
        return self.gw.replicas(name)[0]["gpus"]


class TwoGpus(GangTest):
    gpus = 2

    def deploy_three(self):
        self.deploy("left", 1, "0.4")
        self.deploy("right", 1, "0.65")
        return self.deploy("pair", 2, "0.3")

    def both_run(self):
        least = {}  # of each figure: those of a new node begin at 0 again

        def grow():
            now = {(g["gpu"], k): g[k] for g in self.used("pair") for k in ("tokens", "busy_ms")}
            for key, value in now.items():
                least[key] = min(least.get(key, value), value)
            return all(value > least[key] for key, value in now.items())
        wait_until(grow, "a GPU is not used")

    def test_beside_others(self):
        gw = self.gw
        pair = self.deploy_three()
        self.assertEqual([g["gpu"] for g in pair["gpus"]], [0, 1])
        for name in ("pair", "left", "right"):
            self.assertEqual(gw.get(f"/function/{name}").status, 200)
        self.both_run()
        self.assertEqual(self.who(), [["left", "pair"], ["pair", "right"]])
        wait_until(lambda: [g["replicas"] for g in json.loads(self.fast("gpu", "--json"))] == [2, 2],
                   "not two on each")  # the rows of GPUs come once in a while
        self.assertIn(" 0+1 ", self.fast("top", "--once"))
        told = self.fast("describe", "pair")
        self.assertIn("on each of 2 GPUs at once", told)
        self.assertIn(" 0+1 ", told)
        self.assertIn("GPU 1: SMs", told)
        self.refused("a profile is of one GPU", "profile", "pair")
        samples, _ = gw.open_metrics()
        tokens = {labels["gpu"]: value for labels, value in samples["fast_replica_tokens_total"]
                  if labels["function_name"] == "pair.openfaas-fn"}
        self.assertEqual(sorted(tokens), ["0", "1"])
        self.assertGreater(min(tokens.values()), 0)

        # New lives of both know where it is.
        for life in (gw, self.node):
            life.kill()
            life.start()
            wait_until(lambda: gw.get("/system/policy").status == 200, "they do not find each other")
            self.assertEqual(gw.wait_ready(1, "pair")[0]["pid"], pair["pid"])
            self.assertEqual(self.on("pair"), [0, 1])
            self.assertEqual(self.who(), [["left", "pair"], ["pair", "right"]])
            wait_until(lambda: gw.replicas("pair")[0]["clients"] == 1, "its hook does not come back")
            self.both_run()
            self.refused("SM x quota", *self.options("never", 1, "0.4"))

        # Another slice in place, on both or on neither: the left one has room for more.
        self.refused("SM x quota", *self.options("pair", 2, "0.5"))
        self.assertEqual(self.quotas("pair"), [0.3, 0.3])
        self.assertEqual(self.deploy("pair", 2, "0.35")["pid"], pair["pid"])
        self.assertEqual(self.quotas("pair"), [0.35, 0.35])

        self.fast("rm", "pair")
        wait_until(lambda: not gw.replicas("pair"), "it does not go")
        self.assertEqual(self.who(), [["left"], ["right"]])
        wait_until(lambda: [g["replicas"] for g in gw.get("/system/gpus").json()] == [1, 1], "the node still has it")
        self.deploy("again", 2, "0.35")
        self.assertNotIn("wish was lost", self.node.log())

    def test_from_one_to_two_and_back(self):
        self.assertEqual(len(self.deploy("f", 1, "0.3")["gpus"]), 1)
        for gpus in (2, 1):
            self.fast(*self.options("f", gpus, "0.3"))
            wait_until(lambda: len(self.gw.replicas("f")) == 1 and len(self.used("f")) == gpus, f"not {gpus} GPUs")
            self.gw.wait_ready(1, "f")
        wait_until(lambda: self.who() in ([["f"], []], [[], ["f"]]), "the other GPU is not free")

    def test_what_is_refused(self):
        gw = self.gw
        self.refused("--gpus", *self.options("f", 9, "0.1"))
        self.refused("fastgshare/gpus: 3 is not from 1 to 2", *self.options("f", 3, "0.1"))
        for more, words in (({"fastgshare/gpus": "0"}, "fastgshare/gpus"), ({"fastgshare/gpus": "9"}, "1 to 8"),
                            ({"fastgshare/gpus": "2", "fastgshare/profile": "steps"}, "leave one of the two out"),
                            ({"fastgshare/gpus": "2", "fastgshare/model": "m"}, "leave one of the two out")):
            self.assert_answer(gw.deploy("f", annotations={**notes(mem="1Gi"), **more}), 400, words)

    def test_manifest(self):
        path = os.path.join(self.node.root, "stack.yml")
        for gpus, words in (3, "is not from 1 to 2"), (2, ""):
            with open(path, "w", encoding="utf-8") as f:
                f.write(f"""version: 1.0
provider:
  name: openfaas
functions:
  f:
    image: {SPIN}
    fprocess: {SPIN} 500
    environment:
      SPIN_IMAGE: {IMAGE}
      SPIN_GPUS: "2"
      {wire.ASAN.replace("=", ": ", 1)}
    annotations:
      fastgshare/gpus: "{gpus}"
      fastgshare/gpu_quota_request: "0.5"
      fastgshare/gpu_mem: 1Gi
""")
            if words:
                self.refused(words, "apply", "-f", path)
            else:
                self.fast("apply", "-f", path)
        self.assertEqual([g["gpu"] for g in self.gw.wait_ready(1, "f")[0]["gpus"]], [0, 1])


class OneGpu(GangTest):
    gpus = 1

    def test_no_second_gpu(self):
        self.refused("fastgshare/gpus: 2 is not from 1 to 1, the GPUs of this node", *self.options("f", 2, "0.1"))
        self.assertEqual(self.gw.get("/system/functions").json(), [])


if __name__ == "__main__":
    unittest.main(verbosity=2)
