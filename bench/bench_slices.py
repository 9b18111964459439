#!/usr/bin/env python3
"""What slices are worth with real processes: fast-node, the hook and the simulated GPU.

quota.error_pct: eight programs that always have work, with windows of 10, 100 and 1000 ms; how far the
worst of them is below its request or above its limit, in points of the window.
isolation.p99_ratio: the p99 latency of a program with pieces of work of some milliseconds beside three
greedy neighbours, over that alone; and the same under the other two policies.
token.restarts_ok: how often, of twenty times, all was well after fast-node was killed under load and
started again up to 300 ms later: every program is the process that it was, and two windows after the last
one is back everybody has its request and nobody more than its limit, within one point over twenty windows.
token.grace_over_pct: how far a program is above its limit, in points of the time, while there is no node for five
seconds of its grace of ten: by the kernels that the simulated NVML sees.

BENCH_SECONDS: how long each measurement takes (default 5; 20 for a report)."""
import ctypes
import json
import os
import signal
import sys
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import node  # noqa: E402

SECONDS = float(os.environ.get("BENCH_SECONDS", "5"))
SPIN = os.path.join(BUILD, "tests", "e2e", "spin")
IMAGE = os.path.join(BUILD, "functions", "spin.sim.so")
ROUNDS = 3
RESTARTS = 20
OUTAGE_S = 5

FIGURES = {
    "quota.error_pct": ("points", "<= 1"), "quota.error_pct_10ms": ("points", None),
    "quota.error_pct_100ms": ("points", None), "quota.error_pct_1000ms": ("points", None),
    "isolation.p99_ratio": ("times", "<= 1.1"), "isolation.p99_ratio_racing": ("times", None),
    "token.restarts_ok": ("times", ">= 20"), "token.restarts_error_pct": ("points", None),
    "token.grace_over_pct": ("points", "<= 2"),
    "isolation.p99_ratio_timeshare": ("times", None), "isolation.alone_p99_ms": ("ms", None),
}
# SM partition, request, limit: together 95 % of the window, and each limit is its request or all.
SLICES = {"w0": (50, 400, 400), "w1": (50, 400, 1000), "x0": (50, 400, 1000), "x1": (50, 400, 1000),
          "s0": (25, 150, 150), "s1": (25, 150, 1000), "s2": (25, 150, 1000), "s3": (25, 150, 1000)}


def figure(name, value, n, spread=0.0):
    unit, target = FIGURES[name]
    bound = None if target is None else float(target[2:])
    ok = None if target is None else value >= bound if target[0] == ">" else value <= bound
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n,
                      "spread": float(f"{spread:.4g}"), "target": target, "pass": ok}), flush=True)


def start(session, name, slice_, argv):
    sm, request, limit = slice_
    _, done = session.ask(
        "replica_start", replica=f"{name}.openfaas-fn.1", function=name, ns="openfaas-fn", sm_pct=sm,
        request_milli=request, limit_milli=limit, mem_bytes=1 << 30, argv=[SPIN, *map(str, argv)],
        env=[f"SPIN_IMAGE={IMAGE}"], start_timeout_ms=30000, stop_grace_ms=1000)
    if done.code:
        raise SystemExit(done.text)


def stats(session):
    rows, _ = session.ask("replica_list")
    return {r.replica.split(".")[0]: r for r in rows if r.name == "replica_stats"}


def worst_error(before, after, window_ms):
    """Over whole windows: what lies before or behind them would depend on who just had its turn."""
    return max(max(request / 10 - got, got - limit / 10)
               for name, (_, request, limit) in SLICES.items()
               for got in [(after[name].windows_ns - before[name].windows_ns) / 1e4 / window_ms
                           / (after[name].windows - before[name].windows)])


def quota_error(window):
    """Returns the worst error over all programs, in points, and who has it."""
    n = node.Node(gpus=1, args=("--charge", "held", "--window", window))
    try:
        with n.session(timeout=60) as session:
            for name, slice_ in SLICES.items():
                start(session, name, slice_, [200])
            node.wait_until(lambda: all(s.tokens > 0 for s in stats(session).values()))
            time.sleep(1)
            before = stats(session)
            time.sleep(SECONDS)
            after = stats(session)
    finally:
        n.close()
    return worst_error(before, after, float(window[:-2]))


def pids(session):
    rows, _ = session.ask("replica_list")
    return {r.replica: r.pid for r in rows if r.name == "replica_row"}


class ProcessSample(ctypes.Structure):
    _fields_ = [("pid", ctypes.c_uint), ("at_us", ctypes.c_ulonglong), ("sm", ctypes.c_uint),
                ("memory", ctypes.c_uint), ("encoder", ctypes.c_uint), ("decoder", ctypes.c_uint)]


