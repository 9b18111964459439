#!/usr/bin/env python3
"""Writes inputs that the fuzz targets begin with: one of every message, requests, model files,
deployments, manifests, queries, profiles.

Usage: fuzz-seeds.py CORPUS
"""
import json
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


def llhttp():
    for name, data in http():
        if not data[0] & 1:
            yield name, data[1:]
    yield "uri", b"OPTIONS http://u.example:80/x?y=1 HTTP/1.1\r\nHost: a\r\nConnection: x, close\r\n\r\n"
    yield "old", b"PUT / HTTP/1.0\r\nConnection: Keep-Alive\r\nContent-Length: 1\r\n\r\nx"


def http2():
    def row(kind, flags, stream, payload=b""):
        return bytes([kind, flags, stream, len(payload)]) + payload

    get = bytes([0x82, 0x86, 0x84, 0x01, 1]) + b"a"

    def path(letter):
        return bytes([0x83, 0x86, 0x04, 2]) + b"/" + letter + bytes([0x01, 1]) + b"a"

    length = bytes([0x0f, 0x0d, 1]) + b"5"
    yield "get", b"\1" + row(1, 5, 1, get)
    yield "post", b"\1" + row(0x20, 4, 1, length) + row(0, 1, 1, b"hello")
    yield "pieces", b"\7" + row(0x20, 4, 1) + row(0, 0, 1, b"hello") + row(0, 1, 1, b"x" * 200)
    for letter in b"csnx":
        yield "path" + chr(letter), b"\1" + row(1, 4, 1, path(bytes([letter]))) + row(0, 1, 1, b"ab" * 60)
    yield "trailers", b"\1" + row(0x20, 4, 1) + row(0, 0, 1, b"ab") + row(1, 5, 1, b"\0\1a\1b")
    yield "continued", b"\1" + row(0x20, 0, 1) + row(9, 4, 1, b"\0\1a\1b")
    yield "many", b"\1" + b"".join(row(0x20, 5, s) for s in range(1, 40, 2))
    yield "resets", b"\1" + b"".join(row(0x20, 4, s) + row(3, 0, s, b"\0\0\0\x08") for s in range(1, 40, 2))
    yield "windows", (b"\1" + row(4, 0, 0, b"\0\4\0\0\0\1") + row(0x20, 4, 1) + row(0, 1, 1, b"x" * 250) +
                      row(8, 0, 1, b"\0\0\0\x50") + row(8, 0, 0, b"\0\0\0\x50") + row(6, 0, 0, b"12345678"))
    yield "large", b"\1" + row(0x20, 4, 1) + b"".join(bytes([0x80, 0, 1, 255]) + b"y" * 4080 for _ in range(3))
    yield "goodbye", b"\1" + row(0x20, 4, 1) + row(7, 0, 0, b"\0" * 8) + row(0, 1, 1, b"x")
    yield "cookies", b"\1" + row(0x20, 5, 1, b"\x60\1a\x60\1b")
    yield "smuggle", b"\1" + row(0x20, 5, 1, b"\0\1x\x1ea\r\n\r\nGET /s HTTP/1.1\r\nHost: a")
    yield "bytes", b"\0" + b"\0\0\0\4\0\0\0\0\0" + b"\0\0\6\1\5\0\0\0\1" + get


