#!/usr/bin/env python3
"""A function for tests that speaks to the CUDA driver: POST /hold allocates COUNT pieces of device
memory, POST /free frees them all; the answer is how many calls succeeded. POST /wild fills what is
behind its memory, a fatal fault, and answers with the error of the context."""
import ctypes
import http.server
import os

COUNT, BYTES = 2000, 65536
cuda = ctypes.CDLL("libcuda.so.1")
context, held = ctypes.c_void_p(), []
assert cuda.cuInit(0) == 0
assert cuda.cuCtxCreate_v2(ctypes.byref(context), 0, 0) == 0


def hold():
    for _ in range(COUNT):
        p = ctypes.c_uint64()
        if cuda.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t(BYTES)) == 0:
            held.append(p)
    return len(held)


def free():
    good = sum(cuda.cuMemFree_v2(p) == 0 for p in held)
    held.clear()
    return good


def wild():
    p = ctypes.c_uint64()
    cuda.cuMemAlloc_v2(ctypes.byref(p), ctypes.c_size_t(BYTES))
    cuda.cuMemsetD8_v2(p, ctypes.c_ubyte(1), ctypes.c_size_t(BYTES << 10))
    return cuda.cuCtxSynchronize()


class Handler(http.server.BaseHTTPRequestHandler):
    def do_GET(self):  # /_/health
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def do_POST(self):
        cuda.cuCtxSetCurrent(context)
        text = str({"/hold": hold, "/free": free, "/wild": wild}[self.path]()).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(text)))
        self.end_headers()
        self.wfile.write(text)


http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
