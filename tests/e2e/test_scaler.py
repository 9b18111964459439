#!/usr/bin/env python3
"""The scaler of fast-gateway on the simulated GPU: a ramp up, down and to zero, what it says of its
decisions, full GPUs, and who gives way. What is judged is what it does; how late requests are on a busy
machine is a benchmark (bench_live)."""
import json
import os
import subprocess
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until
from test_gateway import GatewayTest, notes
from test_gateway_gpu import MODEL, Steady

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
RAMP = {"annotations": {**notes(mem="1800Mi"), "fastgshare/profile": "steps", "fastgshare/slo": "500ms"},
        "labels": {"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "3s"}}


PROFILES = ("--profiles", os.path.join(node.HERE, "profiles"))


class Scaler(GatewayTest):
    args = PROFILES

    def steady(self, name, rate):
        load = Steady(self.gw, f"/function/{name}", rate)
        self.addCleanup(load.stop)
        return load

    def explain(self, name):
        return self.gw.get(f"/system/explain/{name}").json()

    def did(self, name, **want):
        """Actions that were done, the oldest first, with all of |want|."""
        return [d for r in reversed(self.explain(name)["decisions"]) for d in r["did"]
                if all(dict(r, **d).get(k) == v for k, v in want.items())]

    def fast(self, *args):
        done = subprocess.run([FAST, *args, "--gateway", f"http://127.0.0.1:{self.gw.port}"],
                              capture_output=True, text=True, timeout=node.WAIT_S, check=False)
        self.assertEqual(done.returncode, 0, done.stderr)
        return done.stdout


class Ramp(Scaler):
    def test_up_down_to_zero_and_back(self):
        gw = self.gw
        first = gw.up("ramp", **MODEL, **RAMP)[0]
        load = self.steady("ramp", 6)

        def grown():
            ready = gw.replicas("ramp", "ready")
            return sum(r["sm_pct"] * r["quota_request"] for r in ready) >= \
                3 * first["sm_pct"] * first["quota_request"]
        wait_until(grown, "it is not scaled up")
        self.assertEqual(set(load.stop()), {200})
        # What was there is raised before or while more is started, and each decision says why.
        changes = [r for r in reversed(self.explain("ramp")["decisions"]) if r["cause"] == "load"]
        self.assertEqual(changes[0]["did"][0]["do"], "resize")
        self.assertEqual(changes[0]["did"][0]["replica"], first["replica"])
        self.assertGreater(changes[0]["did"][0]["quota"], first["quota_request"])
        self.assertTrue(changes[0]["did"][0]["done"])
        self.assertEqual(changes[0]["policy"], "queue")
        self.assertGreater(changes[0]["late"], changes[0]["late_most"])
        self.assertGreater(changes[0]["load"], 0)
        self.assertTrue(changes[0]["weighed"])
        self.assertIn("decision function=ramp.openfaas-fn cause=load policy=queue do=resize", gw.log())

        wait_until(lambda: not gw.replicas("ramp"), "it is not scaled to zero")
        self.assertTrue(self.did("ramp", do="stop", cause="load"))
        self.assertEqual(gw.post("/function/ramp").status, 200)
        self.assertEqual(self.explain("ramp")["decisions"][0]["cause"], "request")
        again = self.steady("ramp", 6)  # the load after a sleep counts as much as the one before it
        wait_until(grown, "it is not scaled up after it slept")
        self.assertEqual(set(again.stop()), {200})

        told = json.loads(self.fast("explain", "ramp", "--json"))
        self.assertEqual(told["name"], "ramp")
        self.assertTrue(told["decisions"][-1]["did"])
        text = self.fast("explain", "ramp")
        for words in ("Decisions, the latest first", "cause: load, policy: queue", "weighed:",
                      "a request came and there was no replica"):
            self.assertIn(words, text)
        self.assert_answer(gw.get("/system/explain/nobody"), 404, "nobody.openfaas-fn")

    def test_idle_begins_with_the_wish(self):
        """Nobody has asked it anything yet, and nobody had time to: the zero-duration runs from the
        deployment, and anew when it is scaled by hand."""
        gw = self.gw
        labels = {"com.openfaas.scale.zero": "true", "com.openfaas.scale.zero-duration": "10m"}
        first = gw.up("fresh", **MODEL, annotations=RAMP["annotations"], labels=labels)[0]
        time.sleep(3)  # the scaler looks every second
        self.assertEqual([r["pid"] for r in gw.replicas("fresh")], [first["pid"]])

        labels["com.openfaas.scale.zero-duration"] = "4s"
        gw.up("again", **MODEL, annotations=RAMP["annotations"], labels=labels)
        wait_until(lambda: not gw.replicas("again"), "it is not scaled to zero")
        wanted = time.monotonic()
        gw.post("/system/scale-function/again", json.dumps({"serviceName": "again", "replicas": 1}))
        wait_until(lambda: gw.replicas("again"), "it is not started by hand")
        wait_until(lambda: not gw.replicas("again"), "it is not scaled to zero again")
        self.assertGreater(time.monotonic() - wanted, 4)

    def test_the_only_replica_allowed_is_raised(self):
        gw = self.gw
        labels = {**RAMP["labels"], "com.openfaas.scale.max": "1"}
        first = gw.up("one", **MODEL, annotations=RAMP["annotations"], labels=labels)[0]
        load = self.steady("one", 5)
        wait_until(lambda: gw.replicas("one")[0]["quota_request"] > first["quota_request"],
                   "its quota is not raised")
        load.stop()
        self.assertEqual(gw.replicas("one")[0]["pid"], first["pid"])


class Capacity(Scaler):
    def test_by_requests_in_flight(self):
        """Five requests that nobody answers are no rate, and 2.5 times what a replica shall have at a time."""
        gw = self.gw
        labels = {"com.openfaas.scale.max": "4", "com.openfaas.scale.target": "2", "com.openfaas.scale.type": "capacity"}
        gw.up(labels=labels)
        flag = os.path.join(self.node.shared, "go")
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(gw.get("/function/f/until" + flag).status))
                   for _ in range(5)]
        for t in threads:
            t.start()
        try:
            wait_until(lambda: gw.status()["replicas"] == 3, "it is not scaled by what is in flight")
            self.assertEqual(self.explain("f")["load_is"], "in flight")
            self.assertIn("load 5.0 in flight", self.fast("explain", "f"))
            self.assertIn('gateway_service_target_load{function_name="f.openfaas-fn",scaling_type="capacity"} 2\n',
                          gw.metrics())
        finally:
            with open(flag, "w", encoding="ascii"):
                pass
            for t in threads:
                t.join()
        self.assertEqual(statuses, [200] * 5)


