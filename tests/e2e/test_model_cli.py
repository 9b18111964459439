#!/usr/bin/env python3
"""fast model, fast gpu and the metrics of models, through the gateway; and where replicas go that share one."""
import json
import os
import random
import subprocess
import unittest

import gateway
import node
import store as e2e
from gateway import wait_until

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
FUNCTIONS = os.path.join(node.BUILD, "functions")
MIB = 1 << 20
SIZE = 10 * MIB


class ModelCli(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=2)
        self.addCleanup(self.node.close)
        self.gw = gateway.Gateway(self.node, args=["--images", os.path.relpath(FUNCTIONS)])  # where it is started
        self.addCleanup(self.gw.close)
        self.file = os.path.join(self.node.root, "tiny.v1.safetensors")
        e2e.write_safetensors(self.file, {"w": ("BF16", [SIZE // 2], random.Random(1).randbytes(SIZE))})

    def fast(self, *args, want=0, timeout=2 * node.WAIT_S):
        env = dict(os.environ, OPENFAAS_URL=f"http://127.0.0.1:{self.gw.port}")
        done = subprocess.run([FAST, *args], env=env, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=timeout)
        self.assertEqual(done.returncode, want, done.stderr + done.stdout)
        return done.stdout if want == 0 else done.stderr

    def models(self):
        return json.loads(self.fast("model", "ls", "--json"))

    def deploy(self, name, model, count=1, mem="2Gi", **more):
        notes = {"fastgshare/gpu_sm_partition": "10", "fastgshare/gpu_quota_request": "0.1",
                 "fastgshare/gpu_mem": mem, "fastgshare/model": model}
        return self.gw.up(name, count, image="replay", annotations=notes,
                          labels={"com.openfaas.scale.min": str(count)},
                          envVars={"MODEL": "resnet50", "MEMORY_SCALE": "0.1"}, **more)

    def test_push_ls_pin_rm(self):
        self.assertEqual(self.fast("model", "ls"), "No GPU holds a model.\n")
        self.assertEqual(self.models(), [])
        said = self.fast("model", "push", self.file, "--gpu", "1", "--version", "7")
        self.assertIn("tiny: 1 tensors, 10.5 MB, loaded (vmm-read-only)", said)
        wait_until(self.models)
        m = self.models()[0]
        self.assertEqual((m["name"], m["version"], m["namespace"], m["gpu"], m["bytes"], m["tensors"]),
                         ("tiny", "7", "openfaas-fn", 1, SIZE, 1))
        self.assertEqual((m["state"], m["pinned"], m["shared"]), ("ready", False, False))
        self.assertTrue(m["verified"])
        self.assertEqual(m["loaded_by"], "push")
        self.assertIn("was there already, byte for byte",
                      self.fast("model", "push", self.file, "--gpu", "1", "--version", "7", "--pin", "--shared"))
        wait_until(lambda: [(m["pinned"], m["shared"]) for m in self.models()] == [(True, True)])
        self.fast("model", "pin", "tiny", "--off")
        self.fast("model", "push", self.file, "--gpu", "1", "--version", "7")
        self.assertIn("tiny is pinned.", self.fast("model", "pin", "tiny"))
        wait_until(lambda: self.models()[0]["pinned"])
        self.assertIn("pinned", self.fast("model", "ls"))
        self.fast("model", "pin", "tiny", "--off")
        wait_until(lambda: not self.models()[0]["pinned"])
        self.assertEqual(json.loads(self.fast("model", "rm", "tiny", "--json")),
                         {"name": "tiny", "removed": True})
        wait_until(lambda: not self.models())

    def test_what_is_wrong_is_said(self):
        for args, status, text in [
                (["ls", "x"], 2, "fast model ls"), (["push"], 2, "fast model ls"),
                (["push", "/nowhere"], 1, "No such file"), (["push", __file__], 1, "shorter than its header"),
                (["push", self.file, "--gpu", "9"], 1, "there is no GPU 9"),
                (["push", self.file, "--gpu", "x"], 2, "--gpu"),
                (["push", self.file, "-n", "a:b"], 2, "namespace"),
                (["rm", "nobody"], 1, "no GPU here has model nobody of namespace openfaas-fn"),
                (["pin", "nobody"], 1, "no GPU here has model nobody")]:
            self.assertIn(text, self.fast("model", *args, want=status), args)
        for method, body in [("POST", "{}"), ("POST", '{"name": "x", "path": "relative"}'), ("PUT", "[]"),
                             ("PUT", '{"name": "x"}'), ("DELETE", "nonsense")]:
            self.assertEqual(self.gw.ask(method, "/system/models", body.encode()).status, 400, body)

    def test_a_function_shares_its_model_and_all_can_see_it(self):
        rows = self.deploy("r", "resnet50", count=3)
        self.assertEqual({r["gpu"] for r in rows}, {rows[0]["gpu"]}, "where the weights are")
        wait_until(lambda: [m["references"] for m in self.models()] == [3])
        m = self.models()[0]
        self.assertEqual((m["name"], m["gpu"], m["bytes"]), ("resnet50", rows[0]["gpu"], 10 * MIB))
        def shared():
            gpu = json.loads(self.fast("gpu", "--json"))[m["gpu"]]
            return (gpu["memory_shared_bytes"], gpu["shared_via"]) == (10 * MIB, "vmm-read-only")

        wait_until(shared)  # the node tells it twice a second
        text = self.fast("gpu")
        self.assertIn("SHARED", text)
        self.assertIn(f"GPU {m['gpu']}: models of openfaas-fn take 10 MiB of 15.8 GiB\n", text)
        text = self.fast("model", "ls")
        self.assertIn("unverified", text, "a replica has loaded it")
        self.assertEqual((m["verified"], m["loaded_by"].startswith("r.openfaas-fn.")), (False, True))
        self.assertIn(f"openfaas-fn takes 10 MiB of 15.8 GiB on GPU {m['gpu']}.\n", text)
        self.assertEqual(json.loads(self.fast("gpu", "--json"))[m["gpu"]]["model_namespaces"],
                         [{"namespace": "openfaas-fn", "bytes": 10 * MIB, "limit_bytes": m["namespace_limit_bytes"]}])
        page = self.gw.metrics()
        labels = f'model="resnet50",version="{m["version"]}",namespace="openfaas-fn",gpu="{m["gpu"]}"'
        self.assertIn(f"fast_model_bytes{{{labels}}} {10 * MIB}\n", page)
        self.assertIn(f"fast_model_references{{{labels}}} 3\n", page)
        self.assertIn("fast_gpu_memory_shared_bytes", page)
        labels = f'namespace="openfaas-fn",gpu="{m["gpu"]}"'
        self.assertIn(f"fast_model_namespace_bytes{{{labels}}} {10 * MIB}\n", page)
        self.assertIn(f"fast_model_namespace_limit_bytes{{{labels}}} {m['namespace_limit_bytes']}\n", page)

    def test_a_removed_model_in_use_beside_its_successor(self):
        old = self.deploy("old", "resnet50")[0]["gpu"]
        wait_until(lambda: [m["references"] for m in self.models()] == [1])
        self.fast("model", "rm", "resnet50")
        wait_until(lambda: [m["state"] for m in self.models()] == ["retired"])
        self.deploy("new", "resnet50")
        wait_until(lambda: sorted(m["state"] for m in self.models()) == ["ready", "retired"])
        series = [line for line in self.gw.metrics().splitlines() if line.startswith("fast_model_bytes{")]
        self.assertEqual([line.split()[-1] for line in series], [str(20 * MIB)], "of both, once")
        # Room for one of both models is not enough where there are both.
        total = json.loads(self.fast("gpu", "--json"))[old]["memory_total_bytes"]
        self.assertNotEqual(self.deploy("third", "resnet50", mem=str(total - 4096 * MIB - 15 * MIB))[0]["gpu"], old)

    def test_a_replica_goes_where_its_model_is(self):
        # Without the model a replica goes to GPU 0, the first of two that are alike.
        self.fast("model", "push", self.file, "--gpu", "1", "--name", "m")
        wait_until(self.models)
        self.assertEqual([r["gpu"] for r in self.deploy("other", "another")], [0])
        self.assertEqual([r["gpu"] for r in self.deploy("r", "m")], [1])

    def test_bench_memory_tells_alone_shared_and_once(self):
        if node.built_with_asan():
            self.skipTest("the function that it deploys is not told to take a preloaded AddressSanitizer")
        # 1525 MiB of which 98 can be shared, says models/resnet50.model; memory comes in pieces of 2 MiB.
        row, = json.loads(self.fast("bench", "memory", "resnet50", "--json", timeout=240))
        self.assertEqual((row["model"], row["simulated"]), ("resnet50", True))
        self.assertAlmostEqual(row["alone_bytes"] / MIB, 1525, delta=4)
        self.assertAlmostEqual(row["shared_bytes"] / MIB, 1427, delta=4)
        self.assertAlmostEqual(row["once_bytes"] / MIB, 98, delta=4)
        self.assertEqual((self.models(), self.gw.get("/system/functions").json()), ([], []))
        self.assertIn("fast bench memory", self.fast("bench", "nonsense", want=2))

    def test_bench_memory_does_not_wait_for_what_cannot_start(self):
        said = self.fast("bench", "memory", "--image", "/bin/false", "resnet50", want=1)  # well before two minutes
        self.assertRegex(said, "0 of 1 replicas of bench-memory are ready: exit status 1")
        wait_until(lambda: self.gw.get("/system/functions").json() == [])

    def test_another_model_is_another_process(self):
        before = self.deploy("r", "a")[0]["pid"]
        self.deploy("r", "a", method="PUT")
        self.assertEqual(self.gw.replicas("r")[0]["pid"], before)
        self.deploy("r", "b", method="PUT")
        wait_until(lambda: [r["pid"] for r in self.gw.replicas("r", "ready")] not in ([before], []))
        wait_until(lambda: "b" in [m["name"] for m in self.models()])


if __name__ == "__main__":
    unittest.main()
