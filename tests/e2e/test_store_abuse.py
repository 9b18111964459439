#!/usr/bin/env python3
"""A tenant that means harm, at the socket of a store: it speaks the protocol by hand and takes what it can.
Whatever it does, the tenant of another namespace gets in, loads and keeps what is its own."""
import array
import fcntl
import os
import resource
import socket
import struct
import subprocess
import sys
import time
import unittest

import node
import store as e2e
import wire

MIB = 1 << 20
KEY = bytes(range(16))
MASK = (1 << 64) - 1
SHARED, PINNED = 1, 2
CONNECTIONS = 1500


def code(data, key=KEY):
    """SipHash-2-4, as core/pass.c has it."""
    k0, k1 = struct.unpack("<QQ", key)
    v = [k0 ^ 0x736f6d6570736575, k1 ^ 0x646f72616e646f6d, k0 ^ 0x6c7967656e657261, k1 ^ 0x7465646279746573]

    def rotate(x, by):
        return (x << by | x >> (64 - by)) & MASK

    def turn(times):
        for _ in range(times):
            v[0] = (v[0] + v[1]) & MASK
            v[2] = (v[2] + v[3]) & MASK
            v[1], v[3] = rotate(v[1], 13) ^ v[0], rotate(v[3], 16) ^ v[2]
            v[0] = rotate(v[0], 32)
            v[2] = (v[2] + v[1]) & MASK
            v[0] = (v[0] + v[3]) & MASK
            v[1], v[3] = rotate(v[1], 17) ^ v[2], rotate(v[3], 21) ^ v[0]
            v[2] = rotate(v[2], 32)

    end = len(data) // 8 * 8
    words = [w for w, in struct.iter_unpack("<Q", data[:end])]
    words.append(int.from_bytes(data[end:], "little") | (len(data) & 255) << 56)
    for word in words:
        v[3] ^= word
        turn(2)
        v[0] ^= word
    v[2] ^= 0xff
    turn(4)
    return v[0] ^ v[1] ^ v[2] ^ v[3]


def make_pass(ns, admin=False, key=KEY):
    text = f"1:{int(admin)}:{ns}:r"
    return f"{text}:{code(text.encode(), key):016x}"


