"""fast-store by itself on a simulated GPU, libfast-store.so by ctypes, and safetensors files."""
import ctypes
import json
import os
import re
import shutil
import signal
import struct
import subprocess
import sys

import node
import wire

STORE = os.path.join(node.BUILD, "src", "store", "fast-store")
LIB = os.path.join(node.BUILD, "src", "storelib", "libfast-store.so.0")
SIM = os.path.join(node.BUILD, "src", "simdriver")
WAIT_MS = 60000


def skip_with_asan(why):
    if node.built_with_asan():
        print("skipped: " + why)
        sys.exit(77)


def asan_library():
    """What has to be in a process before libfast-store.so is; None: nothing, or a compiler that links it otherwise."""
    with open(LIB, "rb") as library:
        found = re.search(rb"libasan\.so\.\d+", library.read())
    return found and found[0].decode()


def begin_with_asan():
    """Begins this program anew with AddressSanitizer, where the library that it loads is built so."""
    library = asan_library()
    if not library:
        skip_with_asan("Python cannot load a library that was built with AddressSanitizer")
    elif library not in os.environ.get("LD_PRELOAD", ""):
        os.execve(sys.executable, sys.orig_argv, dict(os.environ, LD_PRELOAD=library, **wire.ASAN_ENV))
    else:
        del os.environ["ASAN_OPTIONS"]  # Python's leaks are not asked for, those of programs that it starts are


class Tensor(ctypes.Structure):
    _fields_ = [("name", ctypes.c_char_p), ("dtype", ctypes.c_char_p), ("ndim", ctypes.c_uint32),
                ("shape", ctypes.POINTER(ctypes.c_uint64)), ("bytes", ctypes.c_uint64),
                ("offset", ctypes.c_uint64), ("device", ctypes.c_uint64), ("hash", ctypes.c_uint64)]


def write_safetensors(path, tensors):
    """|tensors|: {name: (dtype, shape, bytes)}."""
    header, at = {"__metadata__": {"format": "pt"}}, 0
    for name, (dtype, shape, data) in tensors.items():
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [at, at + len(data)]}
        at += len(data)
    text = json.dumps(header).encode()
    with open(path, "wb") as f:
        f.write(struct.pack("<Q", len(text)) + text)
        for _, _, data in tensors.values():
            f.write(data)


def header(tensors):
    """The start of a file of bytes: {name: [begin, end]}."""
    text = json.dumps({name: {"dtype": "U8", "shape": [end - begin], "data_offsets": [begin, end]}
                       for name, (begin, end) in tensors.items()}).encode()
    return struct.pack("<Q", len(text)) + text


class Lib:
    """The C interface in this process. Errors are exceptions (code, text)."""

    def __init__(self, path=LIB):
        self.c = ctypes.CDLL(path)
        self.msg = ctypes.create_string_buffer(256)
        for name in ("fast_store_model_device", "fast_store_model_bytes"):
            getattr(self.c, name).restype = ctypes.c_uint64
        self.c.fast_store_model_count.restype = ctypes.c_size_t
        self.c.fast_store_via.restype = ctypes.c_char_p

    def call(self, name, *args):
        code = getattr(self.c, name)(*args, self.msg, ctypes.c_size_t(len(self.msg)))
        if code:
            raise OSError(-code, self.msg.value.decode())

    def connect(self, socket=None, ns=None):
        store = ctypes.c_void_p()
        self.call("fast_store_connect", socket and socket.encode(), ns and ns.encode(),
                  ctypes.byref(store))
        return store

    def load(self, store, path, name, version=None, flags=0):
        model = ctypes.c_void_p()
        self.call("fast_store_load_file", store, path.encode(), name.encode(),
                  version and version.encode(), ctypes.c_uint(flags), ctypes.c_uint(WAIT_MS),
                  ctypes.byref(model))
        return model

    def get(self, store, name, version=None):
        model = ctypes.c_void_p()
        self.call("fast_store_get", store, name.encode(), version and version.encode(),
                  ctypes.c_uint(WAIT_MS), ctypes.byref(model))
        return model

    def tensors(self, model):
        out = {}
        for i in range(self.c.fast_store_model_count(model)):
            t = Tensor()
            assert self.c.fast_store_model_tensor(model, ctypes.c_size_t(i), ctypes.byref(t)) == 0
            out[t.name.decode()] = (t.dtype.decode(), [t.shape[d] for d in range(t.ndim)], t.bytes,
                                    t.device, t.hash)
        return out

    def verify(self, model):
        self.call("fast_store_model_verify", model)


