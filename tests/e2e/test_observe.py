#!/usr/bin/env python3
"""What is told of requests: the access log, trace context on its way through, spans as OTLP."""
import contextlib
import http.server
import json
import os
import socket
import threading
import unittest

import gateway
import node
from gateway import wait_until

TRACE, PARENT = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"


class Observe(unittest.TestCase):
    def begin(self, *args):
        self.node = node.Node(gpus=1)
        self.addCleanup(self.node.close)
        self.gw = gateway.Gateway(self.node, args)
        self.addCleanup(self.gw.close)
        self.gw.up()

    def trace_headers(self, flags="01", **more):
        answer = self.gw.get("/function/f/echo", headers={"traceparent": f"00-{TRACE}-{PARENT}-{flags}", **more})
        return {k.lower(): v for k, v in answer.json()["headers"]}

    def test_without_tracing_nothing_is_touched(self):
        self.begin()
        seen = self.trace_headers(tracestate="a=b")
        self.assertEqual((seen["traceparent"], seen["tracestate"]), (f"00-{TRACE}-{PARENT}-01", "a=b"))

    def check_spans(self, spans, seen):
        wait_until(lambda: len(spans()) >= 2)
        mine = [s for s in spans() if s["traceId"] == TRACE]
        other = [s for s in spans() if s["traceId"] != TRACE]
        self.assertEqual((len(mine), len(other)), (1, 1))
        self.assertEqual(mine[0]["parentSpanId"], PARENT)
        self.assertEqual(seen["traceparent"], f"00-{TRACE}-{mine[0]['spanId']}-01")
        self.assertNotIn("parentSpanId", other[0])
        self.assertEqual((mine[0]["name"], mine[0]["kind"]), ("GET f.openfaas-fn", 2))
        attributes = {a["key"]: next(iter(a["value"].values())) for a in mine[0]["attributes"]}
        self.assertEqual((attributes["http.response.status_code"], attributes["faas.instance"]),
                         ("200", "f.openfaas-fn.1"))
        self.assertLess(int(mine[0]["startTimeUnixNano"]), int(mine[0]["endTimeUnixNano"]))

    @staticmethod
    def spans_of(export):
        return [s for r in export["resourceSpans"] for c in r["scopeSpans"] for s in c["spans"]]

    def test_spans_in_a_file(self):
        path = "/tmp/fast-spans-%d.jsonl" % os.getpid()
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        self.begin("--traces", path)

        def spans():
            with open(path, encoding="utf-8") as f:
                return [s for line in f for s in self.spans_of(json.loads(line))]

        self.trace_headers("00")  # the caller does not want it sampled
        seen = self.trace_headers(tracestate="a=b")
        self.assertEqual(seen["tracestate"], "a=b")
        answer = self.gw.get("/function/f/echo", headers={"traceparent": "nonsense", "tracestate": "a=b"})
        self.assertNotIn("tracestate", [k.lower() for k, v in answer.json()["headers"]])  # a trace of its own
        self.check_spans(spans, seen)

    def test_spans_to_a_collector(self):
        got = []

        class Collector(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                got.extend(Observe.spans_of(json.loads(body)))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *_):
                pass

        server = http.server.HTTPServer(("127.0.0.1", 0), Collector)
        threading.Thread(target=server.serve_forever, daemon=True).start()
        self.addCleanup(server.server_close)
        self.addCleanup(server.shutdown)
        self.begin("--traces", f"http://127.0.0.1:{server.server_port}/v1/traces")
        seen = self.trace_headers()
        self.gw.get("/function/f/echo")
        self.check_spans(lambda: list(got), seen)
        got.clear()
        self.gw.get("/function/f/echo")
        self.assertEqual(self.gw.stop(), 0)  # sooner than spans go out by themselves
        wait_until(lambda: len(got) == 1, "the last span is lost")

    def test_a_collector_that_does_not_answer(self):
        listener = socket.create_server(("127.0.0.1", 0), backlog=64)
        self.addCleanup(listener.close)
        self.begin("--traces", f"http://127.0.0.1:{listener.getsockname()[1]}/v1/traces")
        self.gw.up("raw", image=os.path.join(node.HERE, "raw_function.py"))
        kept = self.gw.connect()
        for _ in range(1500):  # spans for 15 exports
            kept.request("GET", "/function/raw/x")
            kept.getresponse().read()
        kept.close()
        listener.setblocking(False)
        exports = []
        with contextlib.suppress(BlockingIOError):
            while True:
                exports.append(listener.accept()[0])
        waiting = sum(not self.has_ended(s) for s in exports)  # others were given up after 10 s
        self.assertIn(waiting, range(1, 9))

    @staticmethod
    def has_ended(sock):
        with sock:
            sock.setblocking(False)
            try:
                while sock.recv(1 << 20):
                    pass
                return True
            except BlockingIOError:
                return False

    def test_access_log(self):
        path = "/tmp/fast-access-%d.jsonl" % os.getpid()
        moved = path + ".1"
        for p in (path, moved):
            self.addCleanup(lambda p=p: os.path.exists(p) and os.unlink(p))
        self.begin("--access-log", path)

        def rows(where=path):
            with open(where, encoding="utf-8") as f:
                return [r for r in map(json.loads, f) if "/system/" not in r.get("target", "")]

        self.gw.post("/function/f/bytes/1000?a=\"b", b"x", headers={"User-Agent": "me", "X-Call-Id": "mine"})
        self.gw.raw(b"GET /function/f HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        wait_until(lambda: os.path.exists(path) and len(rows()) >= 2)
        it, bad = rows()
        self.assertEqual((it["method"], it["target"], it["status"], it["bytes"], it["complete"]),
                         ("POST", '/function/f/bytes/1000?a="b', 200, 1000, True))
        self.assertEqual((it["agent"], it["call_id"]), ("me", "mine"))
        self.assertGreater(it["us"], 0)
        self.assertEqual((bad["status"], bad["method"]), (400, "GET"))
        os.rename(path, moved)  # as log rotation does
        self.gw.get("/healthz")
        wait_until(lambda: os.path.exists(path) and rows())
        self.assertEqual(rows()[0]["target"], "/healthz")
        self.assertEqual(len(rows(moved)), 2)

    def test_call_ids_of_the_gateway(self):
        path = "/tmp/fast-access-%d.jsonl" % os.getpid()
        self.addCleanup(lambda: os.path.exists(path) and os.unlink(path))
        self.begin("--access-log", path)
        calls = [self.gw.post(f"/{where}") for where in ("function/f", "async-function/f", "function/nobody")]
        self.gw.get("/healthz")

        def rows():
            with open(path, encoding="utf-8") as f:
                return {r["target"]: r.get("call_id") for r in map(json.loads, f)}

        wait_until(lambda: os.path.exists(path) and "/healthz" in rows())
        self.assertEqual([rows()[t] for t in ("/function/f", "/async-function/f", "/function/nobody", "/healthz")],
                         [*(c.headers["X-Call-Id"] for c in calls), None])

    def test_a_log_that_nobody_reads(self):
        """A full pipe holds nobody up."""
        path = "/tmp/fast-access-%d.fifo" % os.getpid()
        os.mkfifo(path)
        self.addCleanup(os.unlink, path)
        reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)
        self.addCleanup(os.close, reader)
        self.begin("--access-log", path)
        for _ in range(90):
            self.assertEqual(self.gw.get("/function/f/" + 1000 * "a").status, 200)
        wait_until(lambda: "a file cannot be written" in self.gw.log(), "the pipe took it all")
        self.assertEqual(self.gw.post("/function/f", b"x").status, 200)


if __name__ == "__main__":
    unittest.main()
