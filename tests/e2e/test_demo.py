#!/usr/bin/env python3
"""fast demo: each scene runs from end to end, and what it tells agrees with itself and fits a terminal.
How late anything is on a busy machine is not judged."""
import json
import os
import signal
import subprocess
import tempfile
import time
import unittest

import node
import store as e2e

FAST = os.path.join(node.BUILD, "src", "cli", "fast")


def start(*args, **kwargs):
    return subprocess.Popen([FAST, "demo", "--sim=v100-16gb", "--seconds", "5", *args], text=True,
                            stdout=subprocess.PIPE, stderr=subprocess.PIPE, **kwargs)


def demo(*args):
    with start(*args) as process:
        out, err = process.communicate(timeout=200)
    return process.returncode, out, err


class Demo(unittest.TestCase):
    def check_policy(self, told, functions):
        """Sums agree with the functions, and nobody was forgotten."""
        self.assertTrue(told["simulated"])
        self.assertEqual([f["function"] for f in told["functions"]], functions)
        with_slo = [f for f in told["functions"] if f["slo_ms"] is not None]
        self.assertAlmostEqual(told["inferences_per_s"], sum(f["inferences_per_s"] for f in told["functions"]),
                               places=3)
        self.assertAlmostEqual(told["violations_pct"], 100 * sum(f["violations"] for f in with_slo) /
                               sum(f["sent"] for f in with_slo), places=3)
        for f in told["functions"]:
            self.assertGreater(f["ok"], 0, f)
            self.assertEqual(f["failed"], 0, f)
            self.assertAlmostEqual(f["inferences_per_s"], f["rps"] * (32 if f["function"] == "batch" else 1), places=3)

    def test_neighbour(self):
        rc, out, err = demo("--scene", "neighbour", "--json")
        self.assertEqual(rc, 0, err)
        racing, fast = json.loads(out)
        self.assertEqual(("neighbour", "racing", "fast"), (racing["scene"], racing["policy"], fast["policy"]))
        for told in racing, fast:
            self.check_policy(told, ["digits", "resnet50", "bert", "batch"])
            self.assertIsNone(told["functions"][3]["slo_ms"])

    def test_the_tables_fit(self):
        rc, out, err = demo("--scene", "neighbour")
        self.assertEqual((rc, err), (0, ""))
        self.assertEqual([line for line in out.split("\n") if len(line) > 80], [])
        self.assertNotIn("\033", out)
        for words in ("simulated GPU", "INFERENCES/S", "late under racing", "say nothing about a GPU"):
            self.assertIn(words, " ".join(out.split()))

    def test_ramp(self):
        rc, out, err = demo("--scene", "ramp", "--json")
        self.assertEqual(rc, 0, err)
        told, = json.loads(out)
        self.assertEqual((told["scene"], told["sent"] > 0), ("ramp", True))
        self.assertTrue(any(d["do"] == "stop" for r in told["decisions"] for d in r["did"]))

    def test_interrupted(self):
        """Ctrl-C at once, while replicas start, and under load: everything is stopped and removed."""
        with tempfile.TemporaryDirectory() as tmp:
            for seconds in 0, 1, 4:
                with start("--scene", "neighbour", env=dict(os.environ, TMPDIR=tmp)) as process:
                    time.sleep(seconds)
                    process.send_signal(signal.SIGINT)
                    _, err = process.communicate(timeout=60)
                self.assertEqual(process.returncode, 1 if seconds else process.returncode, err)
                self.assertEqual(os.listdir(tmp), [], err)

    def test_nobody_reads_on(self):
        with tempfile.TemporaryDirectory() as tmp:
            with start("--scene", "neighbour", "--seconds", "600", env=dict(os.environ, TMPDIR=tmp)) as process:
                process.stdout.readline()
                process.stdout.close()
                process.wait(60)
                self.assertIn("everything is stopped and removed", process.stderr.read())
            self.assertEqual(process.returncode, 1)
            self.assertEqual(os.listdir(tmp), [])

    def test_refuses(self):
        for args, words in ((("--scene", "mixed"), ("mix, neighbour, ramp",)),
                            (("--seconds", "4"), ("--seconds", "5", "600")),
                            (("--sim", "v101"), ("v100-16gb",))):
            rc, out, err = demo(*args)
            self.assertEqual(out, "")
            self.assertEqual(rc, 2)
            for word in words:
                self.assertIn(word, err)


if __name__ == "__main__":
    e2e.skip_with_asan("the demo deploys programs that do not expect the hook before the sanitizer")
    unittest.main(verbosity=2)
