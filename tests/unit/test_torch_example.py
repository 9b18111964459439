"""examples/torch without PyTorch: on the fake torch of tests/fake_torch, which knows shapes and sizes. What
is asked of the server goes over HTTP."""
import array
import http.client
import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
import time
import unittest

ROOT = os.path.abspath(os.path.join(os.path.dirname(__file__), "..", ".."))
FAKE = os.path.join(ROOT, "tests", "fake_torch")
sys.path[:0] = [FAKE, os.path.join(ROOT, "examples", "torch")]

import torch  # noqa: E402
import models  # noqa: E402
import serve  # noqa: E402


class Models(unittest.TestCase):
    def test_the_torch_here_is_the_fake(self):
        self.assertEqual("0.fake", torch.__version__)

    def test_shapes_of_every_model_and_batch(self):
        shapes = {"resnet50": (1000,), "resnext101": (1000,), "vit_huge": (1000,), "bert_large": (384, 1024),
                  "rnnt": (60, 29), "gnmt": (50,)}
        self.assertEqual(set(shapes), set(models.MODELS))
        for name, shape in shapes.items():
            for batch in (1, 8):
                self.assertEqual((batch, *shape), models.Model(name, batch).__call__().shape, name)

    def size(self, name, **sizes):
        return models.Model(name, **sizes).module.size()

    def test_sizes_are_the_published_ones(self):
        """By the formula: an LSTM layer has 4 h (inputs + h + 2) parameters."""
        def lstm(inputs, h):
            return 4 * h * (inputs + h + 2)
        rnnt = lstm(240, 1024) + lstm(1024, 1024) + lstm(2048, 1024) + 2 * lstm(1024, 1024) + 29 * 320 \
            + 2 * lstm(320, 320) + (1024 + 320 + 1) * 512 + 513 * 29
        self.assertEqual(rnnt, self.size("rnnt"))
        gnmt = 2 * 32320 * 1024 + 32320 + 2 * lstm(1024, 1024) + lstm(2048, 1024) + 6 * lstm(1024, 1024) \
            + lstm(1024, 1024) + 7 * lstm(2048, 1024) + 2 * 1024 * 1024 + 1024
        self.assertEqual(gnmt, self.size("gnmt"))
        self.assertAlmostEqual(334e6, self.size("bert_large"), delta=1e6) # 340 million with the pooler's head

    def test_other_sizes_for_a_small_trial(self):
        self.assertEqual((2, 5, 29), models.Model("rnnt", 2, hidden=64, frames=20, steps=5)().shape)
        self.assertEqual((1, 3), models.Model("gnmt", hidden=32, layers=3, length=7, steps=3, vocabulary=50)().shape)
        self.assertEqual((1, 16, 1024), models.Model("bert_large", layers=2, length=16)().shape)

    def test_the_precision_is_a_setting_on_a_gpu_alone(self):
        self.assertIs(torch.float32, models.Model("resnet50", precision="fp16", device="cpu").dtype)
        for precision, dtype in models.DTYPES.items():
            model = models.Model("resnet50", precision=precision, device="cuda")
            self.assertIs(dtype, model.dtype)
            self.assertIs(dtype, model.sample[0].dtype)
            self.assertIs(torch.int64, models.Model("bert_large", precision=precision, device="cuda").sample[0].dtype)

    def test_a_graph_has_inputs_of_its_own_and_goes_back_to_the_sample(self):
        model = models.Model("resnet50", graphs=True, device="cuda")
        self.assertIsNotNone(model.graph)
        sample = model.sample[0].mark
        other = torch.randn(1, 3, 224, 224)
        model(other)
        self.assertEqual((other.mark, sample), (model.inputs[0].mark, model.sample[0].mark))
        model()
        self.assertEqual(sample, model.inputs[0].mark)
        self.assertIsNone(models.Model("resnet50", graphs=True, device="cpu").graph)


