#!/usr/bin/env python3
"""The scaler with real processes on the simulated GPU: a ramp up, down and to nothing.

scale.live_violation_pct: of the requests that were due after the first WARM seconds, those that took longer
than the SLO from the moment they were due, or got no good answer. scale.live_gpu_s: SM x guaranteed quota x
time that the replicas held, in seconds of the whole GPU, from samples twice a second; on stderr the same of
replicas that are there for the peak all the time. scale.live_to_zero_s: from the last answer until no replica
is left, of which the label asks for ZERO seconds.

Requests are Poisson from a fixed seed. On a machine that is busy with something else it measures that."""
import json
import os
import random
import sys
import threading
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import gateway  # noqa: E402
import node  # noqa: E402

MODEL, SLO, WARM, ZERO = "gnmt", 0.5, 10, 10
# seconds, requests/s, linear between them: the shape of the paper's ramp
RAMP = [(0, 1), (5, 5), (35, 10), (75, 18), (85, 16), (95, 8), (110, 3), (120, 0)]
FIGURES = {"scale.live_violation_pct": ("%", 1.0), "scale.live_gpu_s": ("s", None),
           "scale.live_to_zero_s": ("s", None)}


def figure(name, value, n):
    unit, most = FIGURES[name]
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n, "spread": 0,
                      "target": None if most is None else f"<= {most:g}",
                      "pass": None if most is None else value <= most}), flush=True)


def rate(at):
    for (t0, r0), (t1, r1) in zip(RAMP, RAMP[1:]):
        if at < t1:
            return r0 + (r1 - r0) * (at - t0) / (t1 - t0)
    return 0


def arrivals(seed=1):
    dice, at, most, due = random.Random(seed), 0.0, max(r for _, r in RAMP), []
    while at < RAMP[-1][0]:
        at += dice.expovariate(most)
        if dice.random() * most < rate(at):
            due.append(at)
    return due


class Sampler:
    def __init__(self, gw):
        self.gw, self.over, self.steps = gw, threading.Event(), []
        self.gpu_s = self.full_s = 0.0  # as guaranteed, and if it had been all the time
        self.began = time.monotonic()
        self.thread = threading.Thread(target=self.run)
        self.thread.start()

    def run(self):
        last = time.monotonic()
        while not self.over.wait(0.5):
            now, rows = time.monotonic(), self.gw.replicas("ramp")
            self.gpu_s += (now - last) * sum(r["sm_pct"] / 100 * r["quota_held"] for r in rows)
            self.full_s += (now - last) * sum(r["sm_pct"] / 100 * r["quota_request"] for r in rows)
            state = sorted(f'{r["sm_pct"]}x{r["quota_request"]:g}' for r in rows)
            if not self.steps or self.steps[-1][1] != state:
                self.steps.append((now - self.began, state))
            last = now

    def stop(self):
        self.over.set()
        self.thread.join()


def play(gw, due):
    rows, began = [None] * len(due), time.monotonic()

    def call(i):
        try:
            status = gw.post("/function/ramp").status
        except OSError:
            status = 0
        rows[i] = (time.monotonic() - began - due[i], status)

    threads = []
    for i, at in enumerate(due):
        time.sleep(max(0, began + at - time.monotonic()))
        threads.append(threading.Thread(target=call, args=(i,)))
        threads[-1].start()
    for t in threads:
        t.join()
    return rows


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted, due = sys.argv[1:] or list(FIGURES), arrivals()
    the_node = node.Node(gpus=1)
    gw = gateway.Gateway(the_node)
    try:
        gw.up("ramp", image="replay", envVars={"MODEL": MODEL}, annotations={
            "fastgshare/profile": MODEL, "fastgshare/slo": f"{int(SLO * 1000)}ms",
            "fastgshare/gpu_mem": "1800Mi"}, labels={
                "com.openfaas.scale.max": "8", "com.openfaas.scale.zero": "true",
                "com.openfaas.scale.zero-duration": f"{ZERO}s"})
        sampler = Sampler(gw)
        rows = play(gw, due)
        ended = time.monotonic()
        node.wait_until(lambda: not gw.replicas("ramp"), "it does not go to zero")
        zero = time.monotonic() - ended
        sampler.stop()
        warm = [r for r, at in zip(rows, due) if at >= WARM]
        late = sum(took > SLO or status != 200 for took, status in warm)
        for at, state in sampler.steps:
            print(f"live     {at:6.1f} s: {len(state)} replicas {' '.join(state)}", file=sys.stderr)
        peak = max(sum(float(x) / 100 * float(q) for x, q in (s.split("x") for s in state))
                   for _, state in sampler.steps)
        answered = sum(status == 200 for _, status in rows)
        print(f"live     {len(rows)} requests, {answered} answered, {late} of {len(warm)} late after "
              f"{WARM} s; without giving back while idle {sampler.full_s:.1f}, for the peak all the time "
              f"{peak * due[-1]:.1f} GPU s (simulated GPU)",
              file=sys.stderr)
        for name, value in (("scale.live_violation_pct", 100 * late / len(warm)),
                            ("scale.live_gpu_s", sampler.gpu_s), ("scale.live_to_zero_s", zero)):
            if name in wanted:
                figure(name, value, len(warm))
    finally:
        gw.close()
        the_node.close()


if __name__ == "__main__":
    main()