class Elastic(Scaler):
    """Quotas follow the work, and nobody loses by it."""

    def elastic(self, name, quota, **labels):
        return self.gw.up(name, **MODEL, annotations={
            **notes(sm_partition="100", quota_request=quota, mem="1800Mi"), "fastgshare/profile": "steps",
            "fastgshare/slo": "60s"}, labels={"com.openfaas.scale.max": "2", **labels})

    def held(self, name):
        return [r["quota_held"] for r in self.gw.replicas(name)]

    def guaranteed(self, name):
        with self.node.session(timeout=60) as session:
            return [r.guaranteed_milli for r in session.ask("replica_list")[0]
                    if r.name == "replica_stats" and r.replica.startswith(name + ".")]

    def test_held_while_it_works(self):
        gw = self.gw
        self.elastic("e", "0.6")
        wait_until(lambda: self.held("e") == [0] and self.guaranteed("e") == [0], "idle, it holds its quota")
        load = self.steady("e", 3)
        wait_until(lambda: self.held("e")[0] >= 0.6 and self.guaranteed("e")[0] >= 600,
                   "at work it has no guarantee")
        self.assertEqual(set(load.stop()), {200})
        wait_until(lambda: set(self.held("e")) == {0} and set(self.guaranteed("e")) == {0},
                   "it keeps its quota without work")
        self.assertGreaterEqual(gw.replicas("e")[0]["quota_request"], 0.6)
        # Who may not be scaled keeps what it asked for.
        fixed = gw.up("fixed", annotations=notes(sm_partition="12", quota_request="0.2", mem="1Gi"))
        self.assertEqual(fixed[0]["quota_held"], 0.2)

    def test_a_deployment_takes_nobodys_share(self):
        gw = self.gw
        self.elastic("e", "0.8")
        wait_until(lambda: self.held("e") == [0])
        for quota, status in (("0.3", 409), ("0.2", 202)):
            answer = gw.deploy("fixed", annotations=notes(sm_partition="100", quota_request=quota, mem="1Gi"))
            self.assertEqual(answer.status, status, answer.text)
        gw.wait_ready(1, "fixed")
        load = self.steady("e", 3)
        wait_until(lambda: 0.8 in self.held("e"), "its share is not there any more")
        load.stop()
        wait_until(lambda: set(self.held("e")) == {0}, "it keeps its quota without work")  # of one or two replicas
        # Changed to a function that is not scaled, it holds its quota for good.
        spec = {**notes(sm_partition="100", quota_request="0.8", mem="1800Mi"), "fastgshare/profile": "steps",
                "fastgshare/slo": "60s"}
        self.assertEqual(gw.deploy("e", method="PUT", **MODEL, annotations=spec, labels={
            "com.openfaas.scale.max": "1"}).status, 202)
        wait_until(lambda: self.held("e") == [0.8] and self.guaranteed("e") == [800])

    def test_known_after_restarts(self):
        gw = self.gw
        self.elastic("e", "0.6")
        wait_until(lambda: self.guaranteed("e") == [0])
        gw.kill()
        gw.start()
        wait_until(lambda: self.held("e") == [0] and self.guaranteed("e") == [0],
                   "a new life of the gateway does not know")
        self.node.kill()
        self.node.start()
        wait_until(lambda: self.guaranteed("e") == [0], "a new life of the node is not told")
        self.assertEqual(gw.post("/function/e").status, 200)


