#!/usr/bin/env python3
"""Metrics of a GPU that cannot tell everything, and of a node that is gone: what is not known is left out."""
import os
import subprocess
import tempfile
import unittest

import gateway
import node
import test_gateway

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
SM = ("fast_gpu_sm_activity", "fast_gpu_sm_occupancy", "DCGM_FI_PROF_SM_ACTIVE", "DCGM_FI_PROF_SM_OCCUPANCY",
      "DCGM_FI_PROF_DRAM_ACTIVE")
SHARES = ("utilization", "sm_activity", "sm_occupancy", "dram_activity")


class MeasuredTest(unittest.TestCase):
    def real_gpu(self):
        """The folder of a driver that passes for that of a real GPU."""
        libs = tempfile.TemporaryDirectory()
        self.addCleanup(libs.cleanup)
        for name, target in (("libcuda.so.1", "src/simdriver/libcuda.so.1"),
                             ("libnvidia-ml.so.1", "tests/unit/fake_nvml.so")):
            os.symlink(os.path.join(node.BUILD, target), os.path.join(libs.name, name))
        return libs.name

    def test_one_node_per_gpu(self):
        """Another one for the same GPU says who has it; when that is gone, however it went, the GPU is free."""
        first = node.Node(libs=self.real_gpu())
        self.addCleanup(first.close)
        args = [node.PROGRAM, "--state-dir", os.path.join(first.root, "other")]
        second = subprocess.run(args, env=first.env, capture_output=True, text=True, timeout=node.WAIT_S, check=False)
        self.assertNotEqual(second.returncode, 0)
        self.assertRegex(second.stderr,
                         f"GPU-[0-9a-f-]* is in use by another fast-node .process {first.process.pid}.")
        first.kill()
        first.start()

    @unittest.skipIf(subprocess.run(["unshare", "--pid", "--fork", "true"], check=False,
                                    stderr=subprocess.DEVNULL).returncode, "no PID namespaces can be made here")
    def test_one_node_per_gpu_of_containers(self):
        """One that cannot see the process of the other has the same /run, so it is refused all the same."""
        first = node.Node(libs=self.real_gpu())
        self.addCleanup(first.close)
        args = ["unshare", "--pid", "--kill-child", node.PROGRAM, "--state-dir", os.path.join(first.root, "other")]
        second = subprocess.run(args, env=first.env, capture_output=True, text=True, timeout=node.WAIT_S, check=False)
        self.assertNotEqual(second.returncode, 0)
        self.assertRegex(second.stderr, "GPU-[0-9a-f-]* is in use by another fast-node .of another container.")

    def test_a_gpu_without_gpm(self):
        os.environ["FAKE_NVML"] = "no-gpm"
        the_node = node.Node(libs=self.real_gpu())
        del os.environ["FAKE_NVML"]
        self.addCleanup(the_node.close)
        gw = gateway.Gateway(the_node)
        self.addCleanup(gw.close)
        gpu = gw.get("/system/gpus").json()[0]
        self.assertEqual([gpu[s] for s in SHARES], [0, None, None, None])
        shown = subprocess.run([FAST, "gpu", "--gateway", f"http://127.0.0.1:{gw.port}"], capture_output=True,
                               text=True, timeout=node.WAIT_S, check=True).stdout
        self.assertRegex(shown, r" 80 +0 +- +- ")  # SMs, utilization, SM activity and occupancy
        samples, types = gw.open_metrics()
        for name in SM:
            self.assertNotIn(name, samples)
            self.assertEqual(types[name], "gauge")
        for name in ("fast_gpu_utilization", "DCGM_FI_DEV_GPU_UTIL", "DCGM_FI_DEV_FB_USED"):
            self.assertEqual([v for _, v in samples[name]], [0])

    def test_a_node_that_is_gone(self):
        the_node = node.Node(gpus=1)
        self.addCleanup(the_node.close)
        gw = gateway.Gateway(the_node)
        self.addCleanup(gw.close)
        annotations = test_gateway.notes(sm_partition="12", quota_request="0.3", quota_limit="1", mem="1Gi")
        self.assertEqual(gw.deploy(annotations=annotations).status, 202)
        gateway.wait_until(lambda: gw.status().get("availableReplicas"), "it is not ready")
        self.assertEqual(gw.post("/function/f").status, 200)
        gateway.wait_until(lambda: set(SM) < set(gw.open_metrics()[0]), "there is no GPM")
        samples, types = gw.open_metrics()
        self.assertIn("fast_replica_tokens_total", samples)
        self.assertEqual(types["fast_function_latency_seconds"], "summary")
        self.assertEqual(len(samples["fast_function_latency_seconds"]), 2)
        the_node.kill()
        self.addCleanup(the_node.start)  # it takes its MPS daemon along when it ends well
        gateway.wait_until(lambda: gw.open_metrics()[0]["fast_node_up"] == [({}, 0)])
        samples, _ = gw.open_metrics()
        self.assertFalse([n for n in samples if n.startswith(("fast_gpu_", "DCGM_", "fast_model_"))])
        self.assertEqual({n for n in samples if n.startswith("fast_replica_")},
                         {"fast_replica_memory_cap_bytes", "fast_replica_sm_partition", "fast_replica_quota_request",
                          "fast_replica_quota_limit"})
        self.assertEqual([gw.get("/system/gpus").json()[0][s] for s in SHARES], [None] * 4)

    def test_no_requests_have_no_latency(self):
        the_node = node.Node(gpus=1)
        self.addCleanup(the_node.close)
        gw = gateway.Gateway(the_node)
        self.addCleanup(gw.close)
        self.assertEqual(gw.deploy().status, 202)
        samples, _ = gw.open_metrics()
        self.assertIn("fast_function_queued", samples)
        self.assertNotIn("fast_function_latency_seconds", samples)


if __name__ == "__main__":
    unittest.main()
