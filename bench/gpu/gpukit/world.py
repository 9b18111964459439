"""fast-node and its replicas for a measurement, over the node's own control socket."""
import http.client
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

from gpukit.machine import ROOT

sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import wire  # noqa: E402

SERVE = os.path.join(ROOT, "examples", "torch", "serve.py")
POLICIES = {"fast": 0, "timeshare": 1, "racing": 2}
GIB = 1 << 30


class Model:
    """A model of the paper: how it is served here, and as what it is simulated (None: not at all)."""

    def __init__(self, name, torch, sim, mem_gib, graphs=True):
        self.name, self.torch, self.sim, self.mem, self.graphs = name, torch, sim, mem_gib * GIB, graphs


MODELS = {m.name: m for m in (
    Model("resnet50", "resnet50", "resnet50", 4), Model("bert", "bert_large", "bert", 6),
    Model("rnnt", "rnnt", "rnnt", 4), Model("gnmt", "gnmt", "gnmt", 6),
    Model("resnext101", "resnext101", None, 4), Model("vit_huge", "vit_huge", None, 8))}


def quantile(values, q):
    return values[min(len(values) - 1, int(q * len(values)))] if values else 0.0


class Server:
    """One process that serves a model on a port; replay in the simulation."""

    def __init__(self, port, simulated):
        self.port, self.simulated = port, simulated

    def ask(self, method, path, timeout=60):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            c.request(method, path)
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def loop(self, seconds, start, rate=0.0):
        """Requests without pause from |start| on (CLOCK_MONOTONIC). In the process itself where it
        can, else by HTTP."""
        if not self.simulated:
            import json
            status, body = self.ask("POST", f"/loop?seconds={seconds}&rate={rate}&start={start}",
                                    timeout=4 * seconds + 60)
            if status != 200:
                raise RuntimeError(f"/loop: {status} {body[:200]!r}")
            return json.loads(body)
        return self.loop_http(seconds, start)

    def loop_http(self, seconds, start):
        times, errors = [], 0
        time.sleep(max(0.0, start - time.monotonic()))
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=30)
        while time.monotonic() < start + seconds:
            began = time.monotonic()
            try:
                c.request("POST", "/")
                r = c.getresponse()
                r.read()
                errors += r.status != 200
            except (OSError, http.client.HTTPException):
                errors += 1
                c.close()
                time.sleep(0.01)
                continue
            times.append(time.monotonic() - began)
        c.close()
        spent = max(time.monotonic() - start, seconds)
        slow = max(times, default=0.0)
        times.sort()
        return {"count": len(times), "seconds": spent, "rps": len(times) / spent, "errors": errors,
                "p50_ms": 1000 * quantile(times, .5), "p95_ms": 1000 * quantile(times, .95),
                "p99_ms": 1000 * quantile(times, .99), "max_ms": 1000 * slow}


