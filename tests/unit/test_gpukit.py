"""The parts of the GPU kit that decide: model files out of a profiler's trace, results that survive, where
the driver's programs are looked for, what the report says of a target."""
import contextlib
import gzip
import io
import json
import os
import stat
import subprocess
import sys
import tempfile
import time
import unittest
from unittest import mock

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ.get("FAST_BUILD", os.path.join(ROOT, "build"))
sys.path.insert(0, os.path.join(ROOT, "bench", "gpu"))
TRACE = os.path.join(ROOT, "tests", "unit", "fake_trace.json")

from gpukit import calibrate, find, machine, questions, results, schema, stage_share, tables, targets, world  # noqa: E402


class Calibrate(unittest.TestCase):
    def setUp(self):
        self.events = calibrate.read_events(TRACE)
        self.kernels = calibrate.kernels_of_events(self.events)

    def test_only_kernels_are_taken_in_the_order_of_their_starts(self):
        self.assertEqual([["relu", 16, 30.0, 20.0], ["relu", 16, 50.0, 50.0], ["gemm_large", 64, 120.0, 80.0]],
                         self.kernels)

    def test_span_and_the_hosts_share_before_the_first_launch(self):
        span, share = calibrate.span_of_events(self.events)
        self.assertEqual(430.0, span) # from the operator at 1000 to the end of gemm_large
        self.assertAlmostEqual(100 / 300, share)

    def test_a_kernel_is_small_when_all_its_blocks_run_at_once(self):
        fitted = calibrate.fit(self.kernels, 430.0, 4) # 4 SMs hold 32 blocks
        self.assertEqual((2, 16, 40.0), fitted["small"])
        self.assertEqual((1, 64, 60.0), fitted["large"]) # two waves
        self.assertAlmostEqual((30 * .2 + 50 * .5 + 120 * .8) / 200, fitted["occupancy"])

    def test_the_file_takes_as_long_as_the_inference(self):
        for total in (200.0, 430.0, 5000.0): # bound by the GPU, mixed, by the host
            body = calibrate.text("fake", "fake GPU", calibrate.fit(self.kernels, total, 4, 0.25), 100, 588, 4)
            self.assertLess(calibrate.error_pct(body, total, 4), 0.1, total)
            seen, _ = calibrate.kernels_of_model(body, 4)
            self.assertAlmostEqual(200.0, sum(k[2] for k in seen), places=1)

    def test_an_inference_shorter_than_its_kernels_gets_no_host_time(self):
        fitted = calibrate.fit(self.kernels, 150.0, 4)
        self.assertAlmostEqual(0.0, fitted["host"] + fitted["launch"], places=3)

    def test_more_kernels_than_a_file_may_have_keep_their_time(self):
        many = [["step", 8, 3.0, 50.0]] * 2600
        fitted = calibrate.fit(many, 10000.0, 132)
        self.assertEqual(1000, fitted["small"][0])
        body = calibrate.text("gnmt", "fake GPU", fitted, 100, 1, 1)
        self.assertAlmostEqual(7800.0, sum(k[2] for k in calibrate.kernels_of_model(body, 132)[0]), delta=1)
        self.assertLess(calibrate.error_pct(body, 10000.0, 132), 0.1)

    def test_replay_takes_the_file_and_refuses_a_wrong_one(self):
        replay = os.path.join(BUILD, "functions", "replay")
        body = calibrate.text("vit_huge", "fake GPU", calibrate.fit(self.kernels, 430.0, 4), 100, 588, 4)
        with tempfile.TemporaryDirectory() as folder:
            self.assertIsNone(calibrate.refused(replay, folder, "good", body))
            self.assertIn("line", calibrate.refused(replay, folder, "bad", body.replace("launch", "lunch")))

    def convert(self, *argv):
        out = io.StringIO()
        with contextlib.redirect_stdout(out), mock.patch.object(sys, "argv", ["calibrate.py", "convert", *argv]):
            calibrate.main()
        return out.getvalue()

    def test_the_command_reads_packed_traces_and_plain_lists(self):
        body = self.convert(TRACE, "fake", "--sms", "4")
        self.assertIn("large_block = 60.000us", body)
        with tempfile.TemporaryDirectory() as folder:
            packed, plain = os.path.join(folder, "t.json.gz"), os.path.join(folder, "l.json")
            with gzip.open(packed, "wt") as f:
                json.dump({"traceEvents": self.events}, f)
            with open(plain, "w", encoding="utf-8") as f:
                json.dump(self.events, f)
            for path in (packed, plain):
                self.assertEqual(body, self.convert(path, "fake", "--sms", "4"))
            with open(plain, "w", encoding="utf-8") as f:
                json.dump([e for e in self.events if e.get("cat") != "kernel"], f)
            with self.assertRaisesRegex(SystemExit, "no kernel"):
                self.convert(plain, "fake")


