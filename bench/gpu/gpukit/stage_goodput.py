"""Stage 11: goodput. ResNet-50 under open-loop load in four ways of sharing: what is answered within the
SLO, at the same offered rates for all, up to the throughput that the slices have without pause."""
from gpukit.stage_share import CONFIGS, cell_seconds, choose_slice, offered
from gpukit.world import World, loops

MODEL = "resnet50"
WAYS = ("ours", "racing", "static12", "static24")
STEPS = (0.4, 0.6, 0.75, 0.9, 1.0)
ALLOWED_PCT = 1.0 # of the requests may be late
HOPELESS_PCT = 20.0
SLO_MS = {"replay": 69, "torch": 15} # the paper's on a V100; MLPerf's server scenario on a GPU of today


def slice_of_ours(kit, stage, count, seconds):
    """What stage 3 chose, else chosen here."""
    known = stage.results.data["stages"].get("3", {}).get("cells", {}).get(MODEL + ".slice")
    return stage.cell("slice", 40 if not kit.sim else 5, lambda: known or choose_slice(kit, MODEL, (count,), seconds))["sm"]


def step(servers, offered_rps, seconds, slo_ms):
    rows = loops(servers, seconds, offered_rps / len(servers), slo_ms)
    count = sum(r["count"] + (r["errors"] if "error" in r else 0) for r in rows)
    late = sum(r.get("late", 0) + (r["errors"] if "error" in r else 0) for r in rows)
    return {"offered_rps": offered_rps, "good_rps": (count - late) / seconds, "late_pct": 100 * late / max(1, count),
            "p99_ms": max(r["p99_ms"] for r in rows), "requests": count, "slo_ms": slo_ms}


def way(kit, stage, name, sm, count, steps, seconds):
    policy, use_mps, pct = CONFIGS[name]
    if stage.has(f"{name}.{steps[-1]:g}"):
        return
    stage.check(25 + (seconds + 1) * len(steps) if not kit.sim else 2)
    slo = SLO_MS["replay" if kit.replay else "torch"]
    with World(kit, policy=policy, mps=use_mps) as w:
        servers = [w.begin_model(MODEL, sm=pct or sm) for _ in range(count)]
        w.wait()
        loops(servers, 0.3)
        full = stage.cell("capacity", seconds + 1, lambda: sum(r["rps"] for r in loops(servers, seconds)))
        for part in steps:
            row = stage.cell(f"{name}.{part:g}", seconds + 1, lambda p=part: step(servers, p * full, seconds, slo))
            if row["late_pct"] > HOPELESS_PCT:
                break


def best(cells, name):
    """The goodput: the most that was answered in time at a rate where at most ALLOWED_PCT were late. 0
    when there was no such rate, None when none was tried."""
    rows = [r for k, r in cells.items() if k.startswith(name + ".")]
    return max((r["good_rps"] for r in rows if r["late_pct"] <= ALLOWED_PCT), default=0.0) if rows else None


def stage_goodput(kit, stage, short):
    offered(kit, stage, [MODEL])
    seconds = cell_seconds(kit, short, 3.5)
    count = 2 if short else 3 if kit.sim else 8
    steps = (0.5,) if short else (0.4, 0.7, 0.9) if kit.sim else STEPS
    sm = 12 if short else slice_of_ours(kit, stage, count, seconds / 2)
    for name in WAYS[:3] if short else WAYS:
        way(kit, stage, name, sm, count, steps, seconds)
