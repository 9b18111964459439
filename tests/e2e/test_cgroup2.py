#!/usr/bin/env python3
"""Control groups of version 2, by a kernel that has no others: a small machine of its own (qemu, without help of the
hardware) with fast-run in it. Needs qemu-system-x86_64, a static busybox and a kernel with what it needs built in, as
Debian's linux-image-cloud-amd64: FAST_TEST_KERNEL, else the newest of /boot."""
import glob
import gzip
import os
import shutil
import stat
import subprocess
import sys
import tempfile
import unittest

import store as e2e
import node
from oci_layout import libraries
from test_oci import FAST_RUN

TOOL = os.path.join(node.BUILD, "tests", "e2e", "cgroup2_tool")
INIT = os.path.join(node.HERE, "cgroup2_init.sh")
BUSYBOX = shutil.which("busybox")
QEMU = shutil.which("qemu-system-x86_64")
KERNEL = os.environ.get("FAST_TEST_KERNEL") or max(glob.glob("/boot/vmlinuz*"), key=os.path.getmtime, default=None)
BOOT_S = 300  # 6 to 20 s where nothing else runs
COUNT = 2 * 16 + 1


def cpio(entries):
    """An archive of (path, mode, bytes) as the kernel unpacks it (cpio(5), "newc")."""
    out = bytearray()
    for number, (path, mode, data) in enumerate([*entries, ("TRAILER!!!", 0, b"")], 1):
        name = path.encode() + b"\0"
        fields = (number, mode, 0, 0, 1, 0, len(data), 0, 0, 0, 0, len(name), 0)
        out += b"070701" + b"".join(b"%08X" % f for f in fields) + name
        out += b"\0" * (-len(out) % 4) + data
        out += b"\0" * (-len(out) % 4)
    return bytes(out)


def archive():
    programs = {"/init": INIT, "/bin/busybox": BUSYBOX, "/bin/fast-run": FAST_RUN, "/bin/tool": TOOL}
    files = {**programs, **{lib: lib for program in (FAST_RUN, TOOL) for lib in libraries(program)}}
    folders = {"/proc", "/sys", "/dev", "/tmp"}
    for path in files:
        while (path := os.path.dirname(path)) != "/":
            folders.add(path)
    entries = [(path.lstrip("/"), stat.S_IFDIR | 0o755, b"") for path in sorted(folders)]
    for path, source in files.items():
        with open(source, "rb") as f:
            entries.append((path.lstrip("/"), stat.S_IFREG | 0o755, f.read()))
    return gzip.compress(cpio(entries), 1)


class Version2(unittest.TestCase):
    def test_in_a_machine_of_its_own(self):
        with tempfile.NamedTemporaryFile(suffix=".gz") as f:
            f.write(archive())
            f.flush()
            out = subprocess.run([QEMU, "-M", "pc", "-cpu", "max", "-m", "384", "-nic", "none", "-nographic",
                                  "-no-reboot", "-kernel", KERNEL, "-initrd", f.name,
                                  "-append", "console=ttyS0 quiet panic=-1"], stdin=subprocess.DEVNULL,
                                 capture_output=True, timeout=BOOT_S, check=False).stdout.decode(errors="replace")
        lines = [line.strip() for line in out.splitlines()]
        self.assertIn("end of checks", lines, out[-3000:])
        for line in lines:
            with self.subTest(line):
                self.assertFalse(line.startswith("not ok"), out[out.find(line):][:1500])
        self.assertEqual(len([line for line in lines if line.startswith("ok ")]), COUNT, out[-3000:])


if __name__ == "__main__":
    e2e.skip_with_asan("a program with AddressSanitizer does not start within the limits of memory")
    missing = [what for what, there in (("qemu-system-x86_64", QEMU), ("busybox", BUSYBOX), ("a kernel", KERNEL),
                                        ("an x86-64 machine", os.uname().machine == "x86_64")) if not there]
    if missing:
        print("skipped, missing:", ", ".join(missing))
        sys.exit(77)
    unittest.main()