class Find(unittest.TestCase):
    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)

    def put(self, name, mode=0o755):
        path = os.path.join(self.folder.name, name)
        os.makedirs(os.path.dirname(path), exist_ok=True)
        with open(path, "w", encoding="utf-8") as f:
            f.write("#!/bin/sh\n")
        os.chmod(path, mode)
        return path

    def search(self, name, path):
        at = self.folder.name
        return find.program(name, path, dirs=(at + "/known",), globs=(at + "/lib/nvidia*",), roots=(at + "/deep",))

    def test_path_before_known_folders_before_the_walk(self):
        deep = self.put("deep/a/b/nvidia-cuda-mps-control")
        self.assertEqual(deep, self.search("nvidia-cuda-mps-control", "/nowhere"))
        globbed = self.put("lib/nvidia-580/nvidia-cuda-mps-control")
        self.assertEqual(globbed, self.search("nvidia-cuda-mps-control", "/nowhere"))
        known = self.put("known/nvidia-cuda-mps-control")
        self.assertEqual(known, self.search("nvidia-cuda-mps-control", "/nowhere"))
        first = self.put("first/nvidia-cuda-mps-control")
        self.assertEqual(first, self.search("nvidia-cuda-mps-control", os.path.dirname(first)))
        self.assertIsNone(self.search("nvidia-cuda-mps-server", "/nowhere"))

    def test_programs_that_may_not_be_executed_are_copied_together(self):
        self.put("known/nvidia-cuda-mps-control", 0o644)
        self.put("deep/x/nvidia-cuda-mps-server", 0o644)
        temp = os.path.join(self.folder.name, "temp")
        control, server = find.mps("/nowhere", temp, self.search)
        self.assertEqual(os.path.dirname(control), os.path.dirname(server))
        for path in (control, server):
            self.assertTrue(os.stat(path).st_mode & stat.S_IXUSR)

    def test_without_a_server_nothing_is_copied(self):
        control = self.put("known/nvidia-cuda-mps-control")
        self.assertEqual((control, None), find.mps("/nowhere", "/nowhere", self.search))

    def test_a_driver_beside_the_loaders_folders(self):
        """The simulated driver lies in a folder that the loader does not know."""
        env = {k: v for k, v in os.environ.items() if k != "LD_LIBRARY_PATH"}
        folder = os.path.join(BUILD, "src", "simdriver")
        if find.loads(env, "libcuda.so.1") is None:
            self.skipTest("this machine has a driver")
        with open(os.path.join(folder, "libcuda.so.1"), "rb") as f:
            if b"__asan_init" in f.read():
                self.skipTest("a program without AddressSanitizer cannot load this library")
        self.assertEqual((folder, None), find.driver_dir(env, ("/nowhere", folder)))
        nowhere, why = find.driver_dir(env, ("/nowhere",))
        self.assertIsNone(nowhere)
        self.assertIn("libcuda.so.1", why)

    def test_folders_of_runs_that_are_gone_are_removed(self):
        gone = subprocess.Popen(["true"])
        gone.wait()
        old = os.path.join(self.folder.name, f"gpukit-{gone.pid}-abc")
        mine = os.path.join(self.folder.name, f"gpukit-{os.getpid()}-def")
        other = os.path.join(self.folder.name, "gpukit-data")
        for path in (old, mine, other):
            os.makedirs(path)
        left = subprocess.Popen(["sleep", "600"], env={"CUDA_MPS_PIPE_DIRECTORY": old + "/w/s/mps"})
        stays = subprocess.Popen(["sleep", "600"], env={"CUDA_MPS_PIPE_DIRECTORY": mine + "/w/s/mps"})
        self.addCleanup(stays.wait)
        self.addCleanup(stays.kill)
        self.addCleanup(left.kill)
        new = machine.temporary((self.folder.name,))
        self.assertEqual(-9, left.wait(60))
        self.assertIsNone(stays.poll())
        self.assertEqual(sorted([mine, other, new]), sorted(e.path for e in os.scandir(self.folder.name)))


