#!/usr/bin/env python3
"""A function for the tests of the gateway: HTTP/1.1 with keep-alive on PORT, its behaviour in the path.

  /echo           JSON of what arrived: method, path, headers, body, pid, env
  /raw            the body comes back in chunks as it arrives
  /status/N       status N
  /sleep/S        answers after S seconds
  /until/FILE     answers when there is such a file
  /bytes/N        N bytes
  /events         three server-sent events, 0.3 s apart
  /die            kills its own process without an answer
  /die-once/FILE  the same for the first who comes; the others answer
  /half           promises 100 bytes, sends 10, hangs up
  --spin          (argument) uses a core all the time
  /late S         (argument) listens S seconds after its start

What comes as a batch is answered as one, whatever its path, but for status and until.
With FAST_SOCKET it listens there as well; X-Door of /echo tells where a request came in.
"""
import hashlib
import http.server
import json
import os
import signal
import socket
import sys
import threading
import time


BATCH = "application/vnd.fast-gshare.batch"


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, fmt, *args):
        sys.stdout.write(self.requestline + "\n")  # in one piece: other threads tell too
        sys.stdout.flush()

    def pieces(self):
        if self.headers.get("Transfer-Encoding") == "chunked":
            while True:
                size = int(self.rfile.readline().strip(), 16)
                if size:
                    yield self.rfile.read(size)
                self.rfile.readline()
                if not size:
                    return
        left = int(self.headers.get("Content-Length") or 0)
        while left:
            part = self.rfile.read(min(left, 65536))
            if not part:
                return
            left -= len(part)
            yield part

    def answer(self, body, status=200, headers=()):
        self.send_response(status)
        for name, value in headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def chunk(self, data):
        self.wfile.write(b"%x\r\n%s\r\n" % (len(data), data))
        self.wfile.flush()

    def start_chunks(self, kind="application/octet-stream"):
        self.send_response(200)
        self.send_header("Content-Type", kind)
        self.send_header("Transfer-Encoding", "chunked")
        self.end_headers()

    def answer_batch(self, what, body):
        """Each part comes back in capitals; behind /short one of them is missing,
        behind /open the end of one."""
        parts = []
        while body:
            size, _, rest = body.partition(b":")
            parts.append(rest[:int(size)].upper())
            body = rest[int(size) + 1:]
        assert len(parts) == int(self.headers["X-Batch-Size"])
        if what == "short":
            parts.pop()
        if what == "more":
            parts.append(b"x")
        ends = [b";" if what == "open" and i == 1 else b"," for i in range(len(parts))]
        self.answer(b"".join(b"%d:%s%s" % (len(p), p, end) for p, end in zip(parts, ends)), headers=[
            ("Content-Type", BATCH), ("X-Batch-Content-Type", "text/loud")])

    def handle_any(self):
        what, _, arg = self.path.partition("?")[0].lstrip("/").partition("/")
        if what == "raw":
            self.start_chunks()
            for part in self.pieces():
                self.chunk(part)
            self.wfile.write(b"0\r\n\r\n")
            return
        if what == "hash":
            digest = hashlib.sha256()
            for part in self.pieces():
                digest.update(part)
            self.answer(digest.hexdigest().encode())
            return
        body = b"".join(self.pieces())
        if self.headers.get("Content-Type") == BATCH and what not in ("status", "until"):
            self.answer_batch(what, body)
        elif what == "status":
            self.answer(b"status\n", int(arg), [("Location", "http://elsewhere/"), ("Host", "elsewhere")] +
                        [("Retry-After", "3600")] * (arg == "429"))
        elif what == "sleep":
            time.sleep(float(arg))
            self.answer(b"slept\n")
        elif what == "until":
            while not os.path.exists("/" + arg):
                time.sleep(0.01)
            self.answer(b"there it is\n")
        elif what == "bytes":
            self.send_response(200)
            self.send_header("Content-Length", arg)
            self.end_headers()
            left, block = int(arg), b"b" * 65536
            while left:
                self.wfile.write(block[:left])
                left -= min(left, len(block))
        elif what == "events":
            self.start_chunks("text/event-stream")
            for i in range(3):
                self.chunk(b"data: %d\n\n" % i)
                time.sleep(0.3)
            self.wfile.write(b"0\r\n\r\n")
        elif what == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "die-once":
            try:
                os.close(os.open("/" + arg, os.O_CREAT | os.O_EXCL))
            except FileExistsError:
                self.answer(b"alive\n")
                return
            os.kill(os.getpid(), signal.SIGKILL)
        elif what == "half":
            self.wfile.write(b"HTTP/1.1 200 OK\r\nContent-Length: 100\r\n\r\n0123456789")
            self.wfile.flush()
            self.close_connection = True
        elif what == "_":
            self.answer(b"OK")
        else:
            facts = {"method": self.command, "path": self.path, "headers": list(self.headers.items()),
                     "body": body.decode("latin-1"), "pid": os.getpid(), "env": dict(os.environ),
                     "argv": sys.argv[1:]}
            self.answer(json.dumps(facts).encode(), headers=[
                ("X-Own", "yes"), ("Connection", "X-Hop"), ("X-Hop", "1"), ("X-Door", self.server.door)])

    do_GET = do_POST = do_PUT = do_DELETE = do_PATCH = do_HEAD = do_OPTIONS = handle_any


class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128
    door = "tcp"


class LocalServer(Server):
    address_family = socket.AF_UNIX
    door = "unix"

    def server_bind(self):
        self.socket.bind(self.server_address)

    def get_request(self):
        return self.socket.accept()[0], ("local", 0)


if len(sys.argv) > 2 and sys.argv[1] == "--late":
    time.sleep(float(sys.argv[2]))
if "FAST_SOCKET" in os.environ and "DEAF" not in os.environ:
    threading.Thread(target=LocalServer(os.environ["FAST_SOCKET"], Handler).serve_forever, daemon=True).start()
def spin():
    while True:
        pass


if "--spin" in sys.argv:
    threading.Thread(target=spin, daemon=True).start()
print("function begins", flush=True)
Server(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
