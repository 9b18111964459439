"""Where the programs are, on this machine; building them here when there is a compiler for the GPU."""
import contextlib
import json
import os
import shutil
import subprocess
import tempfile
import time

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
# Drivers that a container runtime mounts lie here, often outside of PATH.
DRIVER_DIRS = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/local/cuda/bin", "/opt/nvidia/bin")


def text_of(*argv, timeout=30, env=None):
    """What a program prints, or None when it is not there or fails."""
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return r.stdout.strip() if r.returncode == 0 else None


class Kit:
    """Programs in a folder laid out as a build folder is: build/ itself, what was built here, or what
    `make gpu-kit` built beforehand."""

    def __init__(self, build, sim=None, python="python3"):
        self.build, self.sim, self.python = os.path.abspath(build), sim, python
        self.env = dict(os.environ)
        self.env["PATH"] = os.pathsep.join([self.env.get("PATH", ""), *DRIVER_DIRS])
        self.temp = tempfile.mkdtemp(prefix="gpukit-", dir="/tmp")
        if sim:
            self.env.update(FAST_SIM=sim, FAST_SIM_DIR=os.path.join(self.temp, "sim"),
                            LD_LIBRARY_PATH=self.path("src/simdriver"))

    def path(self, name):
        return os.path.join(self.build, name)

    def program(self, name):
        """gpu-probe, gpu-watch, gpu-load or gpu-spin."""
        return self.path(os.path.join("bench", "gpu", name))

    @property
    def node(self):
        return self.path("src/node/fast-node")

    @property
    def gateway(self):
        return self.path("src/gateway/fast-gateway")

    @property
    def spin_image(self):
        return self.path("functions/spin.sim.so" if self.sim else "functions/spin.fatbin")

    @property
    def probe_image(self):
        return self.spin_image if self.sim else self.path("bench/gpu/probe.fatbin")

    @property
    def mps_control(self):
        if self.sim:
            return self.path("src/simdriver/nvidia-cuda-mps-control")
        return shutil.which("nvidia-cuda-mps-control", path=self.env["PATH"])

    def missing(self):
        """Programs that are needed and not there."""
        names = [self.node, self.path("src/hook/libfast-hook.so"), self.path("functions/replay"),
                 self.spin_image, self.probe_image,
                 *(self.program(n) for n in ("gpu-probe", "gpu-watch", "gpu-load", "gpu-spin"))]
        return [n for n in names if not os.path.exists(n)]

    def describe(self):
        """Of the machine, for the head of the results."""
        query = "name,driver_version,memory.total,compute_mode,mig.mode.current,persistence_mode"
        torch = text_of(self.python, "-c", "import torch; print(torch.__version__)", timeout=120)
        return {"simulated": bool(self.sim), "sim": self.sim, "build": self.build,
                "nvidia_smi": text_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader")
                if not self.sim else None,
                "torch": torch, "kernel": os.uname().release, "cpus": os.cpu_count(),
                "libc": (text_of("ldd", "--version") or "").split("\n")[0],
                "nvcc": (text_of("nvcc", "--version") or "").split("\n")[-1] or None,
                "mps_control": self.mps_control,
                "mps_server": None if self.sim else shutil.which("nvidia-cuda-mps-server",
                                                                 path=self.env["PATH"]),
                "commit": text_of("git", "-C", ROOT, "rev-parse", "--short", "HEAD")
                or read_or_none(os.path.join(ROOT, "COMMIT"))}

    def close(self):
        shutil.rmtree(self.temp, ignore_errors=True)


def read_or_none(path):
    try:
        with open(path, encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return None


def build_here(prebuilt, log):
    """Builds with this machine's compilers into build-gpu/; programs that need a library which is not
    here are taken from |prebuilt|. Returns the folder, or None with the reason in |log|."""
    build = os.path.join(ROOT, "build-gpu")
    steps = [["meson", "setup", build, "-Dtests=disabled", "-Dprograms=auto"]]
    if os.path.exists(os.path.join(build, "build.ninja")):
        steps = []
    steps.append(["ninja", "-C", build])
    for step in steps:
        try:
            r = subprocess.run(step, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        except (OSError, subprocess.TimeoutExpired) as e:
            log.append(f"{step[0]}: {e}")
            return None
        if r.returncode:
            log.append(f"{' '.join(step)}: {(r.stderr or r.stdout)[-2000:]}")
            return None
    for name in ("src/gateway/fast-gateway", "src/cli/fast"):
        target = os.path.join(build, name)
        if not os.path.exists(target) and prebuilt and os.path.exists(os.path.join(prebuilt, name)):
            os.makedirs(os.path.dirname(target), exist_ok=True)
            os.symlink(os.path.join(prebuilt, name), target)
    for name in ("models",): # replay looks for them beside its folder
        link = os.path.join(build, name)
        if not os.path.lexists(link):
            os.symlink(os.path.join(ROOT, name), link)
    return build


def lines_of_json(text):
    rows = []
    for line in text.splitlines():
        try:
            rows.append(json.loads(line))
        except ValueError:
            rows.append({"name": "output", "value": line[:200], "unit": ""})
    return rows


def probe(kit, *what, env=None, timeout=60):
    """Runs gpu-probe; returns {name: value}, with "exit" for its status. A name that comes more than
    once is a list."""
    argv = [kit.program("gpu-probe"), "--module", kit.probe_image, *map(str, what)]
    out = {}
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False,
                           env=dict(kit.env, **(env or {})))
        out["exit"], text = r.returncode, r.stdout
    except subprocess.TimeoutExpired as e:
        out["exit"], text = "timeout", (e.stdout or b"").decode(errors="replace")
    for row in lines_of_json(text):
        name, value = row.get("name"), row.get("value")
        if name in out:
            out[name] = (out[name] if isinstance(out[name], list) else [out[name]]) + [value]
        else:
            out[name] = value
    return out


@contextlib.contextmanager
def mps(kit):
    """An MPS control daemon of our own in the default compute mode; gives the environment of its
    clients, or None where there is no MPS."""
    folder = tempfile.mkdtemp(prefix="mps-", dir=kit.temp)
    env = {"CUDA_MPS_PIPE_DIRECTORY": folder, "CUDA_MPS_LOG_DIRECTORY": folder}
    if not kit.mps_control:
        yield None
        return
    with open(os.path.join(folder, "output"), "w", encoding="utf-8") as out:
        daemon = subprocess.Popen([kit.mps_control, "-f"], stdin=subprocess.DEVNULL, stdout=out, stderr=out,
                                  env=dict(kit.env, **env))
    try:
        end = time.monotonic() + 10
        while daemon.poll() is None and time.monotonic() < end and not mps_says(kit, env, "get_server_list"):
            time.sleep(0.1)
        yield env if daemon.poll() is None else None
    finally:
        mps_says(kit, env, "quit -t 3")
        try:
            daemon.wait(8)
        except subprocess.TimeoutExpired:
            daemon.kill()
            daemon.wait()


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
        self.process = subprocess.Popen([kit.program("gpu-watch"), str(period_ms)], stdin=subprocess.PIPE,
                                        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
                                        env=kit.env)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        if self.process.returncode is None:
            out, _ = self.process.communicate("", timeout=10)
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
        return {n: self.mean(n) for n in names if self.mean(n) is not None}