def loops(servers, seconds, rates=None, ahead=0.2):
    """All at once; the results in the order of |servers|. One that fails has "error" and no rate."""
    out = [None] * len(servers)
    start = time.monotonic() + ahead

    def work(i):
        try:
            out[i] = servers[i].loop(seconds, start, rates[i] if rates else 0.0)
        except Exception as e: # pylint: disable=broad-except
            out[i] = {"error": str(e), "rps": 0.0, "count": 0, "errors": 1, "p50_ms": 0.0, "p95_ms": 0.0,
                      "p99_ms": 0.0, "max_ms": 0.0, "seconds": seconds}

    threads = [threading.Thread(target=work, args=(i,)) for i in range(len(servers))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def total(rows):
    return {"rps": sum(r["rps"] for r in rows), "p99_ms": max((r["p99_ms"] for r in rows), default=0.0),
            "p50_ms": sum(r["p50_ms"] for r in rows) / max(1, len(rows)), "n": len(rows),
            "errors": sum(r["errors"] for r in rows)}


class Replica(Server):
    def __init__(self, world, name, simulated):
        super().__init__(0, simulated)
        self.world, self.name = world, name

    @property
    def row(self):
        return next((r for r in self.world.rows() if r.replica == self.name), None)

    def resize(self, request, limit, sm, mem):
        self.world.ask("replica_resize", replica=self.name, sm_pct=sm, request_milli=request,
                       limit_milli=limit, mem_bytes=mem)


class World:
    """A node in a folder of its own. |mps|: auto, on or off."""

    def __init__(self, kit, policy="fast", mps="auto", charge="busy", window="100ms"):
        self.kit, self.replicas = kit, []
        self.folder = tempfile.mkdtemp(prefix="w", dir=kit.temp)
        self.state = os.path.join(self.folder, "s")
        self.gateway = None
        argv = [kit.node, "--state-dir", self.state, "--policy", policy, "--mps", mps, "--charge", charge,
                "--window", window]
        env = dict(kit.env)
        if kit.sim:
            argv += ["--sim", kit.sim]
            env["FAST_SIM_DIR"] = kit.env["FAST_SIM_DIR"]
            env.pop("LD_LIBRARY_PATH", None) # the node and its replicas load the simulation by path
        self.log_path = os.path.join(self.folder, "node.log")
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        try:
            self.session = self.connect()
        except BaseException:
            self.close()
            raise

    def connect(self):
        end = time.monotonic() + 60
        while True:
            try:
                return wire.Session(os.path.join(self.state, "control.sock"), program="gpukit", timeout=60)
            except OSError:
                if self.process.poll() is not None or time.monotonic() > end:
                    raise RuntimeError(f"fast-node does not start: {self.log()[-600:]}") from None
                time.sleep(0.02)

    def log(self):
        with open(self.log_path, encoding="utf-8", errors="replace") as f:
            return f.read()

    @property
    def has_mps(self):
        return "mps=yes" in self.log()

    def ask(self, name, **values):
        rows, done = self.session.ask(name, **values)
        if done.code:
            raise RuntimeError(f"{name}: {done.text}")
        return rows

    def rows(self):
        return [r for r in self.ask("replica_list") if r.name == "replica_row"]

    def stats(self):
        return {r.replica: r for r in self.ask("replica_list") if r.name == "replica_stats"}

    # ---- replicas ----

    def begin(self, name, argv, env=(), sm=100, request=1000, limit=1000, mem=4 * GIB):
        """Starts a process and does not wait for it."""
        replica = Replica(self, f"{name}.openfaas-fn.1", bool(self.kit.sim))
        passed = [f"{k}={self.kit.env[k]}" for k in ("PYTHONPATH", "CUDA_HOME", "VIRTUAL_ENV") if k in self.kit.env]
        self.ask("replica_start", replica=replica.name, function=name, ns="openfaas-fn", sm_pct=sm,
                 request_milli=request, limit_milli=limit, mem_bytes=mem, argv=list(argv),
                 env=[*passed, *env], start_timeout_ms=240000, stop_grace_ms=2000)
        self.replicas.append(replica)
        return replica

    def begin_model(self, model, name=None, graphs=None, env=(), mem=None, **slice_):
        """A replica of |model|: PyTorch on a GPU, replay in the simulation."""
        model = MODELS[model]
        name = name or f"{model.name}{len(self.replicas)}"
        graphs = model.graphs if graphs is None else graphs
        if self.kit.sim:
            argv = [self.kit.path("functions/replay"), "--model", model.sim, "--memory-scale", "0.2"]
            return self.begin(name, argv, env=env, mem=mem or GIB, **slice_)
        argv = [shutil.which(self.kit.python) or self.kit.python, SERVE, "--model", model.torch]
        argv += ["--graphs"] if graphs else []
        return self.begin(name, argv, env=["OMP_NUM_THREADS=1", *env], mem=mem or model.mem, **slice_)

    def wait(self, replicas=None, timeout=200):
        """Until all are ready; their ports are known then."""
        names = {r.name: r for r in (replicas or self.replicas)}
        end = time.monotonic() + (timeout if not self.kit.sim else 60)
        while True:
            rows = {r.replica: r for r in self.rows() if r.replica in names}
            states = {n: wire.STATES[r.state] for n, r in rows.items()}
            if all(states.get(n) == "ready" for n in names):
                break
            failed = [n for n, s in states.items() if s in ("backoff", "stopped") and rows[n].restarts >= 2]
            if failed or time.monotonic() > end:
                worst = failed[0] if failed else next(n for n in names if states.get(n) != "ready")
                raise RuntimeError(f"{worst} is {states.get(worst)}: {rows[worst].text} {self.replica_log(worst)}")
            time.sleep(0.02)
        for n, r in names.items():
            r.port = rows[n].port
        return list(names.values())

    def replica_log(self, name):
        try:
            with open(os.path.join(self.state, "logs", name + ".log"), encoding="utf-8", errors="replace") as f:
                return f.read()[-500:]
        except OSError:
            return ""

    def stop_all(self):
        for r in self.replicas:
            self.session.ask("replica_stop", replica=r.name, grace_ms=500)
        end = time.monotonic() + 20
        while self.rows() and time.monotonic() < end:
            time.sleep(0.02)
        self.replicas = []

    def gpu(self):
        return self.ask("gpu_list")[0]

    # ---- gateway ----

    def start_gateway(self, images, profiles):
        """Its port."""
        log_path = os.path.join(self.folder, "gateway.log")
        with open(log_path, "w", encoding="utf-8") as log:
            self.gateway = subprocess.Popen(
                [self.kit.gateway, "--state-dir", self.state, "--listen", "127.0.0.1:0", "--metrics",
                 "127.0.0.1:0", "--images", images, "--profiles", profiles],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.kit.env)
        end = time.monotonic() + 20
        while time.monotonic() < end and self.gateway.poll() is None:
            with open(log_path, encoding="utf-8", errors="replace") as f:
                text = f.read()
            found = re.search(r"listening port=(\d+)", text)
            if found:
                return int(found[1])
            time.sleep(0.05)
        raise RuntimeError(f"fast-gateway does not start: {text[-500:]}")

    def close(self):
        """Stops everything, by process number, and leaves nothing in the temporary folder."""
        for p in (self.gateway, self.process):
            if p and p.poll() is None:
                p.terminate()
                try:
                    p.wait(25)
                except subprocess.TimeoutExpired:
                    p.kill()
                    p.wait()
        self.kill_leftovers()
        shutil.rmtree(self.folder, ignore_errors=True)

    def kill_leftovers(self):
        """Replicas are known by the socket in their environment."""
        mark = b"FAST_NODE_SOCKET=" + os.path.join(self.state, "node.sock").encode()
        for pid in filter(str.isdigit, os.listdir("/proc")):
            try:
                with open(f"/proc/{pid}/environ", "rb") as f:
                    if mark in f.read().split(b"\0"):
                        os.kill(int(pid), signal.SIGKILL)
            except OSError:
                pass

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()


class Bare(Server):
    """The same server without node and hook, as an MPS client when |pipe_dir| says so."""

    def __init__(self, kit, model, graphs, pipe_dir=None):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        super().__init__(port, bool(kit.sim))
        env = dict(kit.env, PORT=str(port), OMP_NUM_THREADS="1")
        env["CUDA_MPS_PIPE_DIRECTORY"] = pipe_dir or os.path.join(kit.temp, "no-mps")
        m = MODELS[model]
        if kit.sim:
            argv = [kit.path("functions/replay"), "--model", m.sim, "--memory-scale", "0.2"]
        else:
            argv = [kit.python, SERVE, "--model", m.torch] + (["--graphs"] if graphs else [])
        self.process = subprocess.Popen(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                                        stderr=subprocess.DEVNULL)
        end = time.monotonic() + 200
        while True:
            try:
                if self.ask("GET", "/_/health", timeout=5)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > end:
                self.close()
                raise RuntimeError(f"{argv} does not become ready")
            time.sleep(0.05)

    def close(self):
        if self.process.poll() is None:
            self.process.terminate()
            try:
                self.process.wait(5)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
