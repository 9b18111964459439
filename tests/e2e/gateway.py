"""A fast-gateway for a test, in front of a fast-node with simulated GPUs."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import unittest

import node
import openmetrics
import wire

PROGRAM = os.path.join(node.BUILD, "src", "gateway", "fast-gateway")
FUNCTION = os.path.join(node.HERE, "gateway_function.py")
wait_until = node.wait_until


class Answer:
    def __init__(self, response, body):
        self.status = response.status
        self.headers = response.headers
        self.body = body

    def json(self):
        return json.loads(self.body)

    @property
    def text(self):
        return self.body.decode()


class Gateway:
    def __init__(self, the_node, args=(), env=None):
        self.node = the_node
        self.args = ["--state-dir", the_node.state_dir, "--metrics", "127.0.0.1:0", *args]
        self.env = dict(os.environ, **(env or {}))
        self.port = 0
        self.start()

    def spawn(self, *more):
        with open(self.log_path, "a", encoding="utf-8") as err:
            return subprocess.Popen([PROGRAM, *self.args, *more], stderr=err, env=self.env,
                                    stdin=subprocess.DEVNULL)

    @property
    def log_path(self):
        return os.path.join(self.node.root, "gateway.err")

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    def start(self, connected=True):
        seen = len(self.log()) if os.path.exists(self.log_path) else 0
        self.process = self.spawn("--listen", f"127.0.0.1:{self.port}")

        def ports():
            if self.process.poll() is not None:
                raise AssertionError(f"fast-gateway ended with {self.process.returncode}\n{self.log()}")
            return re.search(r"listening port=(\d+) metrics=(\d+)", self.log()[seen:])

        found = wait_until(ports, "fast-gateway does not listen")
        self.port, self.metrics_port = int(found[1]), int(found[2])
        if connected:
            wait_until(lambda: self.get("/system/policy").status in (200, 401), "no node")

    def kill(self):
        """As a crash."""
        self.process.kill()
        self.process.wait()

    def stop(self):
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(node.WAIT_S)

    def close(self):
        if self.process.poll() is None:
            try:
                self.stop()
            except subprocess.TimeoutExpired:
                self.kill()
        node.no_sanitizer_reports(self.log())

    # ---- requests ----

    def connect(self, timeout=node.WAIT_S):
        return http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)

    def ask(self, method, path, body=None, headers=None, port=None):
        if isinstance(body, (dict, list)):
            body = json.dumps(body).encode()
        c = http.client.HTTPConnection("127.0.0.1", port or self.port, timeout=node.WAIT_S)
        try:
            c.request(method, path, body, headers or {})
            r = c.getresponse()
            return Answer(r, r.read())
        finally:
            c.close()

    def get(self, path, **more):
        return self.ask("GET", path, **more)

    def post(self, path, body=b"", **more):
        return self.ask("POST", path, body, **more)

    def raw(self, data):
        """Sends bytes and returns all that comes until the gateway closes."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=node.WAIT_S) as s:
            s.sendall(data)
            got = b""
            while True:
                part = s.recv(65536)
                if not part:
                    return got
                got += part

    def metrics(self):
        return self.ask("GET", "/metrics", port=self.metrics_port).text

    def open_metrics(self):
        """As OpenMetrics: {sample name: [(labels, value)]} and {family: type}."""
        answer = self.ask("GET", "/metrics", port=self.metrics_port,
                          headers={"Accept": "application/openmetrics-text;version=1.0.0,text/plain;q=0.5"})
        kind = answer.headers["Content-Type"]
        assert kind == "application/openmetrics-text; version=1.0.0; charset=utf-8", kind
        openmetrics.check_with_peer(answer.text)
        return openmetrics.parse(answer.text)

    # ---- functions ----

    def deploy(self, name="f", method="POST", **more):
        spec = {"service": name, "image": FUNCTION}
        spec.update(more)
        if any(k.startswith("fastgshare/") for k in spec.get("annotations") or {}):
            # The hook of a build with AddressSanitizer comes into a program without it.
            spec["envVars"] = {**wire.ASAN_ENV,
                               **(spec.get("envVars") or {})}
        return self.ask(method, "/system/functions", spec)

    def status(self, name="f"):
        return self.get(f"/system/function/{name}").json()

    def replicas(self, name="f", state=None):
        return [r for r in self.get("/system/replicas").json()
                if r["function"] == name and state in (None, r["state"])]

    def wait_ready(self, count=1, name="f"):
        def ready():
            all_of_it = self.replicas(name)
            return len(all_of_it) == count and all(r["state"] == "ready" for r in all_of_it) and all_of_it
        return wait_until(ready, f"not {count} ready replicas of {name}: {self.replicas(name)}")

    def up(self, name="f", count=1, **more):
        def deployed():  # 503 until the node has told of everything that it runs
            answer = self.deploy(name, **more)
            return answer.status != 503 and answer
        answer = wait_until(deployed, "the node is not there")
        assert answer.status == 202, answer.text
        return self.wait_ready(count, name)


class TestCase(unittest.TestCase):
    """One node and one gateway for all tests of a class."""
    gpus = 1
    args = ()
    env = None
    own_users = node.OWN_USERS

    @classmethod
    def setUpClass(cls):
        hook = os.path.join(node.BUILD, "src", "hook", "libfast-hook.so")
        extra = [] if os.path.exists(hook) else ["--hook", os.path.join(node.BUILD, "src", "simdriver",
                                                                        "libcuda.so.1")]
        cls.node = node.Node(gpus=cls.gpus, args=extra, own_users=cls.own_users)
        cls.addClassCleanup(cls.node.close)
        cls.gw = Gateway(cls.node, cls.args, cls.env)
        cls.addClassCleanup(cls.gw.close)

    def remove_functions(self):
        for f in self.gw.get("/system/functions?namespace=*").json():
            self.gw.ask("DELETE", "/system/functions",
                        {"functionName": f["name"], "namespace": f["namespace"]})
        wait_until(lambda: not self.gw.get("/system/replicas").json(), "replicas stay")
