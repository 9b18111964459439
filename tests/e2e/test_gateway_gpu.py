#!/usr/bin/env python3
"""fast-gateway, fast-node, the hook and the simulated driver together: what survives the death of each
process while functions use the GPU, scaling to and from zero, and scaling by a profile."""
import os
import signal
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until
from test_gateway import CUT, GatewayTest, Load, notes

MODEL = {"image": "replay", "envVars": {"MODEL": "gnmt"}}
SLICE = notes(sm_partition="12", quota_request="0.3", quota_limit="1", mem="1800Mi")


class Steady:
    """An open loop: so many requests a second, whether or not those before have been answered."""

    def __init__(self, gw, path, rate):
        self.gw, self.path, self.rate, self.over = gw, path, rate, False
        self.statuses, self.calls = [], []
        self.thread = threading.Thread(target=self.run, daemon=True)  # a failed test does not stop it
        self.thread.start()

    def call(self):
        self.statuses.append(self.gw.post(self.path).status)

    def run(self):
        at = time.monotonic()
        while not self.over:
            self.calls.append(threading.Thread(target=self.call, daemon=True))
            self.calls[-1].start()
            at += 1 / self.rate
            time.sleep(max(0, at - time.monotonic()))

    def stop(self):
        self.over = True
        self.thread.join()
        for t in self.calls:
            t.join()
        return self.statuses


