#!/usr/bin/env python3
"""Writes inputs that the fuzz targets begin with: one of every message, requests, model files.

Usage: fuzz-seeds.py CORPUS
"""
import os
import sys

ROOT = os.path.join(os.path.dirname(os.path.abspath(__file__)), "..")
sys.path.insert(0, os.path.join(ROOT, "tests", "e2e"))
import wire  # noqa: E402


def messages():
    sample = {"u32": 7, "u64": 1 << 40, "i64": -5, "str": "digits", "strv": ["a", "", "b=c"]}
    for name, (_, fields) in wire.MESSAGES.items():
        yield name, wire.encode(name, 9, **{field: sample[kind] for kind, field in fields})


def http():
    request = "GET /function/f?x=1 HTTP/1.1\r\nHost: a\r\n"
    yield "get", b"\0" + (request + "\r\n").encode()
    yield "post", b"\4" + ("POST / HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\n\r\nhello").encode()
    yield "chunks", b"\6" + (request + "Transfer-Encoding: chunked\r\n\r\n5;x=y\r\nhello\r\n0\r\n"
                             "T: v\r\n\r\n").encode()
    yield "answer", b"\1HTTP/1.1 200 OK\r\nConnection: close, x\r\n\r\nbody"


def text():
    for i, value in enumerate(["12", "0.5", "1.5Gi", "1m30s", "openfaas-fn"]):
        yield f"value{i}", b"\0" + value.encode()
    yield "profile", b"\1sm,quota,rps,p95_ms,p99_ms\n12,0.2,4.5,200,210\n24,1,40,25,30\n"
    models = os.path.join(ROOT, "models")
    for name in os.listdir(models) if os.path.isdir(models) else []:
        path = os.path.join(models, name)
        if os.path.isfile(path):
            with open(path, "rb") as f:
                yield name, b"\2" + f.read()


def main():
    for target, seeds in (("msg", messages), ("http", http), ("text", text)):
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds():
            with open(os.path.join(folder, "seed-" + name), "wb") as f:
                f.write(data)


main()
