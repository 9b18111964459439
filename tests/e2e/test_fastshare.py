#!/usr/bin/env python3
"""The Python package fastshare on the simulated driver: pointers and DLPack capsules field by field; and, where
there is a torch, modules. The simulated device's memory lies in this process, so that torch may read it as
host memory where it has no CUDA."""
import ctypes
import os
import random
import subprocess
import sys
import types
import unittest
from unittest import mock

import node
import store as e2e

PYTHON = os.path.join(node.HERE, "..", "..", "python")
sys.path[:0] = [PYTHON]
from fastshare import _torch  # noqa: E402
HEAD = """
import ctypes, gc, os, random, sys
sys.path[:0] = [os.environ["PACKAGE"]]
import fastshare
from fastshare import _dlpack
def raw(t):
    return ctypes.string_at(t.ptr, t.nbytes)
"""
TORCH = HEAD + """
import torch
if not torch.cuda.is_available():
    _dlpack.KDL_CUDA = 1  # kDLCPU: the simulated device's memory is the host's
def net(seed):
    torch.manual_seed(seed)
    m = torch.nn.Sequential(torch.nn.Linear(8, 8), torch.nn.BatchNorm1d(8), torch.nn.Linear(8, 4))
    m[0].weight.data = m[0].weight.data.to(torch.float32)
    return m.eval()
"""


def torch_python():
    """A Python that has torch, or None."""
    for program in (os.environ.get("FAST_TORCH_PYTHON"), sys.executable, "/usr/bin/python3"):
        if program and os.path.exists(program) and subprocess.run(
                [program, "-c", "import torch, torch.utils.dlpack"], capture_output=True,
                check=False).returncode == 0:
            return program
    return None


