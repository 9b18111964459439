#!/usr/bin/env python3
"""Functions with users of their own, which takes root: what such a user may not do, and that all it needs is within
its reach."""
import os
import sys
import unittest

import gateway
import node
import wire
from gateway import wait_until

ALPINE = "functions/alpine:latest"
RANGE = (300000, 300003)
GPU = {"fastgshare/gpu_quota_request": "0.3", "fastgshare/gpu_quota_limit": "0.5",
       "fastgshare/gpu_sm_partition": "12", "fastgshare/gpu_mem": "1800Mi"}
PYTHON = node.python_for_all()


def owner(path):
    it = os.stat(path)
    return it.st_uid, it.st_gid


class Users(unittest.TestCase):
    def setUp(self):
        self.node = node.Node(gpus=1, args=["--function-users", "%d-%d" % RANGE], own_users=True)
        self.addCleanup(self.node.close)
        self.gw = gateway.Gateway(self.node)
        self.addCleanup(self.gw.close)
        self.assertNotIn("functions have the node's user", self.node.log())

    def deploy(self, name, **more):
        spec = {"service": name, "image": ALPINE, "envProcess": "sh", **more}
        spec["envVars"] = {**wire.ASAN_ENV, **spec.get("envVars", {})}
        answer = self.gw.post("/system/functions", spec)
        self.assertEqual(answer.status, 202, answer.text)
        self.gw.wait_ready(name=name)

    def sh(self, name, script):
        return self.gw.post(f"/function/{name}", script.encode()).text

    def pid(self, name):
        return self.gw.replicas(name)[0]["pid"]

    def level(self, name):
        return {v["what"]: v for v in self.gw.status(name)["isolationLevels"]}["user"]

    def test_each_has_its_own(self):
        self.deploy("a")
        self.deploy("b")
        self.assertEqual(self.sh("a", "id -u; id -g; id -G"), "300001\n300000\n300000\n")
        self.assertEqual(self.sh("b", "id -u"), "300002\n")
        self.assertEqual((self.level("a")["level"], self.level("a")["by"]), ("hard", "its own"))
        a, b = self.pid("a"), self.pid("b")
        for script in (f"kill -9 {b}", f"kill -0 {self.node.process.pid}", f"cat /proc/{b}/environ",
                       f"cat /proc/{self.node.process.pid}/environ", f"ls /proc/{b}/root/", f"ls /proc/{b}/fd",
                       f"cat /proc/{b}/mem"):
            self.assertRegex(self.sh("a", f"{script} 2>&1; true"), "not permitted|denied", script)
        self.assertTrue(node.lives(b))
        # What the one leaves in folders for all is closed to the other, or not there.
        self.assertEqual(self.sh("a", "umask 077; mktemp /tmp/fast-test-XXXXXX >/tmp/fast-test-$(id -u); echo $?"), "0\n")
        left = self.sh("a", "cat /tmp/fast-test-300001").strip()
        for path in (left, "/tmp/fast-test-300001"):
            self.addCleanup(os.unlink, path)
        self.assertIn("denied", self.sh("b", f"cat {left} 2>&1; true"))
        self.assertIn("not permitted", self.sh("b", f"rm -f {left} 2>&1; true"))
        self.assertEqual(self.sh("a", "echo x > /dev/shm/fast-test-a; cat /dev/shm/fast-test-a"), "x\n")
        self.assertEqual(self.sh("b", "ls -A /dev/shm"), "")
        self.assertFalse(os.path.exists("/dev/shm/fast-test-a"))
        self.assertEqual(os.stat(f"/proc/{a}").st_uid, 300001)

    def test_ptrace(self):
        if PYTHON is None:
            self.skipTest("no Python here that every user may run")
        self.deploy("a")
        self.deploy("b")
        script = ("import ctypes, os; c = ctypes.CDLL(None, use_errno=True); "
                  "print([c.ptrace(16, p, 0, 0) == 0 or os.strerror(ctypes.get_errno()) for p in (%d, %d)])"
                  % (self.pid("b"), self.node.process.pid))
        self.assertEqual(self.sh("a", f"{PYTHON} -c '{script}'"), str(["Operation not permitted"] * 2) + "\n")

    def test_what_it_needs(self):
        self.gw.post("/system/secrets", {"name": "key", "value": "one", "namespace": "openfaas-fn"})
        self.deploy("a", secrets=["key"], annotations={"fastgshare/socket": "unix"})
        self.assertEqual(self.sh("a", "cat /var/openfaas/secrets/key"), "one")
        self.gw.ask("PUT", "/system/secrets", {"name": "key", "value": "two", "namespace": "openfaas-fn"})
        self.assertEqual(self.sh("a", "cat /var/openfaas/secrets/key"), "two")
        self.assertEqual(os.stat(self.node.path("secrets", "openfaas-fn", "key")).st_mode & 0o777, 0o640)
        self.assertEqual(owner(self.node.path("secrets", "openfaas-fn", "key")), (0, 300000))
        self.assertEqual(self.sh("a", "echo $HOME; touch $HOME/fast-home && rm $HOME/fast-home; echo $?"), "/tmp\n0\n")
        # The log is its own under the names that programs use.
        self.assertEqual(self.sh("a", f"echo by name > /proc/{self.pid('a')}/fd/1 && echo well"), "well\n")
        with open(self.node.path("logs", "a.openfaas-fn.1.log"), encoding="utf-8") as f:
            self.assertIn("by name\n", f.read())

    def test_a_socket(self):
        self.deploy("s", image=gateway.FUNCTION, envProcess="", annotations={"fastgshare/socket": "unix"})
        self.assertEqual(self.gw.get("/function/s/echo").headers["X-Door"], "unix")
        folders = os.listdir(self.node.path("sockets"))
        self.assertEqual([owner(self.node.path("sockets", f)) for f in folders], [(300001, 300000)])

    def test_only_its_own_socket_is_given_away(self):
        victim = os.path.join(self.node.root, "victim")
        os.mkdir(victim)
        for path in (f"{victim}/s", f"{self.node.state_dir}/sockets/../../victim/s", self.node.path("replicas", "s"),
                     self.node.path("sockets", "0123456789abcdef", "..", "s")):
            self.deploy("thief", envVars={"FAST_SOCKET": path})
            self.gw.ask("DELETE", "/system/functions", {"functionName": "thief"})
            wait_until(lambda: not self.gw.replicas("thief"), "it stays")
        for path in (victim, self.node.state_dir, self.node.path("replicas")):
            self.assertEqual(owner(path)[0], 0, path)

    def test_with_a_gpu_all_share_one(self):
        for name in ("g", "h"):
            self.deploy(name, image="replay", envProcess="", envVars={"MODEL": "gnmt"}, annotations=GPU)
            self.assertEqual(self.gw.post(f"/function/{name}").status, 200)
            wait_until(lambda n=name: self.gw.replicas(n)[0]["clients"] == 1, "its hook does not reach the node")
            wait_until(lambda n=name: self.gw.replicas(n)[0]["launches"] > 0, "its hook sees nothing")
            self.assertEqual(os.stat(f"/proc/{self.pid(name)}").st_uid, 300000)
            self.assertEqual(self.level(name)["level"], "soft")

    def test_who_shares_a_user(self):
        for name in ("g", "h"):
            self.deploy(name, annotations=GPU)
        self.assertEqual(self.sh("g", "id -u"), self.sh("h", "id -u"))
        with open(self.node.path("logs", "g.openfaas-fn.1.log"), encoding="utf-8") as f:
            if ", signals" not in f.read():
                self.skipTest("no Landlock that keeps signals (Linux 6.12) here")
        other = self.pid("h")
        for script in (f"kill -9 {other}", f"cat /proc/{other}/environ", f"ls /proc/{other}/root/",
                       f"cat /proc/{other}/fd/0", f"cat /proc/{other}/mem"):
            self.assertRegex(self.sh("g", f"{script} 2>&1; true"), "not permitted|denied", script)
        self.assertTrue(node.lives(other))
        self.assertIn("137\n", self.sh("g", "sleep 1000 & kill -9 $! && wait $!; echo $?"))  # its own it may

    def test_they_stay(self):
        self.deploy("a")
        self.deploy("b")
        pid = self.pid("b")
        self.node.kill()
        self.node.start()
        wait_until(lambda: self.gw.replicas("b", "ready"), "not adopted")
        self.assertEqual(self.pid("b"), pid)
        os.kill(pid, 9)
        wait_until(lambda: self.gw.replicas("b", "ready") and self.pid("b") != pid, "not started again")
        self.assertEqual(self.sh("b", "id -u"), "300002\n")
        self.gw.ask("DELETE", "/system/functions", {"functionName": "a"})
        wait_until(lambda: not self.gw.replicas("a"), "it stays")
        self.deploy("a")
        self.assertEqual(self.sh("a", "id -u"), "300001\n")

    def test_when_none_is_left(self):
        for name in ("a", "b", "c"):
            self.deploy(name)
        self.gw.post("/system/functions", {"service": "d", "image": ALPINE, "envProcess": "sh"})
        wait_until(lambda: "no user is left" in json_text(self.gw, "d"), "nobody is told")
        # The next life gives away the number of a function that has gone.
        self.gw.ask("DELETE", "/system/functions", {"functionName": "a"})
        wait_until(lambda: not self.gw.replicas("a"), "it stays")
        self.node.stop()
        self.node.start()
        for name in ("b", "c"):
            self.gw.wait_ready(name=name)
        self.gw.wait_ready(name="d")
        self.assertEqual(self.sh("d", "id -u"), "300001\n")
        self.assertEqual([self.sh(name, "id -u") for name in ("b", "c")], ["300002\n", "300003\n"])


