#!/usr/bin/env python3
"""A function for tests: a small HTTP server on PORT whose faults are chosen by its arguments.

  --health N      status of /_/health (default 200)
  --late S        listens S seconds after its start
  --deaf          never listens
  --ignore-term   SIGTERM does nothing
  --exit N        prints a line to stdout and to stderr and exits with N
  --child         forks a child that sleeps in the same group; GET / tells its pid
GET / answers with JSON: pid, session, group, cwd, env, argv, open descriptors.
"""
import argparse
import json
import os
import signal
import socket
import sys
import time

parser = argparse.ArgumentParser()
parser.add_argument("--health", type=int, default=200)
parser.add_argument("--late", type=float, default=0)
parser.add_argument("--deaf", action="store_true")
parser.add_argument("--ignore-term", action="store_true")
parser.add_argument("--exit", type=int)
parser.add_argument("--child", action="store_true")
args = parser.parse_args()

print("function begins", flush=True)
print("function complains", file=sys.stderr, flush=True)
if args.exit is not None:
    sys.exit(args.exit)
# What is open is looked at first, before this program opens anything itself.
fds = {fd: os.readlink(f"/proc/self/fd/{fd}") for fd in os.listdir("/proc/self/fd")
       if os.path.exists(f"/proc/self/fd/{fd}")}
child = 0
if args.ignore_term:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
if args.child:
    child = os.fork()
    if child == 0:
        time.sleep(600)
        os._exit(0)
if args.deaf:
    time.sleep(600)
time.sleep(args.late)

server = socket.create_server(("127.0.0.1", int(os.environ["PORT"])))
facts = json.dumps({"pid": os.getpid(), "session": os.getsid(0), "group": os.getpgrp(),
                    "cwd": os.getcwd(), "env": dict(os.environ), "argv": sys.argv[1:], "fds": fds,
                    "child": child, "mask": [int(s) for s in signal.pthread_sigmask(0, [])]})
while True:
    client, _ = server.accept()
    with client:
        data = b""
        while b"\r\n\r\n" not in data:
            more = client.recv(4096)
            if not more:
                break
            data += more
        is_health = data.startswith(b"GET /_/health ")
        status = args.health if is_health else 200
        body = b"" if is_health else facts.encode()
        try:
            client.sendall(b"HTTP/1.1 %d X\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s"
                           % (status, len(body), body))
        except OSError:
            pass
