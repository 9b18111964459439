#!/usr/bin/env python3
"""A function for tests that shares a model: loads $MODEL_FILE as $FAST_MODEL (or, without a file, takes
the model that is there) and serves on PORT. GET / answers with JSON: what it has. GET /again takes the
model once more, GET /alloc?N allocates N bytes of device memory of its own."""
import ctypes
import json
import os
import sys
from http.server import BaseHTTPRequestHandler, HTTPServer

sys.path[:0] = [os.path.dirname(os.path.abspath(__file__))]
import store as e2e

lib = e2e.Lib(os.environ["FAST_STORE_LIB"])
store = lib.connect()
cuda = ctypes.CDLL("libcuda.so.1")


def take():
    try:
        path = os.environ.get("MODEL_FILE")
        name = os.environ["FAST_MODEL"]
        return lib.load(store, path, name) if path else lib.get(store, name), ""
    except OSError as e:
        return None, str(e)


model, error = take()


def facts():
    if not model:
        return {"error": error}
    lib.verify(model)
    return {"error": "", "loaded": lib.c.fast_store_model_loaded(model),
            "via": lib.c.fast_store_via(store).decode(),
            "hashes": [t[4] for t in lib.tensors(model).values()]}


def alloc(count):
    at = ctypes.c_uint64()
    return {"code": cuda.cuMemAlloc_v2(ctypes.byref(at), ctypes.c_size_t(count))}


def make_writable():
    device = ctypes.c_uint64(lib.c.fast_store_model_device(model))
    access = (ctypes.c_int * 3)(1, 0, 3)  # on device 0, for reading and writing
    return {"code": cuda.cuMemSetAccess(device, ctypes.c_size_t(2 << 20), access, ctypes.c_size_t(1))}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global model, error
        path, _, query = self.path.partition("?")
        if path == "/again":
            if model:
                lib.c.fast_store_release(model)
            model, error = take()
        answer = {"/alloc": lambda: alloc(int(query)), "/writable": make_writable}.get(path, facts)()
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
