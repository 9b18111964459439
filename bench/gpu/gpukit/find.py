"""Where NVIDIA's parts lie. Container runtimes mount a driver into folders that neither PATH nor the
loader knows, in part without the right to execute; so it is looked for."""
import glob
import os
import shutil
import subprocess
import sys
import time

MPS = ("nvidia-cuda-mps-control", "nvidia-cuda-mps-server")
LIBRARY_DIRS = ("/usr/local/nvidia/lib64", "/usr/local/nvidia/lib", "/usr/lib/x86_64-linux-gnu",
                "/usr/lib/x86_64-linux-gnu/nvidia/current", "/usr/lib64", "/usr/lib/wsl/lib", "/usr/lib",
                "/run/nvidia/driver/usr/lib/x86_64-linux-gnu", "/run/nvidia/driver/usr/lib64",
                "/usr/local/cuda/compat", "/opt/nvidia/lib64")
PROGRAM_DIRS = ("/usr/local/nvidia/bin", "/usr/bin", "/usr/sbin", "/usr/local/bin", "/usr/local/cuda/bin",
                "/opt/nvidia/bin", "/run/nvidia/driver/usr/bin")
PROGRAM_GLOBS = ("/usr/lib/nvidia*/bin", "/usr/lib/nvidia*", "/usr/lib/x86_64-linux-gnu/nvidia/*",
                 "/usr/local/cuda-*/bin", "/usr/local/nvidia*/*", "/opt/nvidia/*/bin", "/opt/nvidia*")
WALKED = ("/usr/local", "/opt", "/run/nvidia", "/usr/lib", "/usr/libexec", "/var/lib")
WALK_SECONDS = 8


def loads(env, library):
    """None when |library| can be loaded, else why not. In a process of its own: the kit has no driver."""
    code = f"import ctypes; ctypes.CDLL({library!r})"
    try:
        r = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=False, env=env)
    except (OSError, subprocess.TimeoutExpired) as e:
        return str(e)
    return None if r.returncode == 0 else (r.stderr.strip().splitlines() or ["it fails"])[-1]


def driver_dir(env, dirs=LIBRARY_DIRS):
    """(folder to put in front of LD_LIBRARY_PATH, None where the loader finds the driver by itself; why
    there is no driver at all, None where there is)."""
    why = loads(env, "libcuda.so.1")
    if why is None:
        return None, None
    for folder in dirs:
        path = os.path.join(folder, "libcuda.so.1")
        if os.path.exists(path) and loads(env, path) is None:
            return folder, None
    return None, why


def walk(name, roots, end):
    for root in roots:
        for at, folders, files in os.walk(root):
            if name in files:
                return os.path.join(at, name)
            if time.monotonic() > end:
                return None
            folders[:] = [f for f in folders if not f.startswith((".", "python", "site-packages", "share"))]
    return None


def program(name, path, dirs=PROGRAM_DIRS, globs=PROGRAM_GLOBS, roots=WALKED):
    """The file of |name| in |path|, in the known folders, or anywhere below |roots| within WALK_SECONDS."""
    found = shutil.which(name, path=path)
    if found:
        return found
    for folder in [*dirs, *(d for g in globs for d in sorted(glob.glob(g)))]:
        file = os.path.join(folder, name)
        if os.path.isfile(file):
            return file
    return walk(name, roots, time.monotonic() + WALK_SECONDS)


def mps(path, temp, search=program):
    """(control program, server program), each None where there is none. The control program starts the
    server by PATH, so both end up in one folder, copied there when they may not be executed in place."""
    control, server = (search(name, path) for name in MPS)
    if not control or not server:
        return control, server
    together = os.path.dirname(control) == os.path.dirname(server)
    if together and os.access(control, os.X_OK) and os.access(server, os.X_OK):
        return control, server
    folder = os.path.join(temp, "mps-bin")
    os.makedirs(folder, exist_ok=True)
    copies = []
    for file in (control, server):
        copies.append(os.path.join(folder, os.path.basename(file)))
        shutil.copyfile(file, copies[-1])
        os.chmod(copies[-1], 0o755)
    return tuple(copies)
