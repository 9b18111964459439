#!/usr/bin/env python3
"""The functions as programs of their own: their HTTP server, their answers, their way to end."""
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import tempfile
import threading
import time
import unittest

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", ".."))
BUILD = os.path.abspath(os.environ.get("FAST_BUILD", os.path.join(ROOT, "build")))
DIGITS = os.path.join(BUILD, "functions", "digits")
HELDOUT = os.path.join(ROOT, "functions", "digits", "heldout.bin")
WAIT_S = 30  # for what should take milliseconds: the machine may be busy

with open(HELDOUT, "rb") as held:
    DATA = held.read()
IMAGES = [DATA[at:at + 64] for at in range(0, len(DATA), 65)]
LABELS = DATA[64::65]


def cpu_answers():
    """[(digit, probability)] of the plain CPU code for every held-out image."""
    text = subprocess.run([DIGITS, "--cpu", HELDOUT], check=True, capture_output=True, text=True,
                          timeout=WAIT_S).stdout
    rows = [line.split() for line in text.splitlines() if not line.startswith("accuracy")]
    return [(int(row[2]), float(row[3])) for row in rows]


class Function:
    """A running function on a port that the kernel picked."""

    def __init__(self, program, *args, env=None):
        self.process = subprocess.Popen(
            [os.path.join(BUILD, "functions", program), "--listen", "127.0.0.1:0", *args],
            stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=env)
        self.port, self.lines = 0, []
        for line in self.process.stdout:
            self.lines.append(line)
            found = re.match(r"listening on 127\.0\.0\.1:(\d+)$", line)
            if found:
                self.port = int(found.group(1))
                return
        raise AssertionError(f"{program} did not start: {self.process.stderr.read()}")

    def post(self, body, path="/", connection=None):
        """Returns (status, text)."""
        own = connection or http.client.HTTPConnection("127.0.0.1", self.port, timeout=WAIT_S)
        own.request("POST", path, body)
        answer = own.getresponse()
        text = answer.read().decode()
        if not connection:
            own.close()
        return answer.status, text

    def connect(self):
        return socket.create_connection(("127.0.0.1", self.port), timeout=WAIT_S)

    def stop(self):
        """SIGTERM; returns the exit status."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(WAIT_S)
        self.process.stdout.close()
        self.process.stderr.close()
        return status

    def close(self):
        if self.process.poll() is None:
            self.process.kill()
        self.process.wait()
        self.process.stdout.close()
        self.process.stderr.close()


def read_all(sock):
    data = b""
    while True:
        try:
            more = sock.recv(65536)
        except ConnectionResetError:
            more = b""
        if not more:
            return data
        data += more


def request(body=b"", method=b"POST", path=b"/", headers=b""):
    return b"%s %s HTTP/1.1\r\nHost: f\r\n%sContent-Length: %d\r\n\r\n%s" % (
        method, path, headers, len(body), body)


class ServerTest(unittest.TestCase):
    """The HTTP server, with digits on the CPU behind it."""

    def setUp(self):
        self.f = Function("digits", "--device", "cpu")
        self.addCleanup(self.f.close)

    def exchange(self, data, shut=True):
        with self.f.connect() as s:
            s.sendall(data)
            if shut:
                s.shutdown(socket.SHUT_WR)
            return read_all(s)

    def test_probes(self):
        for path in "/_/health", "/_/ready":
            c = http.client.HTTPConnection("127.0.0.1", self.f.port, timeout=WAIT_S)
            for method, want in ("GET", 200), ("HEAD", 200), ("POST", 405), ("GET", 200):
                c.request(method, path)
                answer = c.getresponse()
                answer.read()
                self.assertEqual(answer.status, want, f"{method} {path}")
            c.close()

    def test_keep_alive_and_pipelining(self):
        answers = self.exchange(b"".join(request(image) for image in IMAGES[:40]))
        digits = re.findall(rb'"digit":(\d)', answers)
        want = [str(digit).encode() for digit, _ in cpu_answers()[:40]]
        self.assertEqual(digits, want)

    def test_byte_by_byte_and_chunked(self):
        chunked = (b"POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: chunked\r\n\r\n"
                   b"20\r\n%s\r\n20;x\r\n%s\r\n0\r\n\r\n" % (IMAGES[0][:32], IMAGES[0][32:]))
        with self.f.connect() as s:
            s.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            for byte in chunked:
                s.sendall(bytes([byte]))
            self.assertIn(b'"digit":', s.recv(4096))

    def test_expect_continue(self):
        with self.f.connect() as s:
            s.sendall(request(headers=b"Expect: 100-continue\r\n").replace(b"Length: 0", b"Length: 64"))
            self.assertEqual(s.recv(4096), b"HTTP/1.1 100 Continue\r\n\r\n")
            s.sendall(IMAGES[0])
            self.assertIn(b"200 OK", s.recv(4096))

    def test_bad_requests(self):
        big = b"x" * 20000
        for want, data in (
                (b"400", b"\0\0\0\0\r\n\r\n"), (b"400", b"GET\r\n\r\n"), (b"400", b"GET / HTTP/1.1\r\n\r\n"),
                (b"505", b"GET / HTTP/3.0\r\nHost: f\r\n\r\n"), (b"431", b"GET / HTTP/1.1\r\nA: " + big),
                (b"413", request(b"x" * 70000)), (b"404", request(path=b"/nothing")),
                (b"405", request(method=b"PUT")), (b"400", request(b"x" * 63)),
                (b"400", request(bytes([17]) + IMAGES[0][1:])), (b"400", request(b'{"pixels":[1]}')),
                (b"400", request(b"P5 9 9 16\n" + b"x" * 81)), (b"400", request()),
                (b"501", b"POST / HTTP/1.1\r\nHost: f\r\nTransfer-Encoding: gzip\r\n\r\n"),
                (b"400", b"POST / HTTP/1.1\r\nHost: f\r\nContent-Length: 5\r\n"
                         b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n")):
            answer = self.exchange(data)
            self.assertTrue(answer.startswith(b"HTTP/1.1 " + want), (data[:60], answer))
            self.assertGreater(len(answer.partition(b"\r\n\r\n")[2]), 5, "no message")
        self.assertEqual(self.f.post(IMAGES[0])[0], 200)

    def test_a_slow_client_holds_up_nobody(self):
        with self.f.connect() as slow:
            slow.sendall(request(IMAGES[0])[:-10])
            for _ in range(20):
                self.assertEqual(self.f.post(IMAGES[1])[0], 200)
            slow.sendall(request(IMAGES[0])[-10:])
            self.assertIn(b"200 OK", slow.recv(4096))

    def test_sigterm_answers_what_has_begun(self):
        with self.f.connect() as idle, self.f.connect() as begun:
            begun.sendall(request(IMAGES[0])[:-10])
            time.sleep(0.1)
            self.f.process.send_signal(signal.SIGTERM)
            deadline = time.monotonic() + WAIT_S
            while time.monotonic() < deadline:  # it no longer listens ...
                try:
                    self.f.connect().close()
                except OSError:
                    break
                time.sleep(0.01)
            else:
                self.fail("it still accepts connections")
            begun.sendall(request(IMAGES[0])[-10:])
            answer = read_all(begun)  # ... but answers, and says that this is the end
            self.assertIn(b"200 OK", answer)
            self.assertIn(b"Connection: close", answer)
            self.assertEqual(read_all(idle), b"")
        self.assertEqual(self.f.stop(), 0)

    def test_many_connections(self):
        sockets = [self.f.connect() for _ in range(300)]  # more than it serves at once
        try:
            for s in sockets[:200]:
                s.sendall(request(IMAGES[0]))
            for s in sockets[:200]:
                self.assertIn(b"200 OK", s.recv(4096))
        finally:
            for s in sockets:
                s.close()
        self.assertEqual(self.f.post(IMAGES[0])[0], 200)

    def test_port_in_use(self):
        second = subprocess.run([DIGITS, "--device", "cpu"], capture_output=True, text=True,
                                timeout=WAIT_S, env=dict(os.environ, PORT=str(self.f.port)))
        self.assertEqual(second.returncode, 1)
        self.assertIn("in use", second.stderr)


class ProgramTest(unittest.TestCase):
    def refuse(self, status, text, *args, program="digits", **env):
        run = subprocess.run([os.path.join(BUILD, "functions", program), *args], text=True,
                             capture_output=True, timeout=WAIT_S, env=dict(os.environ, **env))
        self.assertEqual(run.returncode, status, run.stderr)
        self.assertIn(text, run.stderr)

    def test_bad_arguments(self):
        self.refuse(2, "usage", "--nothing")
        self.refuse(2, "unexpected", "file")
        self.refuse(2, "usage", "--device", "tpu")
        for address in "x", "1:", "127.0.0.1:70000", "127.0.0.1:-1", "127.0.0.1:1x":
            self.refuse(1, "not an address", "--device", "cpu", "--listen", address)
        self.refuse(1, "not an address", "--device", "cpu", PORT="http")
        self.refuse(1, "No such file", "--cpu", "/nothing")
        self.refuse(2, "no model", program="replay", MODEL="")
        self.refuse(1, "nothing.model", "--model", "nothing", program="replay")
        self.refuse(1, "line 2: ", "--model", os.path.join(ROOT, "LICENSE"), program="replay")
        for batch in "0", "-1", "x", "1.5", "99999":
            self.refuse(2, "batch", "--model", "resnet50", "--batch", batch, program="replay")

    def test_damaged_file(self):
        for damaged in DATA[:100], b"", b"\x20" + DATA[1:65], DATA[:64] + b"\x0a":
            with tempfile.NamedTemporaryFile() as f:
                f.write(damaged)
                f.flush()
                self.refuse(1, "65-byte records", "--cpu", f.name)

    def test_accuracy(self):
        answers = cpu_answers()
        self.assertEqual(len(answers), 1000)
        right = sum(digit == label for (digit, _), label in zip(answers, LABELS))
        self.assertGreaterEqual(right, 970)


DRIVER = os.path.join(BUILD, "src", "simdriver")
MODELS = ["bert", "gnmt", "resnet50", "rnnt"]


class SimulatedTest(unittest.TestCase):
    """On the simulated driver, without a node: as on a machine with a GPU and nothing else."""

    def setUp(self):
        self.dir = tempfile.TemporaryDirectory(prefix="fast-")
        self.addCleanup(self.dir.cleanup)
        self.env = dict(os.environ, LD_LIBRARY_PATH=DRIVER, FAST_SIM="v100-16gb:1",
                        FAST_SIM_DIR=os.path.join(self.dir.name, "sim"),
                        CUDA_MPS_PIPE_DIRECTORY=self.dir.name)

    def start(self, program, *args):
        f = Function(program, *args, env=self.env)
        self.addCleanup(f.close)
        return f

    def run_program(self, program, *args):
        return subprocess.run([os.path.join(BUILD, "functions", program), *args], env=self.env,
                              capture_output=True, text=True, timeout=WAIT_S)

    def infer(self, f, count=1):
        """The JSON answers of |count| requests one after the other."""
        c = http.client.HTTPConnection("127.0.0.1", f.port, timeout=WAIT_S)
        rows = []
        for _ in range(count):
            status, text = f.post(b"", connection=c)
            self.assertEqual(status, 200, text)
            rows.append(json.loads(text))
        c.close()
        return rows

    def test_self_test(self):
        run = self.run_program("digits", "--self-test")
        self.assertEqual(run.returncode, 0, run.stderr)
        self.assertIn("simulated", run.stdout)
        self.assertIn("digits.sim.so", run.stdout)

    def test_every_answer_is_the_cpus(self):
        f = self.start("digits")
        c = http.client.HTTPConnection("127.0.0.1", f.port, timeout=WAIT_S)
        for i, (digit, probability) in enumerate(cpu_answers()):
            status, text = f.post(IMAGES[i], connection=c)
            self.assertEqual(status, 200, text)
            answer = json.loads(text)
            self.assertEqual(answer["digit"], digit, f"image {i}")
            self.assertAlmostEqual(answer["probability"], probability, delta=1e-6)
            self.assertIn("simulated", answer["device"])
        c.close()
        self.assertEqual(f.stop(), 0)

    def test_modules_that_do_not_fit(self):
        folder = os.path.join(BUILD, "functions")
        for module, text in (("/nothing", "/nothing"), (DIGITS, "cuModuleLoad"),
                             (HELDOUT, "cuModuleLoad"),
                             (os.path.join(folder, "spin.sim.so"), "digits_fc")):
            run = self.run_program("digits", "--self-test", "--module", module)
            self.assertEqual(run.returncode, 1, module)
            self.assertIn(text, run.stderr)

    def test_replay_of_every_model(self):
        for model in MODELS:
            f = self.start("replay", "--model", model, "--memory-scale", "0.1")
            rows = self.infer(f, 3)
            for row in rows:
                self.assertEqual((row["model"], row["batch"]), (model, 1))
                self.assertIn("simulated", row["device"])
                self.assertGreater(row["gpu_ms"], 1)
                self.assertGreaterEqual(row["host_ms"], 0)
            self.assertEqual(f.stop(), 0)

    def test_a_large_batch_takes_longer(self):
        one = self.start("replay", "--model", "bert", "--memory-scale", "0")
        many = self.start("replay", "--model", "bert", "--memory-scale", "0", "--batch", "16")
        fast = min(row["gpu_ms"] for row in self.infer(one, 3))
        slow = min(row["gpu_ms"] for row in self.infer(many, 3))
        self.assertGreater(slow, 2 * fast)

    def test_two_side_by_side(self):
        """Both make progress, each correctly (replay checks that all of its blocks ran)."""
        both = [self.start("replay", "--model", m, "--memory-scale", "0.1")
                for m in ("resnet50", "bert")]
        rows = [None, None]

        def work(i):
            rows[i] = self.infer(both[i], 10)

        threads = [threading.Thread(target=work, args=(i,)) for i in range(2)]
        for t in threads:
            t.start()
        for t in threads:
            t.join(120)
        self.assertEqual([len(r or []) for r in rows], [10, 10])
        self.assertEqual([f.stop() for f in both], [0, 0])

    def test_a_model_that_does_not_fit(self):
        path = os.path.join(self.dir.name, "large.model")
        with open(os.path.join(ROOT, "models", "resnet50.model"), encoding="utf-8") as f:
            text = re.sub(r"memory = \S+", "memory = 12GiB", f.read())
        with open(path, "w", encoding="utf-8") as f:
            f.write(text)
        first = self.start("replay", "--model", path)
        second = self.run_program("replay", "--model", path, "--listen", "127.0.0.1:0")
        self.assertEqual(second.returncode, 1)
        self.assertIn("CUDA_ERROR_OUT_OF_MEMORY", second.stderr)
        self.infer(first, 1)

    def test_sigterm_under_load(self):
        f = self.start("replay", "--model", "rnnt", "--memory-scale", "0.1")
        with f.connect() as s:
            s.sendall(request())
            time.sleep(0.05)
            self.assertEqual(f.stop(), 0)
            self.assertIn(b"200 OK", read_all(s))


if __name__ == "__main__":
    unittest.main(verbosity=2)
