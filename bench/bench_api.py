#!/usr/bin/env python3
"""The API of the gateway with real processes.

gateway.list_ms_10000: GET /system/functions with 10,000 functions deployed, whole answer read, median.
gateway.metrics_ms_10000: CPU time of one scrape of the metrics then, which nothing else is served during.
gateway.idle_pct_10000, gateway.idle_pct_10: CPU time of the gateway while nobody asks for anything, with so many
functions that have no replica.
gateway.functions_mb_10000: resident memory of the gateway then.
gateway.deploy_ratio_10000: CPU time of deploying one beside 9,000 others over the same beside 100.
gateway.route_ratio_10000: CPU time of the gateway for a request (1 KB POST, 32 connections) with 10,000 functions
deployed over the same with 10, two gateways that take turns; median of BENCH_ROUNDS (9), beside the spread of
what a gateway with 10 has over itself (gateway.route_ratio_noise).
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
sys.path.insert(0, os.path.join(SOURCE, "bench"))
os.environ.setdefault("BENCH_ROUNDS", "9")
import gateway  # noqa: E402
import node  # noqa: E402
import bench_gateway as path  # noqa: E402

path.TOOLS = os.path.join(BUILD, "bench", "gateway")
FUNCTIONS, LISTS, CALLS, KILLS, IDLE_S = 10000, 21, 10000, 5, 10
FIGURES = {"gateway.list_ms_10000": ("ms", "<= 100"), "gateway.metrics_ms_10000": ("ms", "<= 100"),
           "gateway.idle_pct_10000": ("%", "<= 1"), "gateway.idle_pct_10": ("%", "<= 1"),
           "gateway.functions_mb_10000": ("MB", "<= 100"), "gateway.deploy_ratio_10000": ("times", "<= 2"),
           "gateway.route_ratio_10000": ("times", "<= 1.05"), "gateway.route_ratio_noise": ("times", None),
            "gateway.async_lost": ("calls", "<= 0"),
           "gateway.async_duplicates": ("calls", None)}


def figure(name, value, n, spread=0.0):
    unit, target = FIGURES[name]
    ok = None if target is None else value <= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n,
                      "spread": float(f"{spread:.4g}"), "target": target, "pass": ok}), flush=True)


def deploy(gw, first, last):
    """CPU seconds of the gateway for each."""
    c, before = gw.connect(), path.cpu_s(gw.process.pid)
    for i in range(first, last):
        body = json.dumps({"service": f"f{i}", "image": "functions/alpine:latest",
                           "envProcess": "cat", "labels": {"com.openfaas.scale.min": "0"},
                           "annotations": {"note": "some words about it"}})
        c.request("POST", "/system/functions", body)
        answer = c.getresponse()
        text = answer.read()
        assert answer.status == 202, text
    c.close()
    return (path.cpu_s(gw.process.pid) - before) / (last - first)


def idle_pct(gw):
    time.sleep(1)
    before = path.cpu_s(gw.process.pid)
    time.sleep(IDLE_S)
    return (path.cpu_s(gw.process.pid) - before) / IDLE_S * 100


def listing(gw):
    c, took = gw.connect(), []
    for _ in range(LISTS):
        began = time.perf_counter()
        c.request("GET", "/system/functions")
        answer = c.getresponse().read()
        took.append((time.perf_counter() - began) * 1e3)
    assert len(json.loads(answer)) == FUNCTIONS
    figure("gateway.list_ms_10000", statistics.median(took), LISTS, statistics.stdev(took))


def scraping(gw):
    took = []
    for _ in range(LISTS):
        before = path.cpu_s(gw.process.pid)
        gw.metrics()
        took.append((path.cpu_s(gw.process.pid) - before) * 1e3)
    figure("gateway.metrics_ms_10000", statistics.median(took), LISTS, statistics.stdev(took))


def many(wanted):
    the_node = node.Node(gpus=1)
    gw = gateway.Gateway(the_node)
    try:
        deploy(gw, 0, 10)
        if "gateway.idle_pct_10" in wanted:
            figure("gateway.idle_pct_10", idle_pct(gw), 1)
        deploy(gw, 10, 100)
        few = deploy(gw, 100, 1100)
        deploy(gw, 1100, FUNCTIONS - 1000)
        beside_many = deploy(gw, FUNCTIONS - 1000, FUNCTIONS)
        if "gateway.deploy_ratio_10000" in wanted:
            figure("gateway.deploy_ratio_10000", beside_many / few, 1000)
        if "gateway.functions_mb_10000" in wanted:
            figure("gateway.functions_mb_10000", path.memory_mb(gw.process.pid), 1)
        if "gateway.idle_pct_10000" in wanted:
            figure("gateway.idle_pct_10000", idle_pct(gw), 1)
        if "gateway.list_ms_10000" in wanted:
            listing(gw)
        if "gateway.metrics_ms_10000" in wanted:
            scraping(gw)
    finally:
        gw.close()
        the_node.close()


def routes(wanted):
    worlds = [path.World() for _ in range(2)]
    try:
        for world, count in zip(worlds, (10, FUNCTIONS)):
            deploy(world.gw, 0, count)
        few, full = [world.proxy("tcp") for world in worlds]
        few.name, full.name, again = "few", "many", worlds[0].proxy("tcp")
        again.name = "again"
        got = path.rounds([few, full, again], lambda p: p.cpu_us(1024))
        for name, key in ("gateway.route_ratio_10000", "many"), ("gateway.route_ratio_noise", "again"):
            ratios = [a / b for a, b in zip(got[key], got["few"])]
            if name in wanted:
                figure(name, statistics.median(ratios), len(ratios), max(ratios) - min(ratios))
    finally:
        for world in worlds:
            world.close()


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
    if any("route" in name for name in wanted):
        routes(wanted)
    if any("_10" in name and "route" not in name for name in wanted):
        many(wanted)
    if any(name.startswith("gateway.async") for name in wanted):
        calls(wanted)


if __name__ == "__main__":
    main()
