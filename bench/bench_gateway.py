#!/usr/bin/env python3
"""What the gateway costs a request, against nginx on the same machine in the same round.

The gateway (or nginx) alone has the first core, the client and the function share the second one. CPU
per request is what the kernel charged the proxy during a round over the requests answered in it; the
ratios are nginx's over ours, median of the rounds, in which the proxies take turns. Limits, metrics, the
queue and SLO accounting are on, as for every function; connections are kept alive on both sides.

BENCH_ROUNDS (5), BENCH_SECONDS (2 for each measurement), OPENFAAS_GATEWAY: path of that program, for
gateway.cpu_ratio_openfaas. It listens on port 8080 of every address: a network namespace (unshare -n, then
ip link set lo up) keeps that to oneself."""
import http.server
import json
import os
import shutil
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import threading
import time

SOURCE, BUILD = "@SOURCE@", "@BUILD@"
os.environ.setdefault("FAST_BUILD", BUILD)
sys.path.insert(0, os.path.join(SOURCE, "tests", "e2e"))
import gateway  # noqa: E402
import node  # noqa: E402

SECONDS = float(os.environ.get("BENCH_SECONDS", "2"))
ROUNDS = int(os.environ.get("BENCH_ROUNDS", "5"))
CONNS = 32
TOOLS = os.path.join(BUILD, "bench", "gateway")
OPENFAAS = os.environ.get("OPENFAAS_GATEWAY", "")

FIGURES = {
    "gateway.cpu_us_tcp": ("us", None), "gateway.cpu_us_unix": ("us", None),
    "gateway.cpu_us_nginx": ("us", None), "gateway.cpu_ratio_tcp": ("times", ">= 1"),
    "gateway.cpu_ratio_unix": ("times", ">= 1.3"), "gateway.cpu_ratio_openfaas": ("times", ">= 4"),
    "gateway.cpu_us_600k": ("us", "<= 300"), "gateway.added_p50_us": ("us", "<= 40"),
    "gateway.added_p50_us_busy_poll": ("us", "<= 40"), "gateway.added_p50_us_nginx": ("us", None),
    "gateway.added_p50_us_relay": ("us", None),
    "gateway.open_p50_us": ("us", None), "gateway.open_p99_us": ("us", None),
    "gateway.open_p50_us_nginx": ("us", None), "gateway.open_p99_us_nginx": ("us", None),
    "gateway.body_10mb_mb": ("MB", None), "gateway.body_1gb_mb": ("MB", None),
    "gateway.body_1gb_grows_mb": ("MB", "<= 2"), "gateway.idle_mb_10000": ("MB", "<= 100"), "gateway.cold_start_ms": ("ms", "<= 150"),
    "node.restart_ms": ("ms", "<= 1000"),
}
CPU = {"gateway.cpu_us_tcp", "gateway.cpu_us_unix", "gateway.cpu_us_nginx", "gateway.cpu_ratio_tcp",
       "gateway.cpu_ratio_unix", "gateway.cpu_ratio_openfaas"}


def figure(name, values):
    unit, target = FIGURES[name]
    value = statistics.median(values)
    ok = None if target is None else \
        value <= float(target[2:]) if target[0] == "<" else value >= float(target[2:])
    print(json.dumps({"name": name, "value": float(f"{value:.4g}"), "unit": unit, "n": len(values),
                      "spread": float(f"{max(values) - min(values):.3g}"), "target": target,
                      "pass": ok}), flush=True)


def skip(name, why):
    unit, target = FIGURES[name]
    print(json.dumps({"name": name, "value": None, "unit": unit, "n": 0, "spread": 0, "target": target,
                      "pass": None, "skipped": why}), flush=True)


def cores():
    mine = sorted(os.sched_getaffinity(0))
    return mine[0], mine[-1]


def pin(pid, core):
    for task in os.listdir(f"/proc/{pid}/task"):
        os.sched_setaffinity(int(task), {core})


def cpu_s(pid):
    """CPU seconds of a process: in ns where the kernel has them, else in its ticks."""
    total = 0
    try:
        for task in os.listdir(f"/proc/{pid}/task"):
            with open(f"/proc/{pid}/task/{task}/schedstat", encoding="ascii") as f:
                total += int(f.read().split()[0])
    except OSError:
        total = 0
    if total:
        return total / 1e9
    with open(f"/proc/{pid}/stat", encoding="ascii") as f:
        fields = f.read().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def load(port, path, conns, body, seconds=SECONDS, rate=0.0):
    core = cores()[1]
    out = subprocess.run([os.path.join(TOOLS, "load"), str(port), path, str(conns), str(seconds),
                          str(body), str(rate)], capture_output=True, text=True, check=True,
                         preexec_fn=lambda: os.sched_setaffinity(0, {core}))
    row = json.loads(out.stdout)
    if row["other"] or row["cut"] or not row["ok"]:
        raise SystemExit(f"bench: {path} of port {port}: not every request was answered well: {row}")
    return row


