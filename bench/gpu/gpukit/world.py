"""fast-node and its replicas for a measurement, over the node's own control socket."""
import http.client
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time

from gpukit.drive import end, spawn
from gpukit.machine import ROOT, end_users

sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import wire  # noqa: E402

SERVE = os.path.join(ROOT, "examples", "torch", "serve.py")
POLICIES = {"fast": 0, "timeshare": 1, "racing": 2}
GIB = 1 << 30
PASSED = ("PYTHONPATH", "CUDA_HOME", "VIRTUAL_ENV") # what a Python may need to find its PyTorch


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
    """One process that serves a model on a port; where PyTorch is not there it is replay."""

    def __init__(self, port, kit):
        self.port, self.kit = port, kit

    def ask(self, method, path, timeout=60):
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=timeout)
        try:
            c.request(method, path)
            r = c.getresponse()
            return r.status, r.read()
        finally:
            c.close()

    def loop(self, seconds, start, rate=0.0, slo_ms=0.0, seed=1):
        """Requests from |start| on (CLOCK_MONOTONIC), without pause or at Poisson arrivals with a |rate|. In
        the process itself where it can, else by HTTP. With |slo_ms|, "late" counts what took longer. The
        same |seed| gives the same arrivals."""
        if not self.kit.replay:
            status, body = self.ask("POST", f"/loop?seconds={seconds}&rate={rate}&start={start}&slo_ms={slo_ms}&seed={seed}",
                                    timeout=4 * seconds + 60)
            if status != 200:
                raise RuntimeError(f"/loop: {status} {body[:200]!r}")
            return json.loads(body)
        if rate:
            return self.loop_open(seconds, start, rate, slo_ms, seed)
        return self.loop_http(seconds, start)

    def loop_open(self, seconds, start, rate, slo_ms, seed):
        time.sleep(max(0.0, start - time.monotonic()))
        points = f"0:{rate:.3f},{seconds:.3f}:{rate:.3f}"
        r = subprocess.run([self.kit.program("gpu-load"), str(self.port), "/", str(slo_ms or 1e6), str(seed), points],
                           capture_output=True, text=True, timeout=4 * seconds + 60, check=False, env=self.kit.env)
        if r.returncode:
            raise RuntimeError(f"gpu-load: {r.stderr[-300:]}")
        row = json.loads(r.stdout)
        return {"count": row["sent"], "seconds": seconds, "rps": row["ok"] / seconds, "errors": row["sent"] - row["ok"],
                "p50_ms": row["p50_ms"], "p95_ms": row["p95_ms"], "p99_ms": row["p99_ms"], "max_ms": row["p999_ms"],
                "late": row["violations"]}

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


def loops(servers, seconds, rate=0.0, slo_ms=0.0, ahead=0.2):
    """All at once, |rate| of each; the results in the order of |servers|. One that fails is an error: without it
    the others would look better or the sum worse than they are."""
    out, failed = [None] * len(servers), []
    start = time.monotonic() + ahead

    def work(i):
        try:
            out[i] = servers[i].loop(seconds, start, rate, slo_ms, seed=i + 1)
        except Exception as e: # pylint: disable=broad-except
            failed.append(f"server {i + 1} of {len(servers)}: {type(e).__name__}: {e}")

    threads = [threading.Thread(target=work, args=(i,), daemon=True) for i in range(len(servers))]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    if failed:
        raise RuntimeError("; ".join(failed)[:600])
    return out


def total(rows):
    return {"rps": sum(r["rps"] for r in rows), "p99_ms": max((r["p99_ms"] for r in rows), default=0.0),
            "p50_ms": sum(r["p50_ms"] for r in rows) / max(1, len(rows)), "n": len(rows),
            "errors": sum(r["errors"] for r in rows)}


def serve(kit, model, graphs):
    """(command line, environment) of a server of |model|."""
    if not kit.replay:
        return ([shutil.which(kit.python, path=kit.env["PATH"]) or kit.python, SERVE, "--model", model.torch,
                 *(["--graphs"] if graphs else [])], ["OMP_NUM_THREADS=1"])
    argv = [kit.path("functions/replay"), "--model", model.sim]
    return (argv + (["--memory-scale", "0.2"] if kit.sim else []), [])


