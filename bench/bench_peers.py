#!/usr/bin/env python3
"""The same program on the same simulated driver under one hook after another: without any, under fast-node and
its hook, and under those of other projects, which are built from their own sources elsewhere:

  PEER_HAMI_CORE=.../libvgpu.so  PEER_NVSHARE=DIRECTORY  PEER_FAST_MANAGER=DIRECTORY  make bench BENCH='peers.*'

The directories hold libnvshare.so and nvshare-scheduler, and libgemhook.so.1, gem-schd and gem-pmgr. nvshare wants
to write to /var/run/nvshare and FaST-Manager to /kubeshare. A peer that is not named is skipped. Asked for are 30 %
of the time and 1 GiB, where a peer has such a limit:

  launch_ns   a launch, the median over batches; the least disturbed of some runs
  share       of the time, for programs that launch with cuLaunchKernel, cuLaunchKernelEx, or graphs; after a second
  escapes     of six families of allocations, how many gave 1.5 GiB

BENCH_SECONDS: how long each share is measured (default 5)."""
import json
import os
import signal
import socket
import subprocess
import sys
import tempfile
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import node  # noqa: E402

SECONDS = os.environ.get("BENCH_SECONDS", "5")
CHILD = os.path.join(BUILD, "bench", "hook", "peer_child")
IMAGE = os.path.join(BUILD, "functions", "spin.sim.so")
RUNS = 5
LIMIT_S = 120
SHARES = ("kernel", "kernel_ex", "graph")
PEERS = ("none", "fast", "hami_core", "nvshare", "fast_manager")
FIGURES = {f"peers.{peer}_{what}": unit for peer in PEERS
           for what, unit in (("launch_ns", "ns"), *((f"share_{s}", "of 1") for s in SHARES), ("escapes", "of 6"))}


def answers(path):
    with open(path, encoding="ascii") as f:
        rows = dict(line.split() for line in f)
    return {k: float(v) for k, v in rows.items()} if "end" in rows else None


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return str(s.getsockname()[1])