class Proxy:
    """A proxy to measure: its process, and where it takes requests."""

    def __init__(self, name, pid, port, path):
        self.name, self.pid, self.port, self.path = name, pid, port, path
        pin(pid, cores()[0])

    def cpu_us(self, body, conns=CONNS, answer=2):
        before = cpu_s(self.pid)
        row = load(self.port, f"{self.path}/n/{answer}", conns, body)
        return (cpu_s(self.pid) - before) * 1e6 / row["ok"]


class World:
    """fast-node, fast-gateway and a function that listens on TCP and one that has a Unix socket."""

    def __init__(self, args=()):
        self.closers = []
        self.node = node.Node(gpus=1)
        self.closers.append(self.node.close)
        self.gw = gateway.Gateway(self.node, args)
        self.closers.append(self.gw.close)
        self.echo = os.path.join(TOOLS, "echo")
        self.gw.up("tcp", image=self.echo, annotations={"fastgshare/slo": "50ms"})
        self.gw.up("unix", image=self.echo, annotations={"fastgshare/slo": "50ms",
                                                         "fastgshare/socket": "unix"})
        for name in ("tcp", "unix"):
            pin(self.gw.replicas(name)[0]["pid"], cores()[1])

    def proxy(self, name):
        return Proxy(name, self.gw.process.pid, self.gw.port, f"/function/{name}")

    def upstream(self):
        return self.gw.replicas("tcp")[0]["port"]

    def nginx(self):
        program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin:/usr/local/sbin")
        if not program:
            return None
        folder = tempfile.mkdtemp(prefix="fast-nginx-")
        self.closers.append(lambda: shutil.rmtree(folder, ignore_errors=True))
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            port = s.getsockname()[1]
        with open(os.path.join(folder, "nginx.conf"), "w", encoding="ascii") as f:
            f.write(f"""daemon off; master_process off; worker_processes 1; pid {folder}/pid;
error_log {folder}/error.log; events {{ worker_connections 4096; }}
http {{ access_log off; keepalive_requests 100000000; client_max_body_size 0;
client_body_temp_path {folder}/b; proxy_temp_path {folder}/p; fastcgi_temp_path {folder}/f;
uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
upstream up {{ server 127.0.0.1:{self.upstream()}; keepalive 512; keepalive_requests 100000000; }}
server {{ listen 127.0.0.1:{port}; location /function/tcp/ {{ proxy_pass http://up/;
proxy_http_version 1.1; proxy_set_header Connection ""; proxy_request_buffering off; }} }} }}
""")
        process = subprocess.Popen([program, "-p", folder, "-c", f"{folder}/nginx.conf", "-e",
                                    f"{folder}/error.log"], stdin=subprocess.DEVNULL)
        self.closers.append(lambda: (process.terminate(), process.wait()))
        wait_port(port)
        return Proxy("nginx", process.pid, port, "/function/tcp")

    def relay(self):
        process = subprocess.Popen([os.path.join(TOOLS, "relay"), str(self.upstream())], stdin=subprocess.DEVNULL,
                                   stdout=subprocess.PIPE, text=True)
        self.closers.append(lambda: (process.kill(), process.wait(), process.stdout.close()))
        return Proxy("relay", process.pid, int(process.stdout.readline()), "")

    def openfaas(self):
        """The gateway of OpenFaaS before a stand-in for its provider, which this program is."""
        if not OPENFAAS:
            return None
        upstream = self.upstream()
        provider = http.server.ThreadingHTTPServer(("127.0.0.1", 0), provider_handler())
        threading.Thread(target=provider.serve_forever, daemon=True).start()
        self.closers.append(provider.shutdown)
        env = dict(os.environ, functions_provider_url=f"http://127.0.0.1:{upstream}/", GOMAXPROCS="1",
                   read_timeout="60s", write_timeout="60s", upstream_timeout="60s", scale_from_zero="false",
                   faas_prometheus_host="127.0.0.1", faas_prometheus_port=str(provider.server_port))
        process = subprocess.Popen([OPENFAAS], env=env, stdin=subprocess.DEVNULL,
                                   stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        self.closers.append(lambda: (process.kill(), process.wait()))
        wait_port(8080)
        return Proxy("openfaas", process.pid, 8080, "/function/tcp")

    def close(self):
        for close in reversed(self.closers):
            close()


def provider_handler():
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.end_headers()
            self.wfile.write(b"[]")

        def log_message(self, *_):
            pass
    return Handler


def wait_port(port):
    def open_now():
        with socket.socket() as s:
            return s.connect_ex(("127.0.0.1", port)) == 0
    node.wait_until(open_now, f"nobody listens on port {port}")


def rounds(proxies, measure):
    """Every proxy once a round, in an order that turns; a first round warms up and is dropped."""
    got = {p.name: [] for p in proxies}
    for i in range(ROUNDS + 1):
        turned = proxies[i % len(proxies):] + proxies[:i % len(proxies)]
        for p in turned:
            value = measure(p)
            if i:
                got[p.name].append(value)
    return got


def cpu(world, wanted):
    ours = [world.proxy("tcp"), world.proxy("unix")]
    nginx, openfaas = world.nginx(), world.openfaas()
    got = rounds(ours + [p for p in (nginx, openfaas) if p], lambda p: p.cpu_us(1024))
    for name in sorted(wanted & CPU):
        what, other = name.rsplit("_", 1)
        if other in ("nginx", "tcp", "unix") and not nginx and (other == "nginx" or "ratio" in name):
            skip(name, "there is no nginx here")
        elif other == "openfaas" and not openfaas:
            skip(name, "OPENFAAS_GATEWAY names no program")
        elif other == "openfaas":
            figure(name, [a / b for a, b in zip(got["openfaas"], got["tcp"])])
        elif "ratio" in what:
            figure(name, [a / b for a, b in zip(got["nginx"], got[other])])
        else:
            figure(name, got[other])


def added_p50(world, wanted):
    """One connection: what the proxy adds to asking the function itself, and what bytes handed on unread add."""
    proxies = [world.proxy("tcp"), world.relay()]
    nginx = world.nginx()
    proxies += [nginx] if nginx else []
    if "gateway.added_p50_us_busy_poll" in wanted:
        awake = World(("--busy-poll", "50us"))
        world.closers.append(awake.close)
        proxies.append(awake.proxy("tcp"))
        proxies[-1].name = "busy_poll"
    direct = Proxy.__new__(Proxy)
    direct.name, direct.port, direct.path = "direct", world.upstream(), ""
    got = rounds(proxies + [direct], lambda p: load(p.port, f"{p.path}/n/2", 1, 0)["p50_us"])
    for name, key in (("gateway.added_p50_us", "tcp"), ("gateway.added_p50_us_busy_poll", "busy_poll"),
                      ("gateway.added_p50_us_nginx", "nginx"),
                      ("gateway.added_p50_us_relay", "relay")):
        if name not in wanted:
            continue
        if key in got:
            figure(name, [a - b for a, b in zip(got[key], got["direct"])])
        else:
            skip(name, "there is no nginx here")


def open_loop(world, wanted):
    """Poisson arrivals at half of what the gateway answers at most, latency from the moment due."""
    proxies, nginx = [world.proxy("tcp")], world.nginx()
    proxies += [nginx] if nginx else []
    most = load(proxies[0].port, "/function/tcp/n/2", CONNS, 1024)
    rate = most["ok"] / most["seconds"] / 2
    got = rounds(proxies, lambda p: load(p.port, f"{p.path}/n/2", 64, 1024, rate=rate))
    for name in sorted(wanted):
        key = "nginx" if name.endswith("nginx") else "tcp"
        if not name.startswith("gateway.open_"):
            continue
        if key in got:
            figure(name, [row["p50_us" if "p50" in name else "p99_us"] for row in got[key]])
        else:
            skip(name, "there is no nginx here")


def status_mb(pid, what):
    with open(f"/proc/{pid}/status", encoding="ascii") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith(what + ":"))


