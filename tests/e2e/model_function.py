#!/usr/bin/env python3
"""A function for tests that shares a model: loads $MODEL_FILE as $FAST_MODEL (or, without a file, takes
the model that is there) and serves on PORT. GET / answers with JSON: what it has. GET /again takes the
model once more, GET /alloc?N allocates N bytes of device memory of its own."""
import ctypes
import json
import os
import socket
import subprocess
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


CREATE = """
import ctypes
cuda, u64 = ctypes.CDLL("libcuda.so.1"), ctypes.c_uint64
prop = (ctypes.c_int * 8)(1, 1, 1, 0)  # pinned, exported as a descriptor, on device 0
def create():
    own, fd = u64(), ctypes.c_int()
    assert cuda.cuMemCreate(ctypes.byref(own), ctypes.c_size_t(2 << 20), prop, u64(0)) == 0
    assert cuda.cuMemExportToShareableHandle(ctypes.byref(fd), own, 1, u64(0)) == 0
    return own, fd.value
"""
LEND = CREATE + """
import socket, sys
cuda.cuInit(0)
with socket.socket(fileno=int(sys.argv[1])) as s:
    socket.send_fds(s, [b"x"], [create()[1]])
    s.recv(1)
"""


def borrow():
    """A piece of device memory of another process, as a handle; and what keeps that process."""
    ours, theirs = socket.socketpair()
    env = {k: v for k, v in os.environ.items() if k not in ("LD_PRELOAD", "FAST_TICKET")}
    with theirs:
        process = subprocess.Popen([sys.executable, "-c", LEND, str(theirs.fileno())], env=env,
                                   pass_fds=[theirs.fileno()])
    imported, fd = ctypes.c_uint64(), socket.recv_fds(ours, 1, 1)[1][0]
    assert cuda.cuMemImportFromShareableHandle(ctypes.byref(imported), ctypes.c_void_p(fd), 1) == 0
    return imported, (ours, process)


def seal():
    """Imported memory in two pieces of 2 MiB, side by side: what may be made writable, and when."""
    size, u64 = 2 << 20, ctypes.c_uint64

    def access(at, count, flags):
        return cuda.cuMemSetAccess(u64(at), ctypes.c_size_t(count), (ctypes.c_int * 3)(1, 0, flags),
                                   ctypes.c_size_t(1))

    def place(at, which):
        assert cuda.cuMemMap(u64(at), ctypes.c_size_t(size), ctypes.c_size_t(0), which, u64(0)) == 0

    base = u64()
    assert cuda.cuMemAddressReserve(ctypes.byref(base), ctypes.c_size_t(2 * size), ctypes.c_size_t(0), u64(0),
                                    u64(0)) == 0
    at = base.value
    (first, keep), (second, keep_too) = borrow(), borrow()
    mine = {}
    exec(CREATE, mine)
    own, _ = mine["create"]()
    place(at, first)
    place(at + size, second)
    codes = [access(at, 2 * size, 3), access(at, 2 * size, 1), access(at, 2 * size, 3), access(at + size, size, 3),
             access(at, 2 * size, 1)]
    assert cuda.cuMemUnmap(u64(at), ctypes.c_size_t(size)) == 0
    place(at, own)  # its own memory, where the imported was
    codes += [access(at, size, 3), access(at, size, 1), access(at, size, 3), access(at + size, size, 3)]
    assert cuda.cuMemUnmap(u64(at), ctypes.c_size_t(2 * size)) == 0
    for ours, process in (keep, keep_too):
        ours.close()
        process.wait()
    return {"codes": codes}


class Handler(BaseHTTPRequestHandler):
    def do_GET(self):
        global model, error
        path, _, query = self.path.partition("?")
        if path == "/again":
            if model:
                lib.c.fast_store_release(model)
            model, error = take()
        answer = {"/alloc": lambda: alloc(int(query)), "/writable": make_writable, "/seal": seal}.get(path, facts)()
        data = json.dumps(answer).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *_):
        pass


HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()
