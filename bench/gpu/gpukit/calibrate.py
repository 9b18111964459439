#!/usr/bin/env python3
"""From the kernels of one inference to a file of models/: two kinds of kernels, those whose blocks run all
at once and larger ones, each with its number of blocks and the time of a block, and the host time around
them. Blocks are counted as blocks of 256 threads, which is what the file says of all kernels.

    calibrate.py trace MODEL                 under PyTorch: the kernels of one eager inference, as JSON
    calibrate.py convert TRACE NAME [--sms N] [--us T] [--memory-mib M] [--input-kib I] [--output-kib O]
                                             the model file, from a trace in Chrome's form as torch.profiler
                                             and other users of CUPTI write it (.json or .json.gz); T: the
                                             inference's time without the profiler, else the trace's span
"""
import argparse
import gzip
import json
import os
import re
import subprocess
import sys

THREADS = 256
SLOTS = 2048 // THREADS # blocks that an SM holds
KERNELS_MAX = 1000 # of a kind: src/sim/model.h
HOST_SHARE = 0.2 # of the host's time before the first launch, where the trace does not say


def blocks_of(grid, block):
    """In blocks of THREADS threads."""
    count = threads = 1
    for n in grid:
        count *= n
    for n in block:
        threads *= n
    return max(1, -(-count * threads // THREADS))


def waves(blocks, sms):
    """How often the SMs are filled one after the other."""
    return max(1, -(-blocks // (sms * SLOTS)))


def middle(values):
    values = sorted(values)
    return values[len(values) // 2] if values else 1


def duration(durations, host, launch):
    """Of a request: a kernel is launched |launch| after the one before, and runs when that is done."""
    at, done = host, 0.0
    for took in durations:
        at += launch
        done = max(at, done) + took
    return max(at, done)


def fit_kind(kernels, sms):
    """(kernels, blocks of each, microseconds of a block): together they take as long as they did."""
    if not kernels:
        return 0, 1, 1.0
    blocks, count = middle([k[1] for k in kernels]), len(kernels)
    kept = min(count, KERNELS_MAX)
    return kept, blocks, sum(k[2] for k in kernels) / kept / waves(blocks, sms)


def fit_host(durations, total_us, share):
    """(host, launch) such that a request takes |total_us|: |share| of the host's time comes first."""
    count = max(1, len(durations))
    low, high = 0.0, max(total_us, 0.0)
    for _ in range(60):
        time_of_host = (low + high) / 2
        if duration(durations, time_of_host * share, time_of_host * (1 - share) / count) > total_us:
            high = time_of_host
        else:
            low = time_of_host
    return low * share, low * (1 - share) / count


def fit(kernels, total_us, sms, share=HOST_SHARE):
    """The numbers of the file, of kernels [name, blocks, microseconds, occupancy in per cent]."""
    small = fit_kind([k for k in kernels if waves(k[1], sms) == 1], sms)
    large = fit_kind([k for k in kernels if waves(k[1], sms) > 1], sms)
    busy = sum(k[2] for k in kernels)
    host, launch = fit_host(durations_of(small, large, sms), total_us, share)
    return {"small": small, "large": large, "host": host, "launch": launch,
            "occupancy": min(1.0, max(0.01, sum(k[3] * k[2] for k in kernels) / max(1e-9, busy) / 100))}


def durations_of(small, large, sms):
    return [took * waves(blocks, sms) for count, blocks, took in (small, large) for _ in range(count)]


def text(name, device, fitted, memory_mib, input_kib, output_kib):
    (small, small_blocks, small_us), (large, large_blocks, large_us) = fitted["small"], fitted["large"]
    return (f"# {name} on a {device}, one request: from the kernels of one inference (bench/gpu/gpukit/calibrate.py).\n"
            f"name = {name.replace('_', '-')}\nmemory = {int(memory_mib)}MiB\n"
            f"input = {int(input_kib)}KiB\noutput = {int(output_kib)}KiB\n"
            f"small_kernels = {small}\nlarge_kernels = {large}\nthreads_per_block = {THREADS}\n"
            f"host = {fitted['host']:.3f}us\nlaunch = {fitted['launch']:.3f}us\n"
            f"small_blocks = {small_blocks}\nsmall_block = {max(0.001, small_us):.3f}us\n"
            f"large_blocks = {large_blocks}\nlarge_block = {max(0.001, large_us):.3f}us\n"
            f"occupancy = {fitted['occupancy']:.3f}\ndram = 0\n")


UNITS = {"us": 1.0, "ms": 1000.0, "s": 1e6, "ns": 0.001}


def read_model(body):
    """key -> text of a model file."""
    out = {}
    for line in body.splitlines():
        key, sep, value = line.split("#")[0].partition("=")
        if sep:
            out[key.strip()] = value.strip()
    return out


def us(value):
    number, unit = re.fullmatch(r"([\d.]+)([a-z]+)", value).groups()
    return float(number) * UNITS[unit]


def kernels_of_model(body, sms):
    """(kernels, total microseconds) that a model file says, as if they had been seen in a trace."""
    m, out = read_model(body), []
    for kind in ("small", "large"):
        blocks = blocks_of([int(m[kind + "_blocks"])], [int(m["threads_per_block"])])
        took = us(m[kind + "_block"]) * waves(blocks, sms)
        out += [[kind, blocks, took, 100 * float(m["occupancy"])]] * int(m[kind + "_kernels"])
    return out, duration([k[2] for k in out], us(m["host"]), us(m["launch"]))


def error_pct(body, total_us, sms):
    """How far the file's own time of a request is from the measured one."""
    return 100 * abs(kernels_of_model(body, sms)[1] - total_us) / max(1e-9, total_us)


def trace(kit, model):
    script = os.path.abspath(__file__)
    r = subprocess.run([kit.python, script, "trace", model.torch], capture_output=True, text=True, timeout=150,
                       check=False, env=dict(kit.env, CUDA_MPS_PIPE_DIRECTORY=os.path.join(kit.temp, "no-mps")))
    if r.returncode:
        raise RuntimeError(f"the profiler fails: {r.stderr[-500:]}")
    return json.loads(r.stdout.strip().splitlines()[-1])


def one(kit, model):
    """Fits, writes the file, has replay read it. In the simulation the kernels are those of the model's own
    file, so that what is tested is the way back."""
    from gpukit.machine import ROOT
    share = HOST_SHARE
    if kit.sim:
        device, sms = "SIMULATED GPU", 80
        with open(os.path.join(ROOT, "models", model.sim + ".model"), encoding="utf-8") as f:
            kernels, total = kernels_of_model(f.read(), sms)
        memory, bytes_in, bytes_out = 1500, 588, 4
    else:
        t = trace(kit, model)
        device, sms, kernels, total, share = t["device"], t["sms"], t["kernels"], t["total_us"], t["share"]
        memory, bytes_in, bytes_out = t["memory_mib"], t["input_kib"], t["output_kib"]
    if not kernels:
        raise RuntimeError("the profiler saw no kernel: CUPTI may not be allowed here")
    fitted = fit(kernels, total, sms, share)
    body = text(model.name, device, fitted, memory, bytes_in, bytes_out)
    return {"kernels": len(kernels), "busy_us": sum(k[2] for k in kernels), "total_us": total, "fitted": fitted,
            "file": body, "refused": refused(kit.path("functions/replay"), kit.temp, model.name, body, kit.env),
            "error_pct": error_pct(body, total, sms), "top": top(kernels)}


def refused(replay, folder, name, body, env=None):
    """What replay says against the file, None when it takes it. It then fails to listen, and ends."""
    path = os.path.join(folder, f"{name}.model")
    with open(path, "w", encoding="utf-8") as f:
        f.write(body)
    r = subprocess.run([replay, "--model", path, "--listen", "nowhere"], capture_output=True, text=True, timeout=30,
                       check=False, env=env)
    return next((line for line in r.stderr.splitlines() if path in line), None)


def top(kernels, count=12):
    """The kernels that take most of the time, by name."""
    sums = {}
    for name, blocks, took, _ in kernels:
        row = sums.setdefault(name[:120], [0, 0.0, blocks])
        row[0] += 1
        row[1] += took
    rows = sorted(sums.items(), key=lambda r: -r[1][1])[:count]
    return [{"name": n, "count": r[0], "us": r[1], "blocks": r[2]} for n, r in rows]


def kernels_of_events(events):
    """Of a Chrome trace: in the order of their starts. An occupancy that CUPTI has not told counts as half."""
    out = []
    for e in sorted((e for e in events if e.get("cat") == "kernel" and "dur" in e), key=lambda e: e["ts"]):
        a = e.get("args", {})
        occupancy = a.get("est. achieved occupancy %") or 50
        out.append([e["name"], blocks_of(a.get("grid", [1]), a.get("block", [32])), float(e["dur"]), float(occupancy)])
    return out


def span_of_events(events):
    """(microseconds from the first call of the host to the end of the last kernel, the share of the host's
    time that passes before the first launch, HOST_SHARE where no launch was seen)."""
    timed = [e for e in events if "dur" in e and e.get("cat") in ("kernel", "cuda_runtime", "cuda_driver", "cpu_op")]
    if not timed:
        return 0.0, HOST_SHARE
    begin = min(e["ts"] for e in timed)
    end = max(e["ts"] + e["dur"] for e in timed)
    launches = sorted(e["ts"] for e in timed if "aunch" in e.get("name", "") and e["cat"] != "kernel")
    if len(launches) < 2 or launches[-1] <= begin:
        return end - begin, HOST_SHARE
    return end - begin, min(0.9, max(0.0, (launches[0] - begin) / (launches[-1] - begin)))


def read_events(path):
    """A trace is an object with "traceEvents", or the list alone."""
    with (gzip.open if path.endswith(".gz") else open)(path, "rt", encoding="utf-8") as f:
        data = json.load(f)
    return data["traceEvents"] if isinstance(data, dict) else data


def run_trace(name):
    import tempfile
    import torch
    from torch.profiler import ProfilerActivity, profile
    sys.path.insert(0, os.path.join(os.path.dirname(os.path.abspath(__file__)), "..", "..", "..", "examples", "torch"))
    import models
    model = models.Model(name)
    for _ in range(5):
        model.seconds()
    seconds = min(model.seconds() for _ in range(5))
    with profile(activities=[ProfilerActivity.CUDA, ProfilerActivity.CPU]) as p:
        model.seconds()
    with tempfile.TemporaryDirectory() as folder:
        p.export_chrome_trace(os.path.join(folder, "trace.json"))
        events = read_events(os.path.join(folder, "trace.json"))
    size = sum(x.numel() * x.element_size() for x in model.inputs)
    out, gpu = model(), torch.cuda.get_device_properties(0)
    print(json.dumps({
        "kernels": kernels_of_events(events), "total_us": seconds * 1e6, "share": span_of_events(events)[1],
        "device": gpu.name, "sms": gpu.multi_processor_count,
        "memory_mib": torch.cuda.max_memory_reserved() / (1 << 20) + 300, # and the context
        "input_kib": max(1, size // 1024), "output_kib": max(1, out.numel() * out.element_size() // 1024)}))


def run_convert(o):
    events = read_events(o.trace)
    kernels, (span, share) = kernels_of_events(events), span_of_events(events)
    if not kernels:
        sys.exit(f"calibrate: {o.trace} has no kernel")
    body = text(o.name, "GPU", fit(kernels, o.us or span, o.sms, share), o.memory_mib, o.input_kib, o.output_kib)
    sys.stdout.write(body)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    verbs = p.add_subparsers(dest="verb", required=True)
    verbs.add_parser("trace").add_argument("model")
    c = verbs.add_parser("convert")
    c.add_argument("trace")
    c.add_argument("name")
    c.add_argument("--sms", type=int, default=132)
    c.add_argument("--us", type=float)
    for option, default in (("--memory-mib", 1500), ("--input-kib", 588), ("--output-kib", 4)):
        c.add_argument(option, type=int, default=default)
    o = p.parse_args()
    if o.verb == "trace":
        run_trace(o.model)
    else:
        run_convert(o)


if __name__ == "__main__":
    main()
