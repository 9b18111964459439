"""Where the programs are, on this machine; building them here when there is a compiler."""
import os
import re
import shutil
import signal
import subprocess
import tempfile

from gpukit import find

HERE = os.path.dirname(os.path.abspath(__file__))
ROOT = os.path.abspath(os.path.join(HERE, "..", "..", ".."))
TEMP = "gpukit-"
LOADER = "ld-linux-x86-64.so.2"


def text_of(*argv, timeout=30, env=None):
    """What a program prints, or None when it is not there or fails."""
    try:
        r = subprocess.run(argv, capture_output=True, text=True, timeout=timeout, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return r.stdout.strip() if r.returncode == 0 else None


def end_users(folder):
    """Kills the processes whose environment names |folder|: their sockets or pipes lie there."""
    for pid in filter(str.isdigit, os.listdir("/proc")):
        try:
            with open(f"/proc/{pid}/environ", "rb") as f:
                if folder.encode() in f.read():
                    os.kill(int(pid), signal.SIGKILL)
        except OSError: # gone, or somebody else's
            pass


def temporary(dirs=("/tmp", "/dev/shm", "/run", "/var/tmp")):
    """A folder with a short name, since sockets lie in it. What a run that was killed has left is removed,
    processes too: most end by themselves when it is killed, but an MPS daemon asks nobody."""
    for folder in dirs:
        try:
            for name in os.listdir(folder):
                pid = re.fullmatch(TEMP + r"(\d+)-\w+", name)
                if pid and not os.path.exists(f"/proc/{pid[1]}"):
                    end_users(os.path.join(folder, name))
                    shutil.rmtree(os.path.join(folder, name), ignore_errors=True)
            return tempfile.mkdtemp(prefix=f"{TEMP}{os.getpid()}-", dir=folder)
        except OSError:
            continue
    raise SystemExit(f"run: no folder can be made in {', '.join(dirs)}")


class Kit:
    """Programs in a folder laid out as a build folder is: build/ itself, what was built here, or what
    `make gpu-kit` built beforehand."""

    def __init__(self, build, sim=None, python="python3", notes=None):
        self.build, self.sim, self.python = os.path.abspath(build), sim, python
        self.notes = notes if notes is not None else []
        self.temp, self.env = temporary(), dict(os.environ)
        self.without_mps = None # what fast-node said when it went on without MPS
        self.open = [] # worlds; what a stage that was broken off has not closed ends with the kit
        self.env["PATH"] = os.pathsep.join([self.env.get("PATH", ""), *find.PROGRAM_DIRS])
        self.torch, self.no_driver = None, None
        self.put_first("PYTHONPATH", os.path.join(ROOT, "python")) # the package fastshare
        if sim:
            self.env.update(FAST_SIM=sim, FAST_SIM_DIR=os.path.join(self.temp, "sim"),
                            LD_LIBRARY_PATH=self.path("src/simdriver"))
            self.mps_control, self.mps_server = self.path("src/simdriver/nvidia-cuda-mps-control"), None
        else:
            # libjansson, which the store of models needs and the machine may lack
            self.put_first("LD_LIBRARY_PATH", os.path.join(os.path.dirname(os.path.realpath(self.store_lib)), "..", "..", "plain"))
            self.find_driver()
            self.torch = text_of(python, "-c", "import torch; assert torch.cuda.is_available(); print(torch.__version__)",
                                 timeout=180, env=self.env)

    def put_first(self, name, folder):
        """In a list of folders, when it is there."""
        if os.path.isdir(folder):
            self.env[name] = os.pathsep.join(filter(None, [os.path.realpath(folder), self.env.get(name)]))

    def find_driver(self):
        folder, self.no_driver = find.driver_dir(self.env)
        if folder:
            self.put_first("LD_LIBRARY_PATH", folder)
            self.notes.append(f"libcuda.so.1 is in {folder}, where the loader does not look")
        self.mps_control, self.mps_server = find.mps(self.env["PATH"], self.temp)
        if self.mps_control and self.mps_server:
            self.env["PATH"] = os.pathsep.join([os.path.dirname(self.mps_server), self.env["PATH"]])
        else:
            lacks = [n for n, p in zip(find.MPS, (self.mps_control, self.mps_server)) if not p]
            self.notes.append(f"no {' and no '.join(lacks)} in PATH, {', '.join(find.PROGRAM_DIRS)}, nor below "
                              f"{', '.join(find.WALKED)}")

    @property
    def replay(self):
        """True where functions/replay stands in for PyTorch."""
        return not self.torch

    def path(self, name):
        return os.path.join(self.build, name)

    def program(self, name):
        """gpu-probe, gpu-watch, gpu-load or gpu-spin."""
        return self.path(os.path.join("bench", "gpu", name))

    @property
    def node(self):
        return self.path("src/node/fast-node")

    @property
    def hook(self):
        return self.path("src/hook/libfast-hook.so")

    @property
    def store_lib(self):
        return self.path("src/storelib/libfast-store.so.0")

    def without_sharing(self):
        """Why PyTorch's replicas cannot share weights here; None when they can."""
        if self.replay:
            return "replay shares none here"
        if not os.path.exists(self.path("src/store/fast-store")):
            return "fast-store is not built"
        r = subprocess.run([self.python, "-c", "import fastshare._lib; fastshare._lib.library()"], capture_output=True,
                           text=True, timeout=60, check=False, env=dict(self.env, FAST_STORE_LIB=self.store_lib))
        return (r.stderr.strip().splitlines() or ["it fails"])[-1] if r.returncode else None

    @property
    def gateway(self):
        """The command line of fast-gateway; one built beforehand brings its loader and libraries."""
        file = os.path.realpath(self.path("src/gateway/fast-gateway"))
        lib = os.path.join(os.path.dirname(file), "..", "..", "lib")
        loader = os.path.join(lib, LOADER)
        return [loader, "--library-path", lib, file] if os.path.exists(loader) else [file]

    @property
    def spin_image(self):
        return self.path("functions/spin.sim.so" if self.sim else "functions/spin.fatbin")

    @property
    def probe_image(self):
        return self.spin_image if self.sim else self.path("bench/gpu/probe.fatbin")

    def take_images(self, prebuilt):
        """Puts the images that were built beforehand in place of the ones here; False where there are none."""
        if not prebuilt or os.path.realpath(prebuilt) == os.path.realpath(self.build):
            return False
        pairs = [(os.path.join(prebuilt, name), self.path(name)) for name in IMAGES]
        if not all(os.path.exists(source) for source, _ in pairs):
            return False
        for source, target in pairs:
            if os.path.lexists(target):
                os.unlink(target)
            os.symlink(source, target)
        return True

    def missing(self):
        """Programs that are needed and not there, or do not run."""
        names = [self.node, self.hook, self.path("functions/replay"), self.spin_image, self.probe_image,
                 *(self.program(n) for n in ("gpu-probe", "gpu-watch", "gpu-load", "gpu-spin"))]
        out = [n for n in names if not os.path.exists(n)]
        for argv in ([self.node, "--version"], [self.program("gpu-probe"), "--help"]):
            if argv[0] in out:
                continue
            try:
                r = subprocess.run(argv, capture_output=True, text=True, timeout=30, check=False, env=self.env)
                why = r.stderr.strip()[-300:] if r.returncode else None
            except (OSError, subprocess.TimeoutExpired) as e: # of another kind of machine, say
                why = str(e)
            if why is not None:
                out.append(f"{argv[0]} does not run: {why}")
        return out

    def describe(self):
        """Of the machine, for the head of the results."""
        query = "name,driver_version,memory.total,compute_mode,mig.mode.current,persistence_mode"
        smi = None if self.sim else text_of("nvidia-smi", f"--query-gpu={query}", "--format=csv,noheader", env=self.env)
        others = None if self.sim else text_of("nvidia-smi", "--query-compute-apps=pid,used_memory",
                                               "--format=csv,noheader", env=self.env)
        return {"simulated": bool(self.sim), "sim": self.sim, "build": self.build, "nvidia_smi": smi,
                "others_on_the_gpu": others, "torch": self.torch, "kernel": os.uname().release,
                "cpus": os.cpu_count(), "root": os.geteuid() == 0,
                "libc": (text_of("ldd", "--version") or "").split("\n")[0],
                "nvcc": (text_of("nvcc", "--version") or "").split("\n")[-1] or None,
                "gcc": (text_of("gcc", "--version") or "").split("\n")[0] or None,
                "mps_control": self.mps_control, "mps_server": self.mps_server, "commit": commit()}

    def close(self):
        for world in list(self.open):
            world.close()
        end_users(self.temp) # a probe that hangs in the driver
        shutil.rmtree(self.temp, ignore_errors=True)


def commit():
    """Of the kit, else of the checkout."""
    try:
        with open(os.path.join(ROOT, "COMMIT"), encoding="utf-8") as f:
            return f.read().strip()
    except OSError:
        return text_of("git", "-C", ROOT, "describe", "--always", "--dirty")


IMAGES = ("functions/spin.fatbin", "functions/digits.fatbin", "bench/gpu/probe.fatbin")
PARTS = ("src/node/fast-node", "src/hook/libfast-hook.so", "src/gateway/fast-gateway", "functions/replay",
         "functions/digits", "src/store/fast-store", "src/storelib/libfast-store.so.0", *IMAGES,
         "bench/gpu/gpu-probe", "bench/gpu/gpu-watch", "bench/gpu/gpu-load", "bench/gpu/gpu-spin",
         "bench/bench_overrun", "bench/overrun_child")


def build_here(prebuilt, notes):
    """Builds with this machine's compilers into build-gpu/; what cannot be built here is taken from
    |prebuilt|. Returns the folder, or None with the reason in |notes|. Another compiler has other
    warnings: they are no errors here."""
    build = os.path.join(ROOT, "build-gpu")
    steps = [["meson", "setup", build, "-Dtests=disabled", "-Dwerror=false"], ["ninja", "-k0", "-C", build]]
    if os.path.exists(os.path.join(build, "build.ninja")):
        del steps[0]
    for step in steps:
        try:
            r = subprocess.run(step, cwd=ROOT, capture_output=True, text=True, timeout=240, check=False)
        except (OSError, subprocess.TimeoutExpired) as e:
            notes.append(f"{step[0]}: {e}")
            return None
        if r.returncode:
            notes.append(f"{' '.join(step)}: {(r.stdout + r.stderr)[-1500:]}")
            if step[0] == "meson":
                return None
    taken = []
    for name in PARTS:
        target = os.path.join(build, name)
        made = os.path.exists(target) and not os.path.islink(target)
        if made or not prebuilt or not os.path.exists(os.path.join(prebuilt, name)):
            continue
        os.makedirs(os.path.dirname(target), exist_ok=True)
        if os.path.lexists(target):
            os.unlink(target)
        os.symlink(os.path.join(prebuilt, name), target)
        taken.append(os.path.basename(name))
    if taken:
        notes.append("not built here but beforehand: " + ", ".join(taken))
    link = os.path.join(build, "models") # replay looks for them beside its folder
    if not os.path.lexists(link):
        os.symlink(os.path.join(ROOT, "models"), link)
    return build