class StoreAbuse(unittest.TestCase):
    def setUp(self):
        with open(f"/tmp/fast-key-{os.getpid()}", "wb") as f:
            f.write(KEY)
        self.addCleanup(os.unlink, f.name)
        self.store = e2e.Store("--key-file", f.name, "--limit", "32MiB,pinning=16MiB")
        self.addCleanup(self.store.close)
        self.open = []
        self.addCleanup(lambda: [s.close() for s in self.open])

    def raw(self):
        def connect():
            try:
                self.open.append(wire.Session(self.store.socket, hello=False))
            except BlockingIOError:  # too many wait to be let in
                return False
            return True

        node.wait_until(connect)
        return self.open[-1]

    def enter(self, ns, **more):
        s = self.raw()
        s.send("store_hello", 1, version=wire.VERSION, **{"pass": make_pass(ns, **more)})
        return s, s.receive()

    def member(self, ns, **more):
        s, answer = self.enter(ns, **more)
        self.assertEqual(answer.name, "store_welcome", answer)
        return s

    def want(self, s, name, size=MIB, flags=0):
        """The answer; what belongs to it is left to be received."""
        s.last_id += 1
        s.send("model_want", s.last_id, digest_lo=1, bytes=size, name=name, version="1", flags=flags)
        return s.receive()

    def loads(self, s, name, size=MIB):
        answer = self.want(s, name, size)
        self.assertEqual(answer.name, "model_open", answer)
        for _ in range(answer.chunks):
            self.assertEqual(s.receive().name, "model_chunk")
        return answer.model

    def commit(self, s, model, table=struct.pack("<IIQQ", 0x314d5346, 0, 0, 0),
               seals=fcntl.F_SEAL_WRITE | fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, code="OK"):
        """With an empty table of tensors."""
        fd = os.memfd_create("m", os.MFD_ALLOW_SEALING)
        os.write(fd, table)
        fcntl.fcntl(fd, fcntl.F_ADD_SEALS, seals)
        s.socket.sendmsg([wire.encode("model_commit", 8, model=model)],
                         [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))])
        os.close(fd)
        self.assertEqual(wire.CODES[s.receive().code], code)

    def cached(self, s, name, size=MIB):
        """A model that nobody uses."""
        model = self.loads(s, name, size)
        self.commit(s, model)
        s.send("model_close", 9, model=model)
        self.assertEqual(s.receive().code, 0)
        return model

    def state(self):
        """The models, and what the store takes of the device."""
        with self.member("-", admin=True) as s:
            rows, done = [], None
            s.send("store_watch", 5)
            while not done:
                rows.append(s.receive())
                done = rows[-1].name == "done"
        usage = [r for r in rows if r.name == "store_usage"][-1]
        return [r for r in rows if r.name == "model_row"], usage

    def others_are_served(self):
        good = self.member("good")
        model = self.loads(good, "weights")
        good.send("model_close", 7, model=model)
        self.assertEqual(good.receive().code, 0)
        good.close()

    def descriptors(self):
        return len(os.listdir(f"/proc/{self.store.process.pid}/fd"))

    def test_only_a_pass_of_the_node_lets_in(self):
        for text in ("", "1:1:good:r", make_pass("good")[:-1], make_pass("good").replace("good", "evil"),
                     make_pass("good").replace("1:0:", "1:1:"), make_pass("good", key=bytes(16)), "x" * 60000):
            s = self.raw()
            s.send("store_hello", 1, version=wire.VERSION, **{"pass": text})
            self.assertEqual(s.receive().name, "refused", text[:80])
        self.others_are_served()

    def test_what_is_no_message_ends_a_connection_and_nothing_else(self):
        before = self.descriptors()
        hello = wire.encode("store_hello", 1, version=wire.VERSION, **{"pass": make_pass("evil")})
        for packet in (b"\0", os.urandom(100), hello[:7], hello[:-3], hello + b"x", os.urandom(60000)):
            for greeted in (False, True):
                s = self.member("evil") if greeted else self.raw()
                s.send_raw(packet)
                self.assertEqual(s.receive().name, "refused")
                self.assertRaises((EOFError, OSError), s.receive)
        node.wait_until(lambda: self.descriptors() == before)
        self.others_are_served()

    def test_descriptors_that_nobody_asked_for_are_closed(self):
        evil = self.member("evil")
        before = self.descriptors()
        with open("/dev/null", "rb") as null:
            rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [null.fileno()] * 200))]
            for name in ("model_commit", "model_close", "model_known"):
                evil.socket.sendmsg([wire.encode(name, 2, model=5)], rights)
                self.assertEqual(wire.CODES[evil.receive().code], "ENOENT")
            self.assertEqual(self.descriptors(), before)
            model = self.loads(evil, "m")
            evil.socket.sendmsg([wire.encode("model_commit", 3, model=model)], rights)
            self.assertEqual(wire.CODES[evil.receive().code], "EPROTO", "that is no table of tensors")
        node.wait_until(lambda: self.descriptors() == before - 1)
        self.others_are_served()

    def test_connections_that_say_nothing_keep_nobody_out(self):
        for _ in range(CONNECTIONS):
            self.raw()
        self.others_are_served()
        self.assertEqual(self.enter("-", admin=True)[1].name, "store_welcome")

    def test_a_store_without_descriptors_lets_in_again(self):
        pid, limit = self.store.process.pid, resource.RLIMIT_NOFILE
        resource.prlimit(pid, limit, (64, resource.prlimit(pid, limit)[1]))
        for _ in range(200):
            self.raw()
        self.others_are_served()

    def test_connections_of_one_namespace_keep_nobody_out(self):
        names = {self.enter("evil")[1].name for _ in range(CONNECTIONS)}
        self.assertEqual(names, {"store_welcome", "refused"})
        self.others_are_served()
        self.assertEqual(self.enter("-", admin=True)[1].name, "store_welcome")

    def test_who_comes_and_goes_is_no_news_of_models(self):
        evil, admin = self.member("evil"), self.member("-", admin=True)
        for n in range(3):
            self.loads(evil, f"m{n}", 1)
        admin.ask("store_watch")
        self.member("evil").close()
        news = []
        while [m.clients for m in news[-2:]] != [2, 1]:  # it is there; it is gone
            m = admin.receive()
            self.assertEqual(m.name, "store_usage")
            news += [m] if not news or m.clients != news[-1].clients else []

    def test_those_who_wait_keep_nobody_out(self):
        self.loads(self.member("evil"), "m")
        for _ in range(5):
            s = self.member("evil")
            for n in range(256):
                s.send("model_want", 1 + n, digest_lo=1, bytes=MIB, name="m", version="1", wait_ms=3600000)
        self.others_are_served()

    def test_a_replica_can_neither_pin_nor_share(self):
        evil = self.member("evil")
        for flags in (SHARED, PINNED):
            self.assertEqual(wire.CODES[self.want(evil, "m", flags=flags).get("code")], "EPERM")
        for name in ("model_pin", "model_remove"):
            _, done = evil.ask(name, ns="evil", name="m", version="1")
            self.assertEqual(wire.CODES[done.code], "EPERM")
        self.assertEqual(self.want(self.member("evil", admin=True), "m", flags=SHARED | PINNED).name, "model_open")

    def test_what_no_device_has_drives_nobody_out(self):
        good, evil = self.member("good", admin=True), self.member("evil")
        model = self.cached(good, "cached")
        for size in (1 << 40, 1 << 50, MASK):
            self.assertEqual(wire.CODES[self.want(evil, "m", size).get("code")], "ENOROOM")
        good.send("model_known", 10, model=model)
        self.assertEqual(good.receive().code, 0, "it is still there")

    def test_one_namespace_does_not_fill_the_device(self):
        evil = self.member("evil")
        for n in range(16):  # a byte costs 2 MiB
            self.loads(evil, f"m{n}", 1)
        for s in (evil, self.member("evil")):
            refused = self.want(s, "more", 1)
            self.assertEqual(wire.CODES[refused.code], "ENOROOM")
            self.assertIn("namespace evil has 32.0 MiB of models in use or pinned on this GPU, and 2.0 MiB more pass "
                          "its limit of 32.0 MiB: fast model rm, or a higher fast-node --model-limit", refused.text)
        self.others_are_served()
        evil.close()
        node.wait_until(lambda: self.want(self.member("evil"), "again", 32 * MIB).name == "model_open")
        self.assertEqual(wire.CODES[self.member("evil").ask("store_limit", limits="100%")[1].code], "EPERM")

    def test_pins_count_and_unused_models_of_others_stay(self):
        pinning, good = self.member("pinning", admin=True), self.member("good")
        kept = self.cached(good, "kept")
        for n in range(4):
            model = self.cached(pinning, f"m{n}", 4 * MIB)
            if n < 3:
                _, done = pinning.ask("model_pin", ns="pinning", name=f"m{n}", version="1", pin=1)
                self.assertEqual(done.code, 0)
        self.assertEqual(wire.CODES[self.want(pinning, "more", 6 * MIB).code], "ENOROOM", "12 are pinned of 16")
        self.loads(pinning, "more", 4 * MIB)  # in place of the one that is not
        self.assertEqual(wire.CODES[pinning.ask("model_known", model=model)[1].code], "ENOENT")
        self.assertEqual(good.ask("model_known", model=kept)[1].code, 0)
        _, done = pinning.ask("store_limit", limits="nonsense")
        self.assertEqual(wire.CODES[done.code], "EINVAL")
        self.assertEqual(pinning.ask("store_limit", limits="100%")[1].code, 0)
        self.loads(pinning, "larger", 64 * MIB)

    def test_only_the_operator_makes_room(self):
        good, evil = self.member("good"), self.member("evil")
        model = self.cached(good, "cached")
        evil.send("store_evict", 7, bytes=MASK)
        self.assertEqual(evil.receive().bytes, 0)
        self.assertEqual(good.ask("model_known", model=model)[1].code, 0)
        admin = self.member("-", admin=True)
        admin.send("store_evict", 7, bytes=1)
        self.assertEqual(admin.receive().bytes, 2 * MIB)
        self.assertEqual(wire.CODES[good.ask("model_known", model=model)[1].code], "ENOENT")

    def test_a_table_that_could_change_or_lies_is_none(self):
        s = self.member("evil")
        model = self.loads(s, "m")
        self.commit(s, model, seals=fcntl.F_SEAL_SHRINK | fcntl.F_SEAL_GROW, code="EPROTO")
        for table in (b"x" * 100, b"x", struct.pack("<IIQQ", 0x314d5346, 0, 1, 0)):
            s = self.member("evil")
            model = self.loads(s, "m")
            self.commit(s, model, table=table, code="EPROTO")
        self.others_are_served()

    def test_bytes_that_are_not_those_of_their_hash_are_found(self):
        s = self.member("good")
        model = self.loads(s, "m", 4096)
        row = struct.pack("<QQQQII8Q", 0, 4096, 12345, 0, 1, 1, 4096, *[0] * 7)
        self.commit(s, model, table=struct.pack("<IIQQ", 0x314d5346, 0, 1, 2) + row + b"w\0")
        zeros = self.store.path("zeros")
        e2e.write_safetensors(zeros, {"w": ("U8", [4096], bytes(4096))})
        said = self.store.run("""
model = lib.get(store, "m")
for name, args in (("verify", ()), ("compare", (os.environ["ZEROS"].encode(),))):
    try:
        lib.call("fast_store_model_" + name, model, *args)
    except OSError as e:
        print(e.errno, e.strerror)
""", FAST_STORE_PASS=make_pass("good"), ZEROS=zeros)
        self.assertEqual(said.splitlines(), ['8 tensor "w" has other bytes than were stored',
                                             '8 tensor "w" has other bytes than its hash says'])

    def test_a_model_that_goes_leaves_nothing(self):
        admin = self.member("good", admin=True)
        self.assertEqual(self.state()[1].bytes, 0)
        before = self.descriptors()
        self.cached(admin, "m", 2 * MIB)
        self.cached(admin, "n", 2 * MIB + 1)
        rows, usage = self.state()
        self.assertEqual(([r.bytes for r in rows], usage.bytes, usage.cached), ([2 * MIB, 4 * MIB], 6 * MIB, 6 * MIB))
        for name in "mn":
            self.assertEqual(admin.ask("model_remove", ns="good", name=name)[1].code, 0)
        self.assertEqual((self.state()[0], self.state()[1].bytes), ([], 0))
        node.wait_until(lambda: self.descriptors() == before)

    def test_a_full_device_gives_back_what_nobody_uses_and_nothing_else(self):
        gib = 1 << 30
        admin = self.member("good", admin=True)
        self.assertEqual(admin.ask("store_limit", limits="100%")[1].code, 0)
        self.cached(self.member("other"), "cached", 9 * gib)
        used = self.loads(admin, "used", 10 * gib)  # of not quite 16: the other one goes
        self.assertEqual([r["name"] for r in self.state()[0]], ["used"])
        for _ in range(2):  # some pieces fit, and are not left behind
            self.assertEqual(wire.CODES[self.want(self.member("other"), "more", 8 * gib).code], "ENOMEM")
            rows, usage = self.state()
            self.assertEqual(([r["name"] for r in rows], usage.bytes), (["used"], 10 * gib))
        self.loads(admin, "fits", 5 * gib)
        self.assertEqual(admin.ask("model_known", model=used)[1].code, 0)

    def test_only_the_operator_calls_a_model_verified(self):
        evil, admin = self.member("evil"), self.member("evil", admin=True)
        model = self.loads(evil, "m")
        self.assertEqual(wire.CODES[admin.ask("model_verified", model=model)[1].code], "EBUSY", "being loaded")
        self.commit(evil, model)

        def row():
            return self.state()[0][0]

        self.assertEqual((row().loader, row().verified, row().limit), ("r", 0, 32 * MIB))
        self.assertEqual(wire.CODES[evil.ask("model_verified", model=model)[1].code], "EPERM")
        self.assertEqual(row().verified, 0)
        self.assertEqual(admin.ask("model_verified", model=model)[1].code, 0)
        self.assertEqual(row().verified, 1)
        self.assertEqual(wire.CODES[admin.ask("model_verified", model=model + 1)[1].code], "ENOENT")