class Gpu(GatewayTest):
    def test_crashes(self):
        gw = self.gw
        gw.post("/system/secrets", {"name": "kept", "value": "v"})
        before = gw.up(**MODEL, annotations=SLICE)[0]
        load = Load(gw, "/function/f")
        load.more(10)
        self.assertGreater(gw.replicas()[0]["launches"], 0)  # the hook sees them

        killed = time.time()
        os.kill(before["pid"], signal.SIGKILL)
        wait_until(lambda: gw.replicas()[0]["restarts"] == 1)
        load.more(20)
        replica = gw.wait_ready()[0]
        # Ready less than a second after its death, plus what it takes itself to start.
        self.assertLess(replica["started_ms"] / 1e3 - killed, 1)
        self.assertNotEqual(replica["pid"], before["pid"])
        lost = load.stop()
        self.assertEqual(set(lost) - {200, 502, CUT}, set())
        self.assertLessEqual(lost.get(502, 0) + lost.get(CUT, 0), 4)  # those that were in flight

        load = Load(gw, "/function/f")
        load.more(5)
        self.node.kill()
        load.more(20)
        self.assertEqual(gw.status()["availableReplicas"], 1)
        self.node.start()
        wait_until(lambda: gw.get("/system/policy").status == 200)
        load.more(20)
        self.assertEqual(set(load.stop()), {200})
        self.assertEqual(gw.wait_ready()[0]["pid"], replica["pid"])
        wait_until(lambda: gw.replicas()[0]["clients"] == 1, "its hook does not come back")

        gw.kill()
        self.assertTrue(node.lives(replica["pid"]))
        gw.start()
        after = gw.wait_ready()[0]
        for key in ("pid", "sm_pct", "quota_request", "quota_limit", "memory_cap_bytes"):
            self.assertEqual(after[key], replica[key])
        self.assertEqual([s["name"] for s in gw.get("/system/secrets").json()], ["kept"])
        self.assertEqual(gw.ask("DELETE", "/system/secrets", {"name": "kept"}).status, 202)
        self.assertEqual(gw.post("/function/f").status, 200)

    def test_metrics(self):
        gw = self.gw
        gw.up(**MODEL, annotations=SLICE)
        self.assertEqual(gw.post("/function/f").status, 200)

        def value(name, **its):
            rows = [v for found, v in gw.open_metrics()[0].get(name, ()) if its.items() <= found.items()]
            self.assertEqual(len(rows), 1, f"{name} {its}")
            return rows[0]

        wait_until(lambda: value("fast_replica_launches_total") > 0 and
                   value("fast_replica_busy_seconds_total") > 0 and value("fast_replica_tokens_total") > 0)
        samples, types = gw.open_metrics()
        replica = samples["fast_replica_tokens_total"][0][0]
        self.assertEqual((replica["function_name"], replica["gpu"]), ("f.openfaas-fn", "0"))
        for name in ("held", "wait", "throttled", "overrun", "short"):
            self.assertEqual(types[f"fast_replica_{name}_seconds"], "counter")
            self.assertGreaterEqual(value(f"fast_replica_{name}_seconds_total"), 0)
        self.assertGreater(value("fast_replica_windows_total"), 0)
        self.assertEqual(value("fast_replica_quota_request"), 0.3)
        self.assertEqual(value("fast_replica_memory_cap_bytes"), 1800 << 20)
        self.assertGreater(value("fast_replica_memory_bytes", family="device"), 0)
        self.assertEqual(value("fast_replica_memory_bytes", family="array"), 0)
        # The context of the simulated driver, and a module.
        wait_until(lambda: 300 << 20 < value("fast_replica_memory_bytes", family="context") < 302 << 20)
        self.assertEqual(value("fast_gpu_limit", limit="memory", holds="soft"), 1)

        # What dcgm-exporter calls it, with its labels and units.
        gpu = samples["DCGM_FI_DEV_FB_USED"][0][0]
        self.assertEqual(set(gpu), {"gpu", "UUID", "device", "modelName", "Hostname"})
        row = gw.get("/system/gpus").json()[0]
        self.assertEqual(gpu["UUID"], row["uuid"])
        self.assertEqual(value("fast_gpu_memory_total_bytes"), row["memory_total_bytes"])
        self.assertAlmostEqual(value("DCGM_FI_DEV_FB_USED", gpu="0") + value("DCGM_FI_DEV_FB_FREE", gpu="0"),
                               row["memory_total_bytes"] / (1 << 20), 3)
        self.assertLessEqual(value("DCGM_FI_DEV_GPU_UTIL", gpu="0"), 100)
        for name in ("SM_ACTIVE", "SM_OCCUPANCY", "DRAM_ACTIVE"):  # the simulated NVML has GPM
            self.assertLessEqual(value(f"DCGM_FI_PROF_{name}", gpu="0"), 1)
        self.assertEqual(types["gateway_function_invocation"], "counter")
        self.assertIn("# TYPE gateway_function_invocation_total counter\n", gw.metrics())

    def test_node_knows_when_requests_are_due(self):
        gw, none = self.gw, 2 ** 63 - 1
        gw.up(**MODEL, annotations=dict(SLICE, **{"fastgshare/slo": "60s"}))

        def due(session):
            return next(r.deadline_ns for r in session.ask("replica_list")[0] if r.name == "replica_stats")

        with self.node.session(timeout=60) as session:
            self.assertEqual(due(session), none)
            load = Load(gw, "/function/f")
            try:
                wait_until(lambda: 0 < due(session) - time.monotonic_ns() < 60e9, "no deadline came to the node")
            finally:
                load.stop()
            wait_until(lambda: due(session) == none, "it keeps a deadline without a request")
            for name, code in (("f.openfaas-fn.99", "not on this node"), ("", "not on this node")):
                _, done = session.ask("replica_deadline", replica=name, deadline_ns=1)
                self.assertIn(code, done.text)

    def test_gateway_and_node_die_together(self):
        gw = self.gw
        pid = gw.up(**MODEL, annotations=SLICE)[0]["pid"]
        gw.kill()
        self.node.kill()
        gw.start(connected=False)
        answers = []
        caller = threading.Thread(target=lambda: answers.append(gw.post("/function/f").status))
        caller.start()  # nothing is known of replicas yet: it waits
        self.node.start()
        caller.join()
        self.assertEqual(answers, [200])
        self.assertEqual(gw.wait_ready()[0]["pid"], pid)

    def test_to_zero_and_from_zero(self):
        gw = self.gw
        gw.up(**MODEL, annotations=SLICE, labels={"com.openfaas.scale.zero": "true",
                                                  "com.openfaas.scale.zero-duration": "1s"})
        self.assertEqual(gw.post("/function/f").status, 200)
        wait_until(lambda: not gw.replicas(), "it is not scaled to zero")
        answers = []
        callers = [threading.Thread(target=lambda: answers.append(gw.post("/function/f").status))
                   for _ in range(5)]
        for t in callers:
            t.start()
        for t in callers:
            t.join()
        self.assertEqual(answers, [200] * 5)
        self.assertEqual(len(gw.replicas()), 1)  # one start for all who waited

    def test_scaled_by_target(self):
        gw = self.gw
        gw.up("g", labels={"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "2",
                           "com.openfaas.scale.target": "5"})
        plain = Steady(gw, "/function/g", 8)
        wait_until(lambda: len(gw.replicas("g", "ready")) == 2, "it is not scaled up")
        self.assertEqual(set(plain.stop()), {200})
        wait_until(lambda: gw.status("g")["replicas"] == 1, "it is not scaled down")

    def test_first_slice_by_profile(self):
        """Of those within the SLO, the configuration with the most throughput for its share."""
        gw = self.gw
        first = gw.up("ramp", **MODEL, annotations=dict(notes(mem="1800Mi"), **{
            "fastgshare/profile": "gnmt", "fastgshare/slo": "500ms"}))[0]
        self.assertEqual((first["sm_pct"], first["quota_request"]), (6, 0.8))
        refused = gw.deploy("never", **MODEL, annotations={"fastgshare/profile": "gnmt",
                                                           "fastgshare/slo": "1ms"})
        self.assert_answer(refused, 400, "fastgshare/slo")


del GatewayTest  # so that it is not run from here

if __name__ == "__main__":
    unittest.main()
