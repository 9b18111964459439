#!/usr/bin/env python3
"""The main job, whole: deploy functions over HTTP, invoke them through gateway, node, hook and the
simulated GPU, and kill each part under load."""
import collections
import concurrent.futures
import json
import os
import signal
import time
import unittest

import node
import stack
from test_functions import IMAGES, MODELS, cpu_answers

DIGITS = {"sm": 12, "request": "0.3", "limit": "1.0", "mem": 1 << 30}


def check(case, text, want):
    """One answer of digits against (digit, probability) of the CPU code."""
    answer = json.loads(text)
    case.assertEqual(answer["digit"], want[0], text)
    case.assertAlmostEqual(answer["probability"], want[1], delta=1e-6)
    case.assertIn("simulated", answer["device"])


class MainJobTest(unittest.TestCase):
    def setUp(self):
        self.stack = stack.Stack()
        self.addCleanup(self.stack.close)

    def check_load(self, answers, want):
        """Every 200 is right; returns the others."""
        for _, _, status, text, image in answers:
            if status == 200:
                check(self, text, want[image])
        return [a for a in answers if a[2] != 200]

    def test_a_thousand_digits(self):
        self.stack.deploy("digits", replicas=2, **DIGITS)
        want = cpu_answers()
        with concurrent.futures.ThreadPoolExecutor(4) as pool:
            answers = pool.map(lambda image: self.stack.call("POST", "/function/digits", image), IMAGES)
            for i, (status, text) in enumerate(answers):
                self.assertEqual(status, 200, text)
                check(self, text, want[i])
        rows = self.stack.ready("digits", 2)
        for row in rows:  # not past the hook: it waited for tokens and its memory is counted
            self.assertGreater(row["tokens"], 0, row)
            self.assertGreater(row["memory_used_bytes"], 0, row)

    def test_four_models_beside_digits(self):
        self.stack.deploy("digits", **DIGITS)
        for model, sm in zip(MODELS, (24, 12, 12, 12)):
            self.stack.deploy(model, "replay", env={"MODEL": model, "MEMORY_SCALE": "0.1"}, sm=sm,
                              request="0.3", limit="1.0", mem=3 << 30, wait=False)
        for model in MODELS:
            self.stack.wait_ready(model)
        loads = [stack.Load(self.stack, model, [b""], threads=1) for model in MODELS]
        loads.append(stack.Load(self.stack, "digits", IMAGES, threads=1))
        try:
            for load in loads:
                load.wait_count(5)
        finally:
            answers = [load.stop() for load in loads]
        for model, got in zip(MODELS, answers):
            for _, _, status, text, _ in got:
                self.assertEqual(status, 200, text)
                self.assertEqual(json.loads(text)["model"], model)
        self.assertEqual(self.check_load(answers[-1], cpu_answers()), [])
        gpu, = self.stack.get("/system/gpus")
        self.assertTrue(gpu["simulated"])

    def test_kill_a_replica_under_load(self):
        """Only requests in flight on it fail, with 502; it is back soon."""
        self.stack.deploy("digits", replicas=2, **DIGITS)
        threads = 4
        load = stack.Load(self.stack, "digits", IMAGES, threads)
        try:
            load.wait_count(100)
            victim, other = self.stack.ready("digits", 2)
            os.kill(victim["pid"], signal.SIGKILL)
            killed = time.monotonic()
            node.wait_until(lambda: {r["pid"] for r in self.stack.ready("digits", 2)} - {
                victim["pid"], other["pid"]}, "it was not started again")
            back = time.monotonic() - killed
            load.wait_count(100)
        finally:
            answers = load.stop()
        bad = self.check_load(answers, cpu_answers())
        self.assertLessEqual(len(bad), threads, collections.Counter(a[2:4] for a in bad))
        for began, ended, status, text, _ in bad:
            self.assertEqual(status, 502, text)
            self.assertTrue(began <= killed + 0.5 and ended >= killed - 0.5, "not in flight")
        self.assertLess(back, 10)
        print(f"a killed replica was ready again after {1000 * back:.0f} ms; "
              f"{len(bad)} of {len(answers)} requests failed", flush=True)

    def test_kill_the_gateway_under_load(self):
        """Replicas live on; functions and secrets are there after its restart."""
        before = {r["pid"] for r in self.stack.deploy("digits", replicas=2, **DIGITS)}
        status, text = self.stack.call("POST", "/system/secrets", {"name": "key", "value": "x y"})
        self.assertIn(status, (200, 201, 202), text)
        functions = self.stack.get("/system/functions")
        load = stack.Load(self.stack, "digits", IMAGES)
        try:
            load.wait_count(50)
            self.stack.kill_gateway()
            time.sleep(0.3)
            self.assertTrue(all(node.lives(pid) for pid in before))
            self.stack.start_gateway()
            self.stack.wait_ready("digits", 2)
            load.wait_count(50)
        finally:
            answers = load.stop()
        bad = self.check_load(answers, cpu_answers())
        self.assertTrue(all(a[2] in (0, 502, 503) for a in bad), bad[-3:])
        self.assertEqual({r["pid"] for r in self.stack.replicas("digits")}, before)
        after = self.stack.get("/system/functions")
        for rows in functions, after:
            for row in rows:
                row.pop("invocationCount", None)
        self.assertEqual(after, functions)
        self.assertEqual([s["name"] for s in self.stack.get("/system/secrets")], ["key"])

    def test_kill_the_node_under_load(self):
        """Replicas live on, go on answering, and are adopted."""
        before = {r["pid"] for r in self.stack.deploy("digits", replicas=2, **DIGITS)}
        load = stack.Load(self.stack, "digits", IMAGES)
        try:
            load.wait_count(50)
            self.stack.kill()
            time.sleep(0.5)
            load.wait_count(50)
            self.assertTrue(all(node.lives(pid) for pid in before))
            self.stack.start()
            rows = self.stack.wait_ready("digits", 2)
            self.assertEqual({r["pid"] for r in rows}, before)
            load.wait_count(100)
            # They are limited again: the new node counts their tokens from 0.
            node.wait_until(lambda: all(r["tokens"] > 0 for r in self.stack.ready("digits", 2)),
                            "adopted replicas get no tokens")
        finally:
            answers = load.stop()
        self.assertEqual(self.check_load(answers, cpu_answers()), [])

    def test_scale_and_remove(self):
        self.stack.deploy("digits", most=3, **DIGITS)
        status, text = self.stack.call("POST", "/system/scale-function/digits",
                                       {"serviceName": "digits", "replicas": 3})
        self.assertIn(status, (200, 202), text)
        pids = {r["pid"] for r in self.stack.wait_ready("digits", 3)}
        self.assertEqual(len(pids), 3)
        status, text = self.stack.call("DELETE", "/system/functions", {"functionName": "digits"})
        self.assertIn(status, (200, 202), text)
        node.wait_until(lambda: not any(node.lives(pid) for pid in pids), "replicas live on")
        self.assertEqual(self.stack.call("POST", "/function/digits", IMAGES[0])[0], 404)
        node.wait_until(lambda: self.stack.get("/system/gpus")[0]["memory_used_bytes"] == 0,
                        "device memory is still in use")

    def test_bad_input_changes_nothing(self):
        self.stack.deploy("digits", **DIGITS)
        functions, pids = self.stack.get("/system/functions"), self.stack.ready("digits")[0]["pid"]
        good = {"service": "bad", "image": "digits", "annotations": {}}

        def notes(**values):
            return dict(good, annotations={"fastgshare/" + k: v for k, v in values.items()})

        deployments = [
            "{", "[]", "null", "\"text\"", "{\"service\":\"bad\",", "{}", b"\xff\xfe", "",
            dict(good, service="a/b"), dict(good, service="../x"), dict(good, service="A"),
            dict(good, service="x" * 64), dict(good, service="-a"), dict(good, service=""),
            dict(good, image="nothing"), dict(good, image="/no/such/program"), dict(good, image="../x"),
            dict(good, image=5), dict(good, annotations=[1]), dict(good, namespace="a/b"),
            dict(good, secrets=["unknown"]), dict(good, envVars={"A=B": "c"}),
            notes(gpu_sm_partition="0"), notes(gpu_sm_partition="101"), notes(gpu_sm_partition="x"),
            notes(gpu_sm_partition="12.5"), notes(gpu_sm_partition="-1"),
            notes(gpu_quota_request="0.5", gpu_quota_limit="0.4", gpu_sm_partition="12"),
            notes(gpu_quota_request="1.1", gpu_sm_partition="12"),
            notes(gpu_quota_request="-0.1", gpu_sm_partition="12"),
            notes(gpu_quota_request="nan", gpu_sm_partition="12"),
            notes(gpu_quota_limit="0", gpu_sm_partition="12"),
            notes(gpu_mem="17000000000000", gpu_sm_partition="12"), notes(gpu_mem="-1"),
            notes(gpu_mem="1.5 apples"), notes(slo="69"), notes(slo="-1ms"), notes(slo="fast"),
            dict(good, labels={"com.openfaas.scale.min": "x"}),
            dict(good, labels={"com.openfaas.scale.min": "3", "com.openfaas.scale.max": "2"}),
        ]
        calls = [("POST", "/system/functions", body) for body in deployments]
        calls += [("PUT", "/system/functions", body) for body in deployments]
        calls += [
            ("POST", "/function/nothing", b"x"), ("POST", "/function/a%2Fb", b"x"),
            ("POST", "/function/digits", b"x"), ("POST", "/function/digits.nowhere", b"x"),
            ("GET", "/system/function/nothing", None), ("GET", "/nothing", None),
            ("DELETE", "/system/functions", {"functionName": "nothing"}),
            ("DELETE", "/system/functions", "{"), ("DELETE", "/system/functions", {}),
            ("POST", "/system/scale-function/nothing", {"serviceName": "nothing", "replicas": 1}),
            ("POST", "/system/scale-function/digits", "{"),
            ("POST", "/system/scale-function/digits", {"serviceName": "digits", "replicas": -1}),
            ("POST", "/system/scale-function/digits", {"serviceName": "digits", "replicas": "2"}),
            ("PUT", "/system/policy", {"policy": "nothing"}), ("PUT", "/system/policy", "{"),
            ("POST", "/system/secrets", {"name": "a/b", "value": "x"}),
            ("POST", "/system/secrets", {"name": "../b", "value": "x"}),
            ("DELETE", "/system/secrets", {"name": "nothing"}),
        ]
        for method, path, body in calls:
            status, text = self.stack.call(method, path, body)
            with self.subTest(call=(method, path, body), status=status, text=text):
                self.assertIn(status // 100, (4,))
                self.assertGreater(len(text.strip()), 5, "no message")
        after = self.stack.get("/system/functions")
        for row in functions + after:
            row.pop("invocationCount", None)
        self.assertEqual(after, functions)
        self.assertEqual(self.stack.ready("digits")[0]["pid"], pids)
        self.assertEqual(self.stack.get("/system/secrets"), [])
        self.assertEqual(self.stack.call("POST", "/function/digits", IMAGES[0])[0], 200)

    def test_a_memory_cap_below_the_need(self):
        """The function does not become ready, says why, and nobody else is harmed."""
        self.stack.deploy("digits", **DIGITS)
        self.stack.deploy("resnet50", "replay", env={"MODEL": "resnet50"}, sm=12, request="0.3",
                          limit="0.5", mem=512 << 20, wait=False)
        node.wait_until(lambda: any(r["restarts"] > 0 for r in self.stack.replicas("resnet50")),
                        "it was not refused")
        self.assertEqual(self.stack.ready("resnet50"), [])
        status, text = self.stack.call("GET", "/system/logs?name=resnet50&tail=100&follow=false")
        self.assertEqual(status, 200)
        self.assertIn("CUDA_ERROR_OUT_OF_MEMORY", text)
        self.assertEqual(self.stack.call("POST", "/function/digits", IMAGES[0])[0], 200)


if __name__ == "__main__":
    unittest.main(verbosity=2)
