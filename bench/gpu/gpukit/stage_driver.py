"""Stages about the driver: 0 probe, 8 quotas, 9 faults."""
import http.client
import os
import signal
import subprocess
import threading
import time

from gpukit.drive import Watch, alone, end, lines_of_json, mps, probe, spawn
from gpukit.world import Server, World, quantile

PERCENTAGES = (6, 10, 12, 24, 30, 40, 50, 60, 80, 100)


def pair(kit, env, *what):
    """The same probe in two processes at once."""
    out = [None, None]

    def one(i):
        out[i] = probe(kit, *what, env=env, timeout=60)

    threads = [threading.Thread(target=one, args=(i,)) for i in (0, 1)]
    for t in threads:
        t.start()
    for t in threads:
        t.join()
    return out


def spin_watched(kit, env, count, seconds=2.5):
    """What NVML says while |count| programs keep the GPU busy: per device, per process."""
    spins = [spawn([kit.program("gpu-spin"), "2000", "64"], env=dict(alone(kit), SPIN_IMAGE=kit.spin_image, **env),
                              stdin=subprocess.DEVNULL, stderr=subprocess.DEVNULL) for _ in range(count)]
    try:
        time.sleep(1)
        with Watch(kit, 250) as watch:
            time.sleep(seconds)
    finally:
        for s in spins:
            end(s, 2)
    last = watch.rows[-2] if len(watch.rows) > 1 else {}
    return {"head": watch.head, "mean": watch.summary(), "pids": [s.pid for s in spins],
            "process_sm_util": last.get("process_sm_util"), "processes_mib": last.get("processes_mib"),
            "mps_processes_mib": last.get("mps_processes_mib")}


def context_memory(kit, env):
    """Device memory that a bare context takes, by NVML, beyond the 256 MiB that the program allocates."""
    with Watch(kit, 100) as before:
        time.sleep(0.4)
    idle = spawn([kit.program("gpu-probe"), "--module", kit.probe_image, "idle"], stdin=subprocess.PIPE,
                            stdout=subprocess.PIPE, text=True, env=dict(alone(kit), **env))
    try:
        ready = any('"idle"' in line for line in iter(idle.stdout.readline, ""))
        with Watch(kit, 100) as during:
            time.sleep(0.4)
    finally:
        idle.stdin.close()
        try:
            idle.wait(20)
        except subprocess.TimeoutExpired:
            end(idle, 1)
        idle.stdout.close()
    a, b = before.peak("memory_mib"), during.peak("memory_mib")
    return {"mib": b - a - 256 if ready and a is not None and b is not None else None}


OVERRUN = ("overrun.excess_us_50us", "overrun.excess_us_200us", "overrun.excess_us_1ms", "overrun.excess_us_5ms")


def overrun(kit):
    """How long kernels run on after a token is revoked, beyond the one that had begun: the 99th
    percentile by the length of kernels, and how they are spread."""
    env = dict(alone(kit), BENCH_HISTOGRAM="1", OVERRUN_CHILD=kit.path("bench/overrun_child"), OVERRUN_HOOK=kit.hook,
               OVERRUN_IMAGE=kit.spin_image)
    r = subprocess.run([kit.path("bench/bench_overrun"), *OVERRUN], capture_output=True, text=True, timeout=90,
                       check=False, env=env)
    rows = {row["name"].split("_us_")[1]: {"p99_us": row["value"], "p50_us": row["spread"], "revocations": row["n"]}
            for row in lines_of_json(r.stdout) if row.get("n")}
    if not rows:
        raise RuntimeError(f"bench_overrun: {r.stderr[-300:]}")
    return {"beyond_a_kernel": rows, "spread_us": [t for t in r.stderr.splitlines() if t.startswith("kernels of")]}


# What nvidia-smi says of the GPU's mode, which the kit leaves as it is.
CAVEATS = {"Exclusive_Process": "compute mode Exclusive_Process: without MPS a second client gets no context",
           "Prohibited": "compute mode Prohibited: nobody gets a context",
           ", Enabled, ": "MIG is enabled: shares are of the first instance, and MPS is one of it"}


