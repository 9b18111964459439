#!/usr/bin/env python3
"""What passes between a caller and a function when one of the two does what few do."""
import os
import re
import signal
import socket
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until

RAW = os.path.join(node.HERE, "raw_function.py")


class Passage(gateway.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gw.up()
        cls.gw.up("raw", image=RAW)

    def connect(self):
        s = socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S)
        self.addCleanup(s.close)
        return s

    def test_what_connection_names_is_set_anew(self):
        """Who names a field in Connection takes out what it has put in, not what the gateway tells."""
        it = self.gw.get("/function/f/echo", headers={
            "Connection": "X-Forwarded-For, X-Forwarded-Host, X-Call-Id", "X-Forwarded-For": "192.0.2.1",
            "X-Forwarded-Host": "elsewhere"}).json()
        told = {k.lower(): v for k, v in it["headers"]}
        self.assertRegex(told.get("x-forwarded-for", ""), r"^127\.0\.0\.1:\d+$")
        self.assertEqual(told.get("x-forwarded-host"), f"127.0.0.1:{self.gw.port}")
        self.assertTrue(told.get("x-call-id"))
        answer = self.gw.get("/function/raw/named")
        self.assertEqual(answer.headers["Content-Type"], "text/plain; charset=utf-8")
        self.assertTrue(re.search("GMT$", answer.headers["Date"] or ""), answer.headers)

    def test_an_answer_may_begin_before_the_body(self):
        """The head goes on before anything of the body is here: the function may have something to say."""
        for framing, rest in ((b"Content-Length: 5", b"hello"),
                              (b"Transfer-Encoding: chunked", b"5\r\nhello\r\n0\r\n\r\n")):
            with self.subTest(framing):
                s = self.connect()
                s.sendall(b"POST /function/f/raw HTTP/1.1\r\nHost: a\r\nConnection: close\r\n" + framing + b"\r\n\r\n")
                got = s.recv(65536)
                self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
                s.sendall(rest)
                while part := s.recv(65536):
                    got += part
                self.assertTrue(got.endswith(b"5\r\nhello\r\n0\r\n\r\n"), got)

    def test_an_early_answer_outlives_the_body(self):
        """Who sends all of a body before reading finds the answer, though nobody wanted the body."""
        s = self.connect()
        s.sendall(b"POST /function/none HTTP/1.1\r\nHost: a\r\nContent-Length: 1000000\r\n\r\n")
        for _ in range(25):  # 5 s
            s.sendall(b"x" * 40000)
            time.sleep(0.2)
        got = b""
        while part := s.recv(65536):
            got += part
        self.assertTrue(got.startswith(b"HTTP/1.1 404 "), got)

    def test_a_stop_waits_for_calls_that_take_long(self):
        """Longer than it waits for streams that may have no end: of these one is open as well."""
        gw, seen, answers = self.gw, len(self.gw.log()), []
        sign = os.path.join(self.node.root, "sign")
        stream = self.connect()
        stream.sendall(b"GET /function/raw/head HTTP/1.1\r\nHost: a\r\n\r\n")
        self.assertTrue(stream.recv(65536).startswith(b"HTTP/1.1 200 OK\r\n"))
        call = threading.Thread(target=lambda: answers.append(gw.get("/function/f/until" + sign).status))
        call.start()
        wait_until(lambda: gw.replicas("f")[0]["in_flight"] == 1)
        gw.process.send_signal(signal.SIGTERM)
        wait_until(lambda: "stopping" in gw.log()[seen:])
        time.sleep(10.5)
        self.assertIsNone(gw.process.poll())
        with open(sign, "w", encoding="utf-8"):
            pass
        call.join()
        self.assertEqual(answers, [200])
        self.assertEqual(gw.process.wait(node.WAIT_S), 0)
        self.assertIn("requests cut off", gw.log()[seen:])
        gw.start()


class Stopped(gateway.TestCase):
    args = ("--timeout", "1s", "--queue-timeout", "1s")

    def test_a_trickle_holds_no_stop_up(self):
        """A body of which a byte comes now and then is getting on, but a stop gives it no more than its time-outs."""
        self.gw.up()
        with socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S) as s:
            s.sendall(b"POST /function/f HTTP/1.1\r\nHost: a\r\nContent-Length: 100000\r\n\r\n")
            wait_until(lambda: self.gw.replicas()[0]["in_flight"] == 1)
            self.gw.process.send_signal(signal.SIGTERM)
            until = time.monotonic() + 20
            while self.gw.process.poll() is None:
                try:
                    s.sendall(b"x")
                except OSError:
                    break
                time.sleep(0.2)
                self.assertLess(time.monotonic(), until, "it goes on as long as bytes come")
            self.assertEqual(self.gw.process.wait(node.WAIT_S), 0)
        self.gw.start()


if __name__ == "__main__":
    unittest.main()
