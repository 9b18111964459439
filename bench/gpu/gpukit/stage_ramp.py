"""Stages 6, the paper's ramp through the gateway, and 10, the models as the simulator reads them."""
import json
import os
import shlex
import subprocess
import time

from gpukit import calibrate
from gpukit.drive import spawn
from gpukit.machine import ROOT
from gpukit.results import Skip
from gpukit.stage_share import offered
from gpukit.world import MODELS, PASSED, World, serve

# Seconds and requests/s (V100); SLO 69 ms.
RAMP = ((0, 0), (5, 30), (35, 60), (110, 110), (125, 100), (135, 90), (145, 70), (160, 50), (184, 21))
SLO_MS = 69
PAPER_SLICE_RPS = 35.5 # of one ResNet-50 at 12 % of the SMs and 40 % of the time, on the paper's V100


def write_profile(grid, path):
    """What stage 2 measured, in the gateway's form. Returns the requests/s of the paper's slice here."""
    with open(path, "w", encoding="utf-8") as f:
        f.write("sm,quota,rps,p95_ms,p99_ms\n")
        for key, r in sorted(grid.items()):
            sm, quota = key.split(".")
            f.write(f"{sm},{int(quota) / 1000:.3f},{r['rps']:.3f},{r['p95_ms']:.3f},{r['p99_ms']:.3f}\n")
    return grid.get("12.400", {}).get("rps")


def call(port, method, path, body=None):
    import http.client
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        c.request(method, path, json.dumps(body) if body else None)
        r = c.getresponse()
        text = r.read().decode(errors="replace")
        if r.status >= 300:
            raise RuntimeError(f"{method} {path}: {r.status} {text[:300]}")
        return text
    finally:
        c.close()


def torch_image(kit):
    """A program without arguments, as the gateway starts functions: the Python that has PyTorch need not be
    the first of PATH."""
    path = os.path.join(kit.temp, "torch-function")
    argv, _ = serve(kit, MODELS["resnet50"], MODELS["resnet50"].graphs)
    lines = [f"export {k}={shlex.quote(kit.env[k])}" for k in PASSED if k in kit.env]
    with open(path, "w", encoding="utf-8") as f:
        f.write("\n".join(["#!/bin/sh", *lines, f"exec {shlex.join(argv)}", ""]))
    os.chmod(path, 0o755)
    return path


def ramp_cell(kit, grid, stretch, rate_scale, max_replicas):
    """|stretch| 1 takes the paper's 184 s. The profile is that of stage 2, else the simulated one."""
    profiles = os.path.join(kit.temp, "profiles")
    os.makedirs(profiles, exist_ok=True)
    measured = write_profile(grid, os.path.join(profiles, "resnet50.csv")) if grid else None
    if not measured:
        profiles = os.path.join(ROOT, "models", "profiles")
    scale = rate_scale or (measured / PAPER_SLICE_RPS if measured else 1.0)
    points = ",".join(f"{t * stretch:.2f}:{r * scale:.2f}" for t, r in RAMP)
    steps, begin = [], None
    with World(kit) as w:
        port = w.start_gateway(kit.path("functions"), profiles)
        for _ in range(200): # until it has reached the node
            try:
                call(port, "GET", "/system/policy")
                break
            except (RuntimeError, OSError):
                time.sleep(0.05)
        env = {"MODEL": "resnet50", **({"MEMORY_SCALE": "0.2"} if kit.sim else {})} if kit.replay else \
            {"OMP_NUM_THREADS": "1"}
        call(port, "POST", "/system/functions", {
            "service": "resnet50", "image": "replay" if kit.replay else torch_image(kit), "envVars": env,
            "labels": {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": str(max_replicas)},
            "annotations": {"fastgshare/gpu_sm_partition": "12", "fastgshare/gpu_quota_request": "0.4",
                            "fastgshare/gpu_quota_limit": "1.0", "fastgshare/slo": f"{SLO_MS}ms",
                            "fastgshare/profile": "resnet50",
                            "fastgshare/gpu_mem": str((1 << 30) if kit.sim else MODELS["resnet50"].mem)}})
        end = time.monotonic() + (120 if not kit.sim else 30)
        while not any(r.state == 1 for r in w.rows()):
            if time.monotonic() > end:
                raise RuntimeError("no replica becomes ready: " + "; ".join(
                    f"{r.replica} {r.text} {w.replica_log(r.replica)}" for r in w.rows()) + w.log()[-300:])
            time.sleep(0.1)
        load = spawn([kit.program("gpu-load"), str(port), "/function/resnet50", str(SLO_MS), "1", points],
                                stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=kit.env)
        begin = time.monotonic()
        while load.poll() is None:
            ready = [r for r in w.rows() if r.state == 1]
            row = (round(time.monotonic() - begin, 1), len(ready), sum(r.sm_pct * r.request_milli for r in ready) / 1e5)
            if not steps or row[1:] != steps[-1][1:]:
                steps.append(row)
            time.sleep(0.2)
        out, err = load.communicate()
        if load.returncode:
            raise RuntimeError(err[-300:])
    r = json.loads(out)
    return dict(r, violation_pct=100 * r["violations"] / max(1, r["sent"]), steps=steps, scale=scale, stretch=stretch,
                profile="measured in stage 2" if measured else "models/profiles, simulated", points=points)


def stage_ramp(kit, stage, short):
    offered(kit, stage, ["resnet50"])
    grid = stage.results.data["stages"].get("2", {}).get("cells", {})
    stretch = 0.03 if short else 0.12 if kit.sim else 1.0
    if kit.sim:
        stage.note(f"the ramp is compressed to {RAMP[-1][0] * stretch:.0f} s, starts of replicas are not")
        grid = {}
    stage.cell("ramp", 184 * stretch + (60 if not kit.sim else 5),
               lambda: ramp_cell(kit, grid, stretch, 0.4 if kit.sim else None, 3 if kit.sim else 8))


def stage_calibrate(kit, stage, short):
    """A model file of each model, from the kernels that PyTorch's profiler saw. In the simulation the
    kernels are those of the model files, so that what is tested is the way back."""
    if kit.replay and not kit.sim:
        raise Skip("there is no PyTorch here whose kernels could be seen")
    for name in offered(kit, stage, ["resnet50"] if short else list(MODELS)):
        stage.try_cell(name, 60 if not kit.sim else 2, lambda m=MODELS[name]: calibrate.one(kit, m))