class FakeStore(unittest.TestCase):
    """A fake store, which gives its clients what no store gives."""

    def test_a_reader_believes_no_table_of_tensors(self):
        row = struct.pack("<QQQQII8Q", 0, 4096, 12345, 0, 1, 1, 4096, *[0] * 7)
        head = struct.pack("<IIQQ", 0x314d5346, 0, 1, 2)
        beyond = struct.pack("<QQQQII8Q", 1 << 40, 4096, 12345, 0, 1, 1, 4096, *[0] * 7)
        unnamed = struct.pack("<QQQQII8Q", 0, 4096, 12345, 1 << 40, 1, 1, 4096, *[0] * 7)
        for table in (b"x", head, b"x" * 200, head + beyond + b"w\0", head + unnamed + b"w\0", head + row + b"ww"):
            self.assertEqual(wire.CODES[self.get(table)], "EPROTO", table)

    def get(self, table):
        """How fast_store_get() ends with that table."""
        store = e2e.Store()  # for its environment, and the simulated device
        self.addCleanup(store.close)
        path = store.path("fake")
        with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listener:
            listener.bind(path)
            listener.listen()
            listener.settimeout(node.WAIT_S)
            process = subprocess.Popen([sys.executable, "-c", READER, path], env=store.env, stdout=subprocess.PIPE)
            client, _ = listener.accept()
            with client:
                self.serve(client, table)
                out, _ = process.communicate(timeout=node.WAIT_S)
        self.assertEqual(process.returncode, 0)
        return int(out)

    def serve(self, client, table):
        client.settimeout(node.WAIT_S)
        fd = os.memfd_create("m")
        os.write(fd, table)
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [fd]))]
        hello = wire.decode(client.recv(wire.MAX))
        client.send(wire.encode("store_welcome", hello.id, version=wire.VERSION, epoch=1, via=0, pid=1, ns="n"))
        want = wire.decode(client.recv(wire.MAX))
        client.sendmsg([wire.encode("model_open", want.id, model=1, load=0, bytes=4096, chunks=1)], rights)
        client.sendmsg([wire.encode("model_chunk", want.id, model=1, bytes=2 * MIB)], rights)
        os.close(fd)
        close = wire.decode(client.recv(wire.MAX))
        self.assertEqual(close.name, "model_close", "it gives back what it was given")
        client.send(wire.encode("done", close.id))


