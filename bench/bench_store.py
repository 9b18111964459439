#!/usr/bin/env python3
"""What sharing a model costs and saves, with real bytes on the simulated GPU: no figure here is a GPU's.

store.load_ratio: the time in which the first process loads a model of BENCH_STORE_MB (2600) from a file in
the page cache, over that in which a second one gets it. store.get_ms: taking a model that is there, in a
process that has a context. store.load_ratio_memcpy: the bandwidth of that first load (read, hashed, copied
to the device) over that of memcpy() from the page cache to memory that nobody has touched either; the same
of one process that copies between buffers that it has touched is store.load_ratio_memcpy_warm.
store.overhead_pct: what eight replicas under fast-node take of the device beyond one copy of the model,
their contexts and what each has allocated for itself, in per cent of the model. store.replicas_equal: how
many of these eight see the bytes that the file has, by the hash of every tensor.

The machine needs twice the model's size of memory, and once that of disk in TMPDIR."""
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import node  # noqa: E402
import store as e2e  # noqa: E402

MB = int(os.environ.get("BENCH_STORE_MB", "2600"))
TENSOR = 25_000_000  # bytes: of the order of a layer's weights
MIB = 1 << 20
CONTEXT = 300 * MIB  # of a process, as the simulated driver has it
OWN = 64 * MIB       # that a replica allocates for itself
REPLICAS, ROUNDS, GETS = 8, 3, 50
WAIT_S = 300

FIGURES = {
    "store.load_ratio": ("times", ">= 20"), "store.get_ms": ("ms", None), "store.load_ms": ("ms", None),
    "store.load_ratio_memcpy": ("times", ">= 0.7"), "store.load_ratio_memcpy_warm": ("times", None),
    "store.overhead_pct": ("%", "<= 1"), "store.replicas_equal": ("replicas", ">= 8"),
}

CLIENT = """
import ctypes, mmap, time
libc = ctypes.CDLL(None)
libc.memcpy.argtypes = [ctypes.c_void_p, ctypes.c_void_p, ctypes.c_size_t]
cuda = ctypes.CDLL("libcuda.so.1")
context = ctypes.c_void_p()
cuda.cuInit(0), cuda.cuDevicePrimaryCtxRetain(ctypes.byref(context), 0), cuda.cuCtxSetCurrent(context)

def load():
    began = time.monotonic()
    model = lib.load(store, os.environ["MODEL_FILE"], "m")
    return time.monotonic() - began, model

def address(buffer):
    return ctypes.addressof(ctypes.c_char.from_buffer(buffer))
"""
LOAD = CLIENT + "print(load()[0])"
GET = CLIENT + f"""
times = []
for _ in range({GETS}):
    began = time.monotonic()
    model = lib.get(store, "m")
    times.append(time.monotonic() - began)
    lib.c.fast_store_release(model)
print(sorted(times)[{GETS // 2}])
"""
# Both in one process, one after the other, so that both have the machine as it is.
MEMCPY = CLIENT + """
with open(os.environ["MODEL_FILE"], "r+b") as f:
    file = mmap.mmap(f.fileno(), 0)
size = len(file)
fresh = mmap.mmap(-1, size, mmap.MAP_SHARED)
began = time.monotonic()
libc.memcpy(address(fresh), address(file), size)
cold = time.monotonic() - began
part = min(size, 256 << 20)
libc.memcpy(address(fresh), address(fresh) + size - part, part)
began = time.monotonic()
for at in range(0, size - part, part):
    libc.memcpy(address(fresh) + at, address(file) + at, min(part, size - at))
warm = (time.monotonic() - began) * size / max(1, size - size % part or size)
fresh = None
print(cold, warm, load()[0])
"""


def figure(name, values):
    unit, target = FIGURES[name]
    value = sorted(values)[len(values) // 2]
    ok = None
    if target:
        ok = value >= float(target[2:]) if target[0] == ">" else value <= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": len(values),
                      "spread": float(f"{max(values) - min(values):.4g}"), "target": target, "pass": ok}),
          flush=True)