class Full(Scaler):
    QUARTER = notes(sm_partition="50", quota_request="0.5", mem="1Gi")

    def test_a_full_gpu_says_what_is_missing(self):
        gw = self.gw
        gw.up("a", count=3, annotations=self.QUARTER, labels={"com.openfaas.scale.min": "3",
                                                             "com.openfaas.scale.max": "3"})
        before = (gw.get("/system/functions").text, gw.replicas("a"))
        refused = gw.deploy("b", annotations=notes(sm_partition="60", quota_request="0.6", mem="1Gi"))
        self.assert_answer(refused, 409, "SM x quota: 60 % x 0.600 wanted")
        self.assertRegex(refused.text, "free: GPU 0 50 % x 0.500 and 1[23][0-9]{3} MiB")
        refused = gw.deploy("b", annotations=notes(sm_partition="50", quota_request="0.5", mem="15Gi"))
        self.assert_answer(refused, 409, "memory: 15360 MiB wanted")
        self.assertIn("GPU 0 50 % x 0.500 and 1", refused.text)
        refused = gw.deploy("b", annotations=self.QUARTER, labels={"com.openfaas.scale.min": "2"})
        self.assert_answer(refused, 409, "1 of 2 replicas fit")
        self.assertEqual(gw.ask("POST", "/system/scale-function/a",
                                {"serviceName": "a", "replicas": 3}).status, 202)
        after = (gw.get("/system/functions").text, gw.replicas("a"))
        self.assertEqual(before[0], after[0])
        self.assertEqual([r["pid"] for r in before[1]], [r["pid"] for r in after[1]])

    def test_lower_priority_gives_way(self):
        gw = self.gw
        gw.up("low", annotations=self.QUARTER,
              labels={"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "4",
                      "com.openfaas.scale.target": "2"})
        load = self.steady("low", 8)
        gw.wait_ready(4, "low")
        high = dict(annotations={**self.QUARTER, "fastgshare/priority": "10"})
        refused = gw.deploy("high", **high, labels={"com.openfaas.scale.min": "4"})
        self.assert_answer(refused, 409, "SM x quota")
        self.assertEqual(len(gw.replicas("low", "ready")), 4)
        gw.up("high", count=2, **high, labels={"com.openfaas.scale.min": "2"})
        wait_until(lambda: len(gw.replicas("low")) == 2)
        given = self.did("low", cause="priority")
        self.assertEqual(len(given), 2)
        self.assertIn("gives way to high of priority 10", given[0]["why"])
        # The load of the lower one asks for more, and is refused for as long as it is full.
        wait_until(lambda: any(not d["done"] for d in self.did("low")))
        self.assertEqual(len(gw.replicas("high", "ready")), 2)
        self.assertEqual(set(load.stop()), {200})