def memory_mb(pid):
    """Only root may look into the gateway; for others it is what is resident, shared libraries in full."""
    if os.geteuid():
        return status_mb(pid, "VmRSS")
    with open(f"/proc/{pid}/smaps_rollup", encoding="ascii") as f:
        return next(int(line.split()[1]) / 1024 for line in f if line.startswith("Pss:"))


def idle_memory():
    """10,000 connections that have asked once and stay: what the gateway grows by, in all."""
    world = World(("--connections", "20000"))
    clients = []
    try:
        # The descriptors of the clients are in children, 2,500 each.
        code = ("import socket,sys,time\nl=[]\n"
                "for i in range(2500):\n"
                " s=socket.create_connection(('127.0.0.1',%d)); l.append(s)\n"
                " s.sendall(b'GET /function/tcp/n/1000 HTTP/1.1\\r\\nHost: a\\r\\n\\r\\n')\n"
                " got=b''\n"
                " while not got.endswith(b'x'*1000): got+=s.recv(65536)\n"
                "print('up',flush=True)\nsys.stdin.read()\n" % world.gw.port)
        for _ in range(4):
            clients.append(subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE,
                                            stdout=subprocess.PIPE, text=True))
        for c in clients:
            if c.stdout.readline() != "up\n":
                raise SystemExit("bench: a client of the idle connections failed")
        time.sleep(0.5)
        figure("gateway.idle_mb_10000", [memory_mb(world.gw.process.pid)])
    finally:
        for c in clients:
            c.kill()
            c.wait()
        world.close()


