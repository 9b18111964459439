"""Programs that run beside a measurement: they end with the kit, also when it is killed."""
import contextlib
import ctypes
import json
import os
import signal
import subprocess
import tempfile
import time

LIBC = ctypes.CDLL(None, use_errno=True)
PR_SET_PDEATHSIG = 1


def spawn(argv, **options):
    """A process that is told to end (SIGTERM) when the thread that started it ends: the main one."""
    parent = os.getpid()

    def bind():
        LIBC.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            os._exit(1)
    return subprocess.Popen(argv, preexec_fn=bind, **options) # pylint: disable=subprocess-popen-preexec-fn


def end(process, seconds):
    """Asks it to end, and makes it after |seconds|."""
    if process.poll() is None:
        process.terminate()
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            process.kill()
            with contextlib.suppress(subprocess.TimeoutExpired): # one that hangs in the driver ends when that answers
                process.wait(10)


def lines_of_json(text):
    rows = []
    for line in text.splitlines():
        try:
            row = json.loads(line)
        except ValueError:
            row = None
        rows.append(row if isinstance(row, dict) else {"name": "output", "value": line[:200], "unit": ""})
    return rows


def alone(kit):
    """The environment of a program that is no client of MPS, also where the machine has a daemon of its own; what
    hangs is found by it when the kit ends."""
    return dict(kit.env, CUDA_MPS_PIPE_DIRECTORY=os.path.join(kit.temp, "no-mps"))


def probe(kit, *what, env=None, timeout=60):
    """Runs gpu-probe; returns {name: value}, with "exit" for its status. A name that comes more than
    once is a list."""
    argv = [kit.program("gpu-probe"), "--module", kit.probe_image, *map(str, what)]
    env, out = dict(alone(kit), **(env or {})), {}
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False,
                           env=env)
        out["exit"], text = r.returncode, r.stdout
    except subprocess.TimeoutExpired as e:
        text = e.stdout or "" # bytes, whatever was asked for, in some versions of Python
        out["exit"], text = "timeout", text.decode(errors="replace") if isinstance(text, bytes) else text
    for row in lines_of_json(text):
        name, value = row.get("name"), row.get("value")
        if name in out:
            out[name] = (out[name] if isinstance(out[name], list) else [out[name]]) + [value]
        else:
            out[name] = value
    return out


@contextlib.contextmanager
def mps(kit):
    """An MPS control daemon of our own in the default compute mode. Gives (the environment of its
    clients, None), or (None, why there is none)."""
    if not kit.mps_control:
        yield None, "nvidia-cuda-mps-control is not on this machine"
        return
    folder = tempfile.mkdtemp(prefix="mps-", dir=kit.temp)
    env = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    output = os.path.join(folder, "output")
    try:
        with open(output, "w", encoding="utf-8") as out:
            daemon = spawn([kit.mps_control, "-f"], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                           env=dict(kit.env, **env))
    except OSError as e:
        yield None, f"{kit.mps_control}: {e}"
        return
    try:
        limit = time.monotonic() + 10
        answers = False
        while not answers and daemon.poll() is None and time.monotonic() < limit:
            answers = mps_says(kit, env, "get_server_list")
            time.sleep(0.1)
        why = mps_refusal(kit, env) if answers else f"the control daemon does not answer: {tail(output)}"
        yield (None, why) if why else (env, None)
    finally:
        mps_says(kit, env, "quit -t 3")
        try:
            daemon.wait(8)
        except subprocess.TimeoutExpired:
            end(daemon, 3)


def mps_refusal(kit, env):
    """Why a client cannot have a context although the daemon answers, None when it can. The server is
    started by the first client, so that what is wrong with it shows only now."""
    r = probe(kit, "device", env=env, timeout=40)
    if r.get("device.name"):
        return None
    log = tail(os.path.join(env["CUDA_MPS_LOG_DIRECTORY"], "server.log"))
    return f"a client gets no context: {r.get('driver.init')}, {r.get('driver.context')}; the server says: {log}"


def tail(path):
    try:
        with open(path, encoding="utf-8", errors="replace") as f:
            return " / ".join(f.read().strip().splitlines()[-3:])[-400:] or "nothing"
    except OSError:
        return "nothing"


def mps_says(kit, env, command):
    """True when the daemon answers."""
    try:
        r = subprocess.run([kit.mps_control], input=command + "\n", capture_output=True, text=True,
                           timeout=15, check=False, env=dict(kit.env, **env))
    except (OSError, subprocess.TimeoutExpired):
        return False
    return r.returncode == 0


class Watch:
    """gpu-watch beside what is measured: `with Watch(kit) as w: ...; w.mean("sm_util")`."""

    def __init__(self, kit, period_ms=200):
        self.rows, self.head = [], {}
        self.process = spawn([kit.program("gpu-watch"), str(period_ms)], stdin=subprocess.PIPE,
                             stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=kit.env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        try:
            out, _ = self.process.communicate("", timeout=10)
        except subprocess.TimeoutExpired:
            self.process.kill()
            out, _ = self.process.communicate()
        rows = lines_of_json(out)
        self.head, self.rows = (rows[0], rows[1:]) if rows else ({}, [])

    def mean(self, key):
        """Without the first and the last sample, in which the work begins and ends."""
        rows = self.rows[1:-1] if len(self.rows) > 4 else self.rows
        values = [r[key] for r in rows if key in r]
        return sum(values) / len(values) if values else None

    def peak(self, key):
        return max((r[key] for r in self.rows if key in r), default=None)

    def summary(self):
        names = ("util", "graphics_util", "sm_util", "sm_occupancy", "tensor", "dram", "memory_mib")
        out = {n: self.mean(n) for n in names if self.mean(n) is not None}
        if self.head.get("gpm") not in (None, "yes"):
            out["no_gpm"] = self.head["gpm"]
        return out