def stage_probe(kit, stage, short):
    machine = stage.cell("machine", 20, kit.describe)
    if not kit.sim and os.geteuid():
        stage.note("not root: NVML gives no GPM samples, and other users and namespaces are not tried")
    for word, text in CAVEATS.items():
        if word in (machine.get("nvidia_smi") or ""):
            stage.note(text)
    if machine.get("others_on_the_gpu"):
        stage.note("other processes are on the GPU: every figure may be theirs in part")
    for what in (("device",), ("vmm",), ("ipc",), ("smid",), ("green", 8), ("green", 16), ("checkpoint",)):
        if short and what[0] == "checkpoint":
            continue
        stage.try_cell("alone." + "".join(map(str, what)), 15, lambda w=what: probe(kit, *w))
    stage.try_cell("alone.costs", 20, lambda: probe(kit, "costs"))
    stage.try_cell("alone.context", 8, lambda: context_memory(kit, {}))
    stage.try_cell("alone.nvml", 10, lambda: spin_watched(kit, {}, 1, 1 if short else 2.5))
    if not short:
        stage.try_cell("alone.overrun", 35, lambda: overrun(kit))
    if all(stage.has(k) for k in mps_parts(short)):
        return
    with mps(kit) as (env, why):
        stage.put("mps", {"there": env is not None, "why": why})
        if env is None:
            stage.note(f"without MPS, SM partitions are advisory here: {why}")
            return
        for key, (need, measure) in mps_parts(short).items():
            stage.try_cell(key, need, lambda m=measure: m(kit, env))


def mps_sms(kit, env, shares):
    return {str(p): probe(kit, "device", env=dict(env, CUDA_MPS_ACTIVE_THREAD_PERCENTAGE=str(p))).get("device.sms")
            for p in shares}


def mps_parts(short):
    """Cell: seconds that it takes, the work with the environment of an MPS client. Last what may break the
    server for the others."""
    shares = (12, 50) if short else PERCENTAGES
    half = {"CUDA_MPS_ACTIVE_THREAD_PERCENTAGE": "50"}
    parts = {"mps.sms": (2 * len(shares), lambda kit, env: mps_sms(kit, env, shares)),
             "mps.device": (5, lambda kit, env: probe(kit, "device", env=env)),
             "mps.smid_pair": (10, lambda kit, env: pair(kit, dict(env, **half), "smid")),
             "mps.green_pair": (10, lambda kit, env: pair(kit, env, "green", 16)),
             "mps.nvml": (10, lambda kit, env: spin_watched(kit, env, 2, 1 if short else 2.5)),
             "mps.context": (8, lambda kit, env: context_memory(kit, env))}
    if not short:
        parts["mps.costs"] = (20, lambda kit, env: probe(kit, "costs", env=env))
        parts["mps.checkpoint"] = (25, lambda kit, env: probe(kit, "checkpoint", env=env))
    parts["mps.vmm"] = (45, lambda kit, env: probe(kit, "vmm", env=env))
    return parts


# SM partition, request, limit: together 95 % of the window, and each limit is its request or all.
QUOTAS = {"w0": (50, 400, 400), "w1": (50, 400, 1000), "x0": (50, 400, 1000), "x1": (50, 400, 1000),
          "s0": (25, 150, 150), "s1": (25, 150, 1000), "s2": (25, 150, 1000), "s3": (25, 150, 1000)}


def quota_cell(kit, window, seconds, kernel_us):
    """Eight programs that always have work; how far each is below its request or above its limit."""
    with World(kit, charge="held", window=window) as w:
        for name, (sm, request, limit) in QUOTAS.items():
            w.begin(name, [kit.program("gpu-spin"), str(kernel_us)], env=[f"SPIN_IMAGE={kit.spin_image}"],
                    sm=sm, request=request, limit=limit, mem=1 << 30)
        w.wait()
        time.sleep(1)
        before, begin = w.stats(), time.monotonic()
        time.sleep(seconds)
        after, spent = w.stats(), time.monotonic() - begin
    rows, worst, overrun, tokens = {}, 0.0, 0, 0
    for name, (_, request, limit) in QUOTAS.items():
        a, b = after[f"{name}.openfaas-fn.1"], before[f"{name}.openfaas-fn.1"]
        got = (a.held_ns - b.held_ns) / 1e7 / spent
        rows[name] = {"held_pct": got, "busy_pct": (a.busy_ns - b.busy_ns) / 1e7 / spent,
                      "request_pct": request / 10, "limit_pct": limit / 10}
        worst = max(worst, request / 10 - got, got - limit / 10)
        overrun += a.overrun_ns - b.overrun_ns
        tokens += a.tokens - b.tokens
    return {"error_points": worst, "overrun_us_per_token": overrun / 1000 / max(1, tokens), "tokens": tokens,
            "overrun_pct": overrun / 1e7 / spent, "programs": rows, "window": window}