class Shares:
    """Of the time since it was asked last, by process, in per cent."""

    def __init__(self, env):
        os.environ.update(FAST_SIM="v100-16gb:1", FAST_SIM_DIR=env["FAST_SIM_DIR"])
        self.nvml = ctypes.CDLL(os.path.join(BUILD, "src", "simdriver", "libnvidia-ml.so.1"))
        self.device = ctypes.c_void_p()
        if self.nvml.nvmlInit_v2() or self.nvml.nvmlDeviceGetHandleByIndex_v2(0, ctypes.byref(self.device)):
            raise SystemExit("the simulated NVML does not start")

    def ask(self):
        samples, count = (ProcessSample * 64)(), ctypes.c_uint(64)
        if self.nvml.nvmlDeviceGetProcessUtilization(self.device, samples, ctypes.byref(count), ctypes.c_ulonglong()):
            return {}
        return {s.pid: s.sm for s in samples[:count.value]}


def over_limit_without_node(n, programs):
    """|programs|: of all, their process. Everybody works on, as nobody waits for anybody."""
    shares = Shares(n.env)
    n.kill()
    shares.ask()
    time.sleep(OUTAGE_S)
    got = shares.ask()
    n.start()
    of = {name.split(".")[0]: got.get(pid, 0) for name, pid in programs.items()}
    if not all(of.values()):
        raise SystemExit(f"without a node somebody did not work: {of}")
    return max(of[name] - limit / 10 for name, (_, _, limit) in SLICES.items())


def restarts(wanted):
    n, errors, same, over = node.Node(gpus=1, args=("--charge", "held")), [], 0, None
    try:
        with n.session(timeout=60) as session:
            for name, slice_ in SLICES.items():
                start(session, name, slice_, [200])
            node.wait_until(lambda: all(s.tokens > 0 for s in stats(session).values()))
            programs = pids(session)
        if "token.grace_over_pct" in wanted:
            over = over_limit_without_node(n, programs)
        for i in range(RESTARTS if {"token.restarts_ok", "token.restarts_error_pct"} & wanted else 0):
            n.kill()
            time.sleep(0.3 * i / RESTARTS)
            n.start()
            with n.session(timeout=60) as session:
                node.wait_until(lambda s=session: all(r.clients == 1 for r in stats(s).values()))
                time.sleep(0.2)
                before = stats(session)
                time.sleep(2)
                after = stats(session)
                same += pids(session) == programs
                errors.append(worst_error(before, after, 100))
    finally:
        n.close()
    if over is not None:
        figure("token.grace_over_pct", over, len(SLICES))
    if "token.restarts_ok" in wanted:
        good = sum(e <= 1 for e in errors) if same == RESTARTS else 0
        figure("token.restarts_ok", good, RESTARTS)
    if "token.restarts_error_pct" in wanted:
        figure("token.restarts_error_pct", median(errors), RESTARTS, max(errors) - min(errors))


def p99_ms(policy, neighbours):
    n = node.Node(gpus=1, args=("--policy", policy))
    out = os.path.join(n.root, "times")
    try:
        with n.session(timeout=60) as session:
            for i in range(neighbours):
                start(session, f"greedy{i}", (25, 250, 1000), [500, 400])
            start(session, "victim", (25, 250, 1000), [400, 60, 5000, out])
            node.wait_until(lambda: all(s.launches > 0 for s in stats(session).values()))
            time.sleep(1)
            with open(out, encoding="ascii") as f:
                skip = len(f.readlines())
            time.sleep(SECONDS)
            with open(out, encoding="ascii") as f:
                times = sorted(float(x) for x in f.read().split("\n")[skip:-1])
    finally:
        n.close()
    return times[min(len(times) - 1, len(times) * 99 // 100)] / 1000, len(times)


def median(values):
    return sorted(values)[len(values) // 2]


def isolation(wanted):
    """Alone and beside the others in turn, so that what else the machine does hits both."""
    alone, ratios, pieces = [], {"": [], "_racing": [], "_timeshare": []}, 0
    for _ in range(ROUNDS):
        base, n = p99_ms("fast", 0)
        alone.append(base)
        pieces += n
        for suffix, values in ratios.items():
            if f"isolation.p99_ratio{suffix}" in wanted:
                values.append(p99_ms(suffix[1:] or "fast", 3)[0] / base)
    if "isolation.alone_p99_ms" in wanted:
        figure("isolation.alone_p99_ms", median(alone), pieces, max(alone) - min(alone))
    for suffix, values in ratios.items():
        if values:
            figure(f"isolation.p99_ratio{suffix}", median(values), pieces, max(values) - min(values))


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted = set(sys.argv[1:]) or set(FIGURES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    errors = []
    for window in ("10ms", "100ms", "1000ms"):
        if "quota.error_pct" in wanted or f"quota.error_pct_{window}" in wanted:
            errors.append(quota_error(window))
            if f"quota.error_pct_{window}" in wanted:
                figure(f"quota.error_pct_{window}", errors[-1], len(SLICES))
    if "quota.error_pct" in wanted:
        figure("quota.error_pct", max(errors), len(SLICES) * len(errors))
    if any(name.startswith(("token.restarts", "token.grace")) for name in wanted):
        restarts(wanted)
    if any(name.startswith("isolation") for name in wanted):
        isolation(wanted)


main()