class Replica(Server):
    def __init__(self, world, name):
        super().__init__(0, world.kit)
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
        self.kit, self.replicas, self.process = kit, [], None
        kit.open.append(self)
        self.folder = tempfile.mkdtemp(prefix="w", dir=kit.temp)
        self.state = os.path.join(self.folder, "s")
        self.gateway = None
        argv = [kit.node, "--state-dir", self.state, "--policy", policy, "--mps", mps, "--charge", charge,
                "--window", window, "--function-users", "none"] # what it starts over the socket has the node's user
        env = dict(kit.env)
        if kit.sim:
            argv += ["--sim", kit.sim]
            env["FAST_SIM_DIR"] = kit.env["FAST_SIM_DIR"]
            del env["LD_LIBRARY_PATH"] # the node and its replicas load the simulation by path
        elif kit.mps_control:
            argv += ["--mps-control", kit.mps_control]
        self.log_path = os.path.join(self.folder, "node.log")
        with open(self.log_path, "w", encoding="utf-8") as log:
            self.process = spawn(argv, stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=env)
        try:
            self.session = self.connect()
            if mps != "off" and not self.has_mps:
                kit.without_mps = next((line for line in self.log().splitlines() if "no mps" in line), "no line of its log")
        except BaseException:
            self.close()
            raise

    def connect(self):
        limit = time.monotonic() + 60
        while True:
            try:
                return wire.Session(os.path.join(self.state, "control.sock"), program="gpukit", timeout=60)
            except OSError:
                if self.process.poll() is not None or time.monotonic() > limit:
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
        replica = Replica(self, f"{name}.openfaas-fn.1")
        passed = [f"{k}={self.kit.env[k]}" for k in PASSED if k in self.kit.env]
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
        argv, settings = serve(self.kit, model, graphs)
        return self.begin(name, argv, env=[*settings, *env], mem=mem or (GIB if self.kit.sim else model.mem), **slice_)

    def wait(self, replicas=None, timeout=200):
        """Until all are ready; their ports are known then."""
        names = {r.name: r for r in (replicas or self.replicas)}
        limit = time.monotonic() + (timeout if not self.kit.sim else 60)
        while True:
            rows = {r.replica: r for r in self.rows() if r.replica in names}
            states = {n: wire.STATES[r.state] for n, r in rows.items()}
            if all(states.get(n) == "ready" for n in names):
                break
            failed = [n for n, s in states.items() if s in ("backoff", "stopped") and rows[n].restarts >= 2]
            if failed or time.monotonic() > limit:
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
        limit = time.monotonic() + 20
        while self.rows() and time.monotonic() < limit:
            time.sleep(0.02)
        self.replicas = []

    def gpu(self):
        return self.ask("gpu_list")[0]

    # ---- gateway ----

    def start_gateway(self, images, profiles):
        """Its port."""
        log_path = os.path.join(self.folder, "gateway.log")
        with open(log_path, "w", encoding="utf-8") as log:
            self.gateway = spawn(
                [*self.kit.gateway, "--state-dir", self.state, "--listen", "127.0.0.1:0", "--metrics",
                 "127.0.0.1:0", "--images", images, "--profiles", profiles],
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, env=self.kit.env)
        limit = time.monotonic() + 20
        while time.monotonic() < limit and self.gateway.poll() is None:
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
            if p:
                end(p, 25)
        end_users(self.folder) # what a node leaves that was killed, and its MPS daemon
        shutil.rmtree(self.folder, ignore_errors=True)
        if self in self.kit.open:
            self.kit.open.remove(self)

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
        super().__init__(port, kit)
        argv, settings = serve(kit, MODELS[model], graphs)
        env = dict(kit.env, PORT=str(port), **dict(x.split("=", 1) for x in settings))
        env["CUDA_MPS_PIPE_DIRECTORY"] = pipe_dir or os.path.join(kit.temp, "no-mps")
        self.process = spawn(argv, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL,
                             stderr=subprocess.DEVNULL)
        limit = time.monotonic() + 200
        while True:
            try:
                if self.ask("GET", "/_/health", timeout=5)[0] == 200:
                    return
            except OSError:
                pass
            if self.process.poll() is not None or time.monotonic() > limit:
                self.close()
                raise RuntimeError(f"{' '.join(argv)} does not become ready")
            time.sleep(0.05)

    def close(self):
        end(self.process, 5)