READER = f"""
import sys
sys.path[:0] = [{os.path.dirname(os.path.abspath(__file__))!r}]
import store as e2e
lib = e2e.Lib()
store = lib.connect(sys.argv[1])
try:
    lib.get(store, "m")
    print(0)
except OSError as e:
    print(e.errno)
"""


class Idle(unittest.TestCase):
    def greet(self, s):
        s.send("store_hello", 1, version=wire.VERSION, **{"pass": ""})
        self.assertEqual(s.receive().name, "store_welcome")

    def keeps(self, another):
        """Whether the store is there for who is silent, beside one that comes and goes; None: it was too late."""
        store = e2e.Store("--idle", "500ms")
        self.addCleanup(store.close)
        try:
            silent = wire.Session(store.socket, hello=False)
            if another:
                with wire.Session(store.socket, hello=False) as s:
                    self.greet(s)
        except OSError:
            return None
        with silent:
            time.sleep(0.7)
            if store.process.poll() is not None:
                return False
            self.greet(silent)
        self.assertEqual(store.process.wait(node.WAIT_S), 0, "without clients it ends")
        return True

    def test_a_client_that_says_nothing_yet_keeps_a_store(self):
        for another in (False, True):  # again where this process was too slow
            self.assertTrue(any(self.keeps(another) for _ in range(5)), "it ended though somebody was there")


if __name__ == "__main__":
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if hard != resource.RLIM_INFINITY and hard < CONNECTIONS + 100:
        print(f"skipped: a process may have only {hard} descriptors")
        sys.exit(77)
    resource.setrlimit(resource.RLIMIT_NOFILE, (CONNECTIONS + 100, hard))
    unittest.main()
