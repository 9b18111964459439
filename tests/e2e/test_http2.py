#!/usr/bin/env python3
"""HTTP/2 for clients: requests of all kinds, many at once, and heads that would smuggle something into the
request of HTTP/1.1 that a stream becomes. Frames are made by hand, so that they may be wrong."""
import os
import shutil
import socket
import struct
import subprocess
import tempfile
import threading
import unittest

import gateway
import node
from gateway import wait_until

PREFACE = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
DATA, HEADERS, RST_STREAM, SETTINGS, PING, GOAWAY, CONTINUATION = 0, 1, 3, 4, 6, 7, 9
END_STREAM, END_HEADERS = 1, 4


def frame(kind, flags, stream, payload=b""):
    return struct.pack("!I", len(payload))[1:] + struct.pack("!BBI", kind, flags, stream) + payload


def text(value):
    """A string of HPACK without Huffman's code, of any length."""
    if len(value) < 127:
        return bytes([len(value)]) + value
    out, rest = b"\x7f", len(value) - 127
    while rest >= 128:
        out, rest = out + bytes([rest % 128 + 128]), rest // 128
    return out + bytes([rest]) + value


def head(*fields):
    return b"".join(b"\0" + text(name) + text(value) for name, value in fields)


def request(method=b"GET", path=b"/function/f/x", host=b"a", *more):
    return head((b":method", method), (b":scheme", b"http"), (b":authority", host), (b":path", path), *more)


class Client:
    """One connection; |frames| has what came: (kind, flags, stream, payload)."""

    def __init__(self, port):
        self.s = socket.create_connection(("127.0.0.1", port), timeout=node.WAIT_S)
        self.s.sendall(PREFACE + frame(SETTINGS, 0, 0))
        self.got, self.frames, self.closed = b"", [], False

    def send(self, kind, flags, stream, payload=b""):
        self.s.sendall(frame(kind, flags, stream, payload))

    def read_until(self, wanted):
        """Reads until a frame is |wanted|, or the connection ends (None)."""
        while True:
            while len(self.got) >= 9:
                size = int.from_bytes(self.got[:3], "big")
                if len(self.got) < 9 + size:
                    break
                kind, flags, stream = struct.unpack("!BBI", self.got[3:9])
                one = (kind, flags, stream & 0x7fffffff, self.got[9:9 + size])
                self.got = self.got[9 + size:]
                self.frames.append(one)
                if wanted(one):
                    return one
            part = self.s.recv(65536)
            if not part:
                self.closed = True
                return None
            self.got += part

    def end_of(self, stream):
        """How a stream ends: its reset or goodbye, or the whole body of its answer."""
        end = self.read_until(lambda f: f[0] in (RST_STREAM, GOAWAY) or (f[2] == stream and f[0] in (DATA, HEADERS)
                                                                       and f[1] & END_STREAM))
        if end is None or end[0] in (RST_STREAM, GOAWAY):
            return None
        return b"".join(f[3] for f in self.frames if f[0] == DATA and f[2] == stream)

    def close(self):
        self.s.close()


