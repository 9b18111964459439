#!/usr/bin/env python3
"""Looks at the built hook: check_symbols.py LIBRARY VERSION_SCRIPT.

dlsym and dlopen must end in a jump to the real function (glibc tells its caller by the return
address), symbols must be exported unversioned and only those of the version script, and the library
must never be unloaded. Exit status 77 (skipped) without binutils.
"""
import re
import shutil
import subprocess
import sys


def run(*argv):
    return subprocess.run(argv, capture_output=True, text=True, check=True).stdout


def check_tail(library, function):
    text = run("objdump", "-d", "--no-show-raw-insn", f"--disassemble={function}", library)
    code = text.split(f"<{function}>:")[1].split("Disassembly of")[0]
    errors = []
    if not re.search(r"\bjmp\s+\*%|\bbr\s+x\d+", code):
        errors.append(f"{function} does not end in a jump to the real function")
    if re.search(r"\bcall\s+\*%|\bblr\s+x\d+", code):
        errors.append(f"{function} calls the real function instead of jumping to it")
    return errors


def check_exports(library, script):
    wanted = set(re.findall(r"^    (\w+);$", open(script, encoding="utf-8").read(), re.M))
    found = set()
    errors = []
    for line in run("nm", "-D", "--defined-only", library).splitlines():
        name = line.split()[-1]
        if "@" in name:
            errors.append(f"{name} has a version: lookups of the C library's would not find it")
        found.add(name.split("@")[0])
    if found != wanted:
        errors.append(f"exports differ from the version script: {sorted(found ^ wanted)}")
    return errors


def main():
    library, script = sys.argv[1:3]
    if not all(shutil.which(p) for p in ("objdump", "nm", "readelf")):
        print("skipped: no binutils")
        sys.exit(77)
    errors = check_tail(library, "dlsym") + check_tail(library, "dlopen")
    errors += check_exports(library, script)
    if "NODELETE" not in run("readelf", "-d", library):
        errors.append("the library can be unloaded")
    print("\n".join(errors) or "tail calls, exports and flags are right")
    sys.exit(bool(errors))


main()
