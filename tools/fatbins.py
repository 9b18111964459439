#!/usr/bin/env python3
"""Compiles the kernels (digits, spin, probe) for GPUs that are not here: machine code for sm_70, sm_80 and
sm_90, and PTX of compute_70 for what comes after.

Usage: fatbins.py FOLDER [CACHE]    files go to FOLDER/functions and FOLDER/bench/gpu; CACHE: build/cuda

The compiler is NVRTC 12.0, from PyPI: the newest that an old driver (525 on) understands the output of,
PTX included, and one that still knows Volta; CUDA 13 does not. `fatbinary`, which packs the results, is of
CUDA 13, also from PyPI. Where they cannot be had, an nvcc in PATH compiles for what it knows.
Exit status: 0 done, 77 no compiler, 1 the compiler refused something.
"""
import ctypes
import os
import re
import shutil
import struct
import subprocess
import sys
import tempfile

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PACKAGES = ("nvidia-cuda-nvrtc-cu12==12.0.140", "nvidia-cuda-nvcc==13.0.88")
MACHINES, VIRTUAL = (70, 80, 90), 70
# source -> the image, in a build folder, and the kernels that programs load from it
IMAGES = {"functions/digits/kernels.cu": ("functions/digits.fatbin", ("digits_conv_relu", "digits_maxpool", "digits_fc")),
          "functions/replay/spin.cu": ("functions/spin.fatbin", ("replay_spin",)),
          "bench/gpu/probe/probe.cu": ("bench/gpu/probe.fatbin", ("replay_spin", "probe_smid"))}
FLAGS = ("--fmad=false",) # the same sums on every device: see functions/digits/kernels.cu


def install(cache):
    """The folder of the two packages, None with a line about why not."""
    site = os.path.join(cache, "fatbin-site")
    if os.path.exists(os.path.join(site, "complete")):
        return site
    os.makedirs(cache, exist_ok=True)
    log = os.path.join(cache, "fatbins.log")
    with open(log, "w", encoding="utf-8") as f:
        for step in ([sys.executable, "-m", "venv", os.path.join(cache, "fatbin-venv")],
                     [os.path.join(cache, "fatbin-venv", "bin", "pip"), "install", "--quiet", "--no-deps", "--upgrade",
                      "--disable-pip-version-check", "--target", site, *PACKAGES]):
            try:
                rc = subprocess.run(step, stdout=f, stderr=f, timeout=600, check=False).returncode
            except (OSError, subprocess.TimeoutExpired) as e:
                print(f"fatbins: {step[0]}: {e}", file=sys.stderr)
                return None
            if rc:
                print(f"fatbins: NVIDIA's compiler cannot be installed, see {log}", file=sys.stderr)
                return None
    os.chmod(packer(site), 0o755)
    with open(os.path.join(site, "complete"), "w", encoding="utf-8"):
        pass
    return site


def packer(site):
    return os.path.join(site, "nvidia", "cu13", "bin", "fatbinary")


class Nvrtc:
    """NVIDIA's compiler as a library."""

    def __init__(self, site):
        self.lib = ctypes.CDLL(os.path.join(site, "nvidia", "cuda_nvrtc", "lib", "libnvrtc.so.12"))

    def bytes_of(self, program, what):
        size = ctypes.c_size_t()
        if getattr(self.lib, f"nvrtcGet{what}Size")(program, ctypes.byref(size)):
            raise RuntimeError(f"nvrtc has no {what}")
        data = ctypes.create_string_buffer(size.value)
        getattr(self.lib, f"nvrtcGet{what}")(program, data)
        return data.raw

    def compile(self, source, architecture):
        """Machine code for sm_N, PTX for compute_N."""
        with open(source, "rb") as f:
            text = f.read()
        program = ctypes.c_void_p()
        if self.lib.nvrtcCreateProgram(ctypes.byref(program), text, os.path.basename(source).encode(), 0, None, None):
            raise RuntimeError("nvrtc makes no program")
        options = [f"--gpu-architecture={architecture}", "-I" + os.path.dirname(source), *FLAGS]
        array = (ctypes.c_char_p * len(options))(*(o.encode() for o in options))
        try:
            if self.lib.nvrtcCompileProgram(program, len(options), array):
                log = self.bytes_of(program, "ProgramLog").rstrip(b"\0").decode(errors="replace")
                raise RuntimeError(f"{source} for {architecture}: {log}")
            if architecture.startswith("sm_"):
                return self.bytes_of(program, "CUBIN")
            return self.bytes_of(program, "PTX").rstrip(b"\0") + b"\n"
        finally:
            self.lib.nvrtcDestroyProgram(ctypes.byref(program))