def json_text(gw, name):
    return gw.get("/system/replicas").text + gw.get(f"/system/function/{name}").text


class WithoutUsers(unittest.TestCase):
    def level(self, args, before=lambda the_node: None):
        the_node = node.Node(gpus=1, args=args, own_users=True)
        self.addCleanup(the_node.close)
        before(the_node)
        gw = gateway.Gateway(the_node)
        self.addCleanup(gw.close)
        gw.post("/system/functions", {"service": "f", "image": ALPINE, "envProcess": "id -u"})
        gw.wait_ready()
        self.assertEqual(gw.post("/function/f").text, f"{os.geteuid()}\n")
        return {v["what"]: v for v in gw.status()["isolationLevels"]}["user"], the_node.log()

    def test_none(self):
        level, log = self.level(["--function-users", "none"])
        self.assertEqual(level["level"], "advisory")
        self.assertNotIn("functions have the node's user", log)

    def test_a_folder_that_is_closed(self):
        original = os.chmod
        try:
            os.chmod = lambda path, mode: original(path, 0o700)
            level, log = self.level([])
        finally:
            os.chmod = original
        self.assertEqual(level["level"], "advisory")
        self.assertRegex(log, "functions have the node's user.*/state/run")

    def test_ranges(self):
        for text in ("", "1", "5-5", "9-5", "0-7", "1-2x", "-1-2", "1-99999999"):
            the_node = object.__new__(node.Node)
            the_node.root, the_node.env = "/tmp", os.environ
            the_node.args = ["--state-dir", "/tmp/fast-none", "--sim", "v100-16gb:1", "--function-users", text]
            process = the_node.spawn()
            self.addCleanup(process.kill)
            self.assertEqual(process.wait(node.WAIT_S), 2, text)


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: it takes root to run functions as other users")
        sys.exit(77)
    unittest.main()