class FastshareTest(unittest.TestCase):
    def setUp(self):
        self.store = e2e.Store()
        self.addCleanup(self.store.close)
        self.file = self.store.path("m.safetensors")
        rng = random.Random(3)
        self.tensors = {"a.weight": ("BF16", [3, 5], rng.randbytes(30)),
                        "a.bias": ("F32", [2, 3, 4], rng.randbytes(96)), "scalar": ("F64", [], rng.randbytes(8)),
                        "none": ("I64", [0, 7], b""), "small": ("F8_E4M3", [9], rng.randbytes(9))}
        e2e.write_safetensors(self.file, self.tensors)
        self.store.env.update(FAST_STORE_LIB=e2e.LIB, PACKAGE=PYTHON, MODEL_FILE=self.file)

    def run_python(self, code, program=sys.executable, head=HEAD, **env):
        done = subprocess.run([program, "-c", head + code], env=dict(self.store.env, **env), text=True,
                              capture_output=True, check=False, timeout=2 * node.WAIT_S)
        self.assertEqual(done.returncode, 0, done.stderr + done.stdout + self.store.log())
        return done.stdout.splitlines()

    def test_names_types_shapes_and_bytes(self):
        out = self.run_python("""
m = fastshare.connect().load(os.environ["MODEL_FILE"], "m")
print(list(m), m.loaded, m.shared, m.known(), len(m), m.nbytes)
for t in m.values():
    print(t.name, t.dtype, list(t.shape), t.nbytes, t.ptr % 256, raw(t).hex())
m.verify()
print(fastshare.get("m")["a.bias"].ptr != m["a.bias"].ptr, fastshare.connect().via)
""")
        # Each tensor begins at a multiple of 256.
        self.assertEqual(out[0], f"{list(self.tensors)} True True True 5 {3 * 256 + 9}")
        for line, (name, (dtype, shape, data)) in zip(out[1:], self.tensors.items()):
            self.assertEqual(line.rstrip(), f"{name} {dtype} {shape} {len(data)} 0 {data.hex()}".rstrip())
        self.assertEqual(out[6], "True vmm-read-only")

    def test_a_dlpack_capsule_field_by_field(self):
        out = self.run_python("""
t = fastshare.connect().load(os.environ["MODEL_FILE"], "m")["a.bias"]
c = t.__dlpack__(stream=1, max_version=(1, 0), dl_device=(2, 0), copy=False)
at = ctypes.pythonapi.PyCapsule_GetPointer
at.restype, at.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
p = at(c, b"dltensor")
# dlpack.h: DLTensor {void *data; {i32 type, id}; i32 ndim; {u8 code, bits; u16 lanes}; i64 *shape, *strides;
# u64 byte_offset}, void *manager_ctx, deleter: by their offsets, not by our own structure.
u64 = lambda o: ctypes.c_uint64.from_address(p + o).value
i32 = lambda o: ctypes.c_int32.from_address(p + o).value
print(u64(0) == t.ptr, i32(8), i32(12), i32(16), list(ctypes.string_at(p + 20, 2)),
      ctypes.c_uint16.from_address(p + 22).value)
print(list((ctypes.c_int64 * 3).from_address(u64(24))), list((ctypes.c_int64 * 3).from_address(u64(32))),
      u64(40), u64(48), u64(56) != 0)
print(t.__dlpack_device__())
try:
    t.__dlpack__(copy=True)
except BufferError as e:
    print(e)
""")
        self.assertEqual(out[0], "True 2 0 3 [2, 32] 1")
        self.assertEqual(out[1], "[2, 3, 4] [12, 4, 1] 0 0 True")
        self.assertEqual(out[2], "(2, 0)")
        self.assertIn("where they are", out[3])

    def test_every_type_has_its_code(self):
        out = self.run_python("""
for name, (code, bits) in _dlpack.DTYPES.items():
    print(name, code, bits)
""")
        self.assertEqual({line.split()[0]: tuple(map(int, line.split()[1:])) for line in out},
                         {"BOOL": (6, 8), "U8": (1, 8), "I8": (0, 8), "F8_E5M2": (12, 8), "F8_E4M3": (10, 8),
                          "I16": (0, 16), "U16": (1, 16), "F16": (2, 16), "BF16": (4, 16), "I32": (0, 32),
                          "U32": (1, 32), "F32": (2, 32), "C64": (5, 64), "F64": (2, 64), "I64": (0, 64),
                          "U64": (1, 64)})

    def test_cuda_array_interface(self):
        out = self.run_python("""
m = fastshare.connect().load(os.environ["MODEL_FILE"], "m")
for n in ("a.weight", "a.bias", "small", "none"):
    i = m[n].__cuda_array_interface__
    print(i["shape"], i["typestr"], i["data"] == (m[n].ptr, False), i["strides"], i["version"])
""")
        self.assertEqual(out, ["(3, 5) <i2 True None 3", "(2, 3, 4) <f4 True None 3", "(9,) |u1 True None 3",
                               "(0, 7) <i8 True None 3"])

    def test_memory_is_kept_for_as_long_as_it_is_used(self):
        out = self.run_python("""
store = fastshare.connect()
m = store.load(os.environ["MODEL_FILE"], "m")
data = raw(m["a.bias"])
t = m["a.bias"]
del m; gc.collect()
print(raw(t) == data)                       # a tensor keeps it
c = t.capsule(); ptr, n = t.ptr, t.nbytes
del t; gc.collect()
print(ctypes.string_at(ptr, n) == data, _dlpack.held())   # so does a capsule that nobody took
del c; gc.collect()
print(_dlpack.held())
# One that a reader took is kept until the reader calls the deleter, from any thread.
t = store.get("m")["a.bias"]
c = t.capsule(); ptr = t.ptr
at = ctypes.pythonapi.PyCapsule_GetPointer
at.restype, at.argtypes = ctypes.c_void_p, [ctypes.py_object, ctypes.c_char_p]
rename = ctypes.pythonapi.PyCapsule_SetName
rename.argtypes = [ctypes.py_object, ctypes.c_char_p]
used = ctypes.create_string_buffer(b"used_dltensor")
p = at(c, b"dltensor"); rename(c, used)
del c, t; gc.collect()
print(ctypes.string_at(ptr, n) == data, _dlpack.held())
import threading
delete = ctypes.CFUNCTYPE(None, ctypes.c_void_p)(ctypes.c_uint64.from_address(p + 56).value)
thread = threading.Thread(target=delete, args=(p,)); thread.start(); thread.join(); gc.collect()
print(_dlpack.held())
maps = open("/proc/self/maps").read()
print(any(int(l.split("-")[0], 16) <= ptr < int(l.split("-")[1].split()[0], 16) and l.split()[1][0] == "r"
          for l in maps.splitlines()))      # it is not mapped any more
""")
        self.assertEqual(out, ["True", "True 1", "0", "True 1", "0", "False"])

    def test_put_and_get(self):
        self.run_python("""
data = bytes(range(200))
buf = ctypes.create_string_buffer(data, 200)
m = fastshare.connect().put({"x": ("U8", (10, 20), 200, ctypes.addressof(buf)), "e": ("F32", (0,), 0, None)}, "p")
assert m.loaded and raw(m["x"]) == data and m["e"].shape == (0,)
assert raw(fastshare.get("p")["x"]) == data and not fastshare.get("p").loaded
try:
    fastshare.get("nobody")
    assert False
except fastshare.Error as e:
    assert e.errno == 2 and "no model nobody" in str(e), e
""")

    def test_without_a_store(self):
        self.run_python("""
try:
    fastshare.connect()
    assert False
except fastshare.Error as e:
    assert e.errno == 10, e
m = fastshare.connect(private=True).load(os.environ["MODEL_FILE"], "m")
assert m.loaded and not m.shared and not m.known()
m.verify()
""", FAST_STORE_SOCKET="")


