#!/usr/bin/env python3
"""`fast up` and the commands beside it, as somebody at a terminal has them."""
import json
import os
import re
import signal
import stat
import subprocess
import tempfile
import time
import unittest

import node
import stack
import wire

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
SEVEN = os.path.join(node.HERE, "..", "..", "functions", "digits", "seven.pgm")


class Up:
    """A running `fast up`. Its children are found by the state directory in their arguments."""

    def __init__(self, case, sim="v100-16gb", sim_dir=True):
        folder = tempfile.TemporaryDirectory(prefix="fast-", dir="/tmp")
        case.addCleanup(folder.cleanup)
        self.root = folder.name
        self.state_dir = os.path.join(self.root, "state")
        self.port = stack.free_port()
        self.env = dict(os.environ, FAST_SIM_DIR=os.path.join(self.root, "sim"),
                        OPENFAAS_URL=f"http://127.0.0.1:{self.port}")
        if not sim_dir:
            self.env.pop("FAST_SIM_DIR")
        self.log = open(os.path.join(self.root, "up.log"), "w+", encoding="utf-8")
        case.addCleanup(self.log.close)
        self.process = subprocess.Popen(self.command(sim), stdout=self.log, stderr=self.log,
                                        env=self.env)
        case.addCleanup(self.stop)
        node.wait_until(lambda: "Ctrl-C" in self.text(), "fast up is not ready")

    def command(self, sim="v100-16gb", state_dir=None, port=None):
        return [FAST, "up", f"--sim={sim}", "--state-dir", state_dir or self.state_dir,
                "--listen", f"127.0.0.1:{port or self.port}",
                "--metrics", f"127.0.0.1:{stack.free_port()}",
                "--images", stack.FUNCTIONS, f"--gateway-option=--access-log={self.root}/access.log"]

    def text(self):
        with open(self.log.name, encoding="utf-8") as f:
            return f.read()

    def fast(self, *args):
        """Returns (exit status, stdout, stderr)."""
        done = subprocess.run([FAST, *args], env=self.env, capture_output=True, text=True,
                              timeout=node.WAIT_S * 2, stdin=subprocess.DEVNULL, check=False)
        return done.returncode, done.stdout, done.stderr

    def good(self, *args):
        status, out, err = self.fast(*args)
        assert status == 0, (args, status, out, err)
        return out

    def json(self, *args):
        return json.loads(self.good(*args, "--json"))

    def pid(self, program):
        """Of fast-node or fast-gateway, 0 when it is dead."""
        for entry in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{entry}/cmdline", encoding="utf-8", errors="replace") as f:
                    argv = f.read().split("\0")
            except OSError:
                continue
            if argv[0].endswith("/" + program) and self.state_dir in argv and node.lives(entry):
                return int(entry)
        return 0

    def stop(self, sig=signal.SIGINT):
        if self.process.poll() is None:
            self.process.send_signal(sig)
        try:
            return self.process.wait(node.WAIT_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
            raise


class UpTest(unittest.TestCase):
    def setUp(self):
        self.up = Up(self)

    def deploy(self):
        # In a build with AddressSanitizer the preloaded hook comes before its runtime.
        self.up.good("deploy", "digits", "--sm", "12", "--quota", "0.3", "-e",
                     wire.ASAN)
        self.invoke()
        return self.replica()["pid"]

    def replica(self):
        rows = self.up.json("describe", "digits")["replicaList"]
        self.assertEqual(len(rows), 1, rows)
        return rows[0]

    def test_tells_what_limits_are_worth(self):
        self.deploy()
        limits = re.compile(r"Limits: +GPU 0: SMs (hard|soft|advisory) \((\S+)\), time soft, memory soft\n")
        found = limits.search(self.up.good("describe", "digits"))
        self.assertTrue(found)
        holds, backend = found.groups()
        self.assertEqual(holds, "advisory" if backend == "none" else "soft")
        row = self.up.good("gpu").splitlines()[1]
        self.assertIn(backend, row.split())
        self.assertIn(f"{holds}/soft/soft", row.split())

    def invoke(self):
        def answer():
            status, out, _ = self.up.fast("invoke", "digits", SEVEN)
            return status == 0 and json.loads(out)["digit"] == 7
        node.wait_until(answer, "no answer of digits")

    def test_daemons_that_die_in_any_order_take_no_function_along(self):
        pid = self.deploy()
        for pause in (0, 0.01, 0.1, 0):  # more deaths within a minute than any patience
            for first, second in (("fast-gateway", "fast-node"), ("fast-node", "fast-gateway")):
                was = {name: self.up.pid(name) for name in (first, second)}
                self.assertTrue(all(was.values()), was)
                os.kill(was[first], signal.SIGKILL)
                time.sleep(pause)
                os.kill(was[second], signal.SIGKILL)
                for name in was:
                    node.wait_until(lambda n=name: self.up.pid(n) not in (0, was[n]),
                                    f"{name} does not come back")
                self.invoke()
        self.assertIsNone(self.up.process.poll(), self.up.text())

        def adopted():
            status, out, _ = self.up.fast("describe", "digits", "--json")
            rows = json.loads(out)["replicaList"] if status == 0 else []
            return [(r["pid"], r["state"], r["restarts"]) for r in rows] == [(pid, "ready", 0)]
        node.wait_until(adopted, "the replica was not adopted")

    def test_ctrl_c_leaves_no_process(self):
        pid = self.deploy()
        self.assertEqual(self.up.json("describe", "digits")["slice"]["sm_pct"], 12)
        pids = [pid, self.up.pid("fast-node"), self.up.pid("fast-gateway")]
        self.assertEqual(self.up.stop(), 0)
        self.assertEqual([p for p in pids if node.lives(p)], [])
        left = [n for n in os.listdir(self.up.state_dir)
                if stat.S_ISSOCK(os.lstat(os.path.join(self.up.state_dir, n)).st_mode)]
        self.assertEqual(left, [])

    def test_options_of_the_gateway(self):
        up = Up(self)
        up.good("ls")

        def logged():
            with open(os.path.join(up.root, "access.log"), encoding="utf-8") as f:
                return [json.loads(line)["target"] for line in f]

        node.wait_until(lambda: any(t.startswith("/system/functions") for t in logged()))

    @unittest.skipIf(os.geteuid(), "only root may look into the node")
    def test_state_directories_share_no_simulated_gpu(self):
        def sim_dir(up):
            with open(f"/proc/{up.pid('fast-node')}/maps", encoding="utf-8") as f:
                return next(os.path.dirname(line.split()[-1]) for line in f
                            if "/dev/shm/fast-sim-" in line)
        ups = [Up(self, sim_dir=False) for _ in range(2)]
        dirs = [sim_dir(up) for up in ups]
        self.assertNotEqual(*dirs)
        for up in ups:
            self.assertEqual(up.stop(), 0)
        self.assertEqual([d for d in dirs if os.path.exists(d)], [])

    def test_environments_of_functions_are_not_for_everybody(self):
        self.deploy()
        for name in ("gateway.db", "gateway.db-wal"):
            mode = os.stat(os.path.join(self.up.state_dir, name)).st_mode
            self.assertEqual(stat.S_IMODE(mode) & 0o077, 0, name)

    def test_a_second_one_is_refused(self):
        other = self.up.root + "/other"
        for args, status, want in (
                (self.up.command(port=stack.free_port()), 1, "fast-node runs in"),
                (self.up.command(state_dir=other), 1, "answers at"),
                (self.up.command("v100", other, stack.free_port()), 2, "a100-40gb"),
                (self.up.command("v100-16gb:9", other, stack.free_port()), 2, "from 1 to 8")):
            done = subprocess.run(args, env=self.up.env, capture_output=True, text=True,
                                  timeout=node.WAIT_S, check=False)
            self.assertEqual(done.returncode, status, args)
            self.assertIn(want, done.stderr)
        self.assertEqual(self.up.json("ls"), [])

    def test_a_stack_with_one_bad_function_changes_nothing(self):
        path = os.path.join(self.up.root, "stack.yml")
        for bad in ('annotations: {fastgshare/gpu_sm_partition: "0"}',
                    'annotations: {fastgshare/gpu_sm_partition: "9", fastgshare/gpu_mem: "64Gi"}',
                    'secrets: [none]'):
            with open(path, "w", encoding="utf-8") as f:
                f.write("functions:\n  good:\n    image: digits\n"
                        f"  bad:\n    image: digits\n    {bad}\n")
            status, _, err = self.up.fast("deploy", "-f", path)
            self.assertEqual(status, 2)
            self.assertIn("bad: ", err)
            self.assertIn("nothing was deployed", err)
            self.assertEqual(self.up.json("ls"), [])

    def test_a_stack_names_gateway_and_files(self):
        path = os.path.join(self.up.root, "stack.yml")
        files = [os.path.join(self.up.root, n) for n in ("one.yml", "two.yml")]
        for name, text in zip(files, ("{A: one, B: one}", "{B: two, C: two, D: two}")):
            with open(name, "w", encoding="utf-8") as f:
                f.write(f"environment: {text}\n")
        with open(path, "w", encoding="utf-8") as f:
            f.write(f"provider: {{name: openfaas, gateway: 'http://127.0.0.1:{self.up.port}/'}}\n"
                    "functions:\n  f:\n    image: digits\n    environment: {D: own}\n"
                    f"    environment_file: [{', '.join(files)}]\n    labels: {{com.openfaas.scale.min: '0'}}\n")
        self.up.env["OPENFAAS_URL"] = "http://127.0.0.1:1"
        self.up.good("deploy", "-f", path)
        self.assertEqual(self.up.fast("-g", "http://127.0.0.1:1", "deploy", "-f", path)[0], 2)
        self.assertEqual(self.up.fast("deploy", "-g", "http://127.0.0.1:1", "-f", path)[0], 3)
        self.up.env["OPENFAAS_URL"] = f"http://127.0.0.1:{self.up.port}"
        self.assertEqual(self.up.json("describe", "f")["envVars"],
                         {"A": "one", "B": "two", "C": "two", "D": "own"})

    def test_a_device_that_is_not_known_leaves_nothing(self):
        with tempfile.TemporaryDirectory() as root:
            state = os.path.join(root, "state")
            done = subprocess.run([FAST, "up", "--sim=foo", "--state-dir", state], capture_output=True, text=True,
                                  check=False, timeout=node.WAIT_S)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn("v100-16gb", done.stderr)
            self.assertFalse(os.path.exists(state))

    def test_what_is_not_there(self):
        for args in (["logs", "none"], ["describe", "none"], ["rm", "none"], ["scale", "none", "1"],
                     ["invoke", "none"]):
            status, out, err = self.up.fast(*args)
            self.assertEqual((status, out), (1, ""), args)
            self.assertIn("none", err)
            status, out, err = self.up.fast(*args, "--json")
            self.assertEqual((status, out), (1, ""), args)
            self.assertEqual(json.loads(err)["status"], 1)
            self.assertTrue(json.loads(err)["error"])
        for args in (["lss"], ["ls", "--none"], ["scale", "digits", "many"]):
            status, out, err = self.up.fast(*args, "--json")
            self.assertEqual((status, out, json.loads(err)["status"]), (2, "", 2), args)


if __name__ == "__main__":
    unittest.main()
