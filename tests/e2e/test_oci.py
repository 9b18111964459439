#!/usr/bin/env python3
"""Functions of OCI images the whole way: an image layout, made here of programs of this machine and their libraries,
is added to the store, deployed and called, by crun where it works and without it."""
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import unittest

import store as e2e
import gateway
import node
from gateway import wait_until
from oci_layout import BUSYBOX, DIR, LINK, Program, layer, tar_of, write_layout

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
FAST_RUN = os.path.join(node.BUILD, "src", "cli", "fast-run")
REPLAY = os.path.join(node.BUILD, "functions", "replay")
GPU = {"fastgshare/gpu_quota_request": "0.3", "fastgshare/gpu_quota_limit": "0.5",
       "fastgshare/gpu_sm_partition": "12", "fastgshare/gpu_mem": "1800Mi"}
ROOT = os.geteuid() == 0


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Oci(unittest.TestCase):
    def begin(self, path=None):
        self.node = node.Node(gpus=1, own_users=True, path=path)
        self.addCleanup(self.node.close)
        self.gw = gateway.Gateway(self.node)
        self.addCleanup(self.gw.close)

    def image(self, name, tar, config, *more):
        with tempfile.TemporaryDirectory() as folder:
            write_layout(folder, tar, config)
            subprocess.run([FAST, "image", "--state-dir", self.node.state_dir, "add", name, folder, *more], check=True,
                           capture_output=True)

    def shell(self, **more):
        """An image whose function runs what it is sent by a shell."""
        tools = {f"/bin/{name}": shutil.which(name) for name in ("sh", "cat", "ls", "id", "touch", "sleep", "setsid")}
        self.image("shell", layer({"/usr/bin/fast-run": FAST_RUN, **tools}, {"/work/here": "in the image\n"}),
                   {"Entrypoint": ["/usr/bin/fast-run", "watchdog", "--mode", "classic", "--"], "Cmd": ["/bin/sh"],
                    "Env": ["PATH=/bin:/usr/bin", "OF_IMAGE=yes"], "WorkingDir": "/work"})
        answer = self.gw.post("/system/functions", {"service": "f", "image": "shell", **more})
        self.assertEqual(answer.status, 202, answer.text)
        self.gw.wait_ready()

    def sh(self, script):
        return self.gw.post("/function/f", script.encode()).text

    def levels(self, name="f"):
        return {v["what"]: v for v in self.gw.status(name)["isolationLevels"]}

    def needs_crun(self):
        by = self.levels()["files"]["by"]
        if "in a container of crun" not in by:
            self.skipTest(by)

    def check_view(self):
        self.assertEqual(self.levels()["files"]["level"], "hard")
        self.assertEqual(self.levels()["privileges"]["level"], "hard")
        self.assertEqual(self.levels()["capabilities"]["level"], "hard")
        self.assertEqual(self.sh("cat here; echo $OF_IMAGE"), "in the image\nyes\n")
        status = self.sh("cat /proc/self/status")
        self.assertIn("NoNewPrivs:\t1", status)
        for kind in ("Inh", "Prm", "Eff", "Amb") + (("Bnd",) if ROOT else ()):
            self.assertIn(f"Cap{kind}:\t0000000000000000", status)
        for path in (self.node.path("replicas"), self.node.path("control.sock"), node.HERE, "/root", "/usr/bin/env"):
            self.assertIn("No such file", self.sh(f"ls {path} 2>&1; true"), path)
        self.assertEqual(self.sh("touch /tmp/mine && ls /tmp/mine"), "/tmp/mine\n")
        self.assertRegex(self.sh(f"touch {self.node.path('run', 'mine')} 2>&1; true"), "Read-only|denied")
        self.assertRegex(self.sh("touch /sys/mine 2>&1; true"), "Read-only|denied")
        self.assertEqual(self.sh("cat /var/openfaas/secrets/key"), "value")
        # All functions of an image have the same files.
        self.assertIn("Read-only file system", self.sh("touch /work/mine 2>&1; true"))
        self.assertEqual(self.levels()["read-only files"]["level"], "hard")
        if ROOT:
            self.assertEqual(self.sh("id -u; echo $HOME"), "200001\n/tmp\n")
            self.assertEqual(self.levels()["user"]["level"], "hard")
            self.assertIn("denied", self.sh(f"ls /proc/{self.node.process.pid}/root/ 2>&1; true"))

    def give_secret(self):
        self.gw.post("/system/secrets", {"name": "key", "value": "value", "namespace": "openfaas-fn"})

    def test_what_it_sees(self):
        null = os.stat("/dev/null")
        self.begin()
        self.give_secret()
        self.shell(secrets=["key"])
        self.check_view()
        self.assertEqual(os.stat("/dev/null").st_uid, null.st_uid)
        self.needs_crun()
        self.assertIn("Seccomp:\t2", self.sh("cat /proc/self/status"))
        self.assertEqual(self.sh("for d in /dev/*; do [ -b $d ] && echo $d; done; true"), "")

    def test_without_crun(self):
        folder = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, folder)
        os.chmod(folder, 0o755)
        for name in ("sh", "cat", "id"):
            os.symlink(shutil.which(name), os.path.join(folder, name))
        self.begin(path=folder)
        self.give_secret()
        self.shell(secrets=["key"])
        self.check_view()
        self.assertIn("crun is not used: it is not here" if ROOT else "crun is not used", self.levels()["files"]["by"])

    def test_a_crun_that_fails(self):
        if not ROOT:
            self.skipTest("it is used by root alone")
        folder = tempfile.mkdtemp(dir="/tmp")
        self.addCleanup(shutil.rmtree, folder)
        fake = os.path.join(folder, "crun")  # a fake
        with open(fake, "w", encoding="ascii") as f:
            f.write("#!/bin/sh\necho not today >&2\nexit 1\n")
        os.chmod(fake, 0o755)
        self.begin(path=folder + ":/usr/bin:/bin")
        self.shell()
        if "control group" in self.levels()["processes"]["by"] and self.levels()["processes"]["level"] == "hard":
            self.assertIn("crun is not used: not today", self.levels()["files"]["by"])
        self.assertEqual(self.sh("cat here"), "in the image\n")

    # ---- behind a watchdog that is not in the image ----

    def busybox(self, mode, config, path, texts=(), **more):
        """A function of an image with a static busybox in it and nothing else."""
        if BUSYBOX is None:
            self.skipTest("there is no static busybox here")
        self.begin(path=path)
        tar = tar_of(("bin", DIR), ("bin/busybox", Program(BUSYBOX), {"mode": 0o755}), ("home", DIR), ("tmp", DIR),
                     *[(f"bin/{name}", LINK, {"linkname": "busybox"}) for name in ("sh", "cat", "tr", "echo", "env", "id")],
                     ("etc", DIR), ("etc/passwd", "app:x:1000:1000::/home:/bin/sh\n"), *texts)
        self.image("box", tar, {"Env": ["PATH=/bin", "OF_IMAGE=a b", "LD_LIBRARY_PATH=/opt/lib", "LONG=" + 9000 * "x"],
                                **config}, "--mode", mode)
        answer = self.gw.post("/system/functions", {"service": "f", "image": "box", **more})
        self.assertEqual(answer.status, 202, answer.text)
        self.gw.wait_ready()

    def check_to_zero(self, ask, expected):
        self.assertEqual(self.gw.post("/system/scale-function/f", {"replicas": 0}).status, 202)
        wait_until(lambda: not self.gw.replicas(), "it stays")
        self.assertEqual(ask(), expected)  # and back

    def logs(self):
        return [json.loads(line)["text"] for line in self.gw.get("/system/logs?name=f&tail=200").text.splitlines()]

    def check_classic(self, path):
        self.busybox("classic", {"Entrypoint": ["/bin/sh"], "Cmd": ["-c", "echo told >&2; . /dev/stdin"], "User": "app",
                                 "WorkingDir": "/home"}, path, envVars={"combine_output": "false"})
        self.assertEqual(self.gw.status()["runner"], "classic watchdog")
        self.assertEqual(self.sh("pwd; echo $OF_IMAGE ${#LONG}"), "/home\na b 9000\n")
        self.assertRegex(self.sh("echo $LD_LIBRARY_PATH"), "(^|:)/opt/lib\n")
        by = self.levels()["user"]["by"]
        self.assertIn('; in place of the image\'s, "app"', by)
        if ROOT:
            self.assertTrue(by.startswith("its own"), by)
            self.assertEqual(self.sh("id -u"), "200001\n")
        self.check_to_zero(lambda: self.sh("echo again"), "again\n")
        self.assertTrue(any("told" in line for line in self.logs()), self.logs())

    def check_http(self, path):
        port = free_port()
        self.busybox("http", {"Cmd": ["/bin/busybox", "httpd", "-f", "-vv", "-p", f"127.0.0.1:{port}", "-h", "/www"]}, path,
                     [("www", DIR), ("www/page", "from the image")],
                     envVars={"http_upstream_url": f"http://127.0.0.1:{port}"})
        self.assertEqual(self.gw.status()["runner"], "http watchdog")

        def page():
            answer = self.gw.get("/function/f/page")
            return answer.status, answer.text

        self.assertEqual(page(), (200, "from the image"))
        self.assertEqual(self.gw.get("/function/f/none").status, 404)
        self.check_to_zero(page, (200, "from the image"))
        wait_until(lambda: any("url:/page" in line for line in self.logs()), "its log is not told")

    def test_classic(self):
        self.check_classic(None)

    def test_classic_without_crun(self):
        self.check_classic("/nowhere")
        self.assertIn("crun is not used", self.levels()["files"]["by"])

    def test_http(self):
        self.check_http(None)

    def test_http_without_crun(self):
        self.check_http("/nowhere")

    def test_with_a_gpu(self):
        self.begin()
        self.check_gpu()

    def test_with_a_gpu_without_crun(self):
        self.begin(path="/nowhere")
        self.check_gpu()
        self.assertIn("crun is not used", self.levels("g")["files"]["by"])

    def check_gpu(self):
        models = os.path.join(os.path.dirname(node.HERE), "..", "models")
        with open(os.path.join(models, "gnmt.model"), encoding="utf-8") as f:
            texts = {"/models/gnmt.model": f.read()}
        self.image("gpu", layer({"/usr/bin/replay": REPLAY, "/usr/bin/spin.sim.so": REPLAY[:-6] + "spin.sim.so"}, texts),
                   {"Entrypoint": ["/usr/bin/replay"], "Env": ["MODEL=/models/gnmt.model"]})
        answer = self.gw.post("/system/functions", {"service": "g", "image": "gpu", "annotations": GPU})
        self.assertEqual(answer.status, 202, answer.text)
        self.gw.wait_ready(name="g")
        self.assertEqual(self.gw.post("/function/g").status, 200)
        wait_until(lambda: self.gw.replicas("g")[0]["clients"] == 1, "its hook does not reach the node")
        wait_until(lambda: self.gw.replicas("g")[0]["launches"] > 0, "its hook sees nothing")
        self.assertEqual(self.levels("g")["files"]["level"], "hard")
        if ROOT:
            self.assertEqual(self.levels("g")["user"]["level"], "soft")

    def inner(self, leader):
        """What runs in the container."""
        with open(f"/proc/{leader}/task/{leader}/children", encoding="ascii") as f:
            return int(f.read().split()[0])

    def test_all_of_a_container_ends(self):
        self.begin()
        self.shell()
        self.needs_crun()
        for end in ("killed", "stopped"):
            leader = self.gw.wait_ready()[0]["pid"]
            inner = self.inner(leader)
            self.assertNotEqual(os.getsid(inner), leader)
            left = int(self.sh("setsid sh -c 'echo $$ > /tmp/left; exec sleep 1000 >&- 2>&-' & "
                               "while [ ! -s /tmp/left ]; do :; done; cat /tmp/left"))
            self.assertTrue(node.lives(left))
            if end == "killed":
                os.kill(leader, 9)
                wait_until(lambda pid=leader: self.gw.replicas(state="ready") and self.gw.replicas()[0]["pid"] != pid,
                           "it does not start again")
            else:
                self.gw.ask("DELETE", "/system/functions", {"functionName": "f"})
                wait_until(lambda: not self.gw.replicas(), "it stays")
            for pid in (leader, inner, left):
                wait_until(lambda p=pid: not node.lives(p), f"process {pid} outlives what was {end}")
        self.assertNotIn("SIGKILL", self.node.log())

    def test_what_it_uses(self):
        self.begin()
        self.shell()
        self.needs_crun()
        inner = self.inner(self.gw.replicas()[0]["pid"])
        with open(f"/proc/{inner}/statm", encoding="ascii") as f:
            resident = int(f.read().split()[1]) * os.sysconf("SC_PAGESIZE")
        usage = self.gw.get("/system/function/f?usage=1").json()["usage"]
        self.assertGreaterEqual(usage["totalMemoryBytes"], resident // 2)
        work = threading.Thread(target=self.sh, args=["while [ ! -e /tmp/enough ]; do :; done"])
        work.start()
        try:
            wait_until(lambda: self.gw.get("/system/function/f?usage=1").json()["usage"]["cpu"] > 100, "no CPU is told")
        finally:
            self.sh("touch /tmp/enough")
            work.join()


if __name__ == "__main__":
    e2e.skip_with_asan("programs of an image would need the sanitizer's own library")
    unittest.main()
