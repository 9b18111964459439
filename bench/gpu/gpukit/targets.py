"""What the GPU run is to show, as ratios within one run: the figure, whether it is met, and if not why, out
of what was measured beside it."""
from gpukit.stage_goodput import SLO_MS, best
from gpukit.stage_share import MODELS_OF_3
from gpukit.world import MODELS


def cells(data, stage):
    return data["stages"].get(str(stage), {}).get("cells", {})


def ratio(a, b):
    """Over nothing it is without limit, if there is something."""
    if a is None or b is None or (a == 0 and b == 0):
        return None
    return a / b if b else float("inf")


# ---- 3: throughput ----

def rates(data, model, config):
    """replicas -> requests/s"""
    prefix = f"{model}.{config}."
    return {int(k[len(prefix):]): r["rps"] for k, r in cells(data, 3).items() if k.startswith(prefix)}


def models(data):
    return sorted({k.split(".")[0] for k in cells(data, 3)})


def gain(data, model):
    """The most of ours over the most of token time sharing, at numbers of replicas that both were measured at."""
    ours, base = rates(data, model, "ours"), rates(data, model, "timeshare")
    both = ours.keys() & base.keys()
    return ratio(max((ours[n] for n in both), default=None), max((base[n] for n in both), default=None))


def mean_gain(data):
    """None before all models are measured: the first is the one that gains most."""
    meta = data["meta"]
    wanted = [m for m in MODELS_OF_3[:1 if meta["short"] else None] if not meta.get("stand_in") or MODELS[m].sim]
    gains = [gain(data, m) for m in wanted]
    return None if None in gains else sum(gains) / len(gains)


def why_gain(data, model="resnet50"):
    ours, alone = rates(data, model, "ours"), rates(data, model, "timeshare")
    racing = max(rates(data, model, "racing").values(), default=None)
    sm = cells(data, 3).get(model + ".slice", {}).get("sm")
    text = (f"{max(ours.values()):.1f} requests/s by {max(ours)} replicas of {sm} % of the SMs, one alone has {min(ours.items())[1]:.1f} "
            f"there and {min(alone.items())[1]:.1f} on all SMs: {max(ours)} times the first would be "
            f"{max(ours) * min(ours.items())[1] / max(alone.values()):.2f} times time sharing")
    return text + (f"; MPS without percentages has {racing:.1f}" if racing is not None else "")


def why_mean(data):
    return ", ".join(f"{m} {gain(data, m):.2f}" for m in models(data) if gain(data, m) is not None)


# ---- 11: goodput ----

def good(data, name):
    return best(cells(data, 11), name)


def over_static(data):
    """Above the better of the paper's two."""
    found = [g for g in (good(data, "static12"), good(data, "static24")) if g is not None]
    return ratio(good(data, "ours"), max(found, default=None))


def why_goodput(data):
    return "; ".join(f"{n}: {good(data, n):.1f} requests/s in time" for n in ("ours", "racing", "static12", "static24")
                     if good(data, n) is not None) + "; without pause ours has " + f"{cells(data, 11)['capacity']:.1f}"


# ---- 5: packing ----

def shared(data, key):
    """Mean over the GPUs of time sharing."""
    c = cells(data, 5)
    values = [c[f"timeshare{i}"]["gpu"].get(key) for i in range(4) if f"timeshare{i}" in c]
    return sum(values) / len(values) if values and None not in values else None


def packed(data, key):
    return cells(data, 5).get("packed", {}).get("gpu", {}).get(key)


def why_packing(key):
    def why(data):
        if shared(data, key) is None or packed(data, key) is None:
            gpus = [r.get("gpu", {}).get("no_gpm") for r in cells(data, 5).values()]
            return "NVML gives no GPM here: " + next((g for g in gpus if g), "no sample") if cells(data, 5) else None
        base = shared(data, key)
        most = f", so that a full GPU is {100 / base:.2f} times as much" if base else ""
        return f"{packed(data, key):.1f} % packed, {base:.1f} % by time sharing{most}"
    return why


# ---- the others ----