class Store:
    """fast-store in a folder of its own."""

    def __init__(self, *args):
        self.root = node.folder()
        self.socket = os.path.join(self.root, "s")
        self.args = args
        self.env = dict(os.environ, FAST_SIM="v100-16gb:1", FAST_SIM_DIR=os.path.join(self.root, "sim"),
                        LD_LIBRARY_PATH=SIM, FAST_STORE_SOCKET=self.socket,
                        **wire.ASAN_ENV)
        self.env.pop("LD_PRELOAD", None)
        if asan_library():
            self.env["LD_PRELOAD"] = asan_library()
        self.process = None
        self.start()

    def start(self):
        with open(os.path.join(self.root, "log"), "a", encoding="utf-8") as log:
            self.process = subprocess.Popen([STORE, "--socket", self.socket, *self.args], stderr=log,
                                            env=dict(self.env, ASAN_OPTIONS=""), stdin=subprocess.DEVNULL)

        def ready():
            assert self.process.poll() is None, self.log()
            return os.path.exists(self.socket) and self.log().count("store ready") >= self.log_starts()

        node.wait_until(ready, "fast-store does not get ready")

    def log_starts(self):
        self.starts = getattr(self, "starts", 0)
        return self.starts + 1

    def log(self):
        with open(os.path.join(self.root, "log"), encoding="utf-8") as f:
            return f.read()

    def kill(self):
        self.starts = self.log().count("store ready")
        os.unlink(self.socket)
        self.process.kill()
        self.process.wait()

    def path(self, name):
        return os.path.join(self.root, name)

    def client(self, code, stderr=None, **more):
        """A process that runs |code| with |lib| and |store|; it is one replica."""
        program = ("import os, sys; sys.path[:0] = %r\nimport store as e2e\nlib = e2e.Lib()\n"
                   "store = lib.connect()\n" % [os.path.dirname(os.path.abspath(__file__))]) + code
        return subprocess.Popen([sys.executable, "-c", program], env=dict(self.env, **more),
                                stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=stderr,
                                text=True)

    def run(self, code, **more):
        """Runs |code| to its end; what it printed."""
        p = self.client(code, **more)
        out, _ = p.communicate(timeout=node.WAIT_S)
        assert p.returncode == 0, (p.returncode, out, self.log())
        return out

    def used(self):
        """Device memory in use, by anybody."""
        code = ("import ctypes\nfree, total = ctypes.c_size_t(), ctypes.c_size_t()\n"
                "cuda = ctypes.CDLL('libcuda.so.1')\ncuda.cuInit(0)\nctx = ctypes.c_void_p()\n"
                "cuda.cuDevicePrimaryCtxRetain(ctypes.byref(ctx), 0)\ncuda.cuCtxSetCurrent(ctx)\n"
                "cuda.cuMemGetInfo_v2(ctypes.byref(free), ctypes.byref(total))\n"
                "print(total.value - free.value - (300 << 20))")
        return int(subprocess.run([sys.executable, "-c", code], env=self.env, check=True,
                                  capture_output=True, text=True).stdout)

    def close(self):
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            self.process.wait(node.WAIT_S)
        said = self.log()
        shutil.rmtree(self.root, ignore_errors=True)
        node.no_sanitizer_reports(said)