class Kept(unittest.TestCase):
    META = {"simulated": True, "sim": "v100-16gb", "gpu": "SIMULATED v100-16gb", "short": True, "build": "build",
            "stand_in": "functions/replay", "notes": None, "when": "now"}

    def setUp(self):
        self.folder = tempfile.TemporaryDirectory()
        self.addCleanup(self.folder.cleanup)
        self.path = os.path.join(self.folder.name, "results.json")

    def results(self, seconds=1000.0, earlier=None, **meta):
        return results.Results(self.path, time.monotonic() + seconds, dict(self.META, **meta), earlier)

    def stage(self, r, number=2, budget=1000):
        return results.Stage(r, number, "a title", budget, lambda text: None)

    def test_what_was_measured_is_not_measured_again(self):
        r = self.results()
        self.assertEqual("done", self.stage(r).run(lambda s: s.cell("12.400", 1, lambda: {"rps": 1.0})))
        again = self.results()
        self.assertEqual("done", self.stage(again).run(lambda s: s.cell("12.400", 1, self.fail)))
        self.assertEqual({"rps": 1.0}, again.data["stages"]["2"]["cells"]["12.400"])
        again.forget([2, 3])
        self.assertEqual({}, again.data["stages"])

    def test_an_earlier_file_is_gone_on_with_where_there_is_none(self):
        """On a machine whose results folder is given back and is empty the next time."""
        self.stage(self.results()).run(lambda s: s.cell("12.400", 1, lambda: rate(1.0)))
        earlier = os.path.join(self.folder.name, "earlier.json")
        os.rename(self.path, earlier)
        r = self.results(earlier=earlier)
        self.assertEqual("done", self.stage(r).run(lambda s: s.cell("12.400", 1, self.fail)))
        self.stage(r).run(lambda s: s.cell("12.1000", 1, lambda: rate(2.0)))
        r = self.results(earlier=earlier) # the newer one counts
        self.assertEqual({"12.400", "12.1000"}, set(r.data["stages"]["2"]["cells"]))
        with open(earlier, encoding="utf-8") as f:
            self.assertEqual({"12.400"}, set(json.load(f)["stages"]["2"]["cells"]))

    def test_the_file_is_whole_in_the_middle_of_a_stage(self):
        def work(s):
            s.cell("12.400", 1, lambda: rate(1.0))
            with open(self.path, encoding="utf-8") as f:
                data = json.load(f)
            self.assertEqual([], schema.check(data))
            self.assertEqual("cut", data["stages"]["2"]["state"])
        self.assertEqual("done", self.stage(self.results()).run(work))

    def test_a_long_stage_leaves_the_others_their_time(self):
        """Over two runs: stage 3 wants more than its budget in the first, so that in the second 4 comes first."""
        order = []

        def work(s, row):
            order.append(row[0])
            if row[0] == 3 and len(order) < 4:
                s.row["seconds"] += 100 # as if they had passed
                raise results.Cut("no time")
        stages = [(3, "long", 100), (4, "short", 100)]
        r = self.results()
        r.end = time.monotonic() + 1000
        self.assertEqual({3: "cut"}, results.rounds(r, stages[:1], lambda text: None, work))
        self.assertEqual([3, 3], order) # nobody else wanted the time
        self.assertEqual({3: "done", 4: "done"}, results.rounds(self.results(), stages, lambda text: None, work))
        self.assertEqual([3, 3, 4, 3], order)
        self.assertEqual({3: "cut"}, results.rounds(self.results(seconds=1), stages[:1], lambda text: None, work))

    def test_a_stage_ends_before_what_takes_too_long(self):
        r = self.results(seconds=5)
        state = self.stage(r).run(lambda s: s.cell("a", 10, self.fail))
        self.assertEqual("cut", state)
        with open(self.path, encoding="utf-8") as f:
            self.assertIn("the next part takes 10", json.load(f)["stages"]["2"]["why"])

    def test_a_stage_that_hangs_is_broken_off(self):
        with mock.patch.object(results, "OVERTIME", 0):
            began = time.monotonic()
            self.assertEqual("cut", self.stage(self.results(), budget=0.2).run(lambda s: time.sleep(600)))
        self.assertLess(time.monotonic() - began, 300)

    def test_a_cell_that_fails_is_told_and_the_next_is_measured(self):
        def work(s):
            s.try_cell("a", 1, lambda: 1 // 0)
            s.try_cell("b", 1, lambda: 2)
        r = self.results()
        self.assertEqual("failed", self.stage(r).run(work))
        row = r.data["stages"]["2"]
        self.assertEqual({"b": 2}, row["cells"])
        self.assertIn("ZeroDivisionError", row["why"])
        self.assertEqual("done", self.stage(r).run(lambda s: s.try_cell("a", 1, lambda: 1)))
        self.assertNotIn("traceback", r.data["stages"]["2"])

    def test_skipped_is_neither_done_nor_failed(self):
        def work(_):
            raise results.Skip("no such thing here")
        self.assertEqual("skipped", self.stage(self.results()).run(work))

    def test_results_of_other_kinds_are_not_mixed(self):
        self.results().save()
        for other in ({"gpu": "H100"}, {"short": False}, {"simulated": False, "sim": None}, {"stand_in": None}):
            with self.assertRaisesRegex(SystemExit, "another kind"):
                self.results(**other)

    def test_half_a_file_is_moved_aside(self):
        with open(self.path, "w", encoding="utf-8") as f:
            f.write('{"meta": {')
        self.assertEqual({}, self.results().data["stages"])
        self.assertTrue(os.path.exists(self.path + ".unreadable"))


class Loops(unittest.TestCase):
    """Servers that are loaded at once."""

    class Fake:
        def __init__(self, error=None):
            self.error = error

        def loop(self, *_, **__):
            if self.error:
                raise RuntimeError(self.error)
            return rate(10.0)

    def test_the_sum_is_of_all_or_there_is_none(self):
        self.assertEqual(20.0, world.total(world.loops([self.Fake(), self.Fake()], 1))["rps"])
        with self.assertRaisesRegex(RuntimeError, "server 2 of 2: RuntimeError: out of memory"):
            world.loops([self.Fake(), self.Fake("out of memory")], 1)


class Replicas(unittest.TestCase):
    def test_a_model_that_fails_leaves_the_others_their_figures(self):
        done = []

        def cells(_, __, model, config, *___):
            if model == "bert":
                raise RuntimeError("no capture")
            done.append(f"{model}.{config}")
        with tempfile.TemporaryDirectory() as folder, mock.patch.object(stage_share, "replicas_cells", cells), \
                mock.patch.object(stage_share, "choose_slice", lambda *_: {"sm": 12}):
            r = results.Results(os.path.join(folder, "results.json"), time.monotonic() + 1000, dict(Kept.META))
            state = results.Stage(r, 3, "replicas", 1000, lambda text: None).run(
                lambda s: stage_share.stage_replicas(mock.Mock(sim=None, replay=False), s, False))
        self.assertEqual("failed", state)
        self.assertIn("vit_huge.ours", done)
        self.assertIn("bert.ours: RuntimeError: no capture", r.data["stages"]["3"]["why"])


class Schema(unittest.TestCase):
    def check(self, value, **rules):
        return schema.problems(value, rules, {"definitions": {"n": {"type": "integer"}}})

    def test_each_rule_can_fail(self):
        self.assertEqual([], self.check(1.5, type="number"))
        self.assertTrue(self.check(True, type="number"))
        self.assertTrue(self.check("1", type=["number", "null"]))
        self.assertTrue(self.check(-1, type="number", minimum=0))
        self.assertTrue(self.check("x", enum=["done"]))
        self.assertTrue(self.check([], minItems=1))
        self.assertTrue(self.check([1, "x"], items={"type": "integer"}))
        self.assertTrue(self.check({}, required=["a"]))
        self.assertTrue(self.check({"a": "x"}, properties={"a": {"$ref": "#/definitions/n"}}))
        self.assertTrue(self.check({"ab": "x"}, patternProperties={"^a": {"type": "number"}}))
        self.assertTrue(self.check({"b": 1}, additionalProperties=False))
        self.assertTrue(self.check({"b": 1}, additionalProperties={"type": "string"}))
        self.assertEqual([], self.check({"a": 1, "b": 2}, properties={"a": {"type": "integer"}}))
        with self.assertRaises(ValueError):
            self.check(1, maximum=3)

    def test_the_file_names_every_stage(self):
        with open(schema.PATH, encoding="utf-8") as f:
            stages = json.load(f)["properties"]["stages"]
        self.assertEqual({str(n) for n in range(12)}, set(stages["properties"]))
        self.assertTrue(schema.check({"meta": Kept.META, "stages": {"12": {}}}))
        self.assertEqual([], schema.check({"meta": Kept.META, "stages": {}}))


def rate(rps, p99=10.0):
    return {"rps": rps, "p99_ms": p99, "p50_ms": p99 / 2, "p95_ms": p99, "n": 1, "count": 100, "errors": 0, "gpu": {}, "sm": 12}


def stage(cells, state="done", why=None):
    return {"cells": cells, "title": "a title", "budget": 100, "state": state, "why": why, "seconds": 1.0, "notes": []}


class Told(unittest.TestCase):
    """The page of a fake run on a GPU."""

    def data(self, **stages):
        meta = {"simulated": False, "sim": None, "gpu": "NVIDIA fake", "build": "build", "short": False,
                "stand_in": None, "notes": None, "when": "now"}
        return {"meta": meta, "stages": {n[1:]: s for n, s in stages.items()}}

    @staticmethod
    def row(data, begin):
        return next(r for r in targets.rows(data) if r[0].startswith(begin))

    def test_a_target_is_met_missed_with_a_reason_or_not_measured_with_one(self):
        cells = {"resnet50.timeshare.1": rate(100.0), "resnet50.timeshare.8": rate(120.0), "resnet50.ours.1": rate(80.0),
                 "resnet50.ours.8": rate(600.0), "resnet50.racing.8": rate(650.0),
                 "resnet50.slice": {"sm": 12, "predicted_rps": 640.0, "alone_rps": {"12": 80.0}}}
        data = self.data(s3=stage(cells), s5=stage({}, "cut", "3 s are left and the next part takes 36"))
        self.assertEqual([], schema.check(data))
        self.assertEqual((5.0, "met"), (self.row(data, "throughput")[1], self.row(data, "throughput")[3]))
        cells["resnet50.ours.8"]["rps"] = 480.0
        row = self.row(data, "throughput")
        self.assertEqual((4.0, "missed"), (row[1], row[3]))
        self.assertIn("8 replicas of 12 % of the SMs", row[4])
        self.assertIn("5.33 times time sharing", row[4]) # 8 x 80 over 120
        self.assertIn("MPS without percentages has 650.0", row[4])
        self.assertEqual(("not measured", "stage 5 is cut: 3 s are left and the next part takes 36"),
                         self.row(data, "SM occupancy")[3:5])
        self.assertEqual(("not measured", "stage 1 was not run"), self.row(data, "hook")[3:5])

    def test_the_mean_is_over_all_models_or_there_is_none(self):
        cells = {f"{m}.{how}.8": rate(rps) for m in stage_share.MODELS_OF_3 for how, rps in (("ours", 500.0), ("timeshare", 100.0))}
        data = self.data(s3=stage(cells))
        self.assertEqual((5.0, "met"), self.row(data, "the same")[1:4:2])
        cells["bert.ours.9"] = rate(5000.0) # time sharing was not measured there
        self.assertEqual(5.0, targets.gain(data, "bert"))
        del cells["vit_huge.ours.8"]
        data["stages"]["3"].update(state="cut", why="no time")
        row = self.row(data, "the same")
        self.assertEqual((None, "not measured"), row[1:4:2])
        self.assertIn("so far bert 5.00", row[4])

    def test_no_gpm_is_a_reason(self):
        cell = {"gpu": {"util": 50.0, "no_gpm": "a sample failed (only root may take one)"}, "rps": {}, "p99_ms": {}}
        data = self.data(s5=stage({"packed": cell, "timeshare0": cell}))
        self.assertIn("only root may take one", self.row(data, "SM occupancy")[4])

    def test_goodput_counts_only_rates_where_little_is_late(self):
        def at(offered, late):
            return {"offered_rps": offered, "good_rps": offered * (1 - late / 100), "late_pct": late, "p99_ms": 5.0,
                    "requests": 1000, "slo_ms": 15}
        cells = {"capacity": 1000.0, "ours.0.9": at(900.0, 0.5), "ours.1": at(1000.0, 1.5), "racing.0.4": at(400.0, 0.0),
                 "racing.0.75": at(750.0, 4.0), "static12.0.4": at(400.0, 30.0), "static24.0.4": at(400.0, 0.4)}
        data = self.data(s11=stage(cells))
        self.assertAlmostEqual(0.99 * 950, targets.good(data, "ours"))
        self.assertAlmostEqual(0.99 * 487.5, targets.good(data, "racing"))
        self.assertEqual(0.0, targets.good(data, "static12"))
        self.assertAlmostEqual(400 * 0.996, targets.good(data, "static24"))
        self.assertAlmostEqual(950 / 487.5, self.row(data, "goodput over MPS")[1])
        del cells["static24.0.4"]
        row = self.row(data, "goodput over the paper")
        self.assertEqual((float("inf"), "met"), (row[1], row[3]))

    def test_every_question_has_an_answer_or_a_reason(self):
        for data, text in ((self.data(), "was not run"),
                           (self.data(s0=stage({"mps": {"there": False, "why": "no MPS here"}})), "no MPS here")):
            rows = questions.rows(data)
            self.assertEqual(9, len(rows))
            self.assertTrue(all(r[2].startswith("not asked: ") for r in rows), rows)
            self.assertIn(text, rows[8][2])
        pair = [{"exit": 0, "green.smid_set": "0 1 2 3 "}, {"exit": 0, "green.smid_set": "2 3 4 5 "}]
        data = self.data(s0=stage({"mps.green_pair": pair, "mps.sms": {"12": 16, "100": 132}}))
        rows = questions.rows(data)
        self.assertEqual("4 and 4 SMs, 2 of them the same", rows[8][2])
        self.assertEqual("SMs by percentage: 12 %: 16, 100 %: 132", rows[3][2])

    def test_a_page_of_nothing_is_a_page(self):
        page = tables.pages(self.data())["README.md"]
        self.assertTrue(page.startswith("# Results: NVIDIA fake"))
        self.assertEqual(10, page.count("| not measured |"))
        self.assertNotIn("simulated", page.replace("time sharing", ""))


if __name__ == "__main__":
    unittest.main()
