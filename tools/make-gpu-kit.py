#!/usr/bin/env python3
"""Makes the tree that a GPU machine without a package registry needs: the sources, programs built
beforehand with the libraries that they load, the kernels as machine code, and one command, `run`.

The machine's own compilers are used there where they are; what is in FOLDER/prebuilt stands in for
what they cannot build. It ends with the size, and fails when that is too much.
"""
import argparse
import os
import re
import shutil
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = ("src/node/fast-node", "src/gateway/fast-gateway", "src/hook/libfast-hook.so",
            "src/simdriver/libcuda.so.1", "src/simdriver/libnvidia-ml.so.1", "src/simdriver/nvidia-cuda-mps-control",
            "functions/replay", "functions/spin.sim.so", "functions/digits", "functions/digits.sim.so",
            "bench/gpu/gpu-probe", "bench/gpu/gpu-watch", "bench/gpu/gpu-load", "bench/gpu/gpu-spin",
            "bench/bench_overrun", "bench/overrun_child")
IF_THERE = ("src/store/fast-store", "src/storelib/libfast-store.so.0")
RUN = """#!/bin/sh
# Measures everything on this machine's GPU, or with --sim on a simulated one; see docs/gpu-kit.md.
here=$(cd "$(dirname "$0")" && pwd) || exit 1
command -v python3 > /dev/null || { echo "run: there is no python3 here" >&2; exit 1; }
exec python3 "$here/bench/gpu/run" "$@"
"""


def fail(text):
    sys.exit(f"make-gpu-kit: {text}")


def copy_sources(out):
    """Everything that is not built, hidden or a link."""
    def skip(folder, names):
        return [n for n in names if n.startswith((".", "__pycache__")) or os.path.islink(os.path.join(folder, n))]
    for name in sorted(os.listdir(ROOT)):
        path = os.path.join(ROOT, name)
        if skip(ROOT, [name]) or name.startswith("build"):
            continue
        if os.path.isdir(path):
            shutil.copytree(path, os.path.join(out, name), ignore=skip)
        else:
            shutil.copy2(path, os.path.join(out, name))