def make_file(folder):
    """Tensors with contents that differ, so that none can stand for another."""
    path = os.path.join(folder, "m.safetensors")
    noise = random.Random(1).randbytes(TENSOR + 4096)
    header, at = {}, 0
    count = max(1, MB * 1_000_000 // TENSOR)
    for i in range(count):
        header[f"layers.{i}.weight"] = {"dtype": "BF16", "shape": [TENSOR // 2],
                                        "data_offsets": [at, at + TENSOR]}
        at += TENSOR
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(len(text).to_bytes(8, "little") + text)
        for i in range(count):
            f.write(noise[i % 4096:i % 4096 + TENSOR])
    with open(path, "rb") as f:  # into the page cache
        while f.read(64 * MIB):
            pass
    return path


def timings(path, wanted):
    load_ratios, loads, gets, cold, warm = [], [], [], [], []
    for _ in range(ROUNDS):
        s = e2e.Store()
        s.env["MODEL_FILE"] = path
        try:
            first = float(s.run(LOAD))
            second = float(s.run(LOAD))
            gets.append(float(s.run(GET)) * 1000)
        finally:
            s.close()
        loads.append(first * 1000)
        load_ratios.append(first / second)
        if not {"store.load_ratio_memcpy", "store.load_ratio_memcpy_warm"} & wanted:
            continue
        s = e2e.Store()
        s.env["MODEL_FILE"] = path
        try:
            c, w, load = map(float, s.run(MEMCPY).split())
        finally:
            s.close()
        cold.append(c / load)
        warm.append(w / load)
    for name, values in (("store.load_ratio", load_ratios), ("store.load_ms", loads),
                         ("store.get_ms", gets), ("store.load_ratio_memcpy", cold),
                         ("store.load_ratio_memcpy_warm", warm)):
        if name in wanted:
            figure(name, values)


def start(session, number, path):
    _, done = session.ask(
        "replica_start", replica=f"f.openfaas-fn.{number}", function="f", ns="openfaas-fn", gpu=0,
        sm_pct=12, request_milli=1000, limit_milli=1000, mem_bytes=OWN + 2 * CONTEXT,
        argv=[sys.executable, os.path.join(node.HERE, "model_function.py")],
        env=["FAST_MODEL=m", f"MODEL_FILE={path}"], start_timeout_ms=WAIT_S * 1000)
    if done.code:
        raise SystemExit(done.text)


def ask(port, path):
    # Verifying reads the whole model: not within urllib's patience.
    out = subprocess.run(["curl", "-sf", "--max-time", str(WAIT_S), f"http://127.0.0.1:{port}{path}"],
                         check=True, capture_output=True).stdout
    return json.loads(out)


def sharing(path, wanted):
    n = node.Node(gpus=1)
    try:
        with n.session(timeout=WAIT_S) as session:
            ports = []
            for i in range(1, REPLICAS + 1):
                start(session, i, path)
                node.wait_until(lambda i=i: [r for r in session.ask("replica_list")[0]
                                             if r.get("state") == 1 and r.replica.endswith(f".{i}")])
            ports = [r.port for r in session.ask("replica_list")[0] if r.name == "replica_row"]
            equal = set()
            count = 0
            for port in ports:
                said = ask(port, "/")
                assert ask(port, f"/alloc?{OWN}")["code"] == 0
                equal.add(tuple(said["hashes"]))
                count += said["error"] == ""
            gpu = session.ask("gpu_list")[0][0]
            size = os.path.getsize(path)
            beyond = gpu.mem_used - REPLICAS * (CONTEXT + OWN) - size
    finally:
        n.close()
    if "store.overhead_pct" in wanted:
        figure("store.overhead_pct", [100 * beyond / size])
    if "store.replicas_equal" in wanted:
        figure("store.replicas_equal", [count if len(equal) == 1 else 0])


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted = set(sys.argv[1:]) or set(FIGURES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    node.WAIT_S = WAIT_S
    folder = tempfile.mkdtemp(prefix="fast-bench-")
    try:
        path = make_file(folder)
        if wanted - {"store.overhead_pct", "store.replicas_equal"}:
            timings(path, wanted)
        if {"store.overhead_pct", "store.replicas_equal"} & wanted:
            sharing(path, wanted)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


main()
