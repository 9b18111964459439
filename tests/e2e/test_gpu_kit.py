"""The GPU kit, rehearsed on the simulated GPU from the tree that `make gpu-kit` makes: every stage in its
short form, killed in the middle, gone on with, and reported."""
import glob
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
import unittest
import xml.etree.ElementTree

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
BUILD = os.environ["FAST_BUILD"]
MAKE = os.path.join(ROOT, "tools", "make-gpu-kit.py")
sys.path.insert(0, os.path.join(ROOT, "bench", "gpu"))

from gpukit import schema  # noqa: E402

STAGES = set(map(str, range(12)))


def setUpModule():
    with open(os.path.join(BUILD, "src/simdriver/libcuda.so.1"), "rb") as f:
        if b"__asan_init" in f.read():
            raise unittest.SkipTest("a kit is not made of a build with ASan")


def until(condition, what, seconds=240):
    end = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > end:
            raise AssertionError(f"not within {seconds} s: {what if isinstance(what, str) else what()}")
        time.sleep(0.05)


def users_of(folder):
    """{number: command line} of the processes whose environment names |folder|."""
    out = {}
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f, open(f"/proc/{pid}/cmdline", encoding="utf-8") as c:
                if folder.encode() in f.read():
                    out[int(pid)] = c.read().replace("\0", " ")
        except OSError:
            pass
    return out


def all_gone(folder):
    """Until no process of the run is left; what is, and why, when it takes too long."""
    def told():
        logs = []
        for path in glob.glob(f"/tmp/{folder}*/w*/node.log"):
            with open(path, encoding="utf-8", errors="replace") as f:
                logs.append(f.read()[-1500:])
        return f"left of {folder}: {users_of(folder)}\n" + "\n".join(logs)
    until(lambda: not users_of(folder), told)


