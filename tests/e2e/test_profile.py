#!/usr/bin/env python3
"""fast profile on the whole stack: trials beside a live function, what they leave behind, functions
that fail, and the forms a profile is written and read in."""
import csv
import io
import json
import os
import random
import signal
import sqlite3
import subprocess
import time
import unittest

import node
import stack
import wire

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
# Answers 200 to whoever asks for its health, 500 to requests, or dies on them.
BAD = os.path.join(node.HERE, "profile_function.py")
AUTHORS = ("namespace,trial_name,key,value,limitations,other_metrics\n"
           'faas,a,qps,13.5,"{""GPU_QUOTA"": ""0.2"", ""GPU_SM"": ""6"", ""GPU_MEMORY"": ""2073741824"",'
           ' ""replicas"": ""1""}","{""DCGM_FI_DEV_GPU_UTIL"": 99.0, ""DCGM_FI_PROF_SM_ACTIVE"": 0.05,'
           ' ""error_rate"": 0.0, ""p95"": 8300.0}"\n'
           'faas,b,qps,-1,"{""GPU_QUOTA"": ""0.4"", ""GPU_SM"": ""6"", ""GPU_MEMORY"": ""2073741824"",'
           ' ""replicas"": ""1""}","{""error_rate"": 1.0, ""p95"": 0}"\n')