def why_quota(data):
    r = cells(data, 8)["window.100ms"]
    rows = r["programs"]
    name = max(rows, key=lambda n: max(rows[n]["request_pct"] - rows[n]["held_pct"], rows[n]["held_pct"] - rows[n]["limit_pct"]))
    row = rows[name]
    return (f"{name} held its token {row['held_pct']:.1f} % of the time, of {row['request_pct']:g} to {row['limit_pct']:g} %; over-run "
            f"{r['overrun_us_per_token']:.0f} us a token")


def why_interference(data):
    c, out = cells(data, 4), []
    for name in ("spatial", "racing", "timeshare"):
        if name in c:
            out.append(f"{name} {c[name]['resnet_alone']['p99_ms']:.1f} ms alone, {c[name]['resnet']['p99_ms']:.1f} beside")
    return "; ".join(out)


def overhead(data):
    return max((r["overhead_pct"] for r in cells(data, 1).values() if r["overhead_pct"] is not None), default=None)


def why_overhead(data):
    return "; ".join(f"{k}: {r['bare_rps']:.1f} requests/s bare, {r['hooked_rps']:.1f} hooked" for k, r in sorted(cells(data, 1).items()))


def why_ramp(data):
    r = cells(data, 6)["ramp"]
    return (f"{r['violations']} of {r['sent']} late or lost, at most {max(s[1] for s in r['steps'])} replicas, p99 {r['p99_ms']:.1f} ms, "
            f"the ramp at {r['scale']:.2f} times the paper's rates in {r['stretch']:g} times its time; profile {r['profile']}")


# Figure, stage, value, limit, True: at least it, the paper's, why it is missed.
TARGETS = (
    ("throughput over token time sharing, ResNet-50, times", 3, lambda d: gain(d, "resnet50"), 4.5, True, "-", why_gain),
    ("the same, mean over the models, times", 3, mean_gain, 4.15, True, "4.15 (an increase by 3.15)", why_mean),
    ("goodput over MPS without percentages, times", 11, lambda d: ratio(good(d, "ours"), good(d, "racing")), 1, True, "-", why_goodput),
    ("goodput over the paper's static slices, times", 11, over_static, 1, True, "-", why_goodput),
    ("GPU utilization, packed over time sharing, times", 5,
     lambda d: ratio(packed(d, "graphics_util"), shared(d, "graphics_util")), 2.34, True, "2.34", why_packing("graphics_util")),
    ("SM occupancy, packed over time sharing, times", 5,
     lambda d: ratio(packed(d, "sm_occupancy"), shared(d, "sm_occupancy")), 4.14, True, "4.14", why_packing("sm_occupancy")),
    ("quota error at windows of 100 ms, points", 8, lambda d: cells(d, 8).get("window.100ms", {}).get("error_points"), 1, False, "-", why_quota),
    ("victim's p99 over alone, times", 4, lambda d: cells(d, 4).get("spatial", {}).get("p99_ratio"), 1.1, False, "-", why_interference),
    ("hook's overhead at full share, %", 1, overhead, 1, False, "-", why_overhead),
    ("SLO violations on the ramp, %", 6, lambda d: cells(d, 6).get("ramp", {}).get("violation_pct"), 1, False, "never above 1", why_ramp),
)


def absent(data, stage, why):
    """Why a figure was not measured."""
    row = data["stages"].get(str(stage))
    if not row:
        return f"stage {stage} was not run"
    if row["state"] != "done":
        so_far = f"; so far {why_mean(data)}" if why is why_mean and why_mean(data) else ""
        return f"stage {stage} is {row['state']}: {row['why']}{so_far}"
    try:
        return why(data) or f"stage {stage} has no such figure"
    except (KeyError, ValueError):
        return f"stage {stage} has no such figure"


def rows(data):
    """(figure, value or None, limit in words, the state, the paper's, the reason) of each."""
    out = []
    for name, stage, measure, limit, least, paper, why in TARGETS:
        value = measure(data)
        words = (">= " if least else "<= ") + f"{limit:g}"
        if value is None:
            out.append((name, None, words, "not measured", absent(data, stage, why), paper))
        elif value >= limit if least else value <= limit:
            out.append((name, value, words, "met", "", paper))
        else:
            out.append((name, value, words, "missed", why(data), paper))
    return out


SLO_TEXT = f"{SLO_MS['torch']} ms with PyTorch, {SLO_MS['replay']} ms with replay, whose models are a V100's"
