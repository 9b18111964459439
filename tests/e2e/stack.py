"""Everything on this machine for a test: fast-node on simulated GPUs, fast-gateway, functions."""
import http.client
import json
import os
import socket
import subprocess
import threading
import time

import node
import wire

GATEWAY = os.path.join(node.BUILD, "src", "gateway", "fast-gateway")
FUNCTIONS = os.path.join(node.BUILD, "functions")
START_S = 60  # for a function to become ready: the machine may be busy


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


class Stack(node.Node):
    def __init__(self, gpus=1, args=(), gateway_args=()):
        self.gateway = None
        super().__init__(gpus, args)
        self.port = free_port()
        self.gateway_args = gateway_args
        try:
            self.start_gateway()
        except BaseException:
            self.close()
            raise

    def start_gateway(self):
        with open(os.path.join(self.root, "gateway.err"), "a", encoding="utf-8") as err:
            self.gateway = subprocess.Popen(
                [GATEWAY, "--state-dir", self.state_dir, "--listen", f"127.0.0.1:{self.port}",
                 "--metrics", f"127.0.0.1:{free_port()}", "--images", FUNCTIONS, *self.gateway_args],
                stdin=subprocess.DEVNULL, stdout=err, stderr=err, env=self.env)

        def healthy():
            if self.gateway.poll() is not None:
                raise AssertionError(f"fast-gateway ended with {self.gateway.returncode}\n"
                                     f"{self.gateway_log()}")
            try:
                return self.call("GET", "/system/policy")[0] == 200
            except OSError:
                return False

        node.wait_until(healthy, "fast-gateway does not answer or has not reached its node")

    def gateway_log(self):
        with open(os.path.join(self.root, "gateway.err"), encoding="utf-8", errors="replace") as f:
            return f.read()

    def kill_gateway(self):
        """As a crash."""
        self.gateway.kill()
        self.gateway.wait()

    def call(self, method, path, body=None):
        """Returns (status, text). A dict as body is sent as JSON."""
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=node.WAIT_S)
        try:
            c.request(method, path, json.dumps(body) if isinstance(body, dict) else body)
            answer = c.getresponse()
            return answer.status, answer.read().decode(errors="replace")
        finally:
            c.close()

    def get(self, path):
        status, text = self.call("GET", path)
        assert status == 200, (path, status, text)
        return json.loads(text)

    def replicas(self, function=None):
        """Rows of GET /system/replicas, of one function or of all."""
        return [r for r in self.get("/system/replicas")
                if function is None or r["replica"].split(".")[0] == function]

    def ready(self, function, count=1):
        return [r for r in self.replicas(function) if r["state"] == "ready"][:count]

    def wait_ready(self, function, count=1):
        end = time.monotonic() + START_S
        while len(self.ready(function, count)) < count:
            if time.monotonic() > end:
                raise AssertionError(f"{function}: {self.replicas(function)}\n{self.gateway_log()}\n"
                                     f"{self.log()}")
            time.sleep(0.02)
        return self.ready(function, count)

    def deploy(self, service, image=None, replicas=1, most=None, wait=True, env=None, **notes):
        """notes: sm, request, limit, mem, slo as annotations."""
        names = {"sm": "gpu_sm_partition", "request": "gpu_quota_request",
                 "limit": "gpu_quota_limit", "mem": "gpu_mem", "slo": "slo"}
        # In a build with AddressSanitizer the preloaded hook comes before its runtime.
        env = dict(env or {}, **wire.ASAN_ENV)
        body = {"service": service, "image": image or service, "envVars": env,
                "labels": {"com.openfaas.scale.min": str(replicas),
                           "com.openfaas.scale.max": str(most or replicas)},
                "annotations": {"fastgshare/" + names[k]: str(v) for k, v in notes.items()}}
        status, text = self.call("POST", "/system/functions", body)
        assert status in (200, 202), (status, text)
        return self.wait_ready(service, replicas) if wait else None

    def close(self):
        if self.gateway and self.gateway.poll() is None:
            self.gateway.terminate()
            try:
                self.gateway.wait(node.WAIT_S)
            except subprocess.TimeoutExpired:
                self.gateway.kill()
        said = ""
        if self.gateway:
            self.gateway.wait()
            said = self.gateway_log()
        super().close()
        node.no_sanitizer_reports(said)


class Load:
    """Threads that send POST requests one after the other until stop(); every answer is kept as
    (when it began, when it ended, status, text); status 0: no answer."""

    def __init__(self, stack, function, bodies, threads=4):
        self.stack, self.path, self.bodies = stack, f"/function/{function}", bodies
        self.stopped = threading.Event()
        self.answers = []
        self.threads = [threading.Thread(target=self.work, args=(i,)) for i in range(threads)]
        for t in self.threads:
            t.start()

    def work(self, i):
        c = http.client.HTTPConnection("127.0.0.1", self.stack.port, timeout=node.WAIT_S)
        while not self.stopped.is_set():
            began = time.monotonic()
            try:
                c.request("POST", self.path, self.bodies[i % len(self.bodies)])
                answer = c.getresponse()
                status, text = answer.status, answer.read().decode(errors="replace")
            except (OSError, http.client.HTTPException) as e:
                status, text = 0, repr(e)
                c.close()
                time.sleep(0.01)
            self.answers.append((began, time.monotonic(), status, text, i % len(self.bodies)))
            i += len(self.threads)
        c.close()

    def wait_count(self, more):
        """Until |more| requests have been answered with 200."""
        want = self.good() + more
        node.wait_until(lambda: self.good() >= want, f"no {more} more answers: {self.answers[-3:]}")

    def good(self):
        return sum(a[2] == 200 for a in list(self.answers))

    def stop(self):
        self.stopped.set()
        for t in self.threads:
            t.join()
        return self.answers
