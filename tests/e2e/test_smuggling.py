#!/usr/bin/env python3
"""Request smuggling: requests that two programs could read in two ways. Each vector is sent with a
second request hidden behind it. A dangerous one gets one answer, 400 (or the status of its limit), and
the connection ends; the function sees nothing of it. One that is allowed reaches the function framed
anew: one framing field, no field of the caller's connection, sizes of chunks as the gateway writes them."""
import os
import re
import unittest

import gateway
import node

PATH = b"/function/f/x"
GET = b"GET " + PATH + b" HTTP/1.1\r\n"
POST = b"POST " + PATH + b" HTTP/1.1\r\nHost: a\r\n"
HIDDEN = b"GET /function/f/hidden HTTP/1.1\r\nHost: a\r\n\r\n"
CHUNKED = POST + b"Transfer-Encoding: chunked\r\n\r\n"

# name, bytes, status: whatever could be read in two ways ...
DANGEROUS = (
    ("content-length and chunked", POST + b"Content-Length: 4\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked and content-length", POST + b"Transfer-Encoding: chunked\r\nContent-Length: 4\r\n\r\n0\r\n\r\n", 400),
    ("xchunked", POST + b"Transfer-Encoding: xchunked\r\n\r\n0\r\n\r\n", 400),
    ("vertical tab before chunked", POST + b"Transfer-Encoding: \x0bchunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked, then identity", POST + b"Transfer-Encoding: chunked, identity\r\n\r\n0\r\n\r\n", 400),
    ("two transfer encodings", POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n0\r\n\r\n", 400),
    ("blank before the colon of an encoding", POST + b"Transfer-Encoding : chunked\r\n\r\n0\r\n\r\n", 400),
    ("chunked in HTTP/1.0", b"POST " + PATH + b" HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", 400),
    ("two lengths that differ", POST + b"Content-Length: 0\r\nContent-Length: 44\r\n\r\n", 400),
    ("two lengths that agree", POST + b"Content-Length: 0\r\nContent-Length: 0\r\n\r\n", 400),
    ("a list of lengths", POST + b"Content-Length: 0, 44\r\n\r\n", 400),
    ("length with a plus", POST + b"Content-Length: +0\r\n\r\n", 400),
    ("length below zero", POST + b"Content-Length: -1\r\n\r\n", 400),
    ("length in hex", POST + b"Content-Length: 0x0\r\n\r\n", 400),
    ("length beyond 64 bits", POST + b"Content-Length: 18446744073709551616\r\n\r\n", 400),
    ("blank before the colon of a length", POST + b"Content-Length : 0\r\n\r\n", 400),
    ("folded field", POST + b"X: a\r\n b\r\n\r\n", 400),
    ("folded length", POST + b"Content-Length:\r\n 0\r\n\r\n", 400),
    ("lines that end with LF", b"GET " + PATH + b" HTTP/1.1\nHost: a\n\n", 400),
    ("one line that ends with LF", POST + b"X: a\nContent-Length: 0\r\n\r\n", 400),
    ("CR inside a value", POST + b"X: a\rContent-Length: 44\r\n\r\n", 400),
    ("NUL in a value", POST + b"X: a\0b\r\n\r\n", 400),
    ("empty name", POST + b": x\r\n\r\n", 400),
    ("line without a colon", POST + b"Content-Length 44\r\n\r\n", 400),
    ("two hosts", POST + b"Host: b\r\n\r\n", 400),
    ("no host", GET + b"\r\n", 400),
    ("two blanks in the request line", b"GET  " + PATH + b" HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("control character in the target", b"GET " + PATH + b"\x01 HTTP/1.1\r\nHost: a\r\n\r\n", 400),
    ("chunk size with 0x", CHUNKED + b"0x0\r\n\r\n", 400),
    ("chunk size with a blank", CHUNKED + b"1 \r\na\r\n0\r\n\r\n", 400),
    ("chunk size that ends with LF", CHUNKED + b"1\na\r\n0\r\n\r\n", 400),
    ("chunk size beyond 64 bits", CHUNKED + b"10000000000000000\r\n", 400),
    ("chunk without its CRLF", CHUNKED + b"1\r\na0\r\n\r\n", 400),
    ("LF in a chunk extension", CHUNKED + b"1;a\nb\r\na\r\n0\r\n\r\n", 400),
    ("100 KB of fields", POST + b"X: " + b"x" * 100000 + b"\r\n\r\n", 431),
)

# ... and what looks odd but means one thing: bytes, body that the function gets.
ALLOWED = (
    ("chunks with extensions and trailers", CHUNKED + b"005;x=y\r\nhello\r\n0\r\nT: v\r\n\r\n", b"hello"),
    ("chunked in capitals", POST + b"TRANSFER-ENCODING: CHUNKED\r\n\r\n5\r\nhello\r\n0\r\n\r\n", b"hello"),
    ("blanks around a length", POST + b"Content-Length: \t5 \r\n\r\nhello", b"hello"),
    ("a host of 20 KB", b"POST " + PATH + b" HTTP/1.1\r\nHost: " + b"a" * 20000 +
     b"\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
    ("a content type of 20 KB", POST + b"Content-Type: " + b"a" * 20000 + b"\r\nContent-Length: 5\r\n\r\nhello",
     b"hello"),
    ("a websocket with a body", GET + b"Host: a\r\nConnection: Upgrade, close\r\nUpgrade: websocket\r\n"
     b"Content-Length: 5\r\n\r\nhello", b"hello"),
    ("fields of one connection", POST + b"Connection: X-Drop, close\r\nX-Drop: 1\r\nTE: trailers\r\n"
     b"Keep-Alive: 1\r\nContent-Length: 5\r\n\r\nhello", b"hello"),
)


def body_of(request):
    """The body of a request as it reached the function, and how it was framed."""
    head, _, rest = request.partition(b"\r\n\r\n")
    framing = re.findall(rb"\r\n(Content-Length|Transfer-Encoding): ([^\r]*)", head)
    assert len(framing) == 1, framing
    name, value = framing[0]
    if name == b"Content-Length":
        return rest[:int(value)]
    assert value == b"chunked", value
    body = b""
    while True:
        size, _, rest = rest.partition(b"\r\n")
        assert re.fullmatch(rb"[0-9a-f]+", size), size
        if int(size, 16) == 0:
            assert rest == b"\r\n", rest
            return body
        body, rest = body + rest[:int(size, 16)], rest[int(size, 16) + 2:]


class Smuggling(gateway.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        cls.gw.up(image=os.path.join(node.HERE, "raw_function.py"))

    def test_dangerous_vectors(self):
        self.assertEqual(len(DANGEROUS), 35)
        gw = self.gw
        before = int(gw.get("/function/f/seen").text)
        for name, request, status in DANGEROUS:
            with self.subTest(name):
                got = gw.raw(request + HIDDEN)  # returns only because the connection ends
                self.assertTrue(got.startswith(b"HTTP/1.1 %d " % status), got)
                self.assertEqual(len(re.findall(rb"HTTP/1\.[01] \d\d\d", got)), 1, got)
                self.assertIn(b"\r\nConnection: close\r\n", got)
        # A chunked body that breaks has begun to pass: the function saw heads, never a whole request.
        self.assertEqual(int(gw.get("/function/f/seen").text), before + 1)
        self.assertNotIn("hidden", gw.get("/function/f/").text)

    def test_allowed_ones_are_framed_anew(self):
        for name, request, body in ALLOWED:
            with self.subTest(name):
                close = b"" if b"close" in request else b"GET / HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
                got = self.gw.raw(request + close)
                self.assertTrue(got.startswith(b"HTTP/1.1 200 OK\r\n"), got)
                length = int(re.search(rb"\r\nContent-Length: (\d+)", got)[1])
                seen = got.partition(b"\r\n\r\n")[2][:length]
                self.assertEqual(body_of(seen), body)
                for gone in (b"X-Drop", b"Connection:", b"TE:", b"Keep-Alive", b"x=y", b"T: v"):
                    self.assertNotIn(gone, seen)


if __name__ == "__main__":
    unittest.main()