class Company(Scaler):
    gpus = 3

    def test_spread_affinity_and_types(self):
        gw = self.gw
        small = notes(sm_partition="12", quota_request="0.2", mem="1Gi")

        def gpus(name, **more):
            answer = gw.deploy(name, annotations={**small, **{"fastgshare/" + k: v for k, v in more.items()}},
                               labels={"com.openfaas.scale.min": "3"})
            self.assertEqual(answer.status, 202, answer.text)
            return sorted(r["gpu"] for r in gw.wait_ready(3, name))
        self.assertEqual(gpus("packed"), [0, 0, 0])
        self.assertEqual(gpus("spread", spread="true"), [0, 1, 2])
        self.assertEqual(gpus("near", affinity="packed"), [0, 0, 0])
        self.assertNotIn(0, gpus("apart", anti_affinity="packed"))
        self.assertEqual(len(set(gpus("alone", anti_affinity="alone"))), 3)
        self.assertEqual(len(gpus("typed", gpu_type="v100")), 3)
        for more, status, words in (({"gpu_type": "h100"}, 400, "no GPU here is a \"h100\""),
                                    ({"affinity": "nobody"}, 409, "neighbours"),
                                    ({"spread": "perhaps"}, 400, "fastgshare/spread")):
            refused = gw.deploy("never", annotations={
                **small, **{"fastgshare/" + k: v for k, v in more.items()}})
            self.assert_answer(refused, status, words)
        # A new life of the gateway knows who is where.
        gw.kill()
        gw.start()
        again = {**small, "fastgshare/anti_affinity": "spread"}
        wait_until(lambda: gw.deploy("never", annotations=again).status != 503, "it does not come back")
        self.assert_answer(gw.deploy("never", annotations=again), 409, "neighbours")


class Paper(Scaler):
    args = (*PROFILES, "--policy", "paper")

    def test_paper_starts_replicas(self):
        gw = self.gw
        gw.up("ramp", **MODEL, **RAMP)
        load = self.steady("ramp", 6)
        wait_until(lambda: len(gw.replicas("ramp", "ready")) >= 3, "it is not scaled up")
        self.assertEqual(set(load.stop()), {200})
        self.assertTrue(self.did("ramp", do="start", policy="paper"))
        self.assertFalse(self.did("ramp", do="resize"))


class Hybrid(Scaler):
    args = (*PROFILES, "--policy", "hybrid")

    def test_hybrid_raises_first(self):
        gw = self.gw
        gw.up("ramp", **MODEL, **RAMP)
        load = self.steady("ramp", 6)
        wait_until(lambda: self.did("ramp", do="resize", policy="hybrid", done=True),
                   "no quota is raised")
        load.stop()


class Whole(Scaler):
    args = (*PROFILES, "--policy", "whole")
    gpus = 2

    def test_whole_gpus(self):
        gw = self.gw
        one = gw.up("ramp", **MODEL, **RAMP)[0]
        self.assertEqual((one["sm_pct"], one["quota_request"]), (100, 1.0))
        two = gw.up("other", **MODEL, annotations=notes(mem="1Gi"))[0]
        self.assertNotEqual(one["gpu"], two["gpu"])
        self.assert_answer(gw.deploy("third", **MODEL, annotations=notes(mem="1Gi")), 409)


if __name__ == "__main__":
    unittest.main(verbosity=2)
