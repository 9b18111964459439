#!/usr/bin/env python3
"""fast-gateway in front of a real fast-node: the API, what it refuses, calls, and what survives."""
import base64
import hashlib
import http.client
import json
import os
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until

GPU = "fastgshare/gpu_"


def notes(**more):
    return {GPU + k: v for k, v in more.items()}


class GatewayTest(gateway.TestCase):
    """Each test begins with no function."""
    def tearDown(self):
        self.remove_functions()

    def assert_answer(self, answer, status, words=""):
        self.assertEqual(answer.status, status, answer.body)
        self.assertIn(words, answer.text)


class Api(GatewayTest):
    def test_a_name_that_is_none(self):
        for name in ("../x", "a/b.c", "a b"):
            answer = self.gw.ask("DELETE", "/system/functions", {"functionName": name})
            self.assert_answer(answer, 404, f'no function "{name}"')
            self.assertNotIn("in namespace", answer.text)

    def test_life_of_a_function(self):
        gw = self.gw
        self.assertEqual(gw.get("/system/functions").json(), [])
        spec = {"labels": {"a": "b"}, "annotations": {"doc": "{\n\"x\": 1}"}, "envVars": {"E": "v"},
                "limits": {"memory": "512Mi"}}
        self.assert_answer(gw.deploy(**spec), 202)
        gw.wait_ready()
        one = gw.status()
        self.assertEqual((one["name"], one["namespace"], one["image"]),
                         ("f", "openfaas-fn", gateway.FUNCTION))
        for key in ("annotations", "envVars", "limits"):
            self.assertEqual(one[key], spec[key])
        self.assertEqual(one["labels"], {"a": "b", "faas_function": "f"})
        self.assertEqual((one["replicas"], one["availableReplicas"]), (1, 1))
        self.assertNotIn("secrets", one)
        self.assertNotIn("requests", one)
        gw.get("/function/f")
        self.assertEqual(gw.status()["invocationCount"], 1)
        self.assertEqual([f["name"] for f in gw.get("/system/functions").json()], ["f"])
        self.assertEqual(gw.get("/system/functions?namespace=other").json(), [])
        self.assertEqual(gw.get("/system/function/f?namespace=openfaas-fn&usage=1").status, 200)
        self.assert_answer(gw.ask("DELETE", "/system/functions", {"functionName": "f"}), 202)
        self.assert_answer(gw.get("/system/function/f"), 404)
        self.assert_answer(gw.get("/function/f"), 404, "error finding function f.openfaas-fn:")
        self.assert_answer(gw.ask("DELETE", "/system/functions", {"functionName": "f"}), 404)

    def test_null_maps_and_namespaces(self):
        gw = self.gw
        self.assert_answer(gw.deploy(labels=None, annotations=None, secrets=None, strange=1,
                                     namespace="other"), 202)
        gw.wait_ready()
        self.assertEqual(gw.get("/system/function/f?namespace=other").status, 200)
        self.assertEqual(gw.get("/system/function/f").status, 404)
        self.assertEqual(gw.get("/function/f.other").status, 200)
        self.assertEqual(gw.get("/function/f").status, 404)
        self.assertEqual(gw.get("/system/namespaces").json(), ["openfaas-fn", "other"])

    def test_refusals_change_nothing(self):
        gw = self.gw
        for body, words in (
                (b"", "JSON"), (b"{", "JSON"), (b"[]", "object"),
                ({"service": "f"}, "image"),
                ({"service": "a/b", "image": "x"}, "service"),
                ({"service": "f", "image": "no-such-binary"}, "no-such-binary"),
                ({"service": "f", "image": "/no/such/binary"}, "/no/such/binary"),
        ):
            self.assert_answer(gw.post("/system/functions", body), 400, words)
        for bad, words in (
                ({"sm_partition": "0"}, "gpu_sm_partition"), ({"sm_partition": "101"}, "1 to 100"),
                ({"quota_request": "0.5", "quota_limit": "0.2"}, "gpu_quota_limit"),
                ({"quota_request": "2"}, "gpu_quota_request"), ({"mem": "1TiB"}, "gpu_mem"),
        ):
            self.assert_answer(gw.deploy(annotations=notes(**bad)), 400, words)
        self.assert_answer(gw.deploy(secrets=["nope"]), 400, "nope")
        self.assert_answer(gw.deploy(method="PUT"), 404)
        self.assert_answer(gw.post("/system/scale-function/f", {"replicas": 1}), 404)
        self.assert_answer(gw.ask("PATCH", "/system/functions"), 405)
        self.assert_answer(gw.get("/system/nothing"), 404, "404 page not found")
        self.assert_answer(gw.get("/function/.openfaas-fn"), 404)
        self.assert_answer(gw.post("/system/functions", b"x" * (1 << 20 | 1)), 413)
        self.assertEqual(gw.get("/system/functions").json(), [])
        self.assertEqual(gw.get("/system/replicas").json(), [])

    def test_pages_of_other_origins_are_refused(self):
        gw = self.gw
        body = {"service": "x", "image": "/bin/true"}
        for origin in ("http://evil.example", "null", "http://127.0.0.1:1", ""):
            answer = gw.ask("POST", "/system/functions", body, headers={"Origin": origin})
            self.assert_answer(answer, 403, "another origin")
        self.assertEqual([f["name"] for f in gw.get("/system/functions").json()
                          if f["name"] == "x"], [])
        own = {"Origin": f"http://127.0.0.1:{gw.port}"}
        self.assertEqual(gw.get("/system/functions", headers=own).status, 200)

    def test_a_full_gpu_refuses(self):
        gw = self.gw
        gw.up("big", annotations=notes(sm_partition="60", quota_request="1", mem="1Gi"))
        answer = gw.deploy("more", annotations=notes(sm_partition="60", quota_request="1", mem="1Gi"))
        self.assertEqual(answer.status, 409)
        self.assertIn("60", answer.text)
        self.assertEqual([f["name"] for f in gw.get("/system/functions").json()], ["big"])
        self.assert_answer(gw.post("/system/scale-function/big", {"replicas": 2}), 409)
        self.assertEqual(gw.status("big")["replicas"], 1)
        gw.up("small", annotations=notes(sm_partition="40", quota_request="1", mem="1Gi"))
        gpu = gw.get("/system/gpus").json()[0]
        self.assertTrue(gpu["simulated"])
        self.assertEqual({r["function"] for r in gpu["rectangles"]}, {"big", "small"})
        self.assertAlmostEqual(gpu["free_area"], 0)
        self.assertEqual(gw.ask("DELETE", "/system/functions", {"functionName": "big"}).status, 202)
        wait_until(lambda: not gw.replicas("big"))
        gw.up("more", annotations=notes(sm_partition="60", quota_request="1", mem="1Gi"))

    def test_memory_cap_by_default(self):
        gw = self.gw
        total = gw.get("/system/gpus").json()[0]["memory_total_bytes"]
        share = notes(sm_partition="24", quota_request="0.3")
        names = ("a", "b", "c", "d")
        for name in names:  # together they have all of the memory that their SMs have
            gw.up(name, annotations=share)
        cap = gw.replicas("a")[0]["memory_cap_bytes"]
        self.assertEqual(cap, total // (2 << 20) * 24 // 100 * (2 << 20))
        gw.up("small", annotations=notes(sm_partition="1", quota_request="0.1"))
        self.assertEqual(gw.replicas("small")[0]["memory_cap_bytes"], 512 << 20)
        self.assert_answer(gw.deploy("a", "PUT", annotations=dict(share, **notes(mem="1Gi"))), 202)
        self.assertEqual(gw.replicas("a")[0]["memory_cap_bytes"], 1 << 30)
        self.assert_answer(gw.deploy("a", "PUT", annotations=share), 202)
        self.assertEqual(gw.replicas("a")[0]["memory_cap_bytes"], cap)
        gw.kill()
        gw.start()
        self.assertEqual([gw.wait_ready(name=n)[0]["memory_cap_bytes"] for n in names], [cap] * 4)
        self.assertLess(gw.get("/system/gpus").json()[0]["free_area"], 0.8)

    def test_quota_changes_in_place(self):
        gw = self.gw
        before = gw.up(annotations=notes(sm_partition="24", quota_request="0.2", mem="1Gi"))[0]
        answer = gw.deploy(method="PUT", annotations=notes(sm_partition="24", quota_request="0.4",
                                                           quota_limit="0.8", mem="2Gi"))
        self.assert_answer(answer, 202)
        after = gw.wait_ready()[0]
        self.assertEqual((after["pid"], after["replica"]), (before["pid"], before["replica"]))
        self.assertEqual((after["quota_request"], after["quota_limit"], after["memory_cap_bytes"]),
                         (0.4, 0.8, 2 << 30))

    def test_secrets(self):
        gw = self.gw
        path = "/system/secrets"
        self.assertEqual(gw.get(path).json(), [])
        self.assert_answer(gw.post(path, {"name": "s", "value": "one"}), 202)
        self.assert_answer(gw.post(path, {"name": "s", "value": "two"}), 409)
        self.assert_answer(gw.ask("PUT", path, {"name": "t", "value": "x"}), 404)
        for bad in ("../x", "a/b", "", ".x"):
            self.assert_answer(gw.post(path, {"name": bad, "value": "x"}), 400)
        self.assert_answer(gw.post(path, {"name": "s2", "rawValue": "AP8="}), 202)
        self.assertEqual(sorted(s["name"] for s in gw.get(path).json()), ["s", "s2"])
        self.assertNotIn("one", gw.get(path).text)
        gw.up(secrets=["s"])
        folder = gw.get("/function/f/echo").json()["env"]["SECRETS_PATH"]
        with open(os.path.join(folder, "s2"), "rb") as f:
            self.assertEqual(f.read(), b"\0\xff")
        self.assertEqual(os.stat(os.path.join(folder, "s")).st_mode & 0o777,
                         0o640 if self.own_users and os.geteuid() == 0 else 0o600)
        self.assert_answer(gw.ask("PUT", path, {"name": "s", "value": "three"}), 202)
        with open(os.path.join(folder, "s"), "rb") as f:
            self.assertEqual(f.read(), b"three")
        for name in ("s", "s2"):
            self.assert_answer(gw.ask("DELETE", path, {"name": name}), 202)
        self.assertEqual(gw.get(path).json(), [])

    def test_secrets_go_with_their_namespace(self):
        gw = self.gw
        for _ in range(2):
            self.assert_answer(gw.post("/system/namespace/", {"name": "team"}), 201)
            self.assertEqual(gw.get("/system/secrets?namespace=team").json(), [])
            self.assert_answer(gw.post("/system/secrets", {"name": "s", "value": "v", "namespace": "team"}), 202)
            self.assert_answer(gw.ask("DELETE", "/system/namespace/team", {"name": "team"}), 202)

    def test_logs(self):
        gw = self.gw
        gw.up()
        for i in range(5):
            gw.get(f"/function/f/status/20{i}")

        def rows(query):
            answer = gw.get("/system/logs?name=f&follow=false" + query)
            self.assertEqual(answer.status, 200)
            self.assertEqual(answer.headers["Content-Type"], "application/x-ndjson")
            return [json.loads(line) for line in answer.text.splitlines()]

        wait_until(lambda: any("204" in r["text"] for r in rows("")))
        self.assertIn("function begins", [r["text"] for r in rows("&tail=-1")])
        self.assertEqual([r["text"] for r in rows("&tail=2")],
                         ["GET /status/203 HTTP/1.1", "GET /status/204 HTTP/1.1"])
        self.assertEqual(rows("&since=2999-01-01T00:00:00Z"), [])
        one = rows("&tail=1")[0]
        self.assertEqual((one["name"], one["namespace"], one["instance"]),
                         ("f", "openfaas-fn", "f.openfaas-fn.1"))
        for bad in ("tail=x", "since=x"):
            self.assertEqual(gw.get("/system/logs?name=f&" + bad).status, 422)
        self.assertEqual(gw.get("/system/logs").status, 400)
        self.assertEqual(gw.get("/system/logs?name=none").status, 404)
        c = gw.connect()
        c.request("GET", "/system/logs?name=f&follow=true&tail=0")
        r = c.getresponse()
        gw.get("/function/f/status/299")
        self.assertIn("299", json.loads(r.readline())["text"])
        c.close()

    def test_policy_info_health_metrics(self):
        gw = self.gw
        self.assertEqual(gw.get("/system/policy").json(),
                         {"policy": "fast", "charge": "busy", "window_ms": 100})
        answer = gw.ask("PUT", "/system/policy", {"policy": "timeshare", "window_ms": 50})
        self.assertEqual(answer.json(), {"policy": "timeshare", "charge": "busy", "window_ms": 50})
        for bad in ({"policy": "none"}, {"window_ms": 1}, {"charge": 1}, []):
            self.assertEqual(gw.ask("PUT", "/system/policy", bad).status, 400)
        gw.ask("PUT", "/system/policy", {"policy": "fast", "window_ms": 100})
        info = gw.get("/system/info").json()
        self.assertTrue(info["provider"]["version"]["sha"] and info["version"]["release"] and info["arch"])
        self.assert_answer(gw.get("/healthz"), 200, "OK")
        gw.up()
        gw.get("/function/f")
        gw.get("/function/f/status/500")
        text = gw.metrics()
        for line in ('gateway_function_invocation_total{function_name="f.openfaas-fn",code="200"} 1',
                     'gateway_function_invocation_total{function_name="f.openfaas-fn",code="500"} 1',
                     'gateway_function_invocation_started{function_name="f.openfaas-fn"} 2',
                     'gateway_functions_seconds_count{function_name="f.openfaas-fn",code="200"} 1',
                     'gateway_functions_seconds_bucket{function_name="f.openfaas-fn",code="200",le="+Inf"} 1',
                     'gateway_service_count{function_name="f.openfaas-fn"} 1',
                     'gateway_service_min{function_name="f.openfaas-fn"} 1', "fast_node_up 1"):
            self.assertIn(line + "\n", text)
        self.assertEqual(gw.get("/metrics").status, 404)


class Alerts(GatewayTest):
    def alert(self, status, name="f.openfaas-fn", **more):
        return self.gw.post("/system/alert", {"status": status, "alerts": [
            {"status": status, "labels": {"alertname": "x", "function_name": name}}], **more})

    def test_steps(self):
        gw = self.gw
        # Counted as 5 requests/s for each replica, so that the scaler has no reason to act by itself.
        gw.up(labels={"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "4",
                      "com.openfaas.scale.factor": "50"})
        self.assert_answer(self.alert("firing"), 200)
        self.assertEqual(gw.status()["replicas"], 3)
        self.assert_answer(self.alert("firing"), 200)
        self.assertEqual(gw.status()["replicas"], 4)
        self.assert_answer(self.alert("resolved"), 200)
        self.assertEqual(gw.status()["replicas"], 1)
        self.assert_answer(self.alert("firing", "nope"), 500, "no function nope")
        self.assert_answer(gw.post("/system/alert", {"alerts": [{}]}), 500, "without status")
        self.assert_answer(gw.post("/system/alert", b"x"), 400, "alerts")
        self.assertEqual(gw.get("/system/alert").status, 405)

    def test_usage(self):
        gw = self.gw
        gw.up(envProcess=f"{gateway.FUNCTION} --spin")
        self.assertNotIn("usage", gw.get("/system/function/f").json())
        usage = gw.get("/system/function/f?usage=1").json()["usage"]
        self.assertGreater(usage["totalMemoryBytes"], 1 << 20)  # a Python program
        wait_until(lambda: gw.get("/system/function/f?usage=1").json()["usage"]["cpu"] > 10)
        self.assertLess(gw.get("/system/function/f?usage=1").json()["usage"]["cpu"], 1000 * (os.cpu_count() + 1))

    def test_ready_path(self):
        self.gw.up(annotations={"com.openfaas.ready.http.path": "/status/204"})


class Calls(GatewayTest):
    def setUp(self):
        self.gw.up()

    def test_what_arrives(self):
        answer = self.gw.ask("PATCH", "/function/f.openfaas-fn/echo/a%20b?x=1&y=%2F", b"hello",
                             {"X-One": "1", "X-Call-Id": "mine", "Connection": "X-Two", "X-Two": "2",
                              "Te": "trailers", "Proxy-Authorization": "x"})
        it = answer.json()
        headers = {k.lower(): v for k, v in it["headers"]}
        self.assertEqual((it["method"], it["path"], it["body"]), ("PATCH", "/echo/a%20b?x=1&y=%2F", "hello"))
        self.assertEqual(headers["x-one"], "1")
        for gone in ("connection", "x-two", "te", "proxy-authorization"):
            self.assertNotIn(gone, headers)
        self.assertEqual(headers["x-call-id"], "mine")
        self.assertEqual(headers["content-length"], "5")
        self.assertEqual(headers["x-forwarded-host"], f"127.0.0.1:{self.gw.port}")
        self.assertRegex(headers["x-forwarded-for"], r"^127\.0\.0\.1:\d+$")
        self.assertEqual((answer.headers["X-Call-Id"], answer.headers["X-Own"]), ("mine", "yes"))
        self.assertIsNone(answer.headers["X-Hop"])
        self.assertLess(abs(int(answer.headers["X-Start-Time"]) / 1e9 - time.time()), 60)
        self.assertEqual(it["env"]["OPENFAAS_NAME"], "f")
        self.assertNotIn("LD_PRELOAD", it["env"])
        bare = self.gw.raw(b"POST /function/f/echo HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n")
        self.assertIn(["Content-Length", "0"], json.loads(bare.split(b"\r\n\r\n", 1)[1])["headers"])
        self.assertEqual(self.gw.get("/function/f").json()["path"], "/")
        self.assertEqual(self.gw.get("/function/f?q").json()["path"], "/?q")

    def test_answers(self):
        gw = self.gw
        for method in ("GET", "POST", "PUT", "DELETE", "PATCH", "OPTIONS"):
            self.assertEqual(gw.ask(method, "/function/f/echo").json()["method"], method)
        head = gw.ask("HEAD", "/function/f/echo")
        self.assertEqual((head.status, head.body), (200, b""))
        self.assertGreater(int(head.headers["Content-Length"]), 100)
        refused = gw.ask("TRACE", "/function/f")
        self.assertEqual(refused.status, 405)
        self.assertEqual(refused.headers["Allow"], "GET, HEAD, POST, PUT, PATCH, DELETE, OPTIONS")
        moved = gw.get("/function/f/status/302")
        self.assertEqual((moved.status, moved.headers["Location"]), (302, "http://elsewhere/"))
        self.assertEqual(gw.get("/function/f/status/204").status, 204)
        self.assertEqual(gw.get("/function/f/status/503").status, 503)
        unknown = gw.get("/function/nope")
        self.assert_answer(unknown, 404, "error finding function nope.openfaas-fn:")
        self.assertTrue(unknown.headers["X-Call-Id"])

    def test_local_socket(self):
        """A function that asks for a Unix socket is called there; one that does not listen there is
        called at its port; the socket goes with its replica and outlives the gateway."""
        gw, note = self.gw, {"fastgshare/socket": "unix"}
        self.assertEqual(gw.get("/function/f/echo").headers["X-Door"], "tcp")
        gw.up("local", annotations=note)
        gw.up("deaf", annotations=note, envVars={"DEAF": "1"})
        it = gw.post("/function/local/echo", b"hello")
        path = it.json()["env"]["FAST_SOCKET"]
        self.assertEqual((it.status, it.headers["X-Door"], it.json()["body"]), (200, "unix", "hello"))
        self.assertEqual(gw.post("/function/local/hash", b"x" * (8 << 20)).status, 200)
        deaf = gw.get("/function/deaf/echo")
        self.assertEqual((deaf.status, deaf.headers["X-Door"]), (200, "tcp"))
        gw.kill()
        gw.start()
        gw.wait_ready(1, "local")
        self.assertEqual(gw.get("/function/local/echo").headers["X-Door"], "unix")
        self.assert_answer(gw.deploy("odd", annotations={"fastgshare/socket": "udp"}), 400, "neither unix nor tcp")
        self.assert_answer(gw.ask("DELETE", "/system/functions", {"functionName": "local"}), 202)
        wait_until(lambda: not os.path.exists(path), "the socket stays")

    def test_keep_alive(self):
        c = self.gw.connect()
        for i in range(20):
            c.request("POST", "/function/f/echo", b"x" * i)
            self.assertEqual(len(json.loads(c.getresponse().read())["body"]), i)
        c.close()

    def test_chunks_both_ways(self):
        c = self.gw.connect()
        c.request("POST", "/function/f/raw", iter([b"a" * 1000, b"b", b"c" * 70000]), encode_chunked=True)
        self.assertEqual(c.getresponse().read(), b"a" * 1000 + b"b" + b"c" * 70000)
        c.close()

    def test_large_bodies(self):
        block = os.urandom(1 << 20)
        digest = hashlib.sha256()
        c = self.gw.connect()
        c.putrequest("PUT", "/function/f/hash")
        c.putheader("Content-Length", str(64 << 20))
        c.endheaders()
        for _ in range(64):
            c.send(block)
            digest.update(block)
        self.assertEqual(c.getresponse().read().decode(), digest.hexdigest())
        c.close()
        self.assertEqual(len(self.gw.get("/function/f/bytes/100000000").body), 100000000)
        with open(f"/proc/{self.gw.process.pid}/status", encoding="utf-8") as f:
            peak = next(int(line.split()[1]) for line in f if line.startswith("VmHWM"))
        self.assertLess(peak, 200000)  # KiB; the sanitizers need some

    def test_events_come_one_by_one(self):
        c = self.gw.connect()
        c.request("GET", "/function/f/events", headers={"Accept": "text/event-stream"})
        r = c.getresponse()
        began, times = time.monotonic(), []
        for _ in range(3):
            self.assertTrue(r.readline().startswith(b"data: "))
            r.readline()
            times.append(time.monotonic() - began)
        self.assertGreater(times[2] - times[0], 0.3)
        c.close()

    def test_expect_continue(self):
        with socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S) as s:
            s.sendall(b"POST /function/f/echo HTTP/1.1\r\nHost: a\r\nExpect: 100-continue\r\n"
                      b"Content-Length: 2\r\nConnection: close\r\n\r\n")
            self.assertTrue(s.recv(100).startswith(b"HTTP/1.1 100 Continue\r\n\r\n"))
            s.sendall(b"ok")
            got = b""
            while part := s.recv(65536):
                got += part
        self.assertIn(b'"body": "ok"', got)
        self.assertNotIn(b"Expect", got)

    def test_broken_answers(self):
        answer = self.gw.post("/function/f/die")
        self.assert_answer(answer, 502, "without an answer")
        self.assertEqual(answer.headers["X-OpenFaaS-Internal"], "proxy")
        self.gw.wait_ready()
        got = self.gw.raw(b"GET /function/f/half HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(got.endswith(b"0123456789"), got)  # cut, so that the client can tell
        self.assertIn(b"Content-Length: 100", got)

    def test_the_beginning_of_an_answer(self):
        gw = self.gw
        gw.up("raw", image=os.path.join(node.HERE, "raw_function.py"))
        with socket.create_connection(("127.0.0.1", gw.port), timeout=node.WAIT_S) as s:
            s.sendall(b"GET /function/raw/head HTTP/1.1\r\nHost: a\r\n\r\n")
            self.assertTrue(s.recv(1000).startswith(b"HTTP/1.1 200 OK\r\n"))  # no event has come yet
        for path in ("bad", "bad-second", "cut"):  # nothing was seen of it
            answer = gw.get(f"/function/raw/{path}")
            self.assert_answer(answer, 502, "no answer from function raw")
        self.assertEqual(gw.get("/function/raw/x").status, 200)


class Waiting(GatewayTest):
    args = ("--timeout", "1s", "--queue-timeout", "6s", "--queue", "2")

    def test_timeout(self):
        self.gw.up()
        self.assert_answer(self.gw.get("/function/f/sleep/5"), 504, "in time")

    def test_queue_is_bounded(self):
        gw = self.gw
        gw.deploy(envProcess=f"{gateway.FUNCTION} --late 60")
        statuses = []
        threads = [threading.Thread(target=lambda: statuses.append(gw.get("/function/f").status))
                   for _ in range(5)]
        began = time.monotonic()
        for t in threads:
            t.start()
        wait_until(lambda: len(statuses) >= 3)  # those that find no room in the queue
        for t in threads:
            t.join()
        self.assertEqual(statuses, [503] * 5)
        self.assertGreater(time.monotonic() - began, 5.5)  # and the other two waited


class BusyPoll(GatewayTest):
    args = ("--busy-poll", "1ms")

    def cpu_s(self):
        with open(f"/proc/{self.gw.process.pid}/stat", encoding="ascii") as f:
            fields = f.read().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def test_an_idle_gateway_sleeps(self):
        self.gw.up()
        for _ in range(100):
            self.assertEqual(self.gw.get("/function/f").status, 200)
        before = self.cpu_s()
        time.sleep(2)
        self.assertLess(self.cpu_s() - before, 0.5)

    def test_bounds(self):
        for span in ("2ms", "50"):
            bad = self.gw.spawn("--busy-poll", span)
            self.assertEqual(bad.wait(node.WAIT_S), 2)


# The answer of a function that has begun when the function dies can only be cut.
CUT = "cut"


class Load:
    """Threads that call a function until they are told to stop; counts what they see."""

    def __init__(self, gw, path, threads=4, method="POST"):
        self.gw, self.path, self.method = gw, path, method
        self.seen, self.lock, self.over = {}, threading.Lock(), False
        self.threads = [threading.Thread(target=self.run) for _ in range(threads)]
        for t in self.threads:
            t.start()

    def run(self):
        c = self.gw.connect()
        while not self.over:
            try:
                c.request(self.method, self.path, b"x")
                r = c.getresponse()
                r.read()
                what = r.status
            except (OSError, http.client.HTTPException):
                what = CUT
                c.close()
            with self.lock:
                self.seen[what] = self.seen.get(what, 0) + 1
        c.close()

    def count(self):
        with self.lock:
            return sum(self.seen.values())

    def more(self, n=50):
        goal = self.count() + n
        wait_until(lambda: self.count() >= goal, "the load stands still")

    def stop(self):
        self.over = True
        for t in self.threads:
            t.join()
        return self.seen


class Life(GatewayTest):
    def test_killed_replica(self):
        before = self.gw.up()[0]
        load = Load(self.gw, "/function/f/echo")
        load.more()
        killed = time.time()
        os.kill(before["pid"], signal.SIGKILL)
        load.more(100)
        seen = load.stop()
        self.assertEqual(set(seen) - {200, 502, CUT}, set())
        self.assertLessEqual(seen.get(502, 0) + seen.get(CUT, 0), 4)  # those that were in flight
        after = self.gw.wait_ready()[0]
        self.assertEqual(after["replica"], before["replica"])
        self.assertNotEqual(after["pid"], before["pid"])
        self.assertEqual(after["restarts"], 1)
        # Ready less than a second after its death, plus what it takes itself to start.
        self.assertLess(after["started_ms"] / 1e3 - killed, 1)

    def test_removed_under_load(self):
        gw = self.gw
        pids = [r["pid"] for r in gw.up(count=2, labels={"com.openfaas.scale.min": "2"})]
        load = Load(gw, "/function/f/sleep/0.02")
        load.more()
        self.assert_answer(gw.ask("DELETE", "/system/functions", {"functionName": "f"}), 202)
        wait_until(lambda: not gw.get("/system/replicas").json(), "replicas stay")
        self.assertFalse([p for p in pids if node.lives(p)])
        self.assertEqual(set(load.stop()), {200, 404})  # those in flight were answered

    def test_killed_replica_beside_another(self):
        pids = [r["pid"] for r in self.gw.up(count=2, labels={"com.openfaas.scale.min": "2"})]
        load = Load(self.gw, "/function/f/echo", method="PUT")
        load.more()
        os.kill(pids[0], signal.SIGKILL)
        load.more(100)
        seen = load.stop()  # PUT is idempotent: asked again, nobody notices
        self.assertEqual(set(seen) - {CUT}, {200})
        self.assertLessEqual(seen.get(CUT, 0), 4)

    def test_repeated_on_another(self):
        gw = self.gw
        gw.up(count=2, labels={"com.openfaas.scale.min": "2"})

        def restarted(times):  # the node may not have told of a death yet
            gw.wait_ready(2)
            return sum(r["restarts"] for r in gw.replicas()) == times

        for i in range(5):
            flag = os.path.join(self.node.shared, f"flag{i}")
            self.assert_answer(gw.ask("PUT", "/function/f/die-once" + flag, b"body"), 200, "alive")
            wait_until(lambda n=2 * i + 1: restarted(n))
            self.assert_answer(gw.post("/function/f/die-once" + flag + "-post"), 502)
            wait_until(lambda n=2 * i + 2: restarted(n))
        # Too large to be kept: sent again it would be another request.
        flag = os.path.join(self.node.shared, "large")
        self.assert_answer(gw.ask("PUT", "/function/f/die-once" + flag, bytes(3 << 20)), 502)

    def test_killed_gateway(self):
        gw = self.gw
        before = gw.up(count=2, labels={"com.openfaas.scale.min": "2"})
        gw.post("/system/secrets", {"name": "kept", "value": "v"})
        gw.kill()
        self.assertTrue(all(node.lives(r["pid"]) for r in before))
        gw.start()
        after = gw.wait_ready(2)
        self.assertEqual({r["pid"] for r in after}, {r["pid"] for r in before})
        self.assertEqual(gw.get("/function/f").status, 200)
        self.assertEqual([s["name"] for s in gw.get("/system/secrets").json()], ["kept"])
        gw.ask("DELETE", "/system/secrets", {"name": "kept"})
        time.sleep(1.2)  # a tick of the scaler: it must not begin anew
        self.assertEqual({r["pid"] for r in gw.wait_ready(2)}, {r["pid"] for r in before})

    def test_killed_node(self):
        gw = self.gw
        before = gw.up()[0]
        load = Load(gw, "/function/f/echo")
        load.more()
        self.node.kill()
        load.more(100)
        self.assert_answer(gw.deploy("g"), 503, "fast-node")
        self.node.start()
        wait_until(lambda: gw.get("/system/policy").status == 200)
        load.more(100)
        self.assertEqual(set(load.stop()), {200})
        self.assertEqual(gw.wait_ready()[0]["pid"], before["pid"])

    def test_function_changed_while_the_gateway_was_down(self):
        gw = self.gw
        pid = gw.up()[0]["pid"]
        gw.kill()
        self.node.kill()
        os.kill(pid, signal.SIGKILL)
        gw.start(connected=False)
        self.assertEqual([f["name"] for f in gw.get("/system/functions").json()], ["f"])
        self.node.start()
        self.assertNotEqual(gw.wait_ready()[0]["pid"], pid)
        self.assertEqual(gw.get("/function/f").status, 200)

    def test_rolling_change(self):
        gw = self.gw
        before = gw.up(count=2, labels={"com.openfaas.scale.min": "2"})
        load = Load(gw, "/function/f/echo")
        load.more()
        self.assert_answer(gw.deploy(method="PUT", labels={"com.openfaas.scale.min": "2"},
                                     envVars={"NEW": "1"}), 202)
        old = {r["replica"] for r in before}
        wait_until(lambda: not old & {r["replica"] for r in gw.replicas()}, "old replicas stay")
        gw.wait_ready(2)
        load.more()
        self.assertEqual(set(load.stop()), {200})
        self.assertEqual(gw.get("/function/f/echo").json()["env"]["NEW"], "1")

    def test_scale_by_hand_and_from_zero(self):
        gw = self.gw
        gw.up()
        self.assert_answer(gw.post("/system/scale-function/f", {"serviceName": "f", "replicas": 3}), 202)
        gw.wait_ready(3)
        self.assertEqual(gw.status()["replicas"], 3)
        self.assert_answer(gw.post("/system/scale-function/f", {"replicas": 0}), 202)
        wait_until(lambda: not gw.replicas())
        self.assertNotIn("replicas", gw.status())
        self.assertEqual(gw.get("/function/f").status, 200)
        self.assertEqual(gw.status()["replicas"], 1)
        for bad in ({"replicas": -1}, {"replicas": "x"}, {"replicas": 100000}, []):
            self.assertEqual(gw.post("/system/scale-function/f", bad).status, 400)

    def test_terminated(self):
        gw = self.gw
        pid = gw.up()[0]["pid"]
        answers = []
        t = threading.Thread(target=lambda: answers.append(gw.get("/function/f/sleep/1").status))
        t.start()
        wait_until(lambda: gw.replicas()[0]["in_flight"] == 1)
        self.assertEqual(gw.stop(), 0)
        t.join()
        self.assertEqual(answers, [200])
        self.assertTrue(node.lives(pid))
        gw.start()
        self.assertEqual(gw.wait_ready()[0]["pid"], pid)

    def test_who_came_before_the_doors_closed(self):
        gw = self.gw
        gw.up()
        seen = len(gw.log())
        waiting = [socket.create_connection(("127.0.0.1", gw.port), timeout=node.WAIT_S) for _ in range(20)]
        gw.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in gw.log()[seen:])
        for s in waiting:
            s.sendall(b"GET /function/f HTTP/1.1\r\nHost: a\r\n\r\n")
        for s in waiting:
            got = b""
            while part := s.recv(65536):
                got += part
            self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
            s.close()
        self.assertEqual(gw.process.wait(node.WAIT_S), 0)
        gw.start()

    def test_kept_connections_are_told_before_they_are_closed(self):
        """Whoever was promised a kept connection may be sending on it when the gateway is stopped."""
        gw = self.gw
        gw.up()
        ask = b"GET /function/f HTTP/1.1\r\nHost: a\r\n\r\n"
        kept = [gw.connect() for _ in range(5)]
        for c in kept:
            c.request("GET", "/function/f")
            self.assertEqual(c.getresponse().read()[:1], b"{")
        begun = gw.connect()  # its head goes out before the gateway is stopped, its end later
        begun.request("GET", "/function/f/events")
        answer = begun.getresponse()
        self.assertIsNone(answer.headers["Connection"])
        seen = len(gw.log())
        gw.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in gw.log()[seen:])
        for c in kept:
            c.sock.sendall(ask)
        answer.read()
        begun.sock.sendall(ask)
        for c in kept + [begun]:
            with c.sock as s:
                got = b""
                while part := s.recv(65536):
                    got += part
            self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
            self.assertIn(b"Connection: close\r\n", got)
        self.assertEqual(gw.process.wait(node.WAIT_S), 0)
        gw.start()

    def test_who_is_idle_for_long_holds_no_stop_up(self):
        gw = self.gw
        gw.up()
        idle, kept = gw.connect(), gw.connect()
        idle.connect()
        time.sleep(2.1)
        kept.request("GET", "/function/f")
        kept.getresponse().read()
        gw.process.send_signal(signal.SIGTERM)
        with idle.sock as s:
            self.assertEqual(s.recv(100), b"")
        kept.request("GET", "/function/f")  # may go on for a while yet
        self.assertEqual(kept.getresponse().status, 200)
        self.assertEqual(gw.process.wait(node.WAIT_S), 0)
        gw.start()

    def test_only_one(self):
        gw = self.gw
        taken = subprocess.run([gateway.PROGRAM, "--state-dir", self.node.root, "--metrics", "", "--listen",
                                f"127.0.0.1:{gw.port}"], capture_output=True, text=True, check=False)
        self.assertEqual(taken.returncode, 1)
        self.assertIn(f"127.0.0.1:{gw.port} is in use", taken.stderr)
        second = subprocess.run([gateway.PROGRAM, "--state-dir", self.node.state_dir, "--metrics", "",
                                 "--listen", "127.0.0.1:0"], capture_output=True, text=True, check=False)
        self.assertEqual(second.returncode, 1)
        self.assertIn("in use by another gateway", second.stderr)
        wrong = subprocess.run([gateway.PROGRAM, "--nonsense"], capture_output=True, text=True, check=False)
        self.assertEqual(wrong.returncode, 2)
        self.assertIn("--nonsense", wrong.stderr)