class Plain:
    """Without any hook; the others add to its environment and start what they need."""
    preload = None

    def __init__(self, place):
        self.root = tempfile.mkdtemp(prefix="fast-")
        self.env = dict(os.environ, FAST_SIM="v100-16gb:1", FAST_SIM_DIR=os.path.join(self.root, "sim"),
                        SPIN_IMAGE=IMAGE, LD_LIBRARY_PATH=os.path.join(BUILD, "src", "simdriver"))
        self.place, self.started = place, []
        self.prepare()

    def prepare(self):
        pass

    def spawn(self, *argv, **more):
        self.started.append(subprocess.Popen(argv, env={**self.env, **more}, stdin=subprocess.DEVNULL,
                                             stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL))
        time.sleep(1)

    def run(self, *args):
        """The answers of one run of the program; None: it failed, or hung."""
        out = os.path.join(self.root, "out")
        env = dict(self.env, LD_PRELOAD=self.preload) if self.preload else self.env
        try:
            done = subprocess.run([CHILD, out, *args], env=env, timeout=LIMIT_S, check=False,
                                  stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        except subprocess.TimeoutExpired:
            return None
        return answers(out) if done.returncode == 0 else None

    def close(self):
        for p in self.started:
            p.kill()
            p.wait()
        subprocess.run(["rm", "-rf", self.root], check=False)


class Fast(Plain):
    def prepare(self):
        self.node = node.Node(gpus=1)
        self.count = 0

    def run(self, *args):
        self.count += 1
        out = os.path.join(self.root, f"out{self.count}")
        with self.node.session(timeout=60) as session:
            _, done = session.ask(
                "replica_start", replica=f"f{self.count}.openfaas-fn.1", function=f"f{self.count}", ns="openfaas-fn",
                sm_pct=100, request_milli=300, limit_milli=300, mem_bytes=1 << 30, argv=[CHILD, out, *args],
                env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000, stop_grace_ms=1000)
            if done.code:
                return None
            end = time.monotonic() + LIMIT_S
            got = None
            while not got and time.monotonic() < end:
                time.sleep(0.1)
                got = answers(out) if os.path.exists(out) else None
            session.ask("replica_stop", replica=f"f{self.count}.openfaas-fn.1")
        return got

    def close(self):
        self.node.close()
        super().close()


class HamiCore(Plain):
    def prepare(self):
        self.preload = self.place
        self.env.update(CUDA_REDIRECT=self.place, LIBCUDA_LOG_LEVEL="0", CUDA_DEVICE_MEMORY_LIMIT="1g",
                        CUDA_DEVICE_SM_LIMIT="30", GPU_CORE_UTILIZATION_POLICY="force",
                        CUDA_DEVICE_MEMORY_SHARED_CACHE=os.path.join(self.root, "cache"))


class Nvshare(Plain):
    def prepare(self):
        self.preload = os.path.join(self.place, "libnvshare.so")
        os.makedirs("/var/run/nvshare", exist_ok=True)
        self.spawn(os.path.join(self.place, "nvshare-scheduler"))


class FastManager(Plain):
    def prepare(self):
        self.preload = os.path.join(self.place, "libgemhook.so.1")
        for folder in ("log", "library"):
            os.makedirs(f"/kubeshare/{folder}", exist_ok=True)
        with open("/kubeshare/library/schedulerIP.txt", "w", encoding="ascii") as f:
            f.write("127.0.0.1\n")
        with open(os.path.join(self.root, "pods"), "w", encoding="ascii") as f:
            f.write(f"1\npod 0.3 0.3 100 {1 << 30}\n")
        port = free_port()
        self.spawn(os.path.join(self.place, "gem-schd"), "-p", self.root, "-f", "pods", "-P", port,
                   "-q", "300", "-m", "20", "-w", "10000")
        self.env.update(POD_NAME="pod", POD_MANAGER_PORT=free_port(), SCHEDULER_IP="127.0.0.1", SCHEDULER_PORT=port)
        self.spawn(os.path.join(self.place, "gem-pmgr"))


KINDS = {"none": (Plain, BUILD), "fast": (Fast, BUILD), "hami_core": (HamiCore, os.environ.get("PEER_HAMI_CORE")),
         "nvshare": (Nvshare, os.environ.get("PEER_NVSHARE")),
         "fast_manager": (FastManager, os.environ.get("PEER_FAST_MANAGER"))}


def figure(name, value, n, spread=0.0, why=None):
    row = {"name": name, "value": value, "unit": FIGURES[name], "n": n, "spread": spread, "target": None,
           "pass": None}
    print(json.dumps({**row, "skipped": why} if why else row), flush=True)


def measure(peer, wanted):
    kind, place = KINDS[peer]
    names = {what: f"peers.{peer}_{what}" for what in ("launch_ns", *(f"share_{s}" for s in SHARES), "escapes")}
    wanted = {what for what, name in names.items() if name in wanted}
    if not place or not os.path.exists(place):
        for what in wanted:
            figure(names[what], None, 0, why="no path of it was given")
        return
    world, found = kind(place), {}
    try:
        if "launch_ns" in wanted:
            runs = sorted(r["launch_ns"] for r in (world.run("launch") for _ in range(RUNS)) if r)
            if runs:
                found["launch_ns"] = (runs[0], len(runs), runs[len(runs) // 2] - runs[0])
        shares = world.run("share", SECONDS) if wanted & {f"share_{s}" for s in SHARES} else None
        found.update({k: (v, 1, 0) for k, v in (shares or {}).items() if k.startswith("share")})
        got = world.run("memory", "1536") if "escapes" in wanted else None
        if got:
            found["escapes"] = (sum(v for k, v in got.items() if k.startswith("got")), 6, 0)
            print(f"{peer}: " + ", ".join(f"{k[4:]}={v:.0f}" for k, v in got.items() if k.startswith("got")),
                  file=sys.stderr)
    finally:
        world.close()
    for what in wanted:
        if what in found:
            figure(names[what], *found[what])
        else:
            figure(names[what], None, 0, why="the program failed under it")


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    wanted = set(sys.argv[1:]) or set(FIGURES)
    for peer in PEERS:
        if any(name.startswith(f"peers.{peer}_") and name in wanted for name in FIGURES):
            measure(peer, wanted)


main()
