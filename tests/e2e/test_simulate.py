#!/usr/bin/env python3
"""fast simulate: scenarios, failures, and what it writes. No other process takes part."""
import json
import os
import subprocess
import tempfile
import unittest
import xml.etree.ElementTree as xml

import node

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
PROFILE = os.path.join(node.HERE, "profiles", "steps.csv")


def run(*args):
    return subprocess.run([FAST, "simulate", "--profile", PROFILE, "--gpus", "2", *args],
                          capture_output=True, text=True, timeout=node.WAIT_S * 2, check=False)


class Simulate(unittest.TestCase):
    def report(self, *args):
        done = run(*args, "--json")
        self.assertEqual(done.returncode, 0, done.stderr)
        return json.loads(done.stdout)

    def test_scenarios(self):
        one = self.report("--scenario", "single-stream", "--seconds", "300", "--slo", "600ms")
        claim = one["functions"][0]["claim"]
        # One query after the other: as many as the replica serves, and none waits.
        self.assertEqual(claim["queries"], one["requests"])
        self.assertEqual((claim["percentile"], claim["over_slo"], claim["slo_proven"]), (90, 0, True))
        self.assertEqual(claim["queries_needed"], 44)
        self.assertLessEqual(claim["bound_ms"], 600)
        many = self.report("--scenario", "multi-stream", "--seconds", "300", "--slo", "600ms")
        # A query of eight takes longer where quotas stay; by the default policy each has what its SLO needs.
        alone, eight = (self.report("--scenario", s, "--seconds", "300", "--slo", "600ms", "--policy", "flat")
                        for s in ("single-stream", "multi-stream"))
        self.assertGreater(eight["functions"][0]["p99_ms"], alone["functions"][0]["p99_ms"])
        self.assertEqual(many["functions"][0]["claim"]["percentile"], 99)
        few = self.report("--scenario", "multi-stream", "--seconds", "20", "--slo", "600ms")
        self.assertLess(few["requests"], 459)
        self.assertIsNone(few["functions"][0]["claim"]["bound_ms"])
        self.assertFalse(few["functions"][0]["claim"]["slo_proven"])
        bulk = self.report("--scenario", "offline", "--samples", "300", "--seconds", "600")
        self.assertEqual((bulk["requests"], bulk["violations"]), (300, 0))
        claim = bulk["functions"][0]["claim"]
        self.assertTrue(claim["all_answered"])
        self.assertGreater(claim["samples_per_second"], 5)
        server = self.report("--scenario", "server", "--rate", "5", "--seconds", "300", "--slo", "2s")
        claim = server["functions"][0]["claim"]
        self.assertEqual(claim["over_slo"], server["violations"])
        self.assertEqual(claim["slo_proven"], claim["queries"] >= claim["queries_needed"])

    def test_highest_rate(self):
        found = self.report("--scenario", "server", "--slo", "2s", "--policy", "whole")
        rate = found["functions"][0]["claim"]["highest_rate"]
        args = ("--scenario", "server", "--slo", "2s", "--policy", "whole", "--rate")
        proven = [self.report(*args, f"{rate * k:.3f}")["functions"][0]["claim"]["slo_proven"]
                  for k in (1, 1.2)]
        self.assertEqual(proven, [True, False])
        done = run("--scenario", "server", "--slo", "2s", "--seconds", "5", "--gpus", "1")
        self.assertEqual(done.returncode, 1)
        self.assertIn("at no rate", done.stderr)

    def test_failures(self):
        load = ("--rate", "5", "--seconds", "120", "--slo", "2s", "--policy", "live")
        well = self.report(*load)
        self.assertEqual((well["failures"], well["lost"]), (0, 0))
        for what in ("replica@60s", "gpu@60s", "node@60s+5s"):
            ill = self.report(*load, "--fail", what, "--gpus-per-node", "1")
            self.assertEqual(ill["failures"], 1, what)
            self.assertGreater(ill["starts"], well["starts"], what)
            self.assertGreaterEqual(ill["violations"], ill["lost"], what)
            self.assertEqual(ill["requests"], well["requests"])
        self.assertEqual(ill, self.report(*load, "--fail", "node@60s+5s", "--gpus-per-node", "1"))

    def test_report_and_plots(self):
        with tempfile.TemporaryDirectory() as d:
            at = os.path.join(d, "r.json"), os.path.join(d, "r.svg")
            done = run("--rate", "5", "--seconds", "60", "--slo", "2s", "--report", at[0], "--svg", at[1])
            self.assertEqual(done.returncode, 0, done.stderr)
            with open(at[0], encoding="utf-8") as f:
                r = json.load(f)
            self.assertTrue(r["simulated"])
            self.assertEqual(sum(b["requests"] for b in r["series"]), r["requests"])
            self.assertEqual(sum(b["violations"] for b in r["series"]), r["violations"])
            width = r["seconds"] / len(r["series"])
            self.assertAlmostEqual(sum(b["gpus_used"] for b in r["series"]) * width,
                                   r["gpu_seconds_used"], 4)
            self.assertEqual(r["cold_starts"], 1)
            self.assertEqual(xml.parse(at[1]).getroot().tag, "{http://www.w3.org/2000/svg}svg")

    def test_traces(self):
        with tempfile.TemporaryDirectory() as d:
            def trace(text):
                path = os.path.join(d, "t.csv")
                with open(path, "w", encoding="utf-8") as f:
                    f.write(text)
                return path
            for text in ("TIMESTAMP,Tokens\n2023-11-16 18:17:03.97,4\n2023-11-16 18:17:04.03,3\n",
                         "name,cpu,creation_time,x\npod-0,12,0,3\npod-1,6,7.5,4\n", "0\n1.5\n",
                         "arrival\n3\n4\n"):
                self.assertEqual(self.report("--slo", "2s", "--trace", trace(text))["requests"], 2, text)
            for text, words in (("-1\n2\n", 'line 1, column 1: "-1"'), ("", "no arrival"),
                                ("1\nabc\n", 'line 2, column 1: "abc"'), ("3\n2\n", "earlier"),
                                ("name,time\na,1\nb\n", 'line 3, column 2: ""'),
                                ("1\n999999999999\n", "up to 100000000")):
                done = run("--trace", trace(text))
                self.assertEqual(done.returncode, 2, text)
                self.assertIn(words, done.stderr)

    def test_name_with_markup(self):
        with tempfile.TemporaryDirectory() as d:
            profile, svg = os.path.join(d, "a<b>&c.csv"), os.path.join(d, "r.svg")
            with open(PROFILE, "rb") as f, open(profile, "wb") as to:
                to.write(f.read())
            self.report("--profile", profile, "--rate", "2", "--slo", "2s", "--svg", svg)
            self.assertIn("a<b>&c.csv", [t.text for t in xml.parse(svg).getroot().iter() if t.text])

    def test_refusals(self):
        for args, words in ((("--rate", "3", "--fail", "gpx@3s"), "replica@TIME"),
                            (("--rate", "3", "--fail", "gpu@"), "--fail"),
                            (("--scenario", "server", "--trace", "x"), "no --trace"),
                            (("--scenario", "offline", "--rate", "3"), "load of its own"),
                            (("--rate", "3", "--fail", "replica@3s+2s"), "does not come back"),
                            (("--rate", "3", "--policy", "x"), "--policy: \"x\""),
                            (("--rate", "3", "--trace", "x"), "only one of them"),
                            (("--rate", "3", "--samples", "5"), "--samples"),
                            (("--rate", "3", "--memory", "0"), "--memory"),
                            (("--rate", "3", "--slo", "1s", "--slo", "2s"), "--slo: 2 of them"),
                            (("--scenario", "all"), "--scenario"), ((), "--scenario")):
            done = run(*args)
            self.assertEqual(done.returncode, 2, args)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
