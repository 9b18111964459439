"""Stage 11: goodput. ResNet-50 under open-loop load in four ways of sharing: what is answered within the
SLO, with the same arrivals for all, up to the throughput that our slices have without pause."""
from gpukit.stage_share import cell_seconds, choose_slice, offered
from gpukit.world import World, loops

MODEL = "resnet50"
# Policy, SM partition (None: chosen), request and limit of the time in thousandths. The static slices are
# those of the paper, whose quotas end where they are guaranteed to; ours may use what others leave.
WAYS = {"ours": ("fast", None, 400, 1000), "racing": ("racing", 100, 1000, 1000),
        "static12": ("fast", 12, 400, 400), "static24": ("fast", 24, 400, 400)}
STEPS = (0.2, 0.4, 0.6, 0.75, 0.9, 1.0)
ALLOWED_PCT = 1.0 # of the requests may be late
HOPELESS_PCT = 20.0
SLO_MS = {"replay": 69, "torch": 15} # the paper's on a V100; MLPerf's server scenario on a GPU of today


def slice_of_ours(kit, stage, count, seconds):
    """The profiler's choice for |count| replicas: of the partitions with which all run at once, the one in
    which a replica is fastest. Stage 3 has measured them, or it is done here."""
    known = stage.results.data["stages"].get("3", {}).get("cells", {}).get(MODEL + ".slice")
    table = stage.cell("slice", 40 if not kit.sim else 5, lambda: known or choose_slice(kit, MODEL, (count,), seconds))
    fitting = {int(sm): rps for sm, rps in table["alone_rps"].items() if int(sm) * count <= 100}
    return max(fitting, key=fitting.get)


def step(servers, offered_rps, seconds, slo_ms):
    rows = loops(servers, seconds, offered_rps / len(servers), slo_ms)
    count = sum(r["count"] for r in rows)
    late = sum(r.get("late", 0) for r in rows)
    return {"offered_rps": offered_rps, "good_rps": (count - late) / seconds, "late_pct": 100 * late / max(1, count),
            "p99_ms": max(r["p99_ms"] for r in rows), "requests": count, "slo_ms": slo_ms}


def way(kit, stage, name, sm, count, steps, seconds):
    policy, pct, request, limit = WAYS[name]
    known = [stage.get(f"{name}.{part:g}") for part in steps]
    if all(known) or any(r and r["late_pct"] > HOPELESS_PCT for r in known):
        return
    stage.check(25 + (seconds + 1) * len(steps) if not kit.sim else 2)
    slo = SLO_MS["replay" if kit.replay else "torch"]
    with World(kit, policy=policy) as w:
        servers = [w.begin_model(MODEL, sm=pct or sm, request=request, limit=limit) for _ in range(count)]
        w.wait()
        loops(servers, 0.3)
        full = stage.cell("capacity", seconds + 1, lambda: sum(r["rps"] for r in loops(servers, seconds)))
        for part in steps:
            row = stage.cell(f"{name}.{part:g}", seconds + 1, lambda p=part: dict(step(servers, p * full, seconds, slo), sm=pct or sm))
            if row["late_pct"] > HOPELESS_PCT:
                break


def best(cells, name):
    """The goodput: the highest rate at which at most ALLOWED_PCT are late, linear between the rates that
    were tried, less what is late. 0 when there was no such rate, None when none was tried."""
    rows = sorted(((r["offered_rps"], r["late_pct"]) for k, r in cells.items() if k.startswith(name + ".")))
    if not rows:
        return None
    rate = 0.0
    for (low, early), (high, late) in zip([(0.0, 0.0), *rows], rows):
        if late > ALLOWED_PCT:
            return (1 - ALLOWED_PCT / 100) * (low + (high - low) * (ALLOWED_PCT - early) / (late - early)) if low else 0.0
        rate = high * (1 - late / 100)
    return rate


def stage_goodput(kit, stage, short):
    offered(kit, stage, [MODEL])
    seconds = 3 if kit.sim and not short else cell_seconds(kit, short, 3.5)
    count = 2 if short else 3 if kit.sim else 8
    steps = (0.5,) if short else (0.2, 0.4, 0.6, 0.8) if kit.sim else STEPS
    sm = 50 if short else slice_of_ours(kit, stage, count, seconds / 2)
    first, *others = list(WAYS)[:3] if short else WAYS
    way(kit, stage, first, sm, count, steps, seconds) # the rates of all are parts of what it has without pause
    for name in others:
        stage.attempt(name, lambda n=name: way(kit, stage, n, sm, count, steps, seconds))
