#!/usr/bin/env python3
"""fast profile through the whole stack: fast-node, fast-gateway, the hook and the simulated GPU, against the
profile that the simulator alone gives in virtual time (models/profiles).

profile.stack_grid_error_pct: mean error of the throughput over the 35 slices of --grid. The slices go to stderr.
profile.stack_adaptive_error_pct: the same over the grid as predicted from the trials that the adaptive rule asks
for; profile.stack_adaptive_s: how long these took, starts of replicas included.

BENCH_MODEL: resnet50 (the default), bert, rnnt or gnmt. BENCH_SECONDS: of load in a trial (default 5)."""
import csv
import json
import os
import subprocess
import sys
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import stack  # noqa: E402

FAST = os.path.join(BUILD, "src", "cli", "fast")
MODEL = os.environ.get("BENCH_MODEL", "resnet50")
SECONDS = os.environ.get("BENCH_SECONDS", "5")
FIGURES = {
    "profile.stack_grid_error_pct": ("%", "<= 5"), "profile.stack_adaptive_error_pct": ("%", "<= 5"),
    "profile.stack_adaptive_trials": ("", "<= 10"), "profile.stack_adaptive_s": ("s", None),
}


def figure(name, value, n, spread=0.0):
    unit, target = FIGURES[name]
    ok = None if target is None else value <= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n,
                      "spread": float(f"{spread:.4g}"), "target": target, "pass": ok}), flush=True)


def table(text):
    rows = csv.reader(line for line in text.splitlines() if line[:1].isdigit())
    return {(int(r[0]), round(float(r[1]) * 1000)): float(r[2]) for r in rows}


def reference():
    with open(os.path.join(SOURCE, "models", "profiles", MODEL + ".csv"), encoding="ascii") as f:
        return table(f.read())


def fast(world, *args):
    r = subprocess.run([FAST, "profile", *args, "--gateway", f"http://127.0.0.1:{world.port}"],
                       capture_output=True, text=True, check=False)
    if r.returncode:
        raise SystemExit(r.stdout + r.stderr)
    return r.stdout


def errors(got, true):
    """Percent, by slice; says each one."""
    ret = {}
    for at in sorted(got):
        ret[at] = 100 * abs(got[at] / true[at] - 1)
        print(f"{MODEL} {at[0]:3d} % x {at[1] / 1000:.1f}: {got[at]:7.2f} requests/s, simulated "
              f"{true[at]:7.2f}, {100 * (got[at] / true[at] - 1):+5.1f} %", file=sys.stderr)
    return ret


def profile(world, how):
    """What |how| measures, what is predicted of the whole grid, and how long it took."""
    db = os.path.join(world.root, how.strip("-") + ".db")
    begin = time.monotonic()
    fast(world, MODEL, how, "--seconds", SECONDS, "--db", db)
    spent = time.monotonic() - begin
    measured = table(fast(world, "export", MODEL, "--db", db))
    trials = json.loads(fast(world, "export", MODEL, "--format", "json", "--db", db))["trials"]
    short = sum(t["text"].startswith("CPUs") for t in trials)
    print(f"{MODEL}: in {short} of {len(trials)} trials something waited for a CPU 30 % of the time or more",
          file=sys.stderr)
    return measured, table(fast(world, "export", MODEL, "--predicted", "--db", db)), spent


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted = set(sys.argv[1:]) or set(FIGURES)
    true = reference()
    world = stack.Stack(gpus=2)  # one for the trials alone
    try:
        world.deploy(MODEL, "replay", env={"MODEL": MODEL, "MEMORY_SCALE": "0.1"}, sm=6, request="0.05",
                     limit="0.05", mem=1 << 30)
        if "profile.stack_grid_error_pct" in wanted:
            measured, _, _ = profile(world, "--grid")
            e = errors(measured, true)
            figure("profile.stack_grid_error_pct", sum(e.values()) / len(e), len(e), max(e.values()))
        if wanted - {"profile.stack_grid_error_pct"}:
            measured, predicted, spent = profile(world, "--adaptive")
            e = errors(predicted, true)
            values = {"error_pct": sum(e.values()) / len(e), "trials": len(measured), "s": spent}
            for name, value in values.items():
                if "profile.stack_adaptive_" + name in wanted:
                    figure("profile.stack_adaptive_" + name, value, len(e))
    finally:
        world.close()


main()