def stage_quota(kit, stage, short):
    seconds = 1.5 if short else 3 if kit.sim else 6
    for window in ("100ms",) if short else ("10ms", "100ms", "1000ms"):
        stage.try_cell(f"window.{window}", seconds + 10, lambda x=window: quota_cell(kit, x, seconds, 200))
    if not short:
        stage.try_cell("long_kernels", seconds + 10, lambda: quota_cell(kit, "100ms", seconds, 3000))


def fault_cell(kit, seconds, break_it):
    """Two model servers answer without pause while |break_it| happens to a third program: how long
    each was silent, what failed, when all were well again."""
    with World(kit) as w:
        servers = [w.begin_model("resnet50", f"good{i}", sm=24, request=300, limit=1000) for i in range(2)]
        victim = w.begin("victim", [kit.program("gpu-spin"), "20000", "16"], env=[f"SPIN_IMAGE={kit.spin_image}"],
                         sm=24, request=300, limit=1000, mem=1 << 30)
        w.wait()
        stop, answers, told = threading.Event(), [[] for _ in servers], {}

        def drive(i):
            while not stop.is_set():
                began = time.monotonic()
                row = servers[i].row
                try:
                    ok = Server(row.port, kit).ask("POST", "/", timeout=20)[0] == 200
                except (OSError, http.client.HTTPException, AttributeError): # down, broken off, or just gone
                    ok = False
                    time.sleep(0.01)
                answers[i].append((began, time.monotonic(), ok))

        # The control socket is one conversation: the threads take turns at it.
        lock, plain = threading.Lock(), w.rows
        w.rows = lambda: locked(lock, plain)
        threads = [threading.Thread(target=drive, args=(i,)) for i in range(len(servers))]
        for t in threads:
            t.start()
        time.sleep(seconds / 2)
        at = time.monotonic()
        pids = {r.replica: r.pid for r in w.rows()}
        told.update(break_it(w, victim) or {})
        time.sleep(seconds / 2)
        limit = time.monotonic() + 60
        while time.monotonic() < limit and not all(a and a[-1][2] and a[-1][0] > at for a in answers):
            time.sleep(0.1)
        stop.set()
        for t in threads:
            t.join()
        rows = w.rows()
    good = [[a for a in one if a[2]] for one in answers]
    gaps = [max((b[1] - a[1] for a, b in zip(one, one[1:])), default=0.0) for one in good]
    failed = [sum(not a[2] for a in one) for one in answers]
    after = [next((a[1] - at for a in one if a[0] > at), None) for one in good]
    return {"failed_answers": sum(failed), "longest_silence_ms": 1000 * max(gaps),
            "well_again_s": max((a if a is not None else 1e9) for a in after),
            "neighbours_restarted": sum(r.pid != pids.get(r.replica) for r in rows if r.replica.startswith("good")),
            "victim_restarted": any(r.replica.startswith("victim") and r.restarts for r in rows),
            "p99_ms": 1000 * quantile(sorted(a[1] - a[0] for one in good for a in one), .99), **told}


def locked(lock, call):
    with lock:
        return call()


def kill_victim(w, victim):
    os.kill(victim.row.pid, signal.SIGKILL)


def illegal_neighbour(w, _):
    """A program under the same MPS daemon writes where nothing is mapped."""
    pipe = os.path.join(w.state, "mps" if w.has_mps else "no-mps")
    r = probe(w.kit, "illegal", env={"CUDA_MPS_PIPE_DIRECTORY": pipe}, timeout=60)
    return {"error_told": r.get("illegal.error"), "told_ms": r.get("illegal.told_ms")}


def stage_faults(kit, stage, short):
    seconds = 3 if short else 5 if kit.sim else 8
    stage.try_cell("killed", seconds + 30, lambda: fault_cell(kit, seconds, kill_victim))
    if not short:
        stage.try_cell("illegal", seconds + 60, lambda: fault_cell(kit, seconds, illegal_neighbour))
