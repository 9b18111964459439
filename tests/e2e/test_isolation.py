#!/usr/bin/env python3
"""What stops a hostile function: each test tries one thing and looks at who said no. What the machine does not
allow is reported as such (advisory), and then not asked for."""
import json
import os
import stat
import subprocess
import sys
import tempfile
import unittest

import store as e2e
import gateway
import node
from gateway import wait_until

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
ALPINE = "functions/alpine:latest"
PYTHON = node.python_for_all()
HOSTILE = """
import ctypes, json, os, subprocess, sys, time
what, arg = sys.stdin.read().split("|", 1)
def attempt(fn):
    try:
        return "done: %s" % (fn(),)
    except (OSError, MemoryError) as e:
        return "refused: %s" % e
def grow():
    kept = [bytearray(os.urandom(1 << 20)) for _ in range(int(arg))]
    return len(kept)
print(attempt({
    "grow": grow,
    "setuid": lambda: os.setuid(int(arg)),
    "chown": lambda: os.chown(arg, 1, 1),
    "chroot": lambda: os.chroot(arg),
    "list": lambda: sorted(os.listdir(arg)),
    "read": lambda: open(arg).read(),
    "open to write": lambda: os.close(os.open(arg, os.O_WRONLY)),
    "run": lambda: subprocess.run(arg.split(), capture_output=True, text=True).stdout,
    "make": lambda: os.close(os.open(arg, os.O_WRONLY | os.O_CREAT)),
    "remove": lambda: os.unlink(arg),
    "status": lambda: open("/proc/self/status").read(),
    "memory_of": lambda: open("/proc/%s/mem" % arg, "rb"),
}[what]))
"""
FORKS = """
import os, signal, time
pids = []
try:
    for _ in range(60):
        pid = os.fork()
        if not pid:
            time.sleep(20)
            os._exit(0)
        pids.append(pid)
except OSError as e:
    print("refused", e)
print("children", len(pids))
for pid in pids:
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
"""


def groups_of(pid):
    """The folders of control groups that are this process's own."""
    with open("/proc/self/mountinfo", encoding="ascii") as f:
        points = [line.split()[4] for line in f if " - cgroup" in line]
    return [os.path.join(at, f"fast-{pid}") for point in points for at, dirs, _ in os.walk(point)
            if f"fast-{pid}" in dirs]