class ProfileTest(unittest.TestCase):
    def setUp(self):
        # Children of a shell's background job ignore it otherwise.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        self.stack = stack.Stack()
        self.addCleanup(self.stack.close)
        self.db = os.path.join(self.stack.root, "p.db")

    def fast(self, *args):
        return [FAST, "profile", *args, "--db", self.db,
                "--gateway", f"http://127.0.0.1:{self.stack.port}"]

    def run_fast(self, *args, status=0):
        r = subprocess.run(self.fast(*args), capture_output=True, text=True, check=False, timeout=240)
        self.assertEqual(r.returncode, status, r.stdout + r.stderr)
        return r.stdout + r.stderr

    def rows(self):
        with sqlite3.connect(self.db) as db:
            return db.execute("SELECT sm_pct, quota_milli, state, text, rps, p95_ms, error_rate FROM trial"
                              " ORDER BY id").fetchall()

    def no_trial_left(self):
        node.wait_until(lambda: not [r for r in self.stack.replicas() if "-profile" in r["replica"]],
                        "a trial replica is left")
        self.assertFalse([f for f in self.stack.get("/system/functions") if "-profile" in f["name"]])

    def deploy(self):
        self.stack.deploy("resnet50", "replay", env={"MODEL": "resnet50", "MEMORY_SCALE": "0.1"}, sm=12,
                          request="0.2", limit="0.2", mem=1 << 30)

    def test_profile_show_export(self):
        self.deploy()
        before = self.stack.ready("resnet50")[0]
        self.run_fast("resnet50", "--seconds", "1", "--max-trials", "2")
        rows = self.rows()
        self.assertEqual([r[2] for r in rows], ["ok", "ok"])
        for sm, quota, _, _, rps, p95, errors in rows:
            self.assertGreater(rps, 0)
            self.assertGreater(p95, 0)
            self.assertEqual(errors, 0)
            # Free slices only: what the live function was promised stays out of reach.
            self.assertTrue(sm <= 88 or quota <= 800)
        self.no_trial_left()
        after = self.stack.ready("resnet50")[0]
        self.assertEqual((after["pid"], after["requests"]), (before["pid"], 0))
        # It goes on where it was: what is there is not tried again, and one more is.
        self.run_fast("resnet50", "--seconds", "1", "--max-trials", "3")
        self.assertEqual(self.rows()[:2], rows)
        self.assertEqual(len(self.rows()), 3)
        # Another environment is another version.
        self.stack.call("PUT", "/system/functions", {
            "service": "resnet50", "image": "replay", "envVars": {
                "MODEL": "resnet50", "X": "1", "MEMORY_SCALE": "0.1",
                **wire.ASAN_ENV},
            "annotations": {"fastgshare/gpu_sm_partition": "12", "fastgshare/gpu_quota_request": "0.2",
                            "fastgshare/gpu_quota_limit": "0.2", "fastgshare/gpu_mem": str(1 << 30)}})
        self.run_fast("resnet50", "--seconds", "1", "--max-trials", "1")
        self.assertEqual(len(self.rows()), 4)
        text = self.run_fast("show", "resnet50", "--plot", "--svg", os.path.join(self.stack.root, "a.svg"))
        self.assertIn("<- most requests/s per GPU", text)
        self.assertIn("capital letters: measured", text)
        with open(os.path.join(self.stack.root, "a.svg"), encoding="utf-8") as f:
            self.assertIn("<polyline", f.read())
        self.assertEqual(len(json.loads(self.run_fast("show", "resnet50", "--json"))["trials"]), 1)

    def kill_in_a_trial(self, sig):
        with subprocess.Popen(self.fast("resnet50", "--seconds", "20"), stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as p:
            self.stack.wait_ready("resnet50-profile")
            time.sleep(0.5)
            p.send_signal(sig)
            p.wait()
        self.no_trial_left()
        self.assertEqual(self.rows(), [])
        self.assertEqual(len(self.stack.ready("resnet50")), 1)

    def test_killed_or_interrupted(self):
        self.deploy()
        self.kill_in_a_trial(signal.SIGKILL)
        self.kill_in_a_trial(signal.SIGINT)

    def test_killed_at_random_moments(self):
        self.deploy()
        seed = random.randrange(1 << 30)
        rng = random.Random(seed)
        for _ in range(5):
            with subprocess.Popen(self.fast("resnet50", "--grid", "--seconds", "0.5"),
                                  stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL) as p:
                time.sleep(rng.uniform(0, 2))
                p.kill()
            self.no_trial_left()
            if not os.path.exists(self.db):
                continue
            with sqlite3.connect(self.db) as db:
                self.assertEqual(db.execute("PRAGMA integrity_check").fetchall(), [("ok",)], seed)
                if db.execute("PRAGMA user_version").fetchone() == (0,):
                    continue
            for row in self.rows():
                self.assertEqual(row[2], "ok", (seed, row))
                self.assertTrue(row[4] > 0 and row[5] > 0, (seed, row))
        self.assertEqual(len(self.stack.ready("resnet50")), 1)

    def without(self, kill, start):
        """|kill|s a server in the middle of a trial, and |start|s it again."""
        with subprocess.Popen(self.fast("resnet50", "--seconds", "6"), stderr=subprocess.PIPE,
                              stdout=subprocess.DEVNULL, text=True) as p:
            self.stack.wait_ready("resnet50-profile")
            time.sleep(0.5)
            kill()
            if kill == self.stack.kill_gateway:  # gone for as long as it takes to notice
                said = p.communicate(timeout=120)[1]
                start()
            else:
                time.sleep(2)
                start()
                said = p.communicate(timeout=120)[1]
        self.assertEqual(p.returncode, 1, said)
        self.no_trial_left()
        self.assertEqual(self.rows(), [])
        self.stack.wait_ready("resnet50")

    def test_the_gateway_is_killed(self):
        self.deploy()
        self.without(self.stack.kill_gateway, self.stack.start_gateway)

    def test_the_node_is_killed(self):
        self.deploy()
        self.without(self.stack.kill, self.stack.start)

    def test_everything_of_a_run_is_killed(self):
        """The profiler, the process that would tidy up after it, and the gateway."""
        self.deploy()
        with subprocess.Popen(self.fast("resnet50", "--seconds", "20"), stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as p:
            self.stack.wait_ready("resnet50-profile")
            guard = subprocess.check_output(["ps", "-o", "pid=", "--ppid", str(p.pid)], text=True)
            for pid in guard.split():
                os.kill(int(pid), signal.SIGKILL)
            p.kill()
        self.stack.kill_gateway()
        self.stack.start_gateway()
        self.no_trial_left()

    def test_a_trial_gives_way(self):
        self.deploy()
        before = self.stack.ready("resnet50")[0]
        with subprocess.Popen(self.fast("resnet50", "--seconds", "60", "--max-trials", "1"),
                              stderr=subprocess.PIPE, stdout=subprocess.DEVNULL, text=True) as p:
            trial = self.stack.wait_ready("resnet50-profile")[0]
            self.assertTrue(trial["sm_pct"] * trial["quota_limit"] >= 60, trial)
            # Refused, the trial stays: there would be no room without it either.
            body = {"service": "big", "image": "replay", "envVars": {"MODEL": "rnnt"},
                    "labels": {"com.openfaas.scale.min": "2", "com.openfaas.scale.max": "2"},
                    "annotations": {"fastgshare/gpu_sm_partition": "100",
                                    "fastgshare/gpu_quota_request": "0.8",
                                    "fastgshare/gpu_quota_limit": "0.8", "fastgshare/gpu_mem": str(1 << 30)}}
            self.assertEqual(self.stack.call("POST", "/system/functions", body)[0], 409)
            self.assertEqual(self.stack.ready("resnet50-profile")[0]["pid"], trial["pid"])
            # With it the trial goes, at once.
            self.stack.deploy("live", "replay", env={"MODEL": "rnnt", "MEMORY_SCALE": "0.1"}, sm=88,
                              request="0.8", limit="0.8", mem=1 << 30)
            node.wait_until(lambda: trial["pid"] not in [r["pid"] for r in self.stack.replicas()],
                            "the trial is still there")
            self.assertIn("trial gives way", self.stack.gateway_log())
            # Its profiler knows why it has measured nothing.
            self.assertTrue(any("gave way to a live function" in line for line in p.stderr))
            p.send_signal(signal.SIGINT)
            p.communicate(timeout=60)
        self.no_trial_left()
        self.assertEqual(self.rows(), [])
        after = self.stack.ready("resnet50")[0]
        self.assertEqual((after["pid"], after["quota_request"]), (before["pid"], before["quota_request"]))

    def test_only_the_trial_in_the_way_goes(self):
        """Trials of two functions: none pushes the other out, and a live function only the one that it needs."""
        env = {"MODEL": "resnet50", "MEMORY_SCALE": "0.1"}
        self.stack.deploy("one", "replay", env=env, sm=12, request="0.2", limit="0.2", mem=1 << 30)
        # A trial that goes does not wait for its requests: this one never answers.
        self.stack.deploy("two", BAD, env={"HOW": "hang"}, sm=12, request="0.2", limit="0.2", mem=1 << 30)
        self.stack.deploy("big", "replay", env=env, sm=100, request="0.6", limit="0.6", mem=1 << 30)
        runs = []
        try:
            for name in ("one", "two"):
                runs.append(subprocess.Popen(self.fast(name, "--seconds", "60"), stderr=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL))
                self.stack.wait_ready(name + "-profile")
                if name == "one":
                    self.stack.call("DELETE", "/system/functions", {"functionName": "big"})
                    node.wait_until(lambda: not self.stack.replicas("big"), "it does not go")
            first, second = (self.stack.ready(name + "-profile")[0] for name in ("one", "two"))
            self.assertEqual((first["sm_pct"], first["quota_limit"]), (80, 0.4))
            self.assertEqual((second["sm_pct"], second["quota_limit"]), (100, 0.6))
            node.wait_until(lambda: self.stack.ready("two-profile")[0]["in_flight"], "nothing is under way")
            # The first one by itself would not be enough, and has to stay.
            self.stack.deploy("live", "replay", env=env, sm=100, request="0.6", limit="0.6", mem=1 << 30)
            self.assertNotIn("draining", [r["state"] for r in self.stack.replicas("two-profile")])
            node.wait_until(lambda: second["pid"] not in [r["pid"] for r in self.stack.replicas()], "it is still there")
            self.assertEqual(self.stack.ready("one-profile")[0]["pid"], first["pid"])
            self.assertEqual(self.stack.gateway_log().count("trial gives way"), 1)
            # It has kept its place: the next one has to send it away.
            self.stack.deploy("more", "replay", env=env, sm=80, request="0.4", limit="0.4", mem=1 << 30)
            node.wait_until(lambda: first["pid"] not in [r["pid"] for r in self.stack.replicas()], "it is still there")
        finally:
            for p in runs:
                p.send_signal(signal.SIGINT)
                p.wait()
        self.no_trial_left()

    def test_a_trial_pushes_nobody_out(self):
        """A second replica would go for a function of higher priority: a trial has none."""
        self.stack.deploy("resnet50", "replay", env={"MODEL": "resnet50", "MEMORY_SCALE": "0.1"}, most=2, sm=100,
                          request="0.5", limit="0.5", mem=1 << 30)
        self.stack.call("POST", "/system/scale-function/resnet50", {"serviceName": "resnet50", "replicas": 2})
        before = {r["pid"] for r in self.stack.wait_ready("resnet50", 2)}
        text = self.run_fast("resnet50", "--seconds", "0.5", "--max-time", "5s", status=1)
        self.assertIn("no free slice", text)
        self.assertEqual({r["pid"] for r in self.stack.ready("resnet50", 2)}, before)
        self.no_trial_left()

    def test_a_second_run_leaves_the_first_alone(self):
        self.deploy()
        with subprocess.Popen(self.fast("resnet50", "--seconds", "20"), stderr=subprocess.DEVNULL,
                              stdout=subprocess.DEVNULL) as p:
            try:
                before = self.stack.wait_ready("resnet50-profile")[0]
                self.assertIn("is running", self.run_fast("resnet50", "--fresh", status=1))
                after = self.stack.ready("resnet50-profile")[0]
                self.assertEqual((after["replica"], after["pid"]), (before["replica"], before["pid"]))
                self.assertIsNone(p.poll())
            finally:
                p.send_signal(signal.SIGINT)
                p.wait()
        self.no_trial_left()

    def test_the_gateway_takes_up_a_profile(self):
        self.db = os.path.join(self.stack.state_dir, "profiles.db")
        self.stack.deploy("resnet50", "replay", env={"MODEL": "resnet50", "MEMORY_SCALE": "0.1"}, sm=12,
                          request="0.2", limit="0.2", mem=1 << 30, slo="300ms")
        self.assertNotIn("profile", self.stack.get("/system/function/resnet50"))
        table = os.path.join(self.stack.root, "t.csv")
        with open(table, "w", encoding="utf-8") as f:
            f.write("sm,quota,rps,p95_ms,p99_ms\n6,0.2,8,60,80\n12,0.2,12,50,70\n24,0.4,30,40,60\n"
                    "100,1,70,20,30\n")
        self.run_fast("import", "resnet50", table)
        node.wait_until(lambda: "profile" in self.stack.get("/system/function/resnet50"),
                        "the gateway does not see the profile")
        seen = self.stack.get("/system/function/resnet50")["profile"]
        self.assertEqual((seen["source"], seen["trials"], seen["drifting"]), ("imported", 4, False))
        said = subprocess.check_output([FAST, "describe", "resnet50", "--gateway",
                                        f"http://127.0.0.1:{self.stack.port}"], text=True)
        self.assertIn("Profile:   imported, 4 trials, known to ", said)
        # What an earlier life of the gateway has noticed is shown too.
        self.stack.kill_gateway()
        with sqlite3.connect(self.db) as db:
            db.execute("INSERT INTO drift VALUES('resnet50', 'imported', 700, 1700000000)")
        self.stack.start_gateway()
        node.wait_until(lambda: "drift: live throughput is 70 %" in subprocess.check_output(
            [FAST, "describe", "resnet50", "--gateway", f"http://127.0.0.1:{self.stack.port}"], text=True),
            "the drift is not shown")
        # Forgotten, it is scaled by until there is another one, and this is not called a file.
        with sqlite3.connect(self.db) as db:
            rows = db.execute("SELECT * FROM trial").fetchall()
            db.execute("DELETE FROM trial")
        node.wait_until(lambda: self.stack.get("/system/function/resnet50")["profile"] == {"source": "forgotten"},
                        "the gateway does not see that it is gone")
        with sqlite3.connect(self.db) as db:
            db.executemany(f"INSERT INTO trial VALUES({','.join('?' * len(rows[0]))})", rows)
        node.wait_until(lambda: self.stack.get("/system/function/resnet50")["profile"]["source"] == "imported",
                        "the gateway does not see that it is back")
        # A deployment that names no slice gets one from the profile; an SLO that no slice meets is refused.
        body = {"service": "resnet50", "image": "replay", "annotations": {"fastgshare/slo": "1ms"}}
        status, text = self.stack.call("PUT", "/system/functions", body)
        self.assertEqual(status, 400, text)
        self.assertIn("fastgshare/slo", text)

    def test_drift_of_a_live_function(self):
        """Its requests take five times as long as in the trial, which no noise of a machine hides."""
        def model(block_us):
            with open(os.path.join(self.stack.root, "m.model"), "w", encoding="ascii") as f:
                f.write("name = m\nmemory = 600MiB\nshared_memory = 0\ninput = 1KiB\noutput = 1KiB\n"
                        "small_kernels = 4\nlarge_kernels = 1\nthreads_per_block = 256\nhost = 100us\n"
                        "launch = 10us\nsmall_blocks = 1\nlarge_blocks = 1\noccupancy = 0.1\ndram = 0.1\n"
                        f"small_block = {block_us}us\nlarge_block = {block_us}us\n")

        def seen():
            return self.stack.get("/system/function/f").get("profile", {})

        self.db = os.path.join(self.stack.state_dir, "profiles.db")
        env = {"MODEL": os.path.join(self.stack.root, "m.model"), "MEMORY_SCALE": "0.1"}
        model(1000)
        # One span of each of so many is enough.
        self.stack.deploy("f", "replay", env=env, replicas=8, sm=100, request="0.1", limit="0.1", mem=1 << 30)
        self.run_fast("f", "--seconds", "3", "--max-trials", "1")
        node.wait_until(lambda: seen().get("trials") == 1, "the gateway does not see the profile")
        self.assertFalse(seen()["drifting"])
        model(5000)
        before = {r["pid"] for r in self.stack.wait_ready("f", 8)}
        for pid in before:
            os.kill(pid, signal.SIGKILL)
        node.wait_until(lambda: len({r["pid"] for r in self.stack.ready("f", 8)} - before) == 8, "not started again")
        load = stack.Load(self.stack, "f", [b""], threads=24)
        try:
            end = time.monotonic() + 120
            while not seen()["drifting"] and time.monotonic() < end:
                time.sleep(0.2)
        finally:
            load.stop()
        self.assertTrue(seen()["drifting"], seen())
        self.assertIn("profile drift", self.stack.gateway_log())
        self.assertRegex(self.run_fast("show", "f"), "drift since .*: live throughput is [1-6]?[0-9] % of that")
        # Another version begins another profile.
        self.stack.call("PUT", "/system/functions", {
            "service": "f", "image": "replay", "envVars": dict(env, X="1"),
            "annotations": {"fastgshare/gpu_sm_partition": "100", "fastgshare/gpu_quota_request": "0.1",
                            "fastgshare/gpu_quota_limit": "0.1", "fastgshare/gpu_mem": str(1 << 30)}})
        node.wait_until(lambda: not seen(), "the new version has the profile of the old one")

    def test_failing_functions(self):
        for name, how, state in (("wrong", "500", "errors"), ("dies", "die", "crashed"),
                                 ("hangs", "hang", "timeout")):
            self.stack.deploy(name, BAD, env={"HOW": how}, sm=6, request="0.1", limit="0.1", mem=1 << 28)
            count = len(self.rows()) if os.path.exists(self.db) else 0
            # Thrice is enough.
            args = [] if how == "500" else ["--max-trials", "1"]
            text = self.run_fast(name, "--seconds", "0.5", *args, status=1)
            self.assertEqual(len(self.rows()) - count, 1 if args else 3)
            sm, quota, got, why, rps, p95, errors = self.rows()[-1]
            self.assertEqual((got, rps, p95), (state, None, None), (name, why))
            self.assertTrue(why, name)
            self.assertIn("no trial of", text)
            self.assertTrue(errors > 0 or state != "errors")
            self.no_trial_left()
            self.stack.call("DELETE", "/system/functions", {"functionName": name})

    def test_slow_functions(self):
        place = {"sm": 6, "request": "0.1", "limit": "0.1", "mem": 1 << 28}
        self.stack.deploy("slow", BAD, env={"HOW": "slow", "SLEEP": "2"}, **place)
        text = self.run_fast("slow", "--seconds", "0.5", "--max-time", "1500ms", status=1)
        self.assertIn("took longer than was left", text)
        self.assertIn("--max-time: stopped after 0 trials", text)
        self.assertEqual(self.rows(), [])
        self.no_trial_left()
        self.run_fast("slow", "--seconds", "0.5", "--max-trials", "1", status=1)
        self.assertEqual([r[2] for r in self.rows()], ["timeout"] * len(self.rows()))
        self.assertRegex(self.rows()[0][3], "its first request took [2-9][.][0-9] s: more --seconds")
        self.stack.deploy("slowish", BAD, env={"HOW": "slow", "SLEEP": "0.4"}, **place)
        self.run_fast("slowish", "--seconds", "1", "--max-trials", "1")
        self.assertEqual(self.rows()[-1][2], "ok")
        self.assertGreaterEqual(self.rows()[-1][5], 400)

    def test_functions_that_fail_later(self):
        """While it is saturated, or only afterwards, when latency is measured."""
        for name, how, seconds, state in (("stalls", "stall", "2", "timeout"), ("sours", "sour", "4", "errors")):
            self.stack.deploy(name, BAD, env={"HOW": how}, sm=6, request="0.1", limit="0.1", mem=1 << 28)
            self.run_fast(name, "--seconds", seconds, "--max-trials", "1", status=1)
            _, _, got, why, rps, p95, errors = self.rows()[-1]
            self.assertEqual((got, rps, p95), (state, None, None), (name, why))
            # What has stalled is not asked for its latency, which would take a minute more.
            self.assertTrue(state == "errors" or "no answer in the last" in why, why)
            self.assertTrue(errors > 0 or state != "errors")
            self.no_trial_left()
            self.stack.call("DELETE", "/system/functions", {"functionName": name})

    def test_batches_and_bodies(self):
        seen = os.path.join(self.stack.shared, "seen")
        with open(seen, "w", encoding="ascii") as f:
            os.fchmod(f.fileno(), 0o666)  # trials and the function may have different users
        self.db = os.path.join(self.stack.state_dir, "profiles.db")
        body = {"service": "f", "image": BAD, "envVars": {
            "HOW": "seen", "SEEN": seen, **wire.ASAN_ENV},
                "annotations": {"fastgshare/gpu_sm_partition": "6", "fastgshare/gpu_quota_request": "0.1",
                                "fastgshare/gpu_quota_limit": "0.1", "fastgshare/gpu_mem": str(1 << 28),
                                "fastgshare/profile_batches": "1,3", "fastgshare/sample": "ab", "fastgshare/record": "2"}}
        self.assertEqual(self.stack.call("POST", "/system/functions", body)[0], 202)
        self.stack.wait_ready("f")

        def lines():
            with open(seen, encoding="utf-8") as f:
                got = f.read().split("\n")[:-1]
            os.truncate(seen, 0)
            return set(got)

        for text in ("one", "two", "three", ""):
            self.assertEqual(self.stack.call("POST", "/function/f", text)[0], 200)
        self.assertEqual(lines(), {"1 one", "1 two", "1 three", "1 "})
        self.assertEqual(self.stack.get("/system/recorded/f"), {"kept": 2, "count": 2})
        kept = {self.stack.call("GET", f"/system/recorded/f?index={i}")[1] for i in range(2)}
        self.assertEqual(kept, {"two", "three"})
        self.assertEqual(self.stack.call("GET", "/system/recorded/f?index=2")[0], 404)
        # The sample that it declares, once for each input of a batch; the database of the gateway.
        args = ["--seconds", "0.5", "--max-trials", "1", "--gateway", f"http://127.0.0.1:{self.stack.port}"]
        run = subprocess.run([FAST, "profile", "f", *args], capture_output=True, text=True, check=False)
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertEqual(lines(), {"1 ab", "3 ababab"})
        with sqlite3.connect(self.db) as db:
            self.assertEqual(db.execute("SELECT batch, state FROM trial ORDER BY batch").fetchall(),
                             [(1, "ok"), (3, "ok")])
        self.assertIn("batch 3", self.run_fast("show", "f", "--batch", "3"))
        # What the gateway has kept, which trials do not add to; and a file.
        self.run_fast("f", "--recorded", "--batch", "2", "--seconds", "0.5", "--max-trials", "1")
        self.assertEqual(lines(), {"2 twotwo", "2 threethree"})
        self.run_fast("f", "--body", BAD, "--batch", "5", "--seconds", "0.5", "--max-trials", "1")
        with open(BAD, encoding="utf-8") as f:
            self.assertIn("5 " + f.readline()[:-1], lines())
        self.assertEqual(self.stack.get("/system/recorded/f"), {"kept": 2, "count": 2})
        # Asked for no more, they are forgotten.
        del body["annotations"]["fastgshare/record"]
        self.assertEqual(self.stack.call("PUT", "/system/functions", body)[0], 202)
        self.assertEqual(self.stack.get("/system/recorded/f"), {"kept": 0, "count": 0})
        self.assertIn("--recorded", self.run_fast("f", "--recorded", "--fresh", status=1))
        self.assertIn("fastgshare/record", self.stack.call("PUT", "/system/functions", dict(
            body, annotations={"fastgshare/record": "17"}))[1])

    def test_time_is_up(self):
        self.deploy()
        text = self.run_fast("resnet50", "--max-time", "1s", "--seconds", "5", status=1)
        self.assertIn("--max-time: stopped after 0 trials", text)
        self.assertNotIn("took longer", text)  # none was begun
        self.run_fast("resnet50", "--max-time", "4s", "--seconds", "1", "--grid")
        rows = self.rows()
        self.assertTrue(1 <= len(rows) < 35, rows)
        self.no_trial_left()
        # The next run goes on with the slices that are missing.
        self.run_fast("resnet50", "--max-time", "4s", "--seconds", "1", "--grid")
        self.assertEqual(self.rows()[:len(rows)], rows)
        self.assertGreater(len(self.rows()), len(rows))
        self.assertEqual(len({r[:2] for r in self.rows()}), len(self.rows()))

    def test_sure_enough(self):
        self.deploy()
        self.run_fast("resnet50", "--confidence", "50", "--seconds", "0.5")
        self.assertEqual(len(self.rows()), 4)  # of at most 10

    def test_another_namespace(self):
        self.deploy()
        body = {"service": "resnet50", "namespace": "dev", "image": "replay",
                "envVars": {"MODEL": "rnnt", "MEMORY_SCALE": "0.1",
                            **wire.ASAN_ENV},
                "annotations": {"fastgshare/gpu_sm_partition": "6", "fastgshare/gpu_quota_request": "0.1",
                                "fastgshare/gpu_quota_limit": "0.1", "fastgshare/gpu_mem": str(1 << 30)}}
        self.assertEqual(self.stack.call("POST", "/system/functions", body)[0], 202)
        self.run_fast("resnet50", "-n", "dev", "--seconds", "0.5", "--max-trials", "1")
        with sqlite3.connect(self.db) as db:
            self.assertEqual(db.execute("SELECT function, state FROM trial").fetchall(), [("resnet50.dev", "ok")])
        node.wait_until(lambda: not [r for r in self.stack.replicas() if "-profile" in r["replica"]],
                        "a trial replica is left")
        self.assertIn("100", self.run_fast("show", "resnet50", "-n", "dev"))
        self.run_fast("show", "resnet50", status=1)

    def test_a_function_of_that_name(self):
        self.deploy()
        self.stack.deploy("resnet50-profile", "replay", env={"MODEL": "resnet50", "MEMORY_SCALE": "0.1"},
                          sm=6, request="0.1", limit="0.1", mem=1 << 30)
        self.assertIn("resnet50-profile", self.run_fast("resnet50", status=1))
        self.assertEqual(len(self.stack.ready("resnet50-profile")), 1)
        # A trial of less than some windows would see them open or closed.
        self.assertEqual(self.stack.call("PUT", "/system/policy", {"window_ms": 10000})[0], 200)
        self.assertIn("--seconds: 49 is less", self.run_fast("resnet50", "--seconds", "49", status=2))
        self.assertIn("resnet50-profile", self.run_fast("resnet50", "--seconds", "50", status=1))


class FormsTest(unittest.TestCase):
    """Without a gateway."""

    def setUp(self):
        self.root = subprocess.check_output(["mktemp", "-d"], text=True).strip()
        self.addCleanup(subprocess.run, ["rm", "-r", self.root], check=False)

    def fast(self, *args, status=0):
        r = subprocess.run([FAST, "profile", *args, "--db", os.path.join(self.root, "p.db")], text=True,
                           capture_output=True, check=False)
        self.assertEqual(r.returncode, status, r.stdout + r.stderr)
        return r.stdout if status == 0 else r.stderr

    def file(self, text):
        path = os.path.join(self.root, "in")
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        return path

    def test_authors_there_and_back(self):
        self.fast("import", "f", self.file(AUTHORS))
        out = self.fast("export", "f", "--format", "authors")
        got = list(csv.DictReader(io.StringIO(out)))
        self.assertEqual([float(r["value"]) for r in got], [13.5, -1])
        self.assertEqual(json.loads(got[0]["limitations"]), {"GPU_QUOTA": "0.2", "GPU_SM": "6",
                                                             "GPU_MEMORY": "2073741824", "replicas": "1"})
        self.assertEqual(json.loads(got[0]["other_metrics"])["p95"], 8300)
        again = self.fast("export", "f", "--format", "json")
        self.fast("import", "g", self.file(again))
        self.assertEqual(json.loads(self.fast("export", "g", "--format", "json"))["trials"],
                         json.loads(again)["trials"])
        self.assertIn("6,0.200,13.500,8300.000,8300.000", self.fast("export", "g"))
        # They do not say what the median was.
        self.assertRegex(self.fast("show", "g"), r" 6 +0[.]2 +13[.]50 +- +8300[.]0 ")
        self.assertIsNone(json.loads(again)["trials"][0]["p50_ms"])
        self.assertIn('"quota": 0.2,', again)

    def test_slo_and_rate(self):
        rows = "".join(f"{sm},{q},{min(60 * sm / (sm + 12), 90 * q * sm / (sm + 12)):.3f},20,25\n"
                       for sm in (6, 24, 100) for q in (0.2, 0.6, 1))
        self.fast("import", "f", self.file("sm,quota,rps,p95_ms,p99_ms\n" + rows))
        best = json.loads(self.fast("show", "f", "--slo", "200ms", "--rate", "100", "--json"))
        self.assertEqual([b["gpus"] for b in best], sorted(b["gpus"] for b in best))
        for b in best:
            self.assertGreater(b["replicas"] * b["rps"], 100)
            self.assertLessEqual(b["p95_ms"], 200)
            self.assertAlmostEqual(b["gpus"], b["replicas"] * b["sm_pct"] / 100 * b["quota"])
        self.assertIn("no slice carries", self.fast("show", "f", "--slo", "1ms", "--rate", "1", status=1))

    def test_drift_is_shown(self):
        self.fast("import", "f", self.file("sm,quota,rps,p95_ms\n6,0.2,3,10\n100,1,30,9\n"))
        self.assertNotIn("drift", self.fast("show", "f"))
        with sqlite3.connect(os.path.join(self.root, "p.db")) as db:
            db.execute("INSERT INTO live VALUES('f', 'imported', 6, 200, 2, 10, 11, 7, 2, 1700000000)")
            db.execute("INSERT INTO drift VALUES('f', 'imported', 700, 1700000000)")
        text = self.fast("show", "f")
        self.assertIn("drift since 2023-11-14 22:13:20Z: live throughput is 70 %", text)
        self.assertIn("refined 1 slices, from 9 spans", text)

    def test_state_dir(self):
        path = self.file("sm,quota,rps,p95_ms\n6,0.2,3,10\n")
        for verb in (["import", "f", path], ["show", "f"]):
            r = subprocess.run([FAST, "profile", *verb, "--state-dir", os.path.join(self.root, "state")],
                               capture_output=True, text=True, check=False)
            self.assertEqual(r.returncode, 0, r.stderr)
        self.assertTrue(os.path.exists(os.path.join(self.root, "state", "profiles.db")))

    def test_export_predicted(self):
        self.fast("import", "f", self.file("sm,quota,rps,p95_ms\n6,0.2,3,10\n100,1,30,9\n24,0.4,10,9\n"))
        out = self.fast("export", "f", "--predicted")
        self.assertEqual(out.count("# predicted"), 32)
        self.fast("import", "g", self.file(out))  # the gateway's own parser reads it
        rps = {tuple(map(float, r.split(",")[:2])): float(r.split(",")[2])
               for r in out.split("\n") if r[:1].isdigit()}
        self.assertEqual(len(rps), 35)
        for (sm, quota), v in rps.items():
            self.assertTrue(3 <= v <= 30)
            self.assertTrue(all(w >= v for (s, q), w in rps.items() if s >= sm and q >= quota))

    def test_wrong_input_changes_nothing(self):
        self.fast("import", "f", self.file("sm,quota,rps,p95_ms\n6,0.2,3,10\n"))
        before = self.fast("export", "f")
        for bad in ("", "sm,quota\n", "sm,quota,rps,p95_ms\n101,0.2,1,1\n", AUTHORS + AUTHORS.split("\n")[1],
                    AUTHORS.replace("13.5", "many"),
                    AUTHORS.replace("8300.0", '""nan""'), AUTHORS.replace("0.05", "-1"), AUTHORS[:150], "{", '{"schema": 2, "trials": []}'):
            self.assertIn("fast: ", self.fast("import", "f", self.file(bad), status=1))
        self.assertEqual(self.fast("export", "f"), before)
        for args in (("f", "--grid", "--adaptive"), ("f", "--slo", "1s"), ("show", "f", "--rate", "1"),
                     ("drop", "f"), ("a/b",), ("f", "--max-trials", "0"), ("f", "--users", "0"), ("f", "--batch", "1,1"),
                     ("f", "--batch", "2,"), ("f", "--batch", "0"), ("f", "--body", "x", "--recorded"),
                     ("show", "f", "--state-dir", self.root)):
            self.fast(*args, status=2)
        self.fast("show", "g", status=1)
        with sqlite3.connect(os.path.join(self.root, "p.db")) as db:
            db.execute("PRAGMA user_version=99")
        self.assertIn("newer version", self.fast("show", "f", status=1))


if __name__ == "__main__":
    unittest.main()
