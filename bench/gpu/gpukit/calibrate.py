"""From the kernels of one inference to a file of models/: two kinds of kernels, small and large, each
with its number of blocks and the time of a block, and the host time around them.

`python3 calibrate.py trace MODEL` runs under PyTorch and prints the kernels of one eager inference as
JSON, one [name, blocks, threads, microseconds, occupancy in per cent] each.
"""
import json
import os
import subprocess
import sys

SMS = 132 # of the GPU that the trace comes from, unless it says otherwise
SLOTS = 2048 # threads that an SM holds


def waves(blocks, threads, sms):
    """How often the SMs are filled one after the other."""
    at_once = max(1, sms * max(1, SLOTS // max(32, threads)))
    return max(1, -(-blocks // at_once))


def middle(values):
    values = sorted(values)
    return values[len(values) // 2] if values else 0


def fit(kernels, total_us, sms=SMS):
    """The numbers of the file. A kernel is small when all its blocks run at once."""
    kinds = {"small": [], "large": []}
    for _, blocks, threads, us, _ in kernels:
        kinds["small" if waves(blocks, threads, sms) == 1 else "large"].append((blocks, us / waves(blocks, threads, sms), us))
    out = {}
    for kind, rows in kinds.items():
        out[kind + "_kernels"] = len(rows)
        out[kind + "_blocks"] = max(1, middle([r[0] for r in rows]))
        # The time of a block such that all kernels of the kind take as long together as they did.
        scale = waves(out[kind + "_blocks"], 256, sms)
        out[kind + "_block"] = max(0.1, sum(r[2] for r in rows) / max(1, len(rows)) / scale)
    busy = sum(k[3] for k in kernels)
    gap = max(0.0, total_us - busy)
    out["host"] = gap * 0.2
    out["launch"] = gap * 0.8 / max(1, len(kernels))
    out["occupancy"] = min(1.0, max(0.01, sum(k[4] * k[3] for k in kernels) / max(1e-9, busy) / 100))
    return out


def text(name, device, fitted, memory_mib, input_kib, output_kib):
    f = fitted
    return (f"# {name} on a {device}, one request: from the kernels of one inference (bench/gpu/gpukit/calibrate.py).\n"
            f"name = {name}\nmemory = {int(memory_mib)}MiB\ninput = {int(input_kib)}KiB\noutput = {int(output_kib)}KiB\n"
            f"small_kernels = {f['small_kernels']}\nlarge_kernels = {f['large_kernels']}\nthreads_per_block = 256\n"
            f"host = {f['host']:.3f}us\nlaunch = {f['launch']:.3f}us\nsmall_blocks = {f['small_blocks']}\n"
            f"small_block = {f['small_block']:.3f}us\nlarge_blocks = {f['large_blocks']}\n"
            f"large_block = {f['large_block']:.3f}us\noccupancy = {f['occupancy']:.3f}\ndram = 0\n")


UNITS = {"us": 1.0, "ms": 1000.0, "s": 1e6, "ns": 0.001}


def read_model(path):
    """key -> text of a model file."""
    out = {}
    with open(path, encoding="utf-8") as f:
        for line in f:
            key, sep, value = line.split("#")[0].partition("=")
            if sep:
                out[key.strip()] = value.strip()
    return out


def us(value):
    number = value.rstrip("munsµ")
    return float(number) * UNITS[value[len(number):]]


def kernels_of_model(path, sms=80):
    """What a trace of replay would be: the kernels that the file says."""
    m, out = read_model(path), []
    for kind in ("small", "large"):
        blocks, threads = int(m[kind + "_blocks"]), int(m["threads_per_block"])
        took = us(m[kind + "_block"]) * waves(blocks, threads, sms)
        out += [[kind, blocks, threads, took, 100 * float(m["occupancy"])]] * int(m[kind + "_kernels"])
    total = sum(k[3] for k in out) + us(m["host"]) + us(m["launch"]) * len(out)
    return out, total


def trace(kit, model):
    script = os.path.abspath(__file__)
    r = subprocess.run([kit.python, script, "trace", model.torch], capture_output=True, text=True, timeout=150,
                       check=False, env=dict(kit.env, CUDA_MPS_PIPE_DIRECTORY=os.path.join(kit.temp, "no-mps")))
    if r.returncode:
        raise RuntimeError(f"the profiler fails: {r.stderr[-500:]}")
    return json.loads(r.stdout.strip().splitlines()[-1])


def one(kit, model):
    """Fits, writes the file, has replay read it (--help would not: it answers one request)."""
    from gpukit.machine import ROOT
    if kit.sim:
        device, sms = "SIMULATED GPU", 80
        kernels, total = kernels_of_model(os.path.join(ROOT, "models", model.sim + ".model"))
        memory, bytes_in, bytes_out = 1500, 588, 4
    else:
        t = trace(kit, model)
        device, sms, kernels, total = t["device"], t["sms"], t["kernels"], t["total_us"]
        memory, bytes_in, bytes_out = t["memory_mib"], t["input_kib"], t["output_kib"]
    fitted = fit(kernels, total, sms)
    body = text(model.name, device, fitted, memory, bytes_in, bytes_out)
    path = os.path.join(kit.temp, f"{model.name}.model")
    with open(path, "w", encoding="utf-8") as f:
        f.write(body)
    r = subprocess.run([kit.path("functions/replay"), "--model", path, "--listen", "nowhere"], capture_output=True,
                       text=True, timeout=30, check=False, env=kit.env)
    bad = [line for line in r.stderr.splitlines() if path in line]
    busy = sum(k[3] for k in kernels)
    return {"kernels": len(kernels), "busy_us": busy, "total_us": total, "fitted": fitted, "file": body,
            "refused": bad[0] if bad else None, "top": top(kernels)}


def top(kernels, count=12):
    """The kernels that take most of the time, by name."""
    sums = {}
    for name, blocks, threads, took, _ in kernels:
        row = sums.setdefault(name[:120], [0, 0.0, blocks, threads])
        row[0] += 1
        row[1] += took
    rows = sorted(sums.items(), key=lambda r: -r[1][1])[:count]
    return [{"name": n, "count": r[0], "us": r[1], "blocks": r[2], "threads": r[3]} for n, r in rows]


def kernels_of_events(events):
    """Of the Chrome trace that torch.profiler exports."""
    out = []
    for e in events:
        if e.get("cat") != "kernel":
            continue
        a = e.get("args", {})
        grid, block = a.get("grid", [1, 1, 1]), a.get("block", [32, 1, 1])
        occupancy = a.get("est. achieved occupancy %", 50)
        out.append([e["name"], grid[0] * grid[1] * grid[2], block[0] * block[1] * block[2], e["dur"], occupancy or 1])
    return out


def run_trace(name):
    import tempfile
    import torch
    from torch.profiler import ProfilerActivity, profile
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "examples", "torch"))
    import models
    model = models.Model(name)
    for _ in range(5):
        seconds = model.seconds()
    seconds = min(model.seconds() for _ in range(5))
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
        model.seconds()
    with tempfile.NamedTemporaryFile(suffix=".json") as f:
        p.export_chrome_trace(f.name)
        with open(f.name, encoding="utf-8") as g:
            events = json.load(g)["traceEvents"]
    cuda = torch.cuda.is_available()
    size = sum(x.numel() * x.element_size() for x in model.inputs)
    out = model()
    print(json.dumps({
        "kernels": kernels_of_events(events), "total_us": seconds * 1e6,
        "device": torch.cuda.get_device_name() if cuda else "CPU",
        "sms": torch.cuda.get_device_properties(0).multi_processor_count if cuda else SMS,
        "memory_mib": torch.cuda.max_memory_reserved() / (1 << 20) + 300 if cuda else 300,
        "input_kib": max(1, size // 1024), "output_kib": max(1, out.numel() * out.element_size() // 1024)}))


if __name__ == "__main__":
    run_trace(sys.argv[2])