class GpuKit(unittest.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.temp = tempfile.mkdtemp(prefix="fast-kit-")
        cls.addClassCleanup(shutil.rmtree, cls.temp)
        cls.kit, cls.out = os.path.join(cls.temp, "kit"), os.path.join(cls.temp, "out")
        r = subprocess.run([sys.executable, MAKE, BUILD, cls.kit, "--no-kernels"], capture_output=True, text=True,
                           check=False)
        assert r.returncode == 0, r.stdout + r.stderr
        cls.made = r.stdout
        # As on a machine that knows nothing of this one.
        cls.env = {k: v for k, v in os.environ.items() if k not in ("FAST_BUILD", "LD_LIBRARY_PATH", "FAST_SIM")}

    def start(self, *argv, **env):
        log = tempfile.TemporaryFile("w+")
        self.addCleanup(log.close)
        p = subprocess.Popen([os.path.join(self.kit, "run"), *argv], stdin=subprocess.DEVNULL, stdout=log, stderr=log,
                             env=dict(self.env, **env), cwd="/")
        p.log = log
        self.addCleanup(lambda: p.poll() is None and p.kill())
        return p

    @staticmethod
    def output(p):
        p.log.seek(0)
        return p.log.read()

    def finish(self, p, rc, seconds=500):
        try:
            p.wait(seconds)
        except subprocess.TimeoutExpired:
            self.fail("it does not end: " + self.output(p))
        text = self.output(p)
        self.assertEqual(rc, p.returncode, text)
        return text

    def results(self, out=None):
        try:
            with open(os.path.join(out or self.out, "results.json"), encoding="utf-8") as f:
                return json.load(f)
        except FileNotFoundError:
            return {"meta": {}, "stages": {}}

    @staticmethod
    def cells(data):
        return {(n, k): v for n, stage in data["stages"].items() for k, v in stage["cells"].items()}

    @staticmethod
    def folder_of(p):
        return f"gpukit-{p.pid}-"

    def test_1_the_tree_is_small_and_says_how_much(self):
        self.assertRegex(self.made, r"kit: \d+\.\d MB, of it \d+\.\d MB built beforehand for glibc 2\.\d+; commit ")
        r = subprocess.run([sys.executable, MAKE, BUILD, self.kit + "2", "--no-kernels", "--limit", "1"],
                           capture_output=True, text=True, check=False)
        self.assertNotEqual(0, r.returncode)
        self.assertIn("more than 1 MB", r.stderr)

    def test_2_killed_gone_on_with_and_whole(self):
        argv = ("--sim", "--short", "--minutes", "0", "--out", self.out)
        first = self.start(*argv)
        until(lambda: first.poll() is not None or self.results()["stages"].get("2", {}).get("cells"), "stage 2 begins")
        self.assertIsNone(first.poll(), self.output(first))
        first.kill()
        first.wait()
        kept = self.results()
        self.assertEqual([], schema.check(kept))
        self.assertLess(len(kept["stages"]), len(STAGES))

        text = self.finish(self.start(*argv), 0)
        self.assertIn("PyTorch is replaced by functions/replay", text)
        self.assertIn("every figure is the simulator's, and none is a GPU's", text)
        data = self.results()
        self.assertEqual([], schema.check(data))
        self.assertEqual({n: "done" for n in STAGES}, {n: s["state"] for n, s in data["stages"].items()})
        self.assertEqual("functions/replay", data["meta"]["stand_in"])
        cells = self.cells(data)
        for key, value in self.cells(kept).items():
            self.assertEqual(value, cells[key], key)
        all_gone(self.folder_of(first))
        self.assertEqual([], [n for n in os.listdir("/tmp") if n.startswith(self.folder_of(first))])

    def test_3_one_stage_again_and_no_other(self):
        before = self.cells(self.results())
        self.assertTrue(before)
        text = self.finish(self.start("--sim", "--short", "--only", "10", "--out", self.out), 0)
        self.assertNotIn("kernels 50", text) # it was there
        text = self.finish(self.start("--sim", "--short", "--only", "10", "--again", "--out", self.out), 0)
        self.assertIn("kernels 50", text)
        self.assertEqual(before, self.cells(self.results()))
        text = self.finish(self.start("--sim", "a100-40gb", "--short", "--only", "10", "--out", self.out), 1)
        self.assertIn("name another --out", text)

    def test_4_the_report(self):
        pages = os.path.join(self.temp, "pages")
        r = subprocess.run([sys.executable, os.path.join(self.kit, "bench/gpu/report"),
                            os.path.join(self.out, "results.json"), pages], capture_output=True, text=True, check=False)
        self.assertEqual(0, r.returncode, r.stderr)
        folder = os.path.join(pages, "simulated-v100-16gb")
        names = os.listdir(folder)
        with open(os.path.join(folder, "README.md"), encoding="utf-8") as f:
            page = f.read()
        self.assertIn("**No figure on this page is a GPU's.**", page)
        for number in STAGES:
            self.assertRegex(page, rf"(?m)^## {number}\. .*\(simulated\)$")
        images = [n for n in names if n.endswith(".svg")]
        self.assertGreaterEqual(len(images), 4)
        for name in images:
            self.assertTrue(name.startswith("simulated-"), name)
            self.assertTrue(xml.etree.ElementTree.parse(os.path.join(folder, name)).getroot().tag.endswith("svg"))
            self.assertIn(f"({name})", page)
        targets = page.split("## Targets")[1].split("##")[0]
        rows = [line.split("|")[1:-1] for line in targets.splitlines() if line.startswith("| ")][1:]
        self.assertEqual(10, len(rows), targets)
        for row in rows:
            self.assertIn(row[3].strip(), ("met", "missed", "not measured"))
            self.assertTrue(row[3].strip() == "met" or row[4].strip(), f"no reason: {row}")
        questions = page.split("## The nine questions")[1].split("\n##")[0]
        self.assertEqual(9, sum(line.startswith("| ") for line in questions.splitlines()) - 1, questions)

    def test_5_a_signal_ends_it_with_what_there_is(self):
        out = os.path.join(self.temp, "ended")
        p = self.start("--sim", "--short", "--only", "3,11,5,8,4,6", "--out", out)
        until(lambda: p.poll() is not None or self.results(out)["stages"].get("3", {}).get("cells"), "a cell is there")
        p.terminate()
        self.assertIn("ended by SIGTERM; what was measured is kept", self.finish(p, 4))
        self.assertEqual([], schema.check(self.results(out)))
        all_gone(self.folder_of(p))

    def test_6_the_time_ends_before_the_stages(self):
        out = os.path.join(self.temp, "late")
        text = self.finish(self.start("--sim", "--short", "--from", "7", "--minutes", "0.01", "--out", out), 3)
        self.assertIn("no time is left", text)

    def test_8_the_way_of_a_real_machine(self):
        """Without --sim, a driver that the loader finds by itself, images of an nvcc that the driver does not
        take, images built beforehand, and a fake PyTorch: what differs on a GPU from the simulation, as far as
        it can be seen without one."""
        if os.path.exists("/dev/nvidiactl"):
            self.skipTest("this machine has a GPU")
        build, out = os.path.join(self.temp, "as-built"), os.path.join(self.temp, "real")
        prebuilt = os.path.join(self.kit, "prebuilt")
        shutil.copytree(prebuilt, build)
        for image in ("functions/spin.fatbin", "functions/digits.fatbin", "bench/gpu/probe.fatbin"):
            with open(os.path.join(build, image), "w", encoding="utf-8") as f:
                f.write("too new")
            shutil.copy(os.path.join(prebuilt, "functions/spin.sim.so"), os.path.join(prebuilt, image))
        driver = os.path.join(build, "src/simdriver")
        p = self.start("--short", "--only", "0,1,6,10", "--minutes", "0", "--build", build, "--out", out,
                       LD_LIBRARY_PATH=driver, FAST_SIM="h100-80gb", FAST_SIM_DIR=os.path.join(self.temp, "gpu"),
                       PATH=driver + os.pathsep + self.env["PATH"], FAKE_TORCH_CUDA="1",
                       PYTHONPATH=os.path.join(self.kit, "tests", "fake_torch"))
        text = self.finish(p, 0)
        self.assertIn("the driver that this machine's loader finds is the simulated one: no figure is a GPU's", text)
        self.assertRegex(text, "does not take the kernels of this machine's nvcc .*: those built beforehand are used")
        self.assertNotIn("replaced by", text)
        data = self.results(out)
        self.assertEqual([], schema.check(data))
        self.assertTrue(data["meta"]["simulated"])
        self.assertEqual("0.fake", data["stages"]["0"]["cells"]["machine"]["torch"])
        self.assertEqual({"there": True, "why": None}, data["stages"]["0"]["cells"]["mps"])
        hook = data["stages"]["1"]["cells"]
        self.assertEqual({"resnet50.graph", "resnet50.eager"}, set(hook))
        self.assertTrue(all(c["same_output"] for c in hook.values()))
        self.assertGreater(data["stages"]["6"]["cells"]["ramp"]["ok"], 0)
        self.assertIsNone(data["stages"]["10"]["cells"]["resnet50"]["refused"])

    def test_7_without_a_driver_it_says_so(self):
        if os.path.exists("/dev/nvidiactl"):
            self.skipTest("this machine has a GPU")
        p = self.start("--build", os.path.join(self.kit, "prebuilt"), "--out", os.path.join(self.temp, "none"))
        self.assertIn("no NVIDIA driver", self.finish(p, 1))


if __name__ == "__main__":
    unittest.main()
