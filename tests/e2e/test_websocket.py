#!/usr/bin/env python3
"""Websockets: after the function has agreed, bytes go both ways as they are."""
import os
import socket
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until

ASK = (b"GET /function/%s%s HTTP/1.1\r\nHost: a\r\nConnection: keep-alive, Upgrade\r\nUpgrade: websocket\r\n"
       b"Sec-WebSocket-Key: k\r\n\r\n")


class Websocket(gateway.TestCase):
    args = ("--timeout", "1s")

    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gw.up(image=os.path.join(node.HERE, "raw_function.py"))
        cls.gw.up("py")

    def connect(self, more=b"", name=b"f", path=b"/x"):
        s = socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S)
        self.addCleanup(s.close)
        s.sendall(ASK % (name, path) + more)
        return s

    def read(self, s, until):
        got = b""
        while until not in got:
            part = s.recv(65536)
            if not part:
                break
            got += part
        return got

    def in_flight(self):
        return self.gw.replicas()[0]["in_flight"]

    def test_both_ways(self):
        s = self.connect(b"early")  # before the answer: it waits
        got = self.read(s, b"EARLY")
        self.assertTrue(got.startswith(b"HTTP/1.1 101 Switching Protocols\r\n"), got)
        for line in (b"Connection: Upgrade", b"Upgrade: websocket", b"Sec-WebSocket-Accept: yes"):
            self.assertEqual(got.count(b"\r\n" + line + b"\r\n"), 1, got)
        self.assertNotIn(b"Content-Length", got)
        self.assertTrue(got.endswith(b"\r\n\r\nhello EARLY"), got)
        for i in range(10):
            s.sendall(b"part %d." % i)
            self.assertEqual(self.read(s, b"."), b"PART %d." % i)
        s.sendall(b"GET /function/f/hidden HTTP/1.1\r\nHost: a\r\n\r\n")  # bytes like others
        self.assertEqual(self.read(s, b"\r\n\r\n"), b"GET /FUNCTION/F/HIDDEN HTTP/1.1\r\nHOST: A\r\n\r\n")
        s.sendall(b"bye")
        self.assertEqual(self.read(s, b"never"), b"")
        wait_until(lambda: self.in_flight() == 0)

    def test_much(self):
        s = self.connect()
        self.read(s, b"hello ")
        data = b"abcdefgh" * (1 << 19)
        t = threading.Thread(target=s.sendall, args=(data,))
        t.start()
        got = bytearray()
        while len(got) < len(data):
            part = s.recv(1 << 16)
            self.assertTrue(part)
            got += part
        t.join()
        self.assertEqual(got, data.upper())

    def test_silence_is_no_timeout(self):
        s = self.connect()
        self.read(s, b"hello ")
        answer = self.gw.get("/function/py/sleep/5")  # longer than the time-out of the gateway
        self.assertEqual(answer.status, 504)
        s.sendall(b"still there.")
        self.assertEqual(self.read(s, b"."), b"STILL THERE.")

    def test_who_goes(self):
        s = self.connect()
        self.read(s, b"hello ")
        wait_until(lambda: self.in_flight() >= 1)
        s.close()
        wait_until(lambda: self.in_flight() == 0)

    def test_what_was_sent_before_the_end_arrives(self):
        """A function that is slow to read gets all of it, whatever lies in which buffer when its caller closes its
        side, and may still answer; the buffers of Unix sockets are small."""
        self.gw.up("slow", image=os.path.join(node.HERE, "raw_function.py"), annotations={"fastgshare/socket": "unix"},
                   envVars={"exec_timeout": "60"})
        path = os.path.join(self.node.root, "sign").encode()
        sizes, calls = range(100000, 500000, 40000), []
        for size in sizes:
            s = self.connect(name=b"slow", path=b"/when" + path)
            self.read(s, b"hello ")
            s.sendall(b"x" * size)
            s.shutdown(socket.SHUT_WR)
            calls.append(s)
        time.sleep(0.2)  # for the gateway to see the end, where it would
        with open(path, "w", encoding="utf-8"):
            pass
        self.assertEqual([self.read(s, b"never") for s in calls], [b"%d bytes" % size for size in sizes])
        wait_until(lambda: all(r["in_flight"] == 0 for r in self.gw.replicas("slow")))

    def test_who_ends_it_is_not_waited_for(self):
        """A function that takes no notice of its caller's end loses it after its time-out."""
        s = self.connect()
        self.read(s, b"hello ")
        t = self.connect(path=b"/when/never")
        self.read(t, b"hello ")
        t.shutdown(socket.SHUT_WR)
        self.assertEqual(self.read(t, b"never"), b"")
        wait_until(lambda: self.in_flight() == 1)
        s.sendall(b"on.")
        self.assertEqual(self.read(s, b"."), b"ON.")

    def test_no_length_holds_a_stop_up(self):
        """A tunnel has no end that is worth waiting for, whatever the head before it says of a length."""
        s = self.connect(path=b"/sized")
        got = self.read(s, b"hello ")
        self.assertNotIn(b"Content-Length", got)
        self.assertEqual(self.gw.stop(), 0)
        self.assertEqual(self.read(s, b"never"), b"")
        self.gw.start()

    def test_a_function_that_does_not_agree(self):
        got = self.read(self.connect(name=b"py"), b'"argv"')
        self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
        self.assertIn(b'["Upgrade", "websocket"]', got)

    def test_http_1_0_has_none(self):
        ask = ASK.replace(b"HTTP/1.1", b"HTTP/1.0").replace(b"keep-alive, ", b"") % (b"py", b"/x")
        got = self.gw.raw(ask)
        self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
        self.assertNotIn(b'"Upgrade"', got)


if __name__ == "__main__":
    unittest.main()