def pass_body(world, size):
    """A body of that size up to a function and another one down: the gateway's peak of resident memory."""
    gw = world.gw
    if os.geteuid() == 0:  # others may not say that the peak counts from here: theirs is that since the start
        with open(f"/proc/{gw.process.pid}/clear_refs", "w", encoding="ascii") as f:
            f.write("5")
    block, c = b"b" * (1 << 20), gw.connect(timeout=300)
    c.putrequest("PUT", "/function/body/hash")
    c.putheader("Content-Length", str(size))
    c.endheaders()
    for _ in range(size >> 20):
        c.send(block)
    if c.getresponse().read() == b"":
        raise SystemExit("bench: the large body was not answered")
    c.request("GET", f"/function/body/bytes/{size}")
    answer, got = c.getresponse(), 0
    while part := answer.read(1 << 20):
        got += len(part)
    c.close()
    if got != size:
        raise SystemExit(f"bench: {got} of {size} bytes came back")
    return status_mb(gw.process.pid, "VmHWM")


def bodies(world, wanted):
    world.gw.up("body")  # the function of the tests, which streams
    pass_body(world, 10 << 20)
    small, large = pass_body(world, 10 << 20), pass_body(world, 1 << 30)
    for name, value in (("gateway.body_10mb_mb", small), ("gateway.body_1gb_mb", large),
                        ("gateway.body_1gb_grows_mb", large - small)):
        if name in wanted:
            figure(name, [value])


def own_start(world):
    """Seconds that the function takes to accept its first connection when it is started by hand."""
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    begin = time.monotonic()
    process = subprocess.Popen([world.echo], env={"PORT": str(port)})
    wait_port(port)
    took = time.monotonic() - begin
    process.kill()
    process.wait()
    return took


def restart(world):
    """The only replica is killed: until the next answer with 200, less its own start."""
    gw, times, base = world.gw, [], statistics.median([own_start(world) for _ in range(5)])
    for _ in range(max(ROUNDS, 5)):
        node.wait_until(lambda: gw.get("/function/tcp").status == 200)
        time.sleep(11)  # ten seconds of health forgive the death before: no back-off
        victim = gw.replicas("tcp")[0]["pid"]
        os.kill(victim, signal.SIGKILL)
        begin = time.monotonic()
        while gw.get("/function/tcp").status != 200:
            pass
        times.append(time.monotonic() - begin)
    figure("node.restart_ms", [(t - base) * 1e3 for t in times])


def cold_start(world):
    """From zero: a request that has to wait for the start, less what the function takes by itself to
    accept its first connection when it is started by hand."""
    gw, times, alone = world.gw, [], []
    for _ in range(max(ROUNDS, 5)):
        gw.post("/system/scale-function/tcp", {"replicas": 0})
        node.wait_until(lambda: not gw.replicas("tcp"))
        time.sleep(0.2)
        begin = time.monotonic()
        answer = gw.get("/function/tcp")
        times.append(time.monotonic() - begin)
        if answer.status != 200:
            raise SystemExit(f"bench: cold start: {answer.status} {answer.text}")
        alone.append(own_start(world))
    base = statistics.median(alone)
    figure("gateway.cold_start_ms", [(t - base) * 1e3 for t in times])


def main():
    if sys.argv[1:] == ["--list"]:
        print("\n".join(FIGURES))
        return
    wanted = set(sys.argv[1:]) or set(FIGURES)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))
    if "gateway.idle_mb_10000" in wanted:
        idle_memory()
    world = World()
    try:
        if wanted & CPU:
            cpu(world, wanted)
        if "gateway.cpu_us_600k" in wanted:
            big = world.proxy("unix")
            figure("gateway.cpu_us_600k", rounds([big], lambda p: p.cpu_us(600 * 1024))["unix"])
        if {n for n in wanted if "added" in n}:
            added_p50(world, wanted)
        if {n for n in wanted if ".open_" in n}:
            open_loop(world, wanted)
        if any(".body_" in n for n in wanted):
            bodies(world, wanted)
        if "gateway.cold_start_ms" in wanted:
            cold_start(world)
        if "node.restart_ms" in wanted:
            restart(world)
    finally:
        world.close()


if __name__ == "__main__":
    main()