def invoke():
    def row(switches, asked, reply):
        return bytes([switches]) + len(asked).to_bytes(2, "big") + asked + reply

    def ask(target, lines=b"", body=b"", method=b"POST"):
        return method + b" /function/" + target + b" HTTP/1.1\r\nHost: a\r\n" + lines + b"\r\n" + body

    ok = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"
    hello = ask(b"f/x?y=1", b"Content-Length: 5\r\n", b"hello")
    chunks = ask(b"f", b"Transfer-Encoding: chunked\r\n", b"3\r\nabc\r\n2;x=y\r\nde\r\n0\r\nT: v\r\n\r\n")
    yield "get", row(0, ask(b"f", method=b"GET"), ok)
    yield "three", row(0, hello + chunks + hello, ok)
    yield "pieces", row(1, hello + chunks, ok)
    yield "early", row(16, ask(b"f", b"Content-Length: 50\r\n", b"h" * 50) + hello, ok)
    yield "expect", row(3, ask(b"f", b"Expect: 100-continue\r\nContent-Length: 1\r\n", b"x"), ok)
    yield "queue", row(32, ask(b"one", b"Content-Length: 1\r\n", b"x") * 2, ok)
    yield "full", row(32, ask(b"one", method=b"GET"), b"")
    yield "again", row(8, ask(b"again", b"Content-Length: 3\r\n", b"abc"), b"")
    yield "batch", row(32, ask(b"many", b"Content-Length: 3\r\nContent-Type: a/b\r\n", b"abc"),
                       b"HTTP/1.1 200 OK\r\nContent-Type: application/vnd.fast-gshare.batch\r\n"
                       b"X-Batch-Content-Type: text/x\r\nContent-Length: 9\r\n\r\n1:a,2:bc,")
    yield "few", row(0, ask(b"few", b"Content-Length: 3\r\n", b"abc"), ok)
    yield "until-close", row(8, hello, b"HTTP/1.0 200 OK\r\nContent-Type: text/x\r\n\r\nabc")
    yield "answer-chunks", row(4, hello, b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 203 Q\r\nConnection: X-A\r\nX-A: 1\r\n"
                               b"Transfer-Encoding: chunked\r\n\r\n1;a\r\nx\r\n2\r\nyz\r\n0\r\nT: 1\r\n\r\n")
    yield "head", row(0, ask(b"f", method=b"HEAD") + hello, b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
    yield "no-content", row(0, hello * 2, b"HTTP/1.1 204 No\r\n\r\n")
    yield "too-much", row(0, hello * 2, ok + ok)
    yield "socket", row(64, ask(b"f", b"Connection: keep-alive, Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Key: k\r\n",
                                b"frames", b"GET"),
                        b"HTTP/1.1 101 S\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n\r\nmore")
    yield "traced", row(64, ask(b"f", b"traceparent: 00-" + b"1" * 32 + b"-" + b"2" * 16 + b"-01\r\nX-Call-Id: me\r\n"
                                b"X-Forwarded-For: b\r\nX-Forwarded-Host: c\r\nContent-Length: 0\r\n"), ok)
    later = b"POST /async-function/f/x HTTP/1.1\r\nHost: a\r\nContent-Length: 2\r\nX-Callback-Url: http://b/c\r\n"
    yield "async", row(0, later + b"X: y\r\n\r\nhi", ok)
    yield "async-fields", row(0, b"POST /async-function/f HTTP/1.0\r\n" + b"a:b\r\n" * 120 + b"\r\n", ok)
    yield "uri", row(0, b"PUT http://u/function/f HTTP/1.1\r\nHost: a\r\n\r\nGET / HTTP/1.0\r\n\r\n", ok)


def deployments():
    yield "plain", b'{"service":"f","image":"/bin/true"}'
    yield "all", json.dumps({
        "service": "f", "image": "/bin/true", "namespace": "n", "envProcess": "cat -", "envVars": {"A": "b"},
        "labels": {"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "4", "com.openfaas.scale.zero": "true",
                   "com.openfaas.scale.target": "50", "com.openfaas.scale.zero-duration": "15m"},
        "annotations": {"fastgshare/gpu_quota_request": "0.3", "fastgshare/gpu_quota_limit": "0.8",
                        "fastgshare/gpu_sm_partition": "24", "fastgshare/gpu_mem": "512Mi",
                        "fastgshare/slo": "69ms", "fastgshare/slo_percentile": "95",
                        "fastgshare/socket": "unix", "com.openfaas.health.http.path": "/healthz"},
        "limits": {"memory": "5Mi"}, "secrets": [], "constraints": ["a"], "readOnlyRootFilesystem": True}).encode()
    yield "nulls", b'{"service":"f","image":"/bin/true","labels":null,"annotations":null,"x":[1e3,[]]}'
    yield "built-in", b'{"service":"f","image":"docker.io/functions/alpine:latest","envProcess":"cat","secrets":["a"]}'
    yield "slashes", b'{"service":"f","image":"' + b"/" * 200 + b'"}'


def manifests():
    pod = ("metadata:\n  name: f\n  namespace: n\n  annotations:\n    kubeshare/gpu_request: \"0.3\"\n"
           "spec:\n  podSpec:\n    containers:\n    - name: c\n      image: i\n      command: [\"a\"]\n"
           "      args: [b, 'c']\n      env:\n      - {name: A, value: \"1\"}\n      ports: []\n"
           "      readinessProbe:\n        httpGet: {path: /x}\n")
    for kind in ("FaSTPod", "FaSTFunc", "SharePod"):
        yield kind, f"kind: {kind}\n{pod}---\nkind: Namespace\nmetadata: {{name: n}}\n".encode()
    yield "function", b"kind: Function\nmetadata: {name: f}\nspec:\n  image: i\n  handler: >-\n   a\n  labels: ~\n"
    yield "deep", b"[" * 65 + b"f"
    for folder, _, names in os.walk(os.path.join(ROOT, "examples")):
        for name in (n for n in names if n.endswith((".yml", ".yaml"))):
            with open(os.path.join(folder, name), "rb") as f:
                yield os.path.basename(folder) + "-" + name, f.read()


def queries():
    yield "plain", b"\x20namespace=openfaas-fn&usage=1"
    yield "escapes", b"\x20name=a%20b+c&since=2026-01-01T00%3A00%3A00Z&tail&n=%00"
    yield "twice", b"\x03n=1&name=&n=22&&=x&namespaces=y"


def profiles():
    yield "gateway", b"# f\nsm,quota,rps,p95_ms,p99_ms\n6,0.200,3,10,11\n# predicted:\n100,1,30,9,10\n"
    yield "authors", (b'namespace,trial_name,key,value,limitations,other_metrics\nf,a,qps,13.5,"{""GPU_QUOTA"": ""0.2"", '
                      b'""GPU_SM"": ""6"", ""GPU_MEMORY"": ""2073741824""}","{""error_rate"": 0.0, ""p95"": 8300.0}"\n')
    yield "json", json.dumps({"schema": 1, "function": "f", "version": "v", "trials": [
        {"sm_pct": 6, "quota": 0.2, "batch": 4, "state": "ok", "text": "", "error_rate": 0.0, "memory_bytes": 1,
         "seconds": 9.5, "rps": 3.5, "p50_ms": 1, "p95_ms": 2, "p99_ms": 3, "utilization": 0.5},
        {"sm_pct": 12, "quota": 1, "state": "errors", "text": "why", "error_rate": 1, "rps": None}]}).encode()


def api():
    """Rows of fuzz/fuzz_api.c, by the place of what is asked in its table."""
    def ask(what, rest=b"", body=b""):
        text = rest + b"\n" + body
        return bytes([what]) + len(text).to_bytes(2, "big") + text

    def told(message, **fields):
        text = wire.encode(message, **fields)
        return b"\x80" + len(text).to_bytes(2, "big") + text

    deploy = ask(1, body=b'{"service":"f","image":"/bin/true"}')
    gpu = ask(1, body=b'{"service":"g","image":"/bin/true","annotations":{"fastgshare/gpu_sm_partition":"12",'
                      b'"fastgshare/gpu_quota_request":"0.3","fastgshare/gpu_mem":"512Mi"}}')
    views = b"".join(ask(i) for i in (0, 10, 16, 18, 19, 20, 24, 27, 30))
    yield "views", views
    yield "deploy", deploy + gpu + views + ask(4, b"f?usage=1") + ask(26, b"g") + ask(29, b"f")
    yield "change", deploy + ask(2, body=b'{"service":"f","image":"/bin/true","envVars":{"a":"b"}}') + views
    yield "check", ask(1, b"?check=true&namespace=n", b'{"service":"f","image":"/bin/true"}')
    yield "remove", deploy + gpu + ask(3, body=b'{"functionName":"f"}') + ask(3, body=b'{"functionName":"g"}') + views
    yield "scale", deploy + gpu + ask(5, b"f", b'{"serviceName":"f","replicas":3}') + \
        ask(5, b"g", b'{"replicas":4}') + ask(5, b"f", b'{"replicas":0}') + ask(28) + views
    yield "secrets", ask(7, body=b'{"name":"s","value":"v"}') + ask(6) + ask(8, body=b'{"name":"s","rawValue":"dg=="}') + \
        ask(1, body=b'{"service":"h","image":"functions/alpine","envProcess":"cat","secrets":["s"]}') + \
        ask(9, body=b'{"name":"s"}')
    yield "namespaces", ask(12, b"n", b'{"name":"n","labels":{"a":"b"},"annotations":{}}') + ask(10) + ask(11, b"n") + \
        ask(13, b"n", b'{"name":"n"}') + ask(14, b"", b'{"name":"n"}')
    yield "alert", deploy + ask(15, body=b'{"alerts":[{"status":"firing","labels":{"function_name":"f.openfaas-fn"}},{}]}')
    yield "logs", deploy + ask(17, b"?name=f&tail=2&since=2026-01-01T00:00:00.5%2B01:00") + ask(17, b"?name=f&follow=1")
    yield "models", ask(21, body=b'{"name":"m","path":"/m","gpu":1,"shared":true}') + \
        ask(22, body=b'{"name":"m","pinned":true}') + ask(23, body=b'{"name":"m"}') + \
        told("model_row", name="m", ns="openfaas-fn", version="v", bytes=5, model=1) + views
    yield "policy", ask(25, body=b'{"policy":"fast","charge":"busy","window_ms":50}')
    for i, line in enumerate((b"Authorization: Basic YWRtaW46c2VjcmV0", b"Authorization: Basic YWRtaW46eA==",
                              b"Origin: http://localhost", b"Origin: https://b", b"Sec-Fetch-Site: cross-site",
                              b"X-Function-Status: 200", b"User-Agent: Mozilla/5.0\r\nContent-Type: text/plain;x")):
        yield f"line{i}", (b"\xc0\0\0" if i < 2 else b"") + ask(0x40, b"", line + b"\n")
    yield "async", deploy + ask(31, b"f?x", b"body") + ask(33) + ask(32, b"nobody") + ask(33, b"?dead=true")
    yield "row", deploy + told("replica_row", replica="f.openfaas-fn.7", function="f", ns="openfaas-fn", state=2, port=9) + \
        told("replica_row", replica="x.y.1", function="x", ns="y") + views
    yield "stats", gpu + told("replica_stats", replica="g.openfaas-fn.1", mem_bytes=7) + views
    yield "gpu", told("gpu_row", gpu=3, name="T4", mem_total=1 << 34) + gpu + told("done", code=1, text="no") + views


def main():
    for target, seeds in (("msg", messages), ("http", http), ("text", text), ("llhttp", llhttp), ("http2", http2),
                          ("json", deployments), ("invoke", invoke), ("yaml", manifests), ("api", api), ("query", queries), ("profile", profiles)):
        folder = os.path.join(sys.argv[1], target)
        os.makedirs(folder, exist_ok=True)
        for name, data in seeds():
            with open(os.path.join(folder, "seed-" + name), "wb") as f:
                f.write(data)


main()
