#!/usr/bin/env python3
"""Requests of mixed sizes over 500 connections while a replica is killed -9 every second.

Every request has to be answered or visibly cut off. A request may fail only if it was in flight when a
replica was killed, and then only if it was a POST: GET and PUT are asked again of another replica.

SOAK_REQUESTS (50000), SOAK_CONNS (500), SOAK_REPLICAS (8), SOAK_KILL_S (1; 0: nothing is killed).
The full one: SOAK_REQUESTS=1000000 make bench BENCH='gateway.soak*'"""
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import threading
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import gateway  # noqa: E402
import node  # noqa: E402

REQUESTS = int(os.environ.get("SOAK_REQUESTS", "50000"))
CONNS = int(os.environ.get("SOAK_CONNS", "500"))
REPLICAS = int(os.environ.get("SOAK_REPLICAS", "8"))
KILL_S = float(os.environ.get("SOAK_KILL_S", "1"))
TELL_S = 0.1
READY = 1  # enum fast_replica_state
TOOLS = os.path.join(BUILD, "bench", "gateway")
FIGURES = {"gateway.soak_lost": ("requests", "<= 0"), "gateway.soak_wrong": ("answers", "<= 0"),
           "gateway.soak_failed_repeatable": ("requests", "<= 0"),
           "gateway.soak_failed_elsewhere": ("requests", "<= 0"),
           "gateway.soak_failed_in_flight": ("requests", None),
           "gateway.soak_kills": ("kills", None), "gateway.soak_rps": ("1/s", None)}


def figure(name, value, n):
    unit, target = FIGURES[name]
    ok = None if target is None else value <= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.6g}"), "unit": unit, "n": n, "spread": 0,
                      "target": target, "pass": ok}), flush=True)


class Killer(threading.Thread):
    """Kills one ready replica every second, as long as another one is ready, and notes when: from the signal
    until the process has ended and the kernel has had TELL_S to tell the other ends of its connections,
    which a busy core does late. A request that is sent meanwhile goes to a replica that is being killed."""

    def __init__(self, the_node):
        super().__init__(daemon=True)
        self.session, self.times, self.over = the_node.session(), [], threading.Event()

    def run(self):
        chance, beat = random.Random(1), time.monotonic()
        while not self.over.wait(max(0, beat + KILL_S - time.monotonic())):
            beat += KILL_S
            rows = self.session.ask("replica_list")[0]
            ready = [r.pid for r in rows if r.name == "replica_row" and r.state == READY]
            if len(ready) > 1:
                self.kill(chance.choice(ready))
        self.session.close()

    def kill(self, pid):
        try:
            fd = os.pidfd_open(pid)
        except ProcessLookupError:
            return
        began = time.monotonic()
        signal.pidfd_send_signal(fd, signal.SIGKILL)
        select.select([fd], [], [])
        self.times.append((began, time.monotonic() + TELL_S))
        os.close(fd)


def soak(the_node, gw):
    gw.up("soak", REPLICAS, image=os.path.join(TOOLS, "echo"),
          labels={"com.openfaas.scale.min": str(REPLICAS), "com.openfaas.scale.max": str(REPLICAS)})
    killer = Killer(the_node)
    if KILL_S:
        killer.start()
    out = subprocess.run([os.path.join(TOOLS, "soak"), str(gw.port), "/function/soak", str(CONNS),
                          str(REQUESTS), "1"], stdout=subprocess.PIPE, text=True, check=True).stdout
    killer.over.set()
    if KILL_S:
        killer.join()
    rows = [json.loads(line) for line in out.splitlines()]
    return rows[:-1], rows[-1], killer.times


def was_in_flight(row, kills):
    return any(row["from"] <= after and before <= row["to"] for before, after in kills)


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    the_node = node.Node(gpus=1)
    gw = gateway.Gateway(the_node)
    try:
        failures, sums, kills = soak(the_node, gw)
    finally:
        gw.close()
        if os.environ.get("SOAK_KEEP_LOG"):
            shutil.copy(gw.log_path, os.environ["SOAK_KEEP_LOG"])
        the_node.close()
    print(json.dumps(sums), file=sys.stderr)
    answered = sums["ok"] + sums["failed"] + sums["cut"]
    if answered + sums["lost"] != sums["requests"] or answered != sums["ok"] + len(failures) - sums["lost"]:
        sys.exit(f"bench: the sums do not add up: {sums}, {len(failures)} failures")
    for row in [r for r in failures if not was_in_flight(r, kills)][:20]:
        near = min((abs(before - row["from"]), before, after) for before, after in kills)
        print("not in flight on a killed one:", json.dumps(row), "nearest kill", near[1:], file=sys.stderr)
    posts = [r for r in failures if r["method"] == "POST"]
    values = {"lost": sums["lost"], "wrong": sums["wrong"],
              "failed_repeatable": len(failures) - len(posts),
              "failed_elsewhere": sum(not was_in_flight(r, kills) for r in failures),
              "failed_in_flight": sum(was_in_flight(r, kills) for r in posts),
              "kills": len(kills), "rps": sums["requests"] / sums["seconds"]}
    for name in sys.argv[1:] or FIGURES:
        figure(name, values[name.rpartition(".soak_")[2]], sums["requests"])


main()
