#!/usr/bin/env python3
"""The API of the gateway with real processes.

gateway.list_ms_10000: GET /system/functions with 10,000 functions deployed, whole answer read, median.
gateway.async_lost: of 10,000 asynchronous calls that were answered with 202, with the gateway killed -9
five times on the way, those that were not executed or whose callback did not come; the duplicates beside
it. The same as tests/e2e/test_async.py in its long form."""
import json
import os
import re
import statistics
import subprocess
import sys
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import gateway  # noqa: E402
import node  # noqa: E402

FUNCTIONS, LISTS, CALLS, KILLS = 10000, 21, 10000, 5
FIGURES = {"gateway.list_ms_10000": ("ms", "<= 100"), "gateway.async_lost": ("calls", "<= 0"),
           "gateway.async_duplicates": ("calls", None)}


def figure(name, value, n, spread=0.0):
    unit, target = FIGURES[name]
    ok = None if target is None else value <= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n,
                      "spread": float(f"{spread:.4g}"), "target": target, "pass": ok}), flush=True)


def lists():
    the_node = node.Node(gpus=1)
    gw = gateway.Gateway(the_node)
    try:
        c = gw.connect()
        for i in range(FUNCTIONS):
            body = json.dumps({"service": f"f{i}", "image": "functions/alpine:latest",
                               "envProcess": "cat", "labels": {"com.openfaas.scale.min": "0"},
                               "annotations": {"note": "some words about it"}})
            c.request("POST", "/system/functions", body)
            answer = c.getresponse()
            text = answer.read()
            assert answer.status == 202, text
        took = []
        for _ in range(LISTS):
            began = time.perf_counter()
            c.request("GET", "/system/functions")
            answer = c.getresponse().read()
            took.append((time.perf_counter() - began) * 1e3)
        assert len(json.loads(answer)) == FUNCTIONS
        figure("gateway.list_ms_10000", statistics.median(took), LISTS, statistics.stdev(took))
    finally:
        gw.close()
        the_node.close()


def calls(wanted):
    env = dict(os.environ, FAST_ASYNC_CALLS=str(CALLS), FAST_ASYNC_KILLS=str(KILLS))
    done = subprocess.run(
        [sys.executable, os.path.join(SOURCE, "tests", "e2e", "test_async.py"),
         "Async.test_no_call_is_lost_when_the_gateway_is_killed"], env=env, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    found = re.search(r"\{\"calls\".*\}", done.stdout)
    if not found:
        sys.exit(done.stdout)
    row = json.loads(found[0])
    for name, key in ("gateway.async_lost", "lost"), ("gateway.async_duplicates",
                                                      "duplicate_callbacks"):
        if name in wanted:
            figure(name, row[key], row["calls"])


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted = sys.argv[1:] or list(FIGURES)
    if "gateway.list_ms_10000" in wanted:
        lists()
    if any(name.startswith("gateway.async") for name in wanted):
        calls(wanted)


if __name__ == "__main__":
    main()