class Auth(GatewayTest):
    env = {"basic_auth": "true", "secret_mount_path": ""}
    password = "pass:word" + "0123456789" * 300  # a token may be long

    @classmethod
    def setUpClass(cls):
        folder = "/tmp/fast-auth-%d" % os.getpid()
        os.mkdir(folder)
        cls.env = {"basic_auth": "true", "secret_mount_path": folder}
        for name, value in (("user", "admin"), ("password", f" {cls.password}\n")):
            with open(f"{folder}/basic-auth-{name}", "w", encoding="utf-8") as f:
                f.write(value)
        cls.addClassCleanup(lambda: subprocess.run(["rm", "-r", folder], check=True))
        super().setUpClass()

    def tearDown(self):
        pass

    def test_who_may_ask(self):
        gw = self.gw
        answer = gw.get("/system/functions")
        self.assert_answer(answer, 401, "invalid credentials")
        self.assertEqual(answer.headers["WWW-Authenticate"], 'Basic realm="Restricted"')
        for wrong in ("Bearer ", "Basic", "Basic !", "Basic YWRtaW46eA==", "Basic YWRtaW4=",
                      "Basic YWRtaW46", "Basic YWRtaW46cGFzczp3b3I=", "Basic Og=="):  # none, the beginning, nobody
            self.assertEqual(gw.get("/system/functions", headers={"Authorization": wrong}).status, 401)
        right = {"Authorization": "Basic " + base64.b64encode(b"admin:" + self.password.encode()).decode()}
        self.assertEqual(gw.get("/system/functions", headers=right).status, 200)
        self.assertEqual(gw.get("/healthz").status, 200)
        self.assertEqual(gw.get("/function/none").status, 404)

    def test_a_stack_from_elsewhere_gets_no_password(self):
        """It may name any gateway; the password is for the one that the user names."""
        port = self.gw.port
        with tempfile.NamedTemporaryFile("w", suffix=".yml") as f:
            f.write(f"provider: {{name: openfaas, gateway: 'http://127.0.0.1:{port}/'}}\n"
                    f"functions:\n  f:\n    image: {gateway.FUNCTION}\n    labels: {{com.openfaas.scale.min: '0'}}\n")
            f.flush()

            def deploy(url):
                env = dict(os.environ, OPENFAAS_URL=url, FAST_PASSWORD=self.password)
                return subprocess.run([os.path.join(node.BUILD, "src", "cli", "fast"), "deploy", "-f", f.name],
                                      env=env, capture_output=True, text=True, check=False)

            done = deploy("http://127.0.0.1:1")
            self.assertEqual(done.returncode, 1)
            self.assertIn("sent only to the gateway of OPENFAAS_URL", done.stderr)
            done = deploy(f"http://127.0.0.1:{port}/")
            self.assertEqual(done.returncode, 0, done.stderr)


if __name__ == "__main__":
    unittest.main()