class Isolation(gateway.TestCase):
    own_users = True

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        fd, cls.script = tempfile.mkstemp(suffix=".py")
        cls.addClassCleanup(os.unlink, cls.script)
        with os.fdopen(fd, "w", encoding="ascii") as f:
            f.write(HOSTILE)
            os.fchmod(fd, 0o644)
        cls.gw.post("/system/secrets", {"name": "others", "value": "not yours", "namespace": "openfaas-fn"})
        spec = {"service": "hostile", "image": ALPINE, "envProcess": f"{PYTHON} {cls.script}",
                "limits": {"memory": "64Mi", "cpu": "500m"}}
        answer = cls.gw.post("/system/functions", spec)
        assert answer.status == 202, answer.text
        wait_until(lambda: cls.status().get("availableReplicas"), "it does not start")

    @classmethod
    def status(cls):
        return cls.gw.get("/system/function/hostile").json()

    def pid(self):
        return [r for r in self.gw.get("/system/replicas").json() if r["function"] == "hostile"][0]["pid"]

    def levels(self):
        return {v["what"]: v for v in self.status()["isolationLevels"]}

    def attempt(self, what, arg):
        return self.gw.post("/function/hostile", f"{what}|{arg}".encode()).text

    def test_rights(self):
        self.assertEqual(self.levels()["privileges"]["level"], "hard")
        self.assertEqual(self.levels()["capabilities"]["level"], "hard")
        status = self.attempt("status", "-")
        self.assertIn("NoNewPrivs:\t1", status)
        self.assertIn("CapEff:\t0000000000000000", status)
        self.assertIn("CapBnd:\t0000000000000000" if os.geteuid() == 0 else "CapBnd:", status)
        self.assertIn("refused", self.attempt("setuid", "1"))  # even root's: it has no CAP_SETUID
        self.assertIn("refused", self.attempt("chown", self.script))
        self.assertIn("refused", self.attempt("chroot", "/tmp"))

    def test_no_descriptor_is_handed_down(self):
        pid = self.pid()
        kinds = {os.readlink(f"/proc/{pid}/fd/{n}") for n in os.listdir(f"/proc/{pid}/fd")}
        state = [k for k in kinds if k.startswith(self.node.state_dir)]
        self.assertTrue(all(k.endswith(".log") for k in state), kinds)

    def test_secrets_of_others(self):
        secrets = os.path.join(self.node.state_dir, "secrets")
        self.assertTrue(os.listdir(secrets))
        if self.levels()["files"]["level"] == "advisory":
            self.skipTest(self.levels()["files"]["by"])
        self.assertIn("refused", self.attempt("list", secrets))

    def test_the_state_directory(self):
        if self.levels()["files"]["level"] == "advisory":
            self.skipTest(self.levels()["files"]["by"])
        self.assertTrue(os.path.exists(self.node.path("replicas")))
        self.assertEqual(self.attempt("list", self.node.state_dir), "done: ['run']\n")
        self.assertIn("node.sock", self.attempt("list", self.node.path("run")))
        for name in ("async.db", "gateway.db", "control.sock", "logs", "replicas"):
            self.assertIn("No such file", self.attempt("read", self.node.path(name)), name)
        self.assertIn("refused", self.attempt("make", self.node.path("control.sock")))
        self.assertNotIn("replicas", self.attempt(
            "run", f"unshare --map-root-user --mount sh -c umount${{IFS}}-l${{IFS}}{self.node.state_dir};"
                   f"ls${{IFS}}{self.node.state_dir}"))
        # Nobody else's way to the node can be taken away.
        self.assertIn("refused", self.attempt("make", self.node.path("run", "mine")))
        self.assertIn("refused", self.attempt("remove", self.node.path("run", "node.sock")))
        self.assertTrue(os.path.exists(self.node.path("run", "node.sock")))
        # Nor by way of the node's own view.
        root = f"/proc/{self.node.process.pid}/root{self.node.state_dir}"
        self.assertIn("refused", self.attempt("list", root))

    def test_an_environment_that_names_what_it_must_not_see(self):
        if self.levels()["files"]["level"] == "advisory":
            self.skipTest(self.levels()["files"]["by"])
        env = {name: self.node.path("secrets") for name in ("FAST_SIM_DIR", "CUDA_MPS_PIPE_DIRECTORY")}
        env["LD_LIBRARY_PATH"] = self.node.path("logs")
        spec = {"service": "curious", "image": ALPINE, "envProcess": f"ls {self.node.state_dir}", "envVars": env}
        self.assertEqual(self.gw.post("/system/functions", spec).status, 202)
        wait_until(lambda: self.gw.get("/system/function/curious").json().get("availableReplicas"), "it does not start")
        self.assertEqual(self.gw.post("/function/curious").text, "run\n")

    def test_files_of_the_kernel(self):
        if os.geteuid():
            self.skipTest("they are root's")
        for path in ["/proc/sys/kernel/core_pattern", "/proc/sysrq-trigger"] + [
                os.path.join(os.path.dirname(g), "cgroup.procs") for g in groups_of(self.pid())]:
            self.assertIn("refused", self.attempt("open to write", path))

    def test_disks(self):
        if os.geteuid() or self.levels()["files"]["level"] == "advisory":
            self.skipTest("a user's rights keep them" if os.geteuid() else self.levels()["files"]["by"])
        for entry in os.scandir("/dev"):
            if stat.S_ISBLK(entry.stat(follow_symlinks=False).st_mode):
                self.assertEqual(self.attempt("read", entry.path), "done: \n", entry.path)

    def test_read_only(self):
        spec = {"service": "reader", "image": ALPINE, "envProcess": "sh", "readOnlyRootFilesystem": True,
                "annotations": {"fastgshare/socket": "unix"}}
        self.assertEqual(self.gw.post("/system/functions", spec).status, 202)

        def levels():
            return {v["what"]: v for v in self.gw.get("/system/function/reader").json().get("isolationLevels") or []}

        wait_until(levels, "it does not start")

        def sh(script):
            return self.gw.post("/function/reader", script.encode()).text

        level = levels()["read-only files"]
        self.assertEqual(self.levels()["read-only files"]["level"], "advisory")
        self.assertEqual(sh("touch /tmp/mine && ls /tmp/mine"), "/tmp/mine\n")
        if level["level"] == "advisory":
            self.skipTest(level["by"])
        self.assertFalse(os.path.exists("/tmp/mine"))
        home = os.path.dirname(os.path.abspath(__file__))
        for folder in ("/", "/etc", "/var", "/usr", "/dev", "/sys", home):
            self.assertIn("Read-only file system", sh(f"touch {folder}/fast-mark 2>&1; true"), folder)
        self.assertIn("No such file", sh(f"ls {self.node.path('replicas')} 2>&1; true"))
        self.assertEqual(sh("echo x > /dev/null && echo x > /dev/shm/fast-mark && rm /dev/shm/fast-mark; echo $?"),
                         "0\n")

    def test_the_memory_of_the_node(self):
        if os.geteuid() == 0:  # as root it is the missing capabilities that say no; else the kernel's own rule for ptrace
            self.assertIn("refused", self.attempt("memory_of", self.node.process.pid))

    def test_memory(self):
        self.assertIn("done: 8", self.attempt("grow", "8"))
        if self.levels()["memory"]["level"] == "advisory":
            self.skipTest(self.levels()["memory"]["by"])
        self.assertNotIn("done", self.attempt("grow", "100"))
        wait_until(lambda: self.status().get("availableReplicas"), "it does not come back")
        wait_until(lambda: "done: 8" in self.attempt("grow", "8"), "it does not answer again")

    def test_processes(self):
        run = subprocess.Popen([FAST, "isolate", "--pids", "20", "--", sys.executable, "-c", FORKS],
                               stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        out, err = run.communicate(timeout=node.WAIT_S)
        for folder in groups_of(run.pid):  # as the node does for its replicas
            os.rmdir(folder)
        if "processes" not in err:
            self.skipTest("no control group for processes here")
        self.assertIn("refused", out)
        self.assertLess(int(out.split()[-1]), 20)

    def test_groups_go_with_the_replica(self):
        spec = {"service": "short", "image": ALPINE, "envProcess": "cat", "limits": {"memory": "64Mi"}}
        self.assertEqual(self.gw.post("/system/functions", spec).status, 202)

        def row():
            return [r for r in self.gw.get("/system/replicas").json() if r["function"] == "short" and r.get("pid")]

        wait_until(row, "it does not start")
        pid = row()[0]["pid"]
        self.gw.ask("DELETE", "/system/functions", {"functionName": "short"})
        wait_until(lambda: not row() and not os.path.exists(f"/proc/{pid}"), "it stays")
        wait_until(lambda: not groups_of(pid), "its groups stay")

    def test_what_describe_says(self):
        env = dict(os.environ, OPENFAAS_URL=f"http://127.0.0.1:{self.gw.port}")
        text = subprocess.run([FAST, "describe", "hostile"], env=env, capture_output=True, text=True, check=True).stdout
        for level in self.status()["isolationLevels"]:
            self.assertIn(level["what"], text)
            self.assertIn(level["by"], text)
            self.assertIn(level["level"], ("hard", "soft", "advisory"))

    def test_limits_that_are_none(self):
        for key in ("limits", "requests"):
            for quantities, field in (({"memory": "lots"}, "memory"), ({"memory": "64Qx"}, "memory"),
                                      ({"cpu": "-1"}, "cpu"), ({"cpu": "0m"}, "cpu"), ({"cpu": "1Qx"}, "cpu")):
                answer = self.gw.post("/system/functions", {"service": "bad", "image": ALPINE, "envProcess": "cat",
                                                            key: quantities})
                self.assertEqual(answer.status, 400, json.dumps({key: quantities}))
                self.assertIn(f"{key}.{field}", answer.text)


if __name__ == "__main__":
    e2e.skip_with_asan("a program with AddressSanitizer does not start within the limits of memory")
    if PYTHON is None:
        sys.exit(77)  # functions here have users of their own, and none of them may run a Python of this machine
    unittest.main()
