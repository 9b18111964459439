#!/usr/bin/env python3
"""Asynchronous calls: promised once on the disk, made at least once, whatever is killed."""
import http.server
import json
import os
import socket
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until

CALLS = int(os.environ.get("FAST_ASYNC_CALLS", "300"))
KILLS = int(os.environ.get("FAST_ASYNC_KILLS", "3"))
QUICK = {"com.openfaas.retry.min_wait": "20ms", "com.openfaas.retry.max_wait": "200ms"}
ECHO = {"image": "functions/alpine:latest", "envProcess": "cat"}


class Callbacks:
    """An HTTP server that counts what is delivered to it."""

    def __init__(self):
        outer = self
        self.lock = threading.Lock()
        self.got = []
        self.raw = []
        self.refuse = 0
        self.status = 500  # of what is refused

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
                with outer.lock:
                    if outer.refuse:
                        outer.refuse -= 1
                        status = outer.status
                    else:
                        outer.raw.append(self.headers.items())
                        outer.got.append((dict(self.headers), body))
                        status = 200
                self.send_response(status)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, *args):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}/done"
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def close(self):
        self.server.shutdown()
        self.server.server_close()


class Async(gateway.TestCase):
    def setUp(self):
        self.callbacks = Callbacks()
        self.addCleanup(self.callbacks.close)

    def tearDown(self):
        for c in self.queue()["calls"] + self.queue(dead=True)["calls"]:  # nobody waits for them now
            self.gw.ask("DELETE", f"/async-function/{c['callId']}")
        self.remove_functions()

    def call(self, body=b"", name="f", **headers):
        headers = {k.replace("_", "-"): v for k, v in headers.items()}
        return self.gw.post(f"/async-function/{name}", body, headers=headers)

    def queue(self, dead=False):
        return self.gw.get("/system/async" + ("?dead=true" if dead else "")).json()

    def idle(self):
        wait_until(lambda: self.queue()["waiting"] == 0, f"calls stay: {self.queue()}")

    def test_a_call_and_its_callback(self):
        self.gw.up(annotations=QUICK, **ECHO)
        answer = self.call(b"hello", X_Callback_Url=self.callbacks.url, X_Call_Id="mine",
                           Content_Type="text/x-own")
        self.assertEqual((answer.status, answer.body), (202, b""))
        self.assertEqual(answer.headers["X-Call-Id"], "mine")
        self.assertTrue(answer.headers["X-Start-Time"])
        wait_until(lambda: self.callbacks.got, "no callback")
        headers, body = self.callbacks.got[0]
        self.assertEqual(body, b"hello")
        self.assertEqual(headers["X-Call-Id"], "mine")
        self.assertEqual(headers["X-Function-Status"], "200")
        self.assertEqual(headers["X-Function-Name"], "f.openfaas-fn")
        self.assertEqual(headers["Content-Type"], "text/x-own")
        self.assertTrue(float(headers["X-Duration-Seconds"]) > 0)
        self.idle()
        self.assertEqual(self.gw.status()["invocationCount"], 1)

    def test_path_and_query_reach_the_function(self):
        self.gw.up(annotations=QUICK, image="functions/alpine", envProcess="env")
        self.call(name="f/a/b?x=1", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.assertIn(b"Http_Path=/a/b\n", self.callbacks.got[0][1])
        self.assertIn(b"Http_Query=x=1\n", self.callbacks.got[0][1])

    def test_what_connection_names_is_set_anew(self):
        """Who names a field in Connection takes out what it has put in: the function is told of this caller then, and
        never of the gateway's own door."""
        self.gw.up(annotations=QUICK, image="functions/alpine", envProcess="env")
        self.call(X_Callback_Url=self.callbacks.url, Connection="X-Forwarded-For, X-Forwarded-Host",
                  X_Forwarded_For="192.0.2.1", X_Forwarded_Host="elsewhere")
        wait_until(lambda: self.callbacks.got, "no callback")
        told = dict(line.split(b"=", 1) for line in self.callbacks.got[0][1].splitlines() if b"=" in line)
        self.assertEqual(told[b"Http_X_Forwarded_Host"], b"127.0.0.1:%d" % self.gw.port)
        self.callbacks.got.clear()
        c = self.gw.connect()  # whose address is known
        self.addCleanup(c.close)
        c.request("POST", "/async-function/f", headers={
            "X-Callback-Url": self.callbacks.url, "Connection": "X-Forwarded-For", "X-Forwarded-For": "192.0.2.1"})
        mine = f"{c.sock.getsockname()[0]}:{c.sock.getsockname()[1]}"
        self.assertEqual(c.getresponse().status, 202)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.assertIn(f"\nHttp_X_Forwarded_For={mine}\n".encode(), self.callbacks.got[0][1])

    def test_many_fields(self):
        """Without a blank behind the colon: each is longer when it is written anew. More than the call to the
        function could have with its own are refused at once, not afterwards."""
        self.gw.up(annotations=QUICK, **ECHO)

        def call(n):
            fields = b"".join(b"a%d:b\r\n" % i for i in range(n))
            return self.gw.raw(b"POST /async-function/f HTTP/1.0\r\n" + fields + b"\r\n")
        got = call(120)
        self.assertTrue(got.startswith(b"HTTP/1.1 202 "), got)
        self.idle()
        self.assertEqual(self.gw.status()["invocationCount"], 1)
        self.assertEqual(self.queue()["dead"], 0)
        got = call(121)
        self.assertTrue(got.startswith(b"HTTP/1.1 431 "), got)

    def test_a_path_stays_within_its_function(self):
        self.gw.up("other", **ECHO)
        self.gw.up(annotations=QUICK, image="functions/alpine", envProcess="env")
        self.call(name="f/../other/a/./b", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.assertIn(b"Http_Path=/../other/a/./b\n", self.callbacks.got[0][1])

    def test_an_id_that_cannot_be_shown(self):
        self.gw.up(image="functions/alpine", envProcess="sleep 3600")
        call = self.call(X_Call_Id="a\xff b").headers["X-Call-Id"]
        self.assertRegex(call, "^[0-9a-f-]{36}$")
        self.assertEqual([c["callId"] for c in self.queue()["calls"]], [call])

    def test_what_is_refused(self):
        self.gw.up(**ECHO)
        for url in ("http://", "http://a:99999/", "http://[", "//a", "http://a b/"):
            self.assertEqual(self.call(X_Callback_Url=url).status, 400, url)
        self.assertEqual(self.call(name="nothing").status, 404)
        self.assertEqual(self.call(X_Callback_Url="not a url").status, 400)
        self.assertEqual(self.call(X_Callback_Url="file:///etc/passwd").status, 400)
        self.assertEqual(self.gw.get("/async-function/f").status, 405)
        self.assertEqual(self.gw.ask("DELETE", "/async-function/unknown").status, 404)
        self.assertEqual(self.queue()["waiting"], 0)

    def test_failures_are_repeated_then_kept(self):
        self.gw.up(annotations={**QUICK, "com.openfaas.retry.attempts": "3"},
                   image="functions/alpine", envProcess="false")
        call = self.call(b"x").headers["X-Call-Id"]
        wait_until(lambda: self.queue()["dead"], "the call is not given up")
        self.assertEqual(self.gw.status()["invocationCount"], 3)
        dead = self.queue(dead=True)["calls"]
        self.assertEqual([(c["callId"], c["attempts"], c["status"]) for c in dead], [(call, 3, 500)])
        self.assertEqual(self.gw.ask("DELETE", f"/async-function/{call}").status, 202)
        self.assertEqual(self.queue()["dead"], 0)

    def test_a_function_says_when_to_come_again(self):
        self.gw.up(annotations={**QUICK, "com.openfaas.retry.codes": "429"}, image=gateway.FUNCTION)
        self.call(name="f/status/429")
        wait_until(lambda: [c for c in self.queue()["calls"] if c["attempts"] == 1], "not tried")
        self.assertGreater(self.queue()["calls"][0]["retryInSeconds"], 3000)
        # A field of the answer is not one of the request that the callback is.
        self.call(name="f/status/500", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.assertEqual(self.callbacks.got[0][0]["Host"], self.callbacks.url.split("/")[2])

    def test_a_failure_is_called_back_too(self):
        self.gw.up(annotations={**QUICK, "com.openfaas.retry.attempts": "2"},
                   image="functions/alpine", envProcess="false")
        self.callbacks.refuse = 1  # attempts of the callback are counted from the beginning
        self.call(b"x", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.assertEqual(self.callbacks.got[0][0]["X-Function-Status"], "500")

    def test_a_callback_is_repeated_without_the_call(self):
        self.gw.up(annotations=QUICK, **ECHO)
        self.callbacks.refuse = 2
        self.call(b"once", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        self.idle()
        self.assertEqual(self.gw.status()["invocationCount"], 1)

    def test_a_redirected_callback_is_not_delivered(self):
        self.gw.up(annotations={**QUICK, "com.openfaas.retry.attempts": "2"}, **ECHO)
        self.callbacks.refuse, self.callbacks.status = 2, 302
        self.call(b"x", X_Callback_Url=self.callbacks.url.replace("http", "HTTP", 1))
        wait_until(lambda: self.queue(dead=True)["calls"], "it counts as delivered")
        self.assertIn("status 302", self.queue(dead=True)["calls"][0]["why"])

    def test_cancel_of_a_call_that_waits(self):
        self.gw.up(annotations={"com.openfaas.retry.min_wait": "1h",
                                "com.openfaas.retry.max_wait": "1h"},
                   image="functions/alpine", envProcess="false")
        call = self.call().headers["X-Call-Id"]
        wait_until(lambda: [c for c in self.queue()["calls"] if c["attempts"] == 1], "not tried")
        self.assertEqual(self.gw.ask("DELETE", f"/async-function/{call}").status, 202)
        self.assertEqual(self.queue()["waiting"], 0)

    def test_cancel_of_a_call_that_runs(self):
        """One that waits for a replica is told as waiting, and the function has not seen it."""
        self.gw.up(image="functions/alpine", envProcess="sleep 3600")
        call = self.call(X_Callback_Url=self.callbacks.url).headers["X-Call-Id"]
        wait_until(lambda: self.queue()["running"] == 1, "not tried")
        self.assertEqual(self.gw.ask("DELETE", f"/async-function/{call}").status, 202)
        q = self.queue()
        self.assertEqual((q["waiting"], q["running"], q["calls"]), (0, 0, []))
        self.assertEqual(self.gw.ask("DELETE", f"/async-function/{call}").status, 404)
        wait_until(lambda: f'invocation_inflight{{function_name="f.openfaas-fn"}} 0'
                   in self.gw.metrics(), "the function is still called")
        self.assertEqual(self.callbacks.got, [])

    def test_a_function_that_does_not_answer_holds_up_its_own_calls_alone(self):
        self.gw.up("stuck", image="functions/alpine", envProcess="sleep 3600")
        self.gw.up(annotations=QUICK, **ECHO)
        calls = [self.call(name="stuck").headers["X-Call-Id"] for _ in range(70)]
        wait_until(lambda: self.queue()["running"] == 64, "not all that may run do")
        self.call(b"past them", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "it waits for calls of another function")
        self.assertEqual(self.queue()["waiting"], 70)
        for c in calls:
            self.assertEqual(self.gw.ask("DELETE", f"/async-function/{c}").status, 202)
        self.assertEqual(self.queue()["waiting"], 0)

    def test_several_that_do_not_answer_hold_up_no_other(self):
        flag = os.path.join(self.node.shared, "several")
        stuck = [f"stuck-{i}" for i in range(4)]
        for name in stuck:
            self.gw.up(name, image=gateway.FUNCTION)
        self.gw.up(annotations=QUICK, **ECHO)
        calls = [self.call(name=f"{name}/until{flag}").headers["X-Call-Id"] for name in stuck for _ in range(66)]
        wait_until(lambda: self.queue()["running"] == 256, "not all that may run do")
        self.call(b"past them", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "it waits for calls of other functions")
        wait_until(lambda: self.queue()["running"] == 256)
        for c in calls:
            self.assertEqual(self.gw.ask("DELETE", f"/async-function/{c}").status, 202)

    def test_a_callback_into_the_api_is_refused(self):
        """Who may only call functions deploys nothing by having an answer sent to the API."""
        self.gw.up(annotations={**QUICK, "com.openfaas.retry.attempts": "1"}, **ECHO)
        body = json.dumps({"service": "evil", "image": "functions/alpine", "envProcess": "cat"}).encode()
        self.call(body, X_Callback_Url=f"http://127.0.0.1:{self.gw.port}/system/functions",
                  Content_Type="application/json")
        wait_until(lambda: self.queue()["dead"], "the callback is not refused")
        self.assertEqual([f["name"] for f in self.gw.get("/system/functions").json()], ["f"])
        call = self.queue(dead=True)["calls"][0]["callId"]
        self.assertEqual(self.gw.ask("DELETE", f"/async-function/{call}").status, 202)

    def test_an_answer_that_is_too_large_is_no_reason_to_call_again(self):
        self.gw.up(annotations=QUICK, image="functions/alpine", envProcess="head -c 68000000 /dev/zero")
        self.call()
        self.idle()
        self.assertEqual((self.queue()["dead"], self.gw.status()["invocationCount"]), (0, 1))
        self.call(X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        headers, body = self.callbacks.got[0]
        self.assertEqual(headers["X-Function-Status"], "502")
        self.assertIn(b"64 MiB", body)
        self.assertEqual(self.gw.status()["invocationCount"], 2)

    def test_who_asked_is_told_to_the_function(self):
        self.gw.up(annotations=QUICK, image="functions/alpine", envProcess="env")
        self.call(X_Callback_Url=self.callbacks.url, X_Empty="", Host="fns.example")
        wait_until(lambda: self.callbacks.got, "no callback")
        body = self.callbacks.got[0][1].decode()
        self.assertIn("Http_X_Forwarded_Host=fns.example\n", body)
        self.assertRegex(body, r"Http_X_Forwarded_For=127\.0\.0\.1:\d+\n")
        self.assertIn("Http_X_Empty=\n", body)

    def test_fields_of_a_callback_are_there_once(self):
        self.gw.up(annotations=QUICK, **ECHO)  # the watchdog tells how long it took, too
        self.call(b"x", X_Callback_Url=self.callbacks.url)
        wait_until(lambda: self.callbacks.got, "no callback")
        names = [k.lower() for k, v in self.callbacks.raw[0]]
        for name in ("x-call-id", "x-duration-seconds", "x-function-status", "x-function-name"):
            self.assertEqual(names.count(name), 1, name)

    def test_an_endless_answer_of_a_callback(self):
        """It is delivered when the head says so, whatever comes then, and is not held in memory."""
        self.gw.up(annotations=QUICK, **ECHO)
        asked = []
        with socket.create_server(("127.0.0.1", 0)) as listener:
            def serve():
                while True:
                    try:
                        s, _ = listener.accept()
                    except OSError:
                        return
                    asked.append(s.recv(65536))
                    try:
                        s.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
                        while True:
                            s.sendall(b"x" * 65536)
                    except OSError:
                        s.close()
            threading.Thread(target=serve, daemon=True).start()
            self.call(b"x", X_Callback_Url=f"http://127.0.0.1:{listener.getsockname()[1]}/")
            wait_until(lambda: asked and self.queue()["waiting"] == 0, "it does not count as delivered")
            listener.shutdown(socket.SHUT_RDWR)
        self.assertEqual((len(asked), self.queue()["dead"]), (1, 0))

    def test_large_bodies_of_one_function_are_not_all_in_memory(self):
        flag = os.path.join(self.node.root, "large")
        self.gw.up(annotations=QUICK, image=gateway.FUNCTION)
        for _ in range(6):
            self.assertEqual(self.call(b"x" * (16 << 20), name=f"f/until{flag}").status, 202)
        wait_until(lambda: self.queue()["running"] == 4, "64 MiB do not fit")
        self.call(b"small", name=f"f/until{flag}")
        self.assertEqual((self.queue()["running"], self.queue()["waiting"]), (4, 7))
        with open(flag, "w", encoding="ascii"):
            pass
        self.idle()
        self.assertEqual(self.gw.status()["invocationCount"], 7)

    def send_many(self, promised, count):
        """Sends until |count| calls were promised; what was not answered is sent again under a new
        id, since nothing was promised about it."""
        n = 0
        while len(promised) < count:
            n += 1
            call = f"{threading.get_ident()}-{n}"
            try:
                answer = self.call(call.encode(), X_Callback_Url=self.callbacks.url, X_Call_Id=call)
            except OSError:
                time.sleep(0.02)
                continue
            if answer.status == 202:
                promised.append(call)

    def test_no_call_is_lost_when_the_gateway_is_killed(self):
        self.gw.up(annotations=QUICK, **ECHO)
        promised = []
        senders = [threading.Thread(target=self.send_many, args=(promised, CALLS)) for _ in range(2)]
        for t in senders:
            t.start()
        for k in range(KILLS):
            wait_until(lambda: len(promised) >= (k + 1) * CALLS // (KILLS + 1), "no calls go in")
            self.gw.kill()
            self.gw.start()
        for t in senders:
            t.join()
        missing = lambda: set(promised) - {b.decode() for _, b in list(self.callbacks.got)}
        end = time.monotonic() + node.WAIT_S + CALLS / 20
        while missing() and time.monotonic() < end:
            time.sleep(0.1)
        duplicates = len(self.callbacks.got) - len({b for _, b in self.callbacks.got})
        print(json.dumps({"calls": len(promised), "kills": KILLS, "lost": len(missing()),
                          "duplicate_callbacks": duplicates}), flush=True)
        self.assertEqual(missing(), set(), self.queue())


if __name__ == "__main__":
    unittest.main(verbosity=2)
