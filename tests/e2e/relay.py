#!/usr/bin/env python3
"""A function for tests of two processes that share device memory and events: POST answers with how many rounds of
a relay were right. In a round the child fills A and records an event; this process copies A to B behind that
event and records another one; the child reads B behind it. Nobody waits on the host for the other's device work.
POST /host does a little work itself and then waits on the host for an event of a child that is complete only after
IDLE_S; POST /device has its work behind that event."""
import ctypes
import http.server
import os
import subprocess
import sys
import time

ROUNDS, BYTES, IDLE_S = 30, 1 << 20, 0.5
SHARED_EVENT = 2 | 4  # without times, for several processes
Handle = ctypes.c_char * 64
cuda = ctypes.CDLL("libcuda.so.1")


class Blob(ctypes.Structure):  # handles are passed by value
    _fields_ = [("bytes", Handle)]


def call(name, *args):
    rc = getattr(cuda, name)(*args)
    if rc:
        raise RuntimeError(f"{name}: {rc}")


def context():
    made = ctypes.c_void_p()
    call("cuInit", 0)
    call("cuCtxCreate_v2", ctypes.byref(made), 0, 0)
    return made


def shared_memory():
    p, handle = ctypes.c_uint64(), Blob()
    call("cuMemAlloc_v2", ctypes.byref(p), ctypes.c_size_t(BYTES))
    call("cuIpcGetMemHandle", ctypes.byref(handle), p)
    return p, bytes(handle)


def shared_event():
    e, handle = ctypes.c_void_p(), Blob()
    call("cuEventCreate", ctypes.byref(e), SHARED_EVENT)
    call("cuIpcGetEventHandle", ctypes.byref(handle), e)
    return e, bytes(handle)


def open_memory(handle):
    p = ctypes.c_uint64()
    call("cuIpcOpenMemHandle_v2", ctypes.byref(p), Blob.from_buffer_copy(handle), 1)
    return p


def open_event(handle):
    e = ctypes.c_void_p()
    call("cuIpcOpenEventHandle", ctypes.byref(e), Blob.from_buffer_copy(handle))
    return e


def stream():
    s = ctypes.c_void_p()
    call("cuStreamCreate", ctypes.byref(s), 1)
    return s


def child():
    """Speaks 64 bytes of a handle, or a byte for "recorded"."""
    made = context()
    (a, a_handle), (filled, filled_handle), s = shared_memory(), shared_event(), stream()
    host = ctypes.c_void_p()
    call("cuMemHostAlloc", ctypes.byref(host), ctypes.c_size_t(BYTES), 0)
    tell, hear = sys.stdout.buffer, sys.stdin.buffer
    tell.write(a_handle + filled_handle)
    tell.flush()
    b, copied = open_memory(hear.read(64)), open_event(hear.read(64))
    good = 0
    for i in range(ROUNDS):
        call("cuMemsetD8Async", a, ctypes.c_ubyte(i + 1), ctypes.c_size_t(BYTES), s)
        call("cuEventRecord", filled, s)
        tell.write(b"f")
        tell.flush()
        hear.read(1)
        call("cuStreamWaitEvent", s, copied, 0)
        call("cuMemcpyDtoHAsync_v2", host, b, ctypes.c_size_t(BYTES), s)
        call("cuStreamSynchronize", s)
        good += ctypes.string_at(host, BYTES) == bytes([i + 1]) * BYTES
    call("cuEventSynchronize", copied)
    call("cuCtxDestroy_v2", made)
    tell.write(bytes([good]))


def relay():
    with subprocess.Popen([sys.executable, os.path.abspath(__file__), "child"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        tell, hear = other.stdin, other.stdout
        (b, b_handle), (copied, copied_handle), s = shared_memory(), shared_event(), stream()
        a, filled = open_memory(hear.read(64)), open_event(hear.read(64))
        tell.write(b_handle + copied_handle)
        tell.flush()
        for _ in range(ROUNDS):
            hear.read(1)
            call("cuStreamWaitEvent", s, filled, 0)
            call("cuMemcpyDtoDAsync_v2", b, a, ctypes.c_size_t(BYTES), s)
            call("cuEventRecord", copied, s)
            tell.write(b"c")
            tell.flush()
        good = hear.read(1)[0]
        call("cuEventSynchronize", filled)
        call("cuIpcCloseMemHandle", a)
        for e in (filled, copied):
            call("cuEventDestroy_v2", e)
        call("cuMemFree_v2", b)
        return good


def late_child():
    """Records an event behind a word that it writes only after a while."""
    made = context()
    (e, handle), s = shared_event(), stream()
    host, device = ctypes.c_void_p(), ctypes.c_uint64()
    call("cuMemHostAlloc", ctypes.byref(host), ctypes.c_size_t(4096), 2)
    call("cuMemHostGetDevicePointer_v2", ctypes.byref(device), host, 0)
    word = ctypes.c_uint32.from_address(host.value)
    word.value = 0
    call("cuStreamWaitValue32_v2", s, device, 1, 0)
    call("cuEventRecord", e, s)
    sys.stdout.buffer.write(handle)
    sys.stdout.buffer.flush()
    time.sleep(IDLE_S)
    word.value = 1
    call("cuStreamSynchronize", s)
    sys.stdin.buffer.read(1)
    call("cuCtxDestroy_v2", made)


def wait(on_host):
    with subprocess.Popen([sys.executable, os.path.abspath(__file__), "late"], stdin=subprocess.PIPE,
                          stdout=subprocess.PIPE) as other:
        e, s, p = open_event(other.stdout.read(64)), stream(), ctypes.c_uint64()
        call("cuMemAlloc_v2", ctypes.byref(p), ctypes.c_size_t(BYTES))
        if not on_host:
            call("cuStreamWaitEvent", s, e, 0)
        call("cuMemsetD8Async", p, ctypes.c_ubyte(1), ctypes.c_size_t(BYTES), s)
        if on_host:
            call("cuEventSynchronize", e)
        call("cuStreamSynchronize", s)
        call("cuMemFree_v2", p)
        call("cuEventDestroy_v2", e)
        other.stdin.write(b"e")
        other.stdin.flush()
    return 1


def serve():
    made = context()

    class Handler(http.server.BaseHTTPRequestHandler):
        def answer(self, body):
            self.send_response(200)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def do_GET(self):  # /_/health
            self.answer(b"")

        def do_POST(self):
            cuda.cuCtxSetCurrent(made)
            done = wait(self.path == "/host") if self.path in ("/host", "/device") else relay()
            self.answer(str(done).encode())

    http.server.HTTPServer(("127.0.0.1", int(os.environ["PORT"])), Handler).serve_forever()


{"child": child, "late": late_child}.get(sys.argv[-1], serve)()
