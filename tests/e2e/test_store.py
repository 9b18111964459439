"""Replicas that share a model through fast-store, on the simulated GPU with real bytes."""
import os
import random
import signal
import subprocess
import sys
import tempfile
import unittest

import node
import store as e2e

MIB = 1 << 20
CONTEXT = 300 * MIB  # what a process costs on the simulated device
HOLD = """
model = lib.load(store, os.environ["MODEL_FILE"], "m")
lib.verify(model)
hashes = [t[4] for t in lib.tensors(model).values()]
print(lib.c.fast_store_model_loaded(model), hash(tuple(hashes)), flush=True)
sys.stdin.readline()
lib.verify(model)
lib.c.fast_store_release(model)
"""

LOAD_BIG = """
try:
    model = lib.load(store, os.environ["BIG"], "big", os.environ["VERSION"])
    print("loaded", flush=True)
except OSError as e:
    print(e, flush=True)
sys.stdin.readline()
"""


GET_BIG = """
try:
    lib.get(store, "big")
except OSError as e:
    print(e.errno)
"""


class StoreTest(unittest.TestCase):
    def setUp(self):
        self.store = e2e.Store()
        self.addCleanup(self.store.close)
        self.file = self.store.path("m.safetensors")
        rng = random.Random(1)
        e2e.write_safetensors(self.file, {
            "encoder.weight": ("BF16", [1024, 3001], rng.randbytes(2 * 1024 * 3001)),
            "scale": ("F32", [], rng.randbytes(4)),
            "nothing": ("I64", [0, 3], b""),
            "decoder.weight": ("F32", [3, 5, 7], rng.randbytes(420))})
        self.store.env["MODEL_FILE"] = self.file

    def replicas(self, n):
        return [self.store.client(HOLD) for _ in range(n)]

    def finish(self, clients):
        for p in clients:
            p.communicate("\n", timeout=node.WAIT_S)
            self.assertEqual(p.returncode, 0, self.store.log())

    def kill(self, p):
        p.kill()
        p.communicate()

    def test_eight_replicas_hold_one_copy(self):
        clients = self.replicas(8)
        said = [p.stdout.readline().split() for p in clients]
        self.assertEqual(sum(int(s[0]) for s in said), 1, "one of them has loaded it")
        self.assertEqual(len({s[1] for s in said}), 1)
        self.assertEqual(self.store.used() - 8 * CONTEXT, 6 * MIB)  # 5.9 MiB in pieces of 2
        self.finish(clients)
        self.assertEqual(self.store.used(), 6 * MIB, "it stays for the next one")

    def test_names_types_and_bytes_are_those_of_the_file(self):
        out = self.store.run("""
model = lib.load(store, os.environ["MODEL_FILE"], "m")
for name, (dtype, shape, size, device, _) in lib.tensors(model).items():
    print(name, dtype, shape, size, device % 256)
t = lib.tensors(model)["decoder.weight"]
import ctypes
buf = ctypes.create_string_buffer(t[2])
assert ctypes.CDLL("libcuda.so.1").cuMemcpyDtoH_v2(buf, ctypes.c_uint64(t[3]), ctypes.c_size_t(t[2])) == 0
print(buf.raw.hex())
""").splitlines()
        self.assertIn("encoder.weight BF16 [1024, 3001] 6146048 0", out)
        self.assertIn("scale F32 [] 4 0", out)
        self.assertIn("nothing I64 [0, 3] 0 0", out)
        with open(self.file, "rb") as f:
            self.assertEqual(out[-1], f.read()[-420:].hex())

    def test_a_replica_cannot_write(self):
        # The loader first, then who finds it there.
        for loaded in "10":
            self.cannot_write(loaded)
        self.store.run("lib.verify(lib.get(store, 'm'))")

    def cannot_write(self, loaded):
        out = self.store.run("""
import ctypes
model = lib.load(store, os.environ["MODEL_FILE"], "m")
print(lib.c.fast_store_model_loaded(model))
cuda = ctypes.CDLL("libcuda.so.1")
at = ctypes.c_uint64(lib.c.fast_store_model_device(model))
print(lib.c.fast_store_via(store).decode())
print(cuda.cuMemsetD32_v2(at, 0, ctypes.c_size_t(4)) or cuda.cuCtxSynchronize())
""").split()
        self.assertEqual(out[:2], [loaded, "vmm-read-only"])
        self.assertNotEqual(out[2], "0")

    def test_a_killed_loader_is_replaced_and_killed_readers_are_forgotten(self):
        rng = random.Random(int(os.environ.get("FAST_STORE_SEED", "7")))
        for _ in range(int(os.environ.get("FAST_STORE_KILLS", "10"))):
            clients = self.replicas(3)
            victims = rng.sample(clients, 2)
            if rng.random() < 0.5:
                victims[0].stdout.readline()
            for p in victims:
                self.kill(p)
            self.finish([p for p in clients if p not in victims])
            rows = self.store.run("print(lib.c.fast_store_model_loaded(lib.get(store, 'm')))")
            self.assertEqual(rows.strip(), "0")
            self.assertEqual(self.store.used(), 6 * MIB)

    def test_replicas_outlive_a_killed_store(self):
        clients = self.replicas(2)
        for p in clients:
            p.stdout.readline()
        self.store.kill()
        self.store.start()
        out = self.store.run("""
try:
    lib.get(store, "m")
except OSError as e:
    print(e.errno)
""")
        self.assertEqual(out.strip(), "2", "the new store does not know it")
        new = self.store.client(HOLD)
        self.assertEqual(new.stdout.readline().split()[0], "1", "it is loaded anew")
        self.assertEqual(self.store.used() - 3 * CONTEXT, 12 * MIB)
        self.finish([*clients, new])  # they verify their bytes once more
        self.assertEqual(self.store.used(), 6 * MIB)

    def test_an_old_model_is_told_apart_by_the_new_store(self):
        p = self.store.client("""
model = lib.load(store, os.environ["MODEL_FILE"], "m")
lib.call("fast_store_model_known", model)
print("known", flush=True)
sys.stdin.readline()
lib.verify(model)
try:
    lib.call("fast_store_model_known", model)
except OSError as e:
    print(e)
""")
        self.assertEqual(p.stdout.readline().strip(), "known")
        self.store.kill()
        self.store.start()
        out, _ = p.communicate("\n", timeout=node.WAIT_S)
        self.assertIn("earlier life", out)

    def test_a_changed_file_is_another_model(self):
        self.finish([self.store.client(HOLD)])
        with open(self.file, "r+b") as f:
            f.seek(-1, os.SEEK_END)
            f.write(b"x")
        for ns in (1, 2):
            os.utime(self.file, ns=(ns, ns))
            p = self.store.client(HOLD)
            self.assertEqual(p.stdout.readline().split()[0], "1")
            self.finish([p])

    def test_bad_files_are_refused_and_leave_nothing(self):
        for data, word in [(b"", "shorter"), (b"\xff" * 16, "shorter"), (b"\x02" + b"\0" * 7 + b"{]", "JSON"),
                           (b"\x02" + b"\0" * 7 + b"[]", "table"),
                           (e2e.header({"a": [0, 4], "b": [3, 7]}) + bytes(7), "overlap"),
                           (e2e.header({"a": [0, 4], "b": [0, 4]}) + bytes(4), "overlap"),
                           (e2e.header({"a": [0, 4]}) + bytes(3), "do not lie in the file")]:
            with open(self.file, "wb") as f:
                f.write(data)
            out = self.store.run("""
try:
    lib.load(store, os.environ["MODEL_FILE"], "m")
except OSError as e:
    print(e)
""")
            self.assertIn(word, out)
        self.assertEqual(self.store.used(), 0)

    def test_empty_tensors_lie_anywhere(self):
        with open(self.file, "wb") as f:
            f.write(e2e.header({"z": [0, 0], "a": [0, 4], "y": [4, 4], "b": [4, 6], "x": [6, 6]}) + b"abcdef")
        self.finish([self.store.client(HOLD)])

    def push(self):
        done = subprocess.run([e2e.STORE, "--socket", self.store.socket, "--push", self.file, "--model", "m"],
                              env=self.store.env, capture_output=True, text=True, check=False, timeout=node.WAIT_S)
        return done.stdout if done.returncode == 0 else done.stderr

    def test_a_push_finds_out_what_another_has_stored(self):
        self.finish([self.store.client(HOLD)])
        self.assertIn("4 tensors, 6.1 MB, was there already, byte for byte", self.push())
        # As long, and changed at the same time: by its name it is the same.
        when = os.stat(self.file).st_mtime_ns
        for at, tensor in ((-1, "decoder.weight"), (-421, "scale"), (-500, "encoder.weight")):
            with open(self.file, "r+b") as f:
                f.seek(at, os.SEEK_END)
                byte = f.read(1)
                f.seek(at, os.SEEK_END)
                f.write(bytes([byte[0] ^ 1]))
            os.utime(self.file, ns=(when, when))
            said = self.push()
            self.assertIn(f'what is stored as m is not what is in the file: tensor "{tensor}" has other bytes', said)
            with open(self.file, "r+b") as f:
                f.seek(at, os.SEEK_END)
                f.write(byte)
            os.utime(self.file, ns=(when, when))
        self.assertIn("byte for byte", self.push())

    def test_a_model_is_compared_with_a_file(self):
        other = self.store.path("other.safetensors")
        size = 5 * MIB + 3
        w = random.Random(2).randbytes(size)
        files = {"same": {"w": ("U8", [size], w)}, "bytes": {"w": ("U8", [size], w[:-1] + b"x")},
                 "type": {"w": ("I8", [size], w)}, "shape": {"w": ("U8", [1, size], w)},
                 "name": {"v": ("U8", [size], w)}, "length": {"w": ("U8", [size - 1], w[1:])},
                 "more": {"w": ("U8", [size], w), "v": ("U8", [1], b"x")}}
        for name, tensors in files.items():
            e2e.write_safetensors(self.store.path(name), tensors)
        e2e.write_safetensors(other, files["same"])
        out = self.store.run("""
model = lib.load(store, os.environ["OTHER"], "m")
for name in os.environ["NAMES"].split():
    try:
        lib.call("fast_store_model_compare", model, os.path.join(os.path.dirname(os.environ["OTHER"]), name).encode())
        print("same")
    except OSError as e:
        print(e.errno, e.strerror)
""", OTHER=other, NAMES=" ".join([*files, "not-there"]))
        self.assertEqual(out.splitlines(), [
            "same", '8 tensor "w" has other bytes', *['8 tensor "w" is another one'] * 2,
            '8 tensor "v" is another one', '8 tensor "w" is another one', "8 it has 1 tensors and not 2",
            f"2 {self.store.path('not-there')}: No such file or directory"])

    def test_what_is_wrong_is_no_copy_of_ones_own_either(self):
        self.assertEqual(self.store.run("""
try:
    lib.load(store, os.environ["MODEL_FILE"], "two\\nlines", flags=4)
except OSError as e:
    print(e.errno)
""").strip(), "1")

    def test_a_forked_child_has_no_connection(self):
        self.finish([self.store.client(HOLD)])
        self.assertEqual(self.store.run("""
model = lib.get(store, "m")
child = os.fork()
if not child:
    try:
        lib.get(store, "m")
        os._exit(100)
    except OSError as e:
        lib.c.fast_store_release(model)  # leaves the parent's alone
        os._exit(e.errno)
print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
lib.verify(model)
""").strip(), "6")

    def test_threads_share_a_connection(self):
        self.finish([self.store.client(HOLD)])
        self.assertEqual(self.store.run("""
import threading
def work():
    mine = e2e.Lib()
    for _ in range(200):
        model = mine.get(store, "m")
        mine.c.fast_store_release(model)
    done.append(1)
done = []
threads = [threading.Thread(target=work) for _ in range(8)]
for t in threads:
    t.start()
for t in threads:
    t.join()
print(len(done))
""").strip(), "8")

    def test_a_file_that_is_larger_than_all_stages_arrives(self):
        self.file = self.store.path("large.safetensors")
        size = 48 * MIB + 1
        e2e.write_safetensors(self.file, {"w": ("U8", [size], random.Random(3).randbytes(size))})
        self.assertIn("loaded", self.push())
        self.assertIn("byte for byte", self.push())

    def test_a_pipe_is_refused(self):
        os.unlink(self.file)
        os.mkfifo(self.file)
        self.assertIn("regular file", self.store.run("""
try:
    lib.load(store, os.environ["MODEL_FILE"], "m")
except OSError as e:
    print(e)
"""))

    def test_another_namespace_cannot_have_it(self):
        self.finish([self.store.client(HOLD)])
        out = self.store.run("""
try:
    lib.get(lib.connect(None, "other"), "m")
except OSError as e:
    print(e)
""")
        self.assertIn("no model m for namespace other", out)

    def stopped_loader(self, big, version):
        """A process that is stopped while it loads that version; None: it was done before."""
        seen = self.store.log().count("model loads")
        loader = self.store.client(LOAD_BIG, stderr=subprocess.PIPE, BIG=big, VERSION=version)
        node.wait_until(lambda: self.store.log().count("model loads") > seen)
        loader.send_signal(signal.SIGSTOP)
        self.store.run("")  # behind whatever it has said before
        if self.store.log().count("model ready") < seen + 1:
            return loader
        self.kill(loader)
        return None

    def big_file(self):
        """Of zeros, which take no room on the disk."""
        big = self.store.path("big.safetensors")
        size = 256 * MIB
        with open(big, "wb") as f:
            f.write(e2e.header({"w": [0, size]}))
            f.truncate(f.tell() + size)
        return big

    def change_while_it_is_read(self, change):
        """What a loader says whose file is changed meanwhile."""
        for version in "12345":
            big = self.big_file()
            loader = self.stopped_loader(big, version)
            if loader:
                change(big)
                loader.send_signal(signal.SIGCONT)
                said = loader.stdout.readline()
                if said != "loaded\n":  # else it was done with reading
                    # It has given the model up, and its mapping, while it goes on.
                    self.assertEqual(self.store.run(GET_BIG).strip(), "2")
                    self.assertEqual(self.store.used(), CONTEXT)
                    self.kill(loader)
                    return said
                self.kill(loader)
        return self.fail("it is always done before")

    def test_a_file_that_changes_while_it_is_read_is_no_model(self):
        self.assertIn("shorter", self.change_while_it_is_read(lambda big: os.truncate(big, 1000)))
        self.assertIn("changed", self.change_while_it_is_read(lambda big: os.utime(big, ns=(1, 1))))

    def test_who_waits_too_long_is_told_or_loads_for_itself(self):
        big = self.big_file()
        for version in "12345":
            loader = self.stopped_loader(big, version)
            if loader:
                break
        self.addCleanup(self.kill, loader)
        out = self.store.run("""
import ctypes
for flags in (0, 4):
    model = ctypes.c_void_p()
    try:
        lib.call("fast_store_load_file", store, os.environ["BIG"].encode(), b"big",
                 os.environ["VERSION"].encode(), ctypes.c_uint(flags), ctypes.c_uint(200), ctypes.byref(model))
        lib.verify(model)
        print("private", lib.c.fast_store_model_is_shared(model))
    except OSError as e:
        print(e.errno)
""", BIG=big, VERSION=version)
        self.assertEqual(out.splitlines(), ["11", "private 0"])
        loader.send_signal(signal.SIGCONT)
        self.assertEqual(loader.stdout.readline(), "loaded\n")

    def test_legacy_handles_where_there_are_no_descriptors(self):
        version = self.store.run("""
import ctypes
v = ctypes.c_int()
assert ctypes.CDLL("libcuda.so.1").cuDriverGetVersion(ctypes.byref(v)) == 0
print(v.value)
""").strip()
        with tempfile.NamedTemporaryFile("w", prefix="fast-probe-") as probe:
            probe.write(f"driver {version} via 2\n")  # as the probe leaves it on such a driver
            probe.flush()
            ipc = e2e.Store("--probe-file", probe.name)
        self.addCleanup(ipc.close)
        ipc.env["MODEL_FILE"] = self.file
        clients = [ipc.client(HOLD) for _ in range(3)]
        said = [p.stdout.readline().split() for p in clients]
        self.assertEqual(sorted(s[0] for s in said), ["0", "0", "1"])
        self.assertEqual(len({s[1] for s in said}), 1)
        self.assertEqual(ipc.run("print(lib.c.fast_store_via(store).decode())").strip(), "ipc")
        self.assertEqual(ipc.used() - 4 * CONTEXT, 6 * MIB, "one copy; the store has a context here")
        self.finish(clients)

    def test_without_a_store_a_copy_of_ones_own(self):
        out = self.store.run("""
import ctypes
model = ctypes.c_void_p()
lib.call("fast_store_load_file", None, os.environ["MODEL_FILE"].encode(), b"m", None,
         ctypes.c_uint(4), ctypes.c_uint(0), ctypes.byref(model))
lib.verify(model)
print(lib.c.fast_store_model_is_shared(model))
""")
        self.assertEqual(out.strip(), "0")


if __name__ == "__main__":
    e2e.begin_with_asan()
    unittest.main()