class FakeParameter:
    """As much of a parameter as is asked for where it changes places."""
    shape = ()
    dtype = "fake"

    def __init__(self, data=None, requires_grad=False):
        self.data = data


class FakeModule:
    """As much of a torch.nn.Module; the same part may be there under several names."""

    def __init__(self, **parts):
        self._parts, self._parameters, self._buffers = parts, {}, {}

    def __getattr__(self, key):
        return self.__dict__["_parameters"][key]

    def __setattr__(self, key, value):
        if isinstance(value, FakeParameter):
            self._parameters[key] = value
        else:
            super().__setattr__(key, value)

    def named_modules(self, remove_duplicate):
        assert not remove_duplicate
        return [("", self), *self._parts.items()]

    def state_dict(self):
        return {f"{name}.{key}": p for name, part in self._parts.items() for key, p in part._parameters.items()}


class FakeTorchTest(unittest.TestCase):
    def test_a_part_under_two_names(self):
        part = FakeModule()
        part.weight = FakeParameter()
        fake = types.SimpleNamespace(nn=types.SimpleNamespace(Parameter=FakeParameter),
                                     cuda=types.SimpleNamespace(is_available=lambda: False))
        stored = types.SimpleNamespace(shape=(), dtype="fake")
        with mock.patch.object(_torch, "_torch", lambda: fake), mock.patch.object(_torch, "as_torch", lambda t: t):
            places = _torch._adopt(FakeModule(a=part, b=part), {"a.weight": stored}, True)
        self.assertEqual(places, [(part, "weight")])
        self.assertIs(part.weight.data, stored)