class Http2Test(gateway.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        if cls.gw.raw(PREFACE + frame(GOAWAY, 0, 0, b"\0" * 8)).startswith(b"HTTP/1.1"):
            raise unittest.SkipTest("built without nghttp2")
        cls.gw.up(image=os.path.join(node.HERE, "raw_function.py"))
        cls.gw.up("py")

    def client(self):
        c = Client(self.gw.port)
        self.addCleanup(c.close)
        return c

    def seen(self):
        return int(self.gw.get("/function/f/seen").text)


class Http2(Http2Test):
    def test_what_arrives(self):
        c = self.client()
        c.send(HEADERS, END_HEADERS | END_STREAM, 1, request(b"GET", b"/function/f/x?y=1", b"h.example", (b"x-a", b"b"),
                                                             (b"cookie", b"k=1"), (b"cookie", b"l=2"), (b"te", b"trailers")))
        it = c.end_of(1)
        self.assertTrue(it.startswith(b"GET /x?y=1 HTTP/1.1\r\nHost: h.example\r\n"), it)
        for line in (b"x-a: b", b"Cookie: k=1; l=2", b"X-Forwarded-For: 127.0.0.1:"):
            self.assertIn(b"\r\n" + line, it)
        self.assertNotIn(b"te:", it)
        c.send(HEADERS, END_HEADERS, 3, request(b"POST", b"/function/f/x", b"a"))
        c.send(DATA, 0, 3, b"hel")
        c.send(DATA, END_STREAM, 3, b"lo")
        it = c.end_of(3)
        self.assertIn(b"Transfer-Encoding: chunked", it)
        self.assertTrue(it.endswith(b"0\r\n\r\n"), it)
        c.send(HEADERS, END_HEADERS, 5, request(b"POST", b"/function/f/x", b"a", (b"content-length", b"5")))
        c.send(DATA, 0, 5, b"hello")
        c.send(HEADERS, END_HEADERS | END_STREAM, 5, head((b"transfer-encoding-of-trailers", b"x")))
        it = c.end_of(5)
        self.assertTrue(it.endswith(b"Content-Length: 5\r\n\r\nhello"), it)

    def test_many_at_once(self):
        c = self.client()
        for i in range(50):
            c.send(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, request(b"GET", b"/function/f/%d" % i))
        ended = set()
        while len(ended) < 50:
            f = c.read_until(lambda f: f[1] & END_STREAM and f[0] in (DATA, HEADERS))
            self.assertIsNotNone(f)
            ended.add(f[2])
        for i in range(50):
            body = b"".join(f[3] for f in c.frames if f[0] == DATA and f[2] == 2 * i + 1)
            self.assertTrue(body.startswith(b"GET /%d HTTP/1.1" % i))

    def test_smuggling_is_refused(self):
        before = self.seen()
        get, post = (b"GET", b"/function/f/x", b"a"), (b"POST", b"/function/f/x", b"a")
        hidden = b"\r\n\r\nGET /hidden HTTP/1.1\r\nHost: a\r\n\r\n"
        for name, block in (
                ("CRLF in a value", request(*get, (b"x", b"a" + hidden))),
                ("LF in a value", request(*get, (b"x", b"a\nb"))),
                ("NUL in a value", request(*get, (b"x", b"a\0b"))),
                ("CRLF in a name", request(*get, (b"x: a\r\ny", b"b"))),
                ("colon in a name", request(*get, (b"x:y", b"b"))),
                ("capitals in a name", request(*get, (b"X", b"b"))),
                ("empty name", request(*get, (b"", b"b"))),
                ("CRLF in the path", request(b"GET", b"/function/f/x HTTP/1.1" + hidden)),
                ("blank in the path", request(b"GET", b"/function/f/x y")),
                ("path without a slash", request(b"GET", b"function/f/x")),
                ("URI as a path", request(b"GET", b"http://b/function/f/x")),
                ("empty path", request(b"GET", b"")),
                ("blank in the method", request(b"GET /hidden HTTP/1.1\r\nX:", b"/function/f/x")),
                ("CRLF in the host", request(b"GET", b"/function/f/x", b"a" + hidden)),
                ("connection", request(*get, (b"connection", b"close"))),
                ("transfer-encoding", request(*post, (b"transfer-encoding", b"chunked"))),
                ("te", request(*get, (b"te", b"chunked"))),
                ("upgrade", request(*get, (b"upgrade", b"x"))),
                ("two lengths", request(*post, (b"content-length", b"5"), (b"content-length", b"6"))),
                ("length with a plus", request(*post, (b"content-length", b"+5"))),
                ("no method", head((b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/"))),
                ("two paths", request(*get, (b":path", b"/hidden"))),
                ("unknown pseudo-header", request(*get, (b":x", b"y"))),
                ("pseudo-header behind a field", request(*get, (b"x", b"y"), (b":authority", b"b"))),
                ("two hosts", request(*get, (b"host", b"b"), (b"host", b"c"))),
        ):
            with self.subTest(name):
                c = self.client()
                c.send(HEADERS, END_HEADERS | END_STREAM, 1, block)
                self.assertIsNone(c.end_of(1), c.frames)
        self.assertEqual(self.seen(), before + 1)  # the question itself
        with self.subTest("fewer bytes than promised"):  # the head may have passed already, nothing hidden behind it
            c = self.client()
            c.send(HEADERS, END_HEADERS, 1, request(*post, (b"content-length", b"50")))
            c.send(DATA, END_STREAM, 1, b"hello")
            self.assertIsNone(c.end_of(1), c.frames)
            self.assertIn(self.seen() - before, (2, 3))
        before = self.seen()
        with self.subTest("more bytes than promised"):  # the promised ones may have passed already
            c = self.client()
            c.send(HEADERS, END_HEADERS, 1, request(*post, (b"content-length", b"5")))
            c.send(DATA, END_STREAM, 1, b"hello" + hidden)
            c.end_of(1)
            self.assertIn(self.seen() - before, (1, 2))

    def test_large_heads(self):
        c = self.client()
        block = request(b"GET", b"/function/f/x", b"a", *((b"x%d" % i, b"y" * 4000) for i in range(3)))
        c.send(HEADERS, END_HEADERS | END_STREAM, 1, block)
        self.assertIn(b"x2: " + b"y" * 4000, c.end_of(1))
        before = self.seen()
        for end in (END_STREAM, 0):
            c = self.client()
            block = request(b"GET", b"/function/f/x", b"a", *((b"x%d" % i, b"y" * 4000) for i in range(20)))
            c.send(HEADERS, end, 1, block[:16000])
            for at in range(16000, len(block), 16000):
                c.send(CONTINUATION, END_HEADERS if at + 16000 >= len(block) else 0, 1, block[at:at + 16000])
            c.end_of(1)
            self.assertIn(b"431", c.frames[-1][3], c.frames)
            c.send(HEADERS, END_HEADERS | END_STREAM, 3, request())  # others go on
            self.assertTrue(c.end_of(3).startswith(b"GET /x HTTP/1.1"))
        self.assertEqual(self.seen(), before + 3)

    def test_resets_leave_nothing(self):
        c = self.client()
        flag = os.path.join(self.node.shared, "h2")
        for i in range(20):
            c.send(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, request(b"POST", b"/function/py/until" + flag.encode()))
        wait_until(lambda: self.gw.replicas("py")[0]["in_flight"] == 20)
        for i in range(20):
            c.send(RST_STREAM, 0, 2 * i + 1, struct.pack("!I", 8))
        wait_until(lambda: self.gw.replicas("py")[0]["in_flight"] == 0)
        with open(flag, "w", encoding="ascii"):
            pass
        c.send(HEADERS, END_HEADERS | END_STREAM, 99, request())
        self.assertTrue(c.end_of(99).startswith(b"GET /x HTTP/1.1"))

    def test_nothing_but_resets_ends_the_connection(self):
        c = self.client()
        block = request(b"POST", b"/function/py/until/no/such/file", b"a")
        try:
            for i in range(3000):
                c.s.sendall(frame(HEADERS, END_HEADERS | END_STREAM, 2 * i + 1, block) +
                            frame(RST_STREAM, 0, 2 * i + 1, struct.pack("!I", 8)))
        except OSError:
            pass  # it has hung up already
        try:
            self.assertIsNotNone(c.read_until(lambda f: f[0] == GOAWAY))
        except ConnectionResetError:
            pass
        wait_until(lambda: self.gw.replicas("py")[0]["in_flight"] == 0)
        self.assertEqual(self.gw.get("/function/f/").status, 200)

    @unittest.skipUnless(shutil.which("curl"), "there is no curl")
    def test_curl(self):
        features = subprocess.run(["curl", "-V"], capture_output=True, text=True, check=True).stdout
        if "HTTP2" not in features:
            self.skipTest("this curl does not speak HTTP/2")

        def curl(*args):
            return subprocess.run(["curl", "-sS", "--max-time", "60", "--http2-prior-knowledge", *args],
                                  capture_output=True, check=True).stdout

        url = f"http://127.0.0.1:{self.gw.port}/function/py"
        self.assertTrue(curl("-i", url + "/status/404").startswith(b"HTTP/2 404"))
        self.assertEqual(len(curl(url + "/bytes/5000000")), 5000000)
        with tempfile.NamedTemporaryFile() as f:
            f.write(os.urandom(3000000))
            f.flush()
            want = subprocess.run(["sha256sum", f.name], capture_output=True, check=True).stdout.split()[0]
            self.assertEqual(curl("-T", f.name, url + "/hash"), want)
        self.assertIn(b"data: 2", curl("-N", url + "/events"))
        self.assertTrue(curl("-I", url + "/bytes/100").startswith(b"HTTP/2 200"))
        self.assertIn(b"openfaas-fn", curl(f"http://127.0.0.1:{self.gw.port}/system/namespaces"))


class Stop(Http2Test):
    """SIGTERM says goodbye, answers what has come and ends."""

    def test_stop(self):
        c = self.client()
        c.send(HEADERS, END_HEADERS | END_STREAM, 1, request(b"GET", b"/function/py/sleep/1"))
        wait_until(lambda: self.gw.replicas("py")[0]["in_flight"] == 1)
        codes = []
        t = threading.Thread(target=lambda: codes.append(self.gw.stop()))
        t.start()
        self.assertIsNotNone(c.read_until(lambda f: f[0] == GOAWAY))
        self.assertIsNotNone(c.read_until(lambda f: f[2] == 1 and f[1] & END_STREAM))
        self.assertIsNone(c.read_until(lambda f: False))  # and then it closes
        t.join()
        self.assertEqual(codes, [0])


if __name__ == "__main__":
    unittest.main()
