"""Stages about sharing: 1 the hook under PyTorch, 2 the grid of slices, 3 throughput by replicas,
4 interference, 5 packing, 7 memory."""
import os
import time

from gpukit.drive import Watch
from gpukit.world import MODELS, Bare, World, loops, total


def cell_seconds(kit, short, real):
    return 0.5 if short else min(real, 1.2) if kit.sim else real


REPLACED = "PyTorch is replaced by functions/replay"


def offered(kit, stage, names):
    """Of |names| those that can be served here."""
    out = [n for n in names if not kit.replay or MODELS[n].sim]
    if kit.sim:
        stage.note(REPLACED + " on the simulated driver: no figure here is a GPU's")
    elif kit.replay:
        stage.note(REPLACED + f", since {kit.python} has no PyTorch that finds the GPU: kernels of set lengths")
    if len(out) < len(names):
        stage.note("replay has no " + ", ".join(n for n in names if n not in out))
    return out


# ---- 1 ----

def hook_cell(kit, model, graphs, seconds, rounds):
    """The same server with and without hook, in turn; both are clients of one MPS daemon."""
    log = os.path.join(kit.temp, f"hook-{model}-{graphs}.log")
    with World(kit) as w:
        pipe = os.path.join(w.state, "mps") if w.has_mps else None
        hooked = w.begin_model(model, graphs=graphs, env=[f"FAST_HOOK_LOG={log}"])
        bare = Bare(kit, model, graphs, pipe)
        try:
            w.wait()
            same = kit.replay or bare.ask("GET", "/check")[1] == hooked.ask("GET", "/check")[1]
            rates = {"bare": [], "hooked": []}
            for i in range(rounds):
                for name, server in (("bare", bare), ("hooked", hooked)) if i % 2 else (("hooked", hooked), ("bare", bare)):
                    rates[name].append(loops([server], seconds)[0]["rps"])
            s = w.stats()[hooked.name]
        finally:
            bare.close()
    text = ""
    if os.path.exists(log):
        with open(log, encoding="utf-8", errors="replace") as f:
            text = f.read()
    unhooked = sorted({line.split("symbol=")[1].strip() for line in text.splitlines() if "unhooked symbol=" in line})
    middle = {k: sorted(v)[len(v) // 2] for k, v in rates.items()}
    return {"overhead_pct": 100 * (1 - middle["hooked"] / middle["bare"]) if middle["bare"] else None,
            "bare_rps": middle["bare"], "hooked_rps": middle["hooked"], "same_output": bool(same),
            "unhooked": unhooked, "launches": s.launches, "clients": s.clients,
            "markers": next((line.split("markers=")[1] for line in text.splitlines() if "markers=" in line), None)}


def stage_hook(kit, stage, short):
    seconds, rounds = cell_seconds(kit, short, 2.5), 1 if short else 5
    for model in offered(kit, stage, ["resnet50"] if short else ["resnet50", "bert"]):
        for graphs in ((False,) if kit.replay else (True, False)):
            key = f"{model}.{'graph' if graphs else 'eager'}"
            stage.try_cell(key, 2 * rounds * seconds + 5, lambda m=model, g=graphs: hook_cell(kit, m, g, seconds, rounds))


# ---- 2 ----

GRID_SM, GRID_QUOTA = (6, 12, 24, 50, 80, 100), (200, 400, 600, 800, 1000)


def stage_grid(kit, stage, short):
    """Requests/s of one ResNet-50 by SM partition and quota: the replicas of all partitions are started
    together and measured one at a time."""
    offered(kit, stage, ["resnet50"])
    seconds = cell_seconds(kit, short, 1.6)
    shares = (12, 100) if short else (6, 12, 24, 100) if kit.sim else GRID_SM
    quotas = (400, 1000) if short else GRID_QUOTA
    wanted = [(sm, q) for sm in shares for q in quotas if not stage.has(f"{sm}.{q}")]
    if not wanted:
        return
    stage.check(30 if not kit.sim else 1)
    with World(kit) as w:
        servers = {sm: w.begin_model("resnet50", f"sm{sm}", sm=sm) for sm in shares}
        w.wait()
        for s in servers.values():
            loops([s], 0.3)
        for sm, q in wanted:
            servers[sm].resize(q, q, sm, GIB_OF(kit))
            time.sleep(0.1)
            stage.try_cell(f"{sm}.{q}", seconds + 1, lambda s=servers[sm]: loops([s], seconds)[0])


def GIB_OF(kit): # pylint: disable=invalid-name
    return (1 << 30) if kit.sim else MODELS["resnet50"].mem


# ---- 3 ----

# name: policy, MPS, SM percentage
CONFIGS = {"timeshare": ("timeshare", "auto", 100), "ours": ("fast", "auto", None), "racing": ("racing", "auto", 100),
           "static12": ("fast", "auto", 12), "static24": ("fast", "auto", 24), "sliced": ("racing", "off", 100)}


def choose_slice(kit, model, counts, seconds, short=False):
    """Ours: the SM partition whose replicas, as many as fit and are allowed, give the most together:
    requests/s per SM share times the share that is then in use (the profiler's RPR)."""
    most, table, best = max(counts), {}, None
    with World(kit) as w:
        servers = {sm: w.begin_model(model, f"try{sm}", sm=sm) for sm in (10, 12, 16, 24, 32, 50, 100)
                   if not kit.sim or sm in ((12, 50) if short else (12, 24, 50))}
        w.wait()
        for sm, s in servers.items():
            loops([s], 0.3)
            rps = loops([s], seconds)[0]["rps"]
            table[str(sm)] = rps
            together = rps * min(most, 100 // sm)
            if best is None or together > best[1]:
                best = (sm, together)
    return {"sm": best[0], "predicted_rps": best[1], "alone_rps": table}


def replicas_cells(kit, stage, model, config, counts, seconds, sm):
    keys = {k: f"{model}.{config}.{k}" for k in counts}
    if all(stage.has(k) for k in keys.values()):
        return
    stage.check(25 + (seconds + 1) * len(counts) if not kit.sim else 2)
    policy, use_mps, pct = CONFIGS[config]
    with World(kit, policy=policy, mps=use_mps) as w:
        servers = [w.begin_model(model, sm=pct or sm) for _ in range(max(counts))]
        w.wait()
        loops(servers, 0.3)
        for k, key in keys.items():
            def measure(count=k):
                with Watch(kit) as watch:
                    out = total(loops(servers[:count], seconds))
                return dict(out, gpu=watch.summary(), sm=pct or sm)
            stage.cell(key, seconds + 2, measure)


MODELS_OF_3 = ("resnet50", "bert", "rnnt", "resnext101", "gnmt", "vit_huge")


def stage_replicas(kit, stage, short):
    """All of the first model; of the others what the mean over the models needs, and the rest behind."""
    seconds = cell_seconds(kit, short, 3.5)
    first, *others = offered(kit, stage, MODELS_OF_3[:1] if short else MODELS_OF_3)
    many = (1, 2) if short else (1, 3, 5) if kit.sim else (1, 2, 4, 8, 9)
    few = (1, 3) if kit.sim else (1, 8)
    plan = [(first, config, many) for config in (("timeshare", "ours") if short else CONFIGS)]
    plan += [(m, config, few) for m in others for config in ("timeshare", "ours")]
    plan += [(m, "racing", few) for m in others]

    def part(model, config, counts):
        sm = None
        if config == "ours":
            sm = stage.cell(f"{model}.slice", 40 if not kit.sim else 5,
                            lambda: choose_slice(kit, model, counts, seconds / 2, short))["sm"]
        replicas_cells(kit, stage, model, config, counts, seconds, sm)

    for row in plan:
        stage.attempt(".".join(row[:2]), lambda r=row: part(*r))


# ---- 4 ----

def interference_cell(kit, policy, sm, seconds):
    """ResNet-50 with limit 80 %, RNN-T with limit 50 %: each alone, and together."""
    with World(kit, policy=policy) as w:
        resnet = w.begin_model("resnet50", "resnet", sm=sm[0], request=500, limit=800)
        rnnt = w.begin_model("rnnt", "rnnt", sm=sm[1], request=500, limit=500)
        w.wait()
        loops([resnet, rnnt], 0.5)
        alone = loops([resnet], seconds)[0]
        alone_rnnt = loops([rnnt], seconds)[0]
        both = loops([resnet, rnnt], 2 * seconds)
    return {"resnet_alone": alone, "rnnt_alone": alone_rnnt, "resnet": both[0], "rnnt": both[1],
            "kept_pct": 100 * both[0]["rps"] / alone["rps"] if alone["rps"] else None,
            "p99_ratio": both[0]["p99_ms"] / alone["p99_ms"] if alone["p99_ms"] else None}


INTERFERENCE = {"spatial": ("fast", (50, 50)), "timeshare": ("timeshare", (100, 100)), "racing": ("racing", (100, 100))}


def stage_interference(kit, stage, short):
    offered(kit, stage, ["resnet50", "rnnt"])
    seconds = cell_seconds(kit, short, 5)
    for name, (policy, sm) in INTERFERENCE.items():
        if name == "spatial" or not short:
            stage.try_cell(name, 4 * seconds + 15, lambda p=policy, s=sm: interference_cell(kit, p, s, seconds))


# ---- 5 ----

# The paper's: model, SM partition, quota. Time sharing needs four GPUs for them, by the sum of quotas.
PACK = [("resnet50", 12, 400)] * 4 + [("rnnt", 24, 400)] * 2 + [("bert", 50, 600)] * 2
TIME_SHARED = ([0, 6], [1, 7], [2, 4], [3, 5])


def pack_cell(kit, policy, which, seconds):
    with World(kit, policy=policy) as w:
        servers = [w.begin_model(PACK[i][0], f"{PACK[i][0]}{i}", sm=PACK[i][1], request=PACK[i][2], limit=PACK[i][2])
                   for i in which]
        w.wait()
        loops(servers, 0.5)
        with Watch(kit, 100) as watch:
            rows = loops(servers, seconds)
    rates = {}
    for i, r in zip(which, rows):
        rates[PACK[i][0]] = rates.get(PACK[i][0], 0) + r["rps"]
    return {"gpu": watch.summary(), "rps": rates, "p99_ms": {PACK[i][0]: r["p99_ms"] for i, r in zip(which, rows)}}


def stage_packing(kit, stage, short):
    offered(kit, stage, ["resnet50", "rnnt", "bert"])
    seconds = cell_seconds(kit, short, 6) * (2 if kit.sim and not short else 1)
    stage.try_cell("packed", seconds + 30, lambda: pack_cell(kit, "fast", range(len(PACK)), seconds))
    for n, which in enumerate(TIME_SHARED[:1] if short else TIME_SHARED):
        stage.try_cell(f"timeshare{n}", seconds + 20, lambda x=which: pack_cell(kit, "timeshare", x, seconds))
    if not short and not kit.sim:
        stage.try_cell("one_gpu_timeshare", seconds + 30, lambda: pack_cell(kit, "timeshare", range(len(PACK)), seconds))
        stage.try_cell("one_gpu_racing", seconds + 30, lambda: pack_cell(kit, "racing", range(len(PACK)), seconds))


# ---- 7 ----

def memory_cell(kit, model, count, share):
    """Device memory after each more replica, by NVML."""
    with Watch(kit, 100) as w0:
        time.sleep(0.4)
    base, steps = w0.peak("memory_mib") or 0, []
    settings = ["SHARE=1", f"FAST_MODEL={MODELS[model].torch}"] # the second leads to the node's store
    with World(kit) as w:
        for i in range(count):
            w.begin_model(model, sm=100 // count, request=200, env=settings if share else [], graphs=False,
                          mem=(16 << 30) if kit.sim is None else 1 << 31)
            w.wait()
            loops(w.replicas[-1:], 0.3)
            with Watch(kit, 100) as watch:
                time.sleep(0.4)
            steps.append((watch.peak("memory_mib") or 0) - base)
    each = [b - a for a, b in zip([0.0] + steps, steps)]
    return {"first_mib": each[0], "more_mib": sum(each[1:]) / max(1, len(each) - 1), "steps_mib": steps}


def stage_memory(kit, stage, short):
    names = ["resnet50"] if short else ["resnet50", "resnext101", "vit_huge", "bert"]
    why = kit.without_sharing()
    if why:
        stage.note(f"shared weights are not measured: {why}")
    for model in offered(kit, stage, names):
        count = 2 if kit.sim or short else 3
        for how in ("private",) if why else ("private", "shared"):
            stage.try_cell(f"{model}.{how}", 45 if not kit.sim else 5,
                           lambda m=model, h=how, c=count: memory_cell(kit, m, c, h == "shared"))