def copy_programs(build, out):
    """Without what only a debugger needs."""
    missing = [n for n in PROGRAMS if not os.path.exists(os.path.join(build, n))]
    if missing:
        fail(f"not built in {build}: {', '.join(missing)}")
    for name in PROGRAMS + tuple(n for n in IF_THERE if os.path.exists(os.path.join(build, n))):
        target = os.path.join(out, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        shutil.copy2(os.path.join(build, name), target)
        if open(target, "rb").read(4) == b"\x7fELF":
            subprocess.run(["strip", "--strip-unneeded", target], check=True)


def copy_libraries(build, out):
    """What fast-gateway loads, with the loader and libc of this machine, so that it runs on a machine that
    has other ones: gpukit/machine.py starts it with this loader. The other programs need libc alone, and
    load the driver of the machine that they run on."""
    os.makedirs(out)
    text = subprocess.run(["ldd", os.path.join(build, "src/gateway/fast-gateway")], capture_output=True, text=True,
                          check=True).stdout
    for line in text.splitlines():
        words = line.split()
        path = words[2] if "=>" in words else words[0]
        if path == "not":
            fail(line.strip())
        if path.startswith("/"):
            shutil.copyfile(path, os.path.join(out, os.path.basename(words[0])))
    loader = os.path.join(out, "ld-linux-x86-64.so.2")
    if not os.path.exists(loader):
        fail("this is not x86-64: kits are made on the kind of machine that they are for")
    os.chmod(loader, 0o755)


def copy_plain(build, out):
    """What the store of models loads beyond libc: programs of the machine load it too, hence apart from the
    libc above."""
    os.makedirs(out)
    for name in IF_THERE:
        if os.path.exists(os.path.join(build, name)):
            text = subprocess.run(["ldd", os.path.join(build, name)], capture_output=True, text=True, check=True).stdout
            for library, path in re.findall(r"(lib(?!c\.so|m\.so|dl\.so|pthread\.so)\S+) => (/\S+)", text):
                shutil.copyfile(path, os.path.join(out, library))


def check_libraries(gateway, lib):
    """With its own loader it finds everything in |lib|, nothing on the machine."""
    text = subprocess.run([os.path.join(lib, "ld-linux-x86-64.so.2"), "--library-path", lib, "--list", gateway],
                          capture_output=True, text=True, check=True).stdout
    for line in text.splitlines():
        words = line.split()
        if "=>" in words and os.path.dirname(words[2]) not in (lib, "/lib64"): # the loader is already there
            fail(f"of the machine, not of the kit: {line.strip()}")


def glibc_of(prebuilt):
    """The newest version that a program which loads the machine's libc asks for."""
    out = (2, 0)
    for name in PROGRAMS + tuple(n for n in IF_THERE if os.path.exists(os.path.join(prebuilt, n))):
        if name != "src/gateway/fast-gateway":
            text = subprocess.run(["objdump", "-T", os.path.join(prebuilt, name)], capture_output=True, text=True,
                                  check=False).stdout
            out = max([out, *((2, int(n)) for n in re.findall(r"GLIBC_2\.(\d+)", text))])
    return f"{out[0]}.{out[1]}"


def size_of(folder):
    return sum(os.lstat(os.path.join(at, f)).st_size for at, _, files in os.walk(folder) for f in files)


def commit():
    try:
        r = subprocess.run(["git", "-C", ROOT, "describe", "--always", "--dirty"], capture_output=True, text=True,
                           check=False)
    except OSError:
        return "unknown"
    return r.stdout.strip() or "unknown"


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("build", help="a build folder")
    p.add_argument("folder", help="is replaced when it holds a kit")
    p.add_argument("--no-kernels", action="store_true", help="compile nothing for GPUs")
    p.add_argument("--limit", type=float, default=60, metavar="MB", help="the most that it may take (default 60)")
    options = p.parse_args()
    build, out = os.path.abspath(options.build), os.path.abspath(options.folder)
    if os.path.exists(out):
        if not os.path.exists(os.path.join(out, "COMMIT")):
            fail(f"{out} is there and is no kit; name another folder")
        shutil.rmtree(out)
    prebuilt = os.path.join(out, "prebuilt")
    os.makedirs(prebuilt)
    copy_sources(out)
    copy_programs(build, prebuilt)
    copy_libraries(build, os.path.join(prebuilt, "lib"))
    copy_plain(build, os.path.join(prebuilt, "plain"))
    check_libraries(os.path.join(prebuilt, "src/gateway/fast-gateway"), os.path.join(prebuilt, "lib"))
    shutil.copytree(os.path.join(ROOT, "models"), os.path.join(prebuilt, "models"))
    if not options.no_kernels:
        rc = subprocess.call([sys.executable, os.path.join(ROOT, "tools", "fatbins.py"), prebuilt])
        if rc == 77:
            print("make-gpu-kit: no compiler for GPUs here: the kit works only where there is an nvcc, or with --sim")
        elif rc:
            fail("the kernels are not compiled")
    with open(os.path.join(out, "COMMIT"), "w", encoding="utf-8") as f:
        f.write(commit() + "\n")
    with open(os.path.join(out, "run"), "w", encoding="utf-8") as f:
        f.write(RUN)
    os.chmod(os.path.join(out, "run"), 0o755)
    size, binary = size_of(out), size_of(prebuilt)
    print(f"{out}: {size / 1e6:.1f} MB, of it {binary / 1e6:.1f} MB built beforehand for glibc "
          f"{glibc_of(prebuilt)}; commit {commit()}")
    if size > options.limit * 1e6:
        fail(f"that is more than {options.limit:g} MB")


main()
