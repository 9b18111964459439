#!/usr/bin/env python3
"""A tenant's function against the others on its machine and against the platform: functions have users of their own, so
it takes root. What a user may not do to others at all is in test_users.py, the limits of one function in
test_isolation.py; here is what goes by way of the platform: its sockets, ports, folders and what outlives a
replica."""
import os
import socket
import subprocess
import sys
import threading
import unittest

import gateway
import node
from gateway import wait_until

ALPINE = "functions/alpine:latest"
PYTHON = node.python_for_all()
GPU = {"fastgshare/gpu_quota_request": "0.1", "fastgshare/gpu_quota_limit": "0.2",
       "fastgshare/gpu_sm_partition": "12", "fastgshare/gpu_mem": "512Mi"}
# Listens on its port, and first does what $EVIL says to its socket.
EVIL = """
import http.server, os, socket, threading
class Own(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "3")
        self.end_headers()
        self.wfile.write(b"own")
    do_POST = do_GET
os.symlink(os.environ["EVIL"], os.environ["FAST_SOCKET"])
http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Own).serve_forever()
"""


def owner(path):
    try:
        return os.stat(path).st_uid
    except OSError:
        return None


RANGE = ("--function-users", "310000-310020")


class WithoutGroups(node.Node):
    """Where control groups cannot be written to, as in most containers."""

    def spawn(self, **more):
        with open(os.path.join(self.root, "node.err"), "a", encoding="utf-8") as err:
            return subprocess.Popen(["unshare", "--mount", "sh", "-c", 'umount -R /sys/fs/cgroup && exec "$@"', "sh",
                                     node.PROGRAM, *self.args], stderr=err, env=self.env, stdin=subprocess.DEVNULL, **more)


class Platform(unittest.TestCase):
    kind = node.Node

    def setUp(self):
        self.node = self.kind(gpus=1, own_users=True, args=RANGE)
        self.addCleanup(self.node.close)
        self.gw = gateway.Gateway(self.node)
        self.addCleanup(self.gw.close)

    def deploy(self, name, wait=True, **more):
        spec = {"service": name, "image": ALPINE, "envProcess": "sh", **more}
        answer = self.gw.post("/system/functions", spec)
        self.assertEqual(answer.status, 202, answer.text)
        if wait:
            self.gw.wait_ready(name=name)

    def script(self, text):
        path = os.path.join(self.node.shared, f"script{len(os.listdir(self.node.shared))}.py")
        with open(path, "w", encoding="ascii") as f:
            f.write(f"#!{PYTHON}\n{text}")
        os.chmod(path, 0o755)
        return path

    def sh(self, name, script):
        return self.gw.post(f"/function/{name}", script.encode()).text


class Hostile(Platform):
    # ---- sockets ----

    def serve(self, path):
        """A service of the machine that is open to root alone, as a container engine's is."""
        door = socket.socket(socket.AF_UNIX)
        door.bind(path)
        os.chmod(path, 0o600)
        door.listen()
        self.addCleanup(door.close)

        def answer():
            while True:
                try:
                    c, _ = door.accept()
                except OSError:
                    return
                with c:
                    if c.recv(65536):
                        c.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nsecret")

        threading.Thread(target=answer, daemon=True).start()

    def test_a_socket_that_leads_elsewhere(self):
        engine = os.path.join(self.node.root, "engine.sock")
        self.serve(engine)
        self.deploy("victim", image=gateway.FUNCTION, envProcess="", annotations={"fastgshare/socket": "unix"})
        self.assertEqual(self.gw.get("/function/victim/echo").headers["X-Door"], "unix")
        folder = os.listdir(self.node.path("sockets"))[0]
        for i, target in enumerate((engine, self.node.path("sockets", folder, "s"), self.node.path("control.sock"))):
            self.deploy(f"evil{i}", image=self.script(EVIL), envProcess="", envVars={"EVIL": target},
                        annotations={"fastgshare/socket": "unix"})
            self.assertEqual(self.gw.get(f"/function/evil{i}").text, "own", target)

    # ---- ports ----

    def test_a_port_that_is_taken(self):
        """Whoever listens on the port that a replica was given gets none of its requests."""
        late = self.script(f"""
import os, time
try:
    os.mkdir({os.path.join(self.node.shared, "once")!r})
    time.sleep(1000)
except FileExistsError:
    os.execv({gateway.FUNCTION!r}, [{gateway.FUNCTION!r}])
""")
        self.deploy("victim", wait=False, image=late, envProcess="")
        wait_until(lambda: self.gw.replicas("victim") and self.gw.replicas("victim")[0]["port"], "it does not start")
        port = self.gw.replicas("victim")[0]["port"]
        self.deploy("thief", image=self.script(f"""
import http.server, os, threading
class Stolen(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.send_header("Content-Length", "6")
        self.end_headers()
        self.wfile.write(b"stolen")
    do_POST = do_GET
for address in (("127.0.0.1", {port}), ("127.0.0.1", int(os.environ["PORT"]))):
    threading.Thread(target=http.server.ThreadingHTTPServer(address, Stolen).serve_forever).start()
"""), envProcess="")
        self.assertEqual(self.gw.get("/function/thief").text, "stolen")
        wait_until(lambda: "replica without its port" in self.node.log(), "nobody is told")
        wait_until(lambda: self.gw.replicas("victim", "ready"), "it does not start with another port")
        self.assertNotEqual(self.gw.replicas("victim")[0]["port"], port)
        self.assertIn("pid", self.gw.get("/function/victim/echo").json())

    # ---- what outlives a replica ----

    def processes_of(self, user):
        return [int(p) for p in os.listdir("/proc") if p.isdigit() and node.lives(p) and owner(f"/proc/{p}") == user]

    def check_nothing_is_left(self):
        self.deploy("a", labels={"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "2"})
        user = int(self.sh("a", "id -u"))
        # Twice forked, in a session of its own, without the environment that it is known by.
        flag = os.path.join(self.node.shared, "left")
        self.sh("a", f"(setsid env -i sh -c 'echo $$ > {flag}; exec sleep 1000' </dev/null >/dev/null 2>&1 &); "
                     f"while [ ! -s {flag} ]; do sleep 0.01; done")
        self.assertGreater(len(self.processes_of(user)), 1)
        self.gw.ask("DELETE", "/system/functions", {"functionName": "a"})
        wait_until(lambda: not self.gw.replicas("a"), "it stays")
        wait_until(lambda: not self.processes_of(user), "its processes stay")

    def test_processes_that_leave(self):
        self.check_nothing_is_left()


class HostileWithoutGroups(Platform):
    kind = WithoutGroups

    def test_a_fork_bomb(self):
        self.deploy("a")
        level = {v["what"]: v for v in self.gw.status("a")["isolationLevels"]}["processes"]
        self.assertEqual(level["level"], "soft", level)
        self.assertIn("4096", level["by"])
        self.assertRegex(self.sh("a", "cat /proc/self/limits"), "Max processes +4096 +4096")


if __name__ == "__main__":
    if os.geteuid() != 0:
        print("skipped: it takes root to run functions as other users")
        sys.exit(77)
    if PYTHON is None:
        print("skipped: no Python here that every user may run")
        sys.exit(77)
    unittest.main()