def by_nvrtc(site, source, target):
    compiler = Nvrtc(site)
    with tempfile.TemporaryDirectory() as temp:
        argv = [packer(site), "-64", "--compress-mode=none", f"--create={target}"] # old drivers unpack no zstd
        for kind, prefix, number in [("elf", "sm", n) for n in MACHINES] + [("ptx", "compute", VIRTUAL)]:
            part = os.path.join(temp, f"{prefix}_{number}")
            with open(part, "wb") as f:
                f.write(compiler.compile(source, f"{prefix}_{number}"))
            argv.append(f"--image3=kind={kind},sm={number},file={part}")
        subprocess.run(argv, check=True)


def by_nvcc(nvcc, source, target):
    known = subprocess.run([nvcc, "--list-gpu-code"], capture_output=True, text=True, check=True).stdout.split()
    machines = [n for n in MACHINES if f"sm_{n}" in known]
    least = min(int(k[3:]) for k in known if re.fullmatch(r"sm_\d+", k))
    codes = [f"-gencode=arch=compute_{n},code=sm_{n}" for n in machines]
    codes.append(f"-gencode=arch=compute_{max(least, VIRTUAL)},code=compute_{max(least, VIRTUAL)}")
    subprocess.run([nvcc, "-fatbin", "-fmad=false", "-no-compress", *codes, source, "-o", target], check=True)


def contents(path):
    """Of a fatbin: {("elf" or "ptx", architecture): bytes}."""
    with open(path, "rb") as f:
        data = f.read()
    magic, version, header, size = struct.unpack_from("<IHHQ", data)
    if magic != 0xba55ed50 or version != 1 or header + size > len(data):
        raise RuntimeError(f"{path} is not a fatbin")
    out, at = {}, header
    while at < header + size:
        kind, _, head, length = struct.unpack_from("<HHIQ", data, at)
        architecture, = struct.unpack_from("<I", data, at + 28)
        out["ptx" if kind == 1 else "elf", architecture] = data[at + head:at + head + length]
        at += head + length
    return out


def check(path, kernels):
    """What is in the file, in words; fails when a part lacks a kernel."""
    parts = contents(path)
    for (kind, number), code in parts.items():
        for kernel in kernels:
            if kernel.encode() not in code:
                raise RuntimeError(f"{path}: {kind} {number} has no {kernel}")
    return ", ".join(("sm_" if kind == "elf" else "PTX compute_") + str(n) for kind, n in sorted(parts))


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    folder = sys.argv[1]
    site = install(sys.argv[2] if len(sys.argv) == 3 else os.path.join(ROOT, "build", "cuda"))
    nvcc = None if site else shutil.which("nvcc")
    if not site and not nvcc:
        print("fatbins: no compiler for GPUs: the kernels are left out")
        sys.exit(77)
    for source, (name, kernels) in IMAGES.items():
        target = os.path.join(folder, name)
        os.makedirs(os.path.dirname(target), exist_ok=True)
        try:
            if site:
                by_nvrtc(site, os.path.join(ROOT, source), target)
            else:
                by_nvcc(nvcc, os.path.join(ROOT, source), target)
            print(f"{name}: {check(target, kernels)}")
        except (RuntimeError, OSError, subprocess.CalledProcessError) as e:
            sys.exit(f"fatbins: {e}")


if __name__ == "__main__":
    main()