class Served(unittest.TestCase):
    """A server in this process."""
    NAME = "bert_large"

    @classmethod
    def setUpClass(cls):
        cls.model = models.Model(cls.NAME, 2, layers=2, length=16)
        serve.Handler.service = serve.Service(cls.model)
        cls.server = serve.Server(("127.0.0.1", 0), serve.Handler)
        threading.Thread(target=cls.server.serve_forever, daemon=True).start()
        cls.addClassCleanup(cls.server.server_close)
        cls.addClassCleanup(cls.server.shutdown)

    def setUp(self):
        self.c = http.client.HTTPConnection("127.0.0.1", self.server.server_address[1], timeout=60)
        self.addCleanup(self.c.close)

    def ask(self, method, path, body=None, status=200, headers=None):
        self.c.request(method, path, body, headers or {})
        r = self.c.getresponse()
        value = json.loads(r.read())
        self.assertEqual(status, r.status, value)
        return value

    def tokens(self, first=0, count=32):
        return array.array("q", [first] + [7] * (count - 1)).tobytes()

    def test_one_inference_of_the_sample_and_of_a_body(self):
        r = self.ask("POST", "/")
        self.assertEqual((self.NAME, 2, [2, 16, 1024], 8), (r["model"], r["batch"], r["shape"], len(r["first"])))
        first = self.ask("POST", "/", self.tokens(1))
        self.assertNotEqual(r["first"], first["first"])
        self.assertEqual(first["first"], self.ask("POST", "/", self.tokens(1))["first"])

    def test_what_is_no_input_is_told_and_the_server_lives(self):
        self.assertIn("31 numbers instead of 32: 2x16 of torch.int64",
                      self.ask("POST", "/", self.tokens(0, 31), 400)["error"])
        self.ask("POST", "/", b"123", 400)
        for word in (-1, 30522):
            self.assertIn("no words: 0 to 30521", self.ask("POST", "/", self.tokens(word), 400)["error"])
        self.ask("POST", "/", self.tokens(30521))
        self.ask("GET", "/elsewhere", status=404)
        self.ask("POST", "/elsewhere", status=404)
        self.assertTrue(self.ask("GET", "/_/health")["ok"])

    def test_lengths_that_are_none_end_the_connection(self):
        for header, status in ((("Content-Length", "-1"), 400), (("Content-Length", "x"), 400),
                               (("Content-Length", str(1 << 40)), 413), (("Transfer-Encoding", "chunked"), 411)):
            self.c.close()
            self.c.putrequest("POST", "/", skip_accept_encoding=True)
            self.c.putheader(*header)
            self.c.endheaders()
            r = self.c.getresponse()
            self.assertEqual(status, r.status)
            self.assertTrue(r.read())
            self.assertTrue(r.will_close)

    def test_one_connection_serves_many(self):
        self.ask("POST", "/")
        sock = self.c.sock
        for _ in range(5):
            self.ask("POST", "/", self.tokens())
        self.assertIs(sock, self.c.sock)

    def test_the_digest_is_that_of_the_sample_whatever_was_asked(self):
        before = self.ask("GET", "/check")
        self.ask("POST", "/", self.tokens(5))
        self.assertEqual(before, self.ask("GET", "/check"))
        self.assertRegex(before["digest"], "^[0-9a-f]{64}$")

    def test_the_loop_counts_what_is_late(self):
        r = self.ask("POST", "/loop?seconds=1")
        self.assertGreater(r["count"], 0)
        self.assertEqual(0, r["late"])
        r = self.ask("POST", "/loop?seconds=0.2&rate=100&slo_ms=0.000001")
        self.assertEqual(r["count"], r["late"])
        self.assertEqual(0, self.ask("POST", "/loop?seconds=0.2&rate=50&slo_ms=600000")["late"])
        for query in ("seconds=0", "seconds=1e9", "seconds=x", "rate=-1&seconds=1", f"start={time.monotonic() + 1e6}"):
            self.ask("POST", "/loop?" + query, status=400)

    def test_a_loop_that_is_hopelessly_behind_counts_what_it_never_began(self):
        class Slow:
            name, batch, inputs = "slow", 1, ()

            def __call__(self):
                time.sleep(0.05)

            def wait(self):
                pass

            def seconds(self):
                return 0
        r = serve.Service(Slow()).loop(0.1, 10000.0, 0.0, 1000.0)
        self.assertGreater(r["count"], 500) # of about 1000 that were due a few were done
        self.assertGreater(r["late"], 500)


class Process(unittest.TestCase):
    """serve.py as it is started."""

    def start(self, *argv, **env):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        p = subprocess.Popen([sys.executable, os.path.join(ROOT, "examples", "torch", "serve.py"), *argv],
                             stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             env=dict(os.environ, PYTHONPATH=FAKE, PORT=str(self.port), **env))
        self.addCleanup(p.stdout.close)
        self.addCleanup(p.wait)
        self.addCleanup(p.kill)
        return p

    def test_settings_by_environment_and_by_option(self):
        p = self.start(MODEL="gnmt", BATCH="4", PRECISION="bf16", GRAPHS="1", FAKE_TORCH_CUDA="1",
                       SIZES='{"hidden": 32, "layers": 3, "vocabulary": 50}')
        self.assertEqual(f"gnmt, batch 4, torch.bfloat16, on cuda, graphs on, port {self.port}\n", p.stdout.readline())
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.addCleanup(c.close)
        c.request("POST", "/")
        self.assertEqual([4, 50], json.loads(c.getresponse().read())["shape"])
        p.send_signal(signal.SIGTERM)
        self.assertEqual(0, p.wait(60))
        p = self.start("--model", "resnet50", "--precision", "fp32", MODEL="gnmt")
        self.assertTrue(re.match("resnet50, batch 1, torch.float32, on cpu, graphs off", p.stdout.readline()))

    def test_an_unknown_model_is_told(self):
        p = self.start("--model", "alexnet")
        self.assertIn("there are resnet50, resnext101, vit_huge, bert_large, rnnt, gnmt", p.stdout.read())
        self.assertNotEqual(0, p.wait(60))

    def test_a_broken_gpu_ends_the_process_with_an_answer(self):
        p = self.start(MODEL="resnet50", FAKE_TORCH_BREAKS="1")
        p.stdout.readline()
        c = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        self.addCleanup(c.close)
        c.request("POST", "/", array.array("f", [0.0] * (3 * 224 * 224)).tobytes())
        r = c.getresponse()
        self.assertEqual((500, {"error": "CUDA error: fake"}), (r.status, json.loads(r.read())))
        self.assertEqual(1, p.wait(60))


if __name__ == "__main__":
    unittest.main()
