#!/usr/bin/env python3
"""One model over HTTP, with nothing but PyTorch and the standard library: a function for FaST-GShare
or for any other host of plain HTTP processes.

    MODEL=resnet50 GRAPHS=1 PORT=9000 examples/torch/serve.py
    curl -X POST http://127.0.0.1:9000/

Settings, as options or in the environment: --model MODEL, --batch BATCH (1), --precision PRECISION
(fp16, bf16 or fp32), --graphs GRAPHS=1 (one CUDA graph for the whole inference), --share SHARE=1 (weights
shared with the other replicas, by the package fastshare of python/).

    POST /         one inference. The body is the input as raw numbers (float32, or int64 for tokens) in the
                   model's shape, or empty for a sample. The answer is JSON.
    GET  /_/health ready; the port is not open before the model is
    GET  /check    a digest of the output for a sample of a fixed seed: equal on every replica
    POST /loop?seconds=5&rate=0&start=T&slo_ms=0&seed=1
                   a benchmark inside the process: inferences without pause, or at Poisson arrivals with a
                   rate, from time T of CLOCK_MONOTONIC on (the same on the whole machine); "late" counts
                   those that took longer than slo_ms, and those that were due and not begun in time;
                   the same seed gives the same arrivals

The process ends when the GPU fails, since a broken CUDA context cannot be repaired: whoever started it
starts it again.
"""
import argparse
import array
import hashlib
import importlib.util
import json
import os
import random
import signal
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, urlsplit

sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))


BODY_MAX = 256 << 20
LOOP_MAX = 600 # seconds


def quantile(values, q):
    return values[min(len(values) - 1, int(q * len(values)))] if values else 0.0


class Service:
    """The model and what may be asked of it; one inference at a time."""

    def __init__(self, model):
        self.model, self.lock = model, threading.Lock()
        for _ in range(3):
            model.seconds()

    def infer(self, body):
        import torch
        inputs = ()
        if body:
            sample = self.model.inputs[0]
            kind = torch.float32 if sample.is_floating_point() else torch.int64
            given = torch.frombuffer(bytearray(body), dtype=kind)
            if given.numel() != sample.numel():
                raise ValueError(f"{given.numel()} numbers instead of {sample.numel()}: "
                                 f"{'x'.join(map(str, sample.shape))} of {kind}")
            if kind == torch.int64:
                self.check_words(body)
            inputs = (self.model.place(given.reshape(sample.shape)),)
        with self.lock:
            start = time.perf_counter()
            out = self.model(*inputs)
            first = out.reshape(-1)[:8].float().cpu().tolist() # waits for the GPU
            spent = time.perf_counter() - start
        return {"model": self.model.name, "batch": self.model.batch, "ms": round(spent * 1000, 3),
                "shape": list(out.shape), "first": first}

    def check_words(self, body):
        """A word that is none would be an assertion on the GPU, which ends the process."""
        words, known = array.array("q", body), self.model.module.vocabulary
        if min(words) < 0 or max(words) >= known:
            raise ValueError(f"{min(words)} to {max(words)} are no words: 0 to {known - 1}")

    def check(self):
        with self.lock:
            out = self.model().float().cpu()
        return {"digest": hashlib.sha256(out.numpy().tobytes()).hexdigest(), "shape": list(out.shape)}

    def loop(self, seconds, rate, start, slo_ms=0.0, seed=1):
        """Latencies count from when an inference was due."""
        if not 0 < seconds <= LOOP_MAX or rate < 0 or start - time.monotonic() > LOOP_MAX:
            raise ValueError(f"seconds is above 0 and at most {LOOP_MAX}, and so far ahead may the start be")
        dice = random.Random(int(seed))
        while start - time.monotonic() > 0:
            time.sleep(min(0.01, max(0.0, start - time.monotonic())))
        begin = time.monotonic()
        due, end, times, never = begin, begin + seconds, [], 0
        with self.lock:
            while True:
                now = time.monotonic()
                if rate:
                    due += dice.expovariate(rate)
                else:
                    due = now
                if due >= end:
                    break
                if now >= end + 2 * seconds: # hopelessly behind: what is due yet counts as never answered
                    never = 1 + int(rate * (end - due))
                    break
                if due > now:
                    time.sleep(due - now)
                self.model()
                self.model.wait()
                times.append(time.monotonic() - due)
        spent = max(time.monotonic() - begin, seconds)
        slow = max(times, default=0.0)
        times.sort()
        late = never + sum(1000 * t > slo_ms for t in times) if slo_ms else 0
        return {"count": len(times) + never, "seconds": spent, "rps": len(times) * self.model.batch / spent, "late": late,
                "p50_ms": 1000 * quantile(times, 0.5), "p95_ms": 1000 * quantile(times, 0.95),
                "p99_ms": 1000 * quantile(times, 0.99), "max_ms": 1000 * slow, "errors": 0}


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    service = None

    def answer(self, status, value):
        body = json.dumps(value).encode() + b"\n"
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        if self.close_connection:
            self.send_header("Connection", "close")
        self.end_headers()
        self.wfile.write(body)

    def run(self, work):
        try:
            self.answer(200, work())
        except ValueError as e:
            self.answer(400, {"error": str(e)})
        except RuntimeError as e:
            print(f"serve: {e}", file=sys.stderr, flush=True)
            self.answer(500, {"error": str(e).splitlines()[0]})
            self.wfile.flush()
            os._exit(1) # the context is broken: nothing can be computed in this process any more

    def do_GET(self):
        if self.path in ("/_/health", "/_/ready"):
            self.answer(200, {"ok": True})
        elif self.path == "/check":
            self.run(self.service.check)
        else:
            self.answer(404, {"error": "POST to / for one inference"})

    def refuse(self, status, text):
        """The body has not been read, so that the connection cannot be used any more."""
        self.close_connection = True
        self.answer(status, {"error": text})

    def loop(self, query):
        query = {k: float(v[0]) for k, v in parse_qs(query).items()}
        return self.service.loop(query.get("seconds", 1.0), query.get("rate", 0.0), query.get("start", 0.0),
                                 query.get("slo_ms", 0.0), query.get("seed", 1))

    def do_POST(self):
        url, length = urlsplit(self.path), self.headers.get("Content-Length") or "0"
        if self.headers.get("Transfer-Encoding"):
            return self.refuse(411, "a body needs a Content-Length")
        if not length.isascii() or not length.isdigit():
            return self.refuse(400, "Content-Length is a number of bytes")
        if int(length) > BODY_MAX:
            return self.refuse(413, f"a body has at most {BODY_MAX} bytes")
        body = self.rfile.read(int(length))
        if url.path == "/loop":
            self.run(lambda: self.loop(url.query))
        elif url.path == "/":
            self.run(lambda: self.service.infer(body))
        else:
            self.answer(404, {"error": "POST to / for one inference"})
        return None

    def log_message(self, format, *args): # pylint: disable=redefined-builtin
        pass


class Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 128


def parse(argv):
    env = os.environ
    p = argparse.ArgumentParser(description="One PyTorch model over HTTP.")
    p.add_argument("--model", default=env.get("MODEL", "resnet50"))
    p.add_argument("--batch", type=int, default=int(env.get("BATCH", "1")))
    p.add_argument("--precision", default=env.get("PRECISION", "fp16"), choices=["fp16", "bf16", "fp32"])
    p.add_argument("--graphs", action="store_true", default=env.get("GRAPHS") == "1")
    can_share = bool(env.get("FAST_STORE_SOCKET")) and importlib.util.find_spec("fastshare") is not None
    p.add_argument("--share", action="store_true", default=env.get("SHARE") == "1" or can_share)
    p.add_argument("--port", type=int, default=int(env.get("PORT") or env.get("port") or 8080))
    p.add_argument("--sizes", default=env.get("SIZES", "{}"), help="JSON: other sizes for a small trial")
    return p.parse_args(argv)


def load(options):
    import models
    sizes = json.loads(options.sizes)
    if options.model not in models.MODELS:
        sys.exit(f"serve: no model {options.model}; there are {', '.join(models.MODELS)}")
    if not options.share:
        return models.Model(options.model, options.batch, options.precision, options.graphs, **sizes)
    import fastshare
    model = models.Model(options.model, options.batch, options.precision, False, **sizes)
    model.shared = fastshare.load(model.module, f"{options.model}-{model.dtype}") # as long as the model lives
    if options.graphs: # recorded after the weights have moved
        model.capture()
    return model


def main():
    options = parse(sys.argv[1:])
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    model = load(options)
    Handler.service = Service(model)
    server = Server(("127.0.0.1", options.port), Handler)
    print(f"{options.model}, batch {options.batch}, {model.dtype}, on {model.device}, "
          f"graphs {'on' if model.graph else 'off'}, port {options.port}", flush=True)
    server.serve_forever()


if __name__ == "__main__":
    main()