class TorchTest(FastshareTest):
    """The same with modules."""
    python = None

    def setUp(self):
        if TorchTest.python is None:
            TorchTest.python = torch_python() or ""
        if not TorchTest.python:
            self.skipTest("there is no torch")
        super().setUp()

    def run_torch(self, code):
        return self.run_python(code, TorchTest.python, TORCH)

    def test_module_is_shared_and_given_back(self):
        out = self.run_torch("""
a, b, x = net(1), net(1), torch.ones(2, 8)
want, names = a(x), list(a.state_dict())
with fastshare.share(a, "net") as m:
    other = fastshare.share(b, "net")
    assert not other.model.loaded and list(m.state_dict()) == names
    assert torch.equal(m(x), want) and torch.equal(b(x), want)
    assert m[0].weight.data_ptr() == a[0].weight.data_ptr() != b[0].weight.data_ptr()
    assert not m[0].weight.requires_grad and list(fastshare.get("net")) == [n for n in names]
    assert m[1].running_mean.data_ptr() != fastshare.get("net")["1.running_mean"].ptr
    m.train(); m(x); m.eval()        # writes to its buffers, which are its own
    print(_dlpack.held() > 0)
other.close(); del other; gc.collect()
assert torch.equal(b(x), want)
print(_dlpack.held())
""")
        self.assertEqual(out, ["True", "0"])

    def test_recurrent_parts_use_what_is_shared(self):
        self.run_torch("""
torch.manual_seed(1)
a, x = torch.nn.LSTM(4, 5, num_layers=2).eval(), torch.ones(3, 1, 4)
torch.manual_seed(2)
b = torch.nn.LSTM(4, 5, num_layers=2).eval()
want = a(x)[0].detach()
first, second = fastshare.load(a, "lstm"), fastshare.load(b, "lstm")
assert torch.equal(a(x)[0], want) and torch.equal(b(x)[0], want)
for m in (a, b):
    assert [w.data_ptr() for w in m._flat_weights] == [getattr(m, n).data_ptr() for n in m._flat_weights_names]
""")

    def test_load_by_name_and_file(self):
        self.run_torch("""
a = net(5)
first = fastshare.load(a, "resnet50")          # nothing there: its own
assert first.model.loaded
b = net(6)
assert not torch.equal(a(torch.ones(2, 8)), b(torch.ones(2, 8)))
second = fastshare.load(b, "resnet50")
assert not second.model.loaded and torch.equal(a(torch.ones(2, 8)), b(torch.ones(2, 8)))
half = net(7).to(torch.bfloat16)
try:
    fastshare.load(half, "resnet50")
    assert False
except ValueError as e:
    assert "0.weight is torch.float32 in the store and torch.bfloat16 here" in str(e), e
assert half[0].weight.dtype == torch.bfloat16
class Bf16(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.a = torch.nn.Module()
        self.a.weight = torch.nn.Parameter(torch.zeros(3, 5, dtype=torch.bfloat16))
        self.a.bias = torch.nn.Parameter(torch.zeros(2, 3, 4))
        self.tied = self.a.bias
c = Bf16()
try:
    fastshare.load(c, "file", os.environ["MODEL_FILE"])
    assert False
except KeyError as e:
    assert "not in the module: ['none', 'scalar', 'small']" in str(e) and "missing in the store: none" in str(e), e
fastshare.load(c, "file", os.environ["MODEL_FILE"], strict=False)
m = fastshare.get("file")
assert c.a.weight.dtype == torch.bfloat16 and c.tied is c.a.bias
assert ctypes.string_at(c.a.weight.data_ptr(), 30) == raw(m["a.weight"])
assert bytes(c.a.bias.contiguous().view(-1).numpy().tobytes()) == raw(m["a.bias"])
assert fastshare.as_torch(m["scalar"]).shape == () and fastshare.as_torch(m["none"]).shape == (0, 7)
""")

    def test_tensors_live_longer_than_models(self):
        self.run_torch("""
t = fastshare.as_torch(fastshare.connect().load(os.environ["MODEL_FILE"], "m")["a.bias"])
view = t[1]
want = view.clone()
del t; gc.collect()
assert torch.equal(view, want) and _dlpack.held() == 1
del view; gc.collect()
assert _dlpack.held() == 0
""")


def load_tests(loader, _tests, _pattern):
    suite = unittest.TestSuite(loader.loadTestsFromTestCase(FastshareTest))
    for name in [n for n in vars(TorchTest) if n.startswith("test_")]:
        suite.addTest(TorchTest(name))
    return suite


if __name__ == "__main__":
    e2e.begin_with_asan()
    assert ctypes.sizeof(ctypes.c_void_p) == 8
    unittest.main()
