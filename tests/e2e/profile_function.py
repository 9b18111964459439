#!/usr/bin/env python3
"""A function that is healthy and does not do its work: HOW is 500, die or hang. Or it does for a while: HOW is stall (ten
answers, then none) or sour (500 from 2.5 s after its first request). Or it does, and writes down what came: HOW is
seen, SEEN a file; or slowly: HOW is slow, SLEEP the seconds."""
import http.server
import os
import time

came = []  # moments of requests

class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, fmt, *args):
        pass

    def answer(self, status):
        self.send_response(status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_GET(self):
        self.answer(200)

    def do_POST(self):
        came.append(time.monotonic())
        body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
        if os.environ["HOW"] == "seen":
            with open(os.environ["SEEN"], "ab") as f:
                f.write(os.environ.get("HAS_GPU_BATCH_SIZE", "1").encode() + b" " + body + b"\n")
            self.answer(200)
            return
        if os.environ["HOW"] == "slow":
            time.sleep(float(os.environ["SLEEP"]))
            self.answer(200)
            return
        if os.environ["HOW"] == "die":
            os._exit(3)
        if os.environ["HOW"] == "hang" or (os.environ["HOW"] == "stall" and len(came) > 10):
            time.sleep(3600)
        young = os.environ["HOW"] == "sour" and time.monotonic() - came[0] < 2.5
        self.answer(200 if young or os.environ["HOW"] == "stall" else 500)


http.server.ThreadingHTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
