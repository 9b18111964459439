#!/usr/bin/env python3
"""Compares src/cuda/abi.h and the arguments in src/cuda/entry.tbl with NVIDIA's cuda.h.

Usage: cuda_abi.py SOURCE_ROOT BUILD_ROOT CC...
Every enumerator's value, every struct's size and every member's offset and size must be the same,
and every wrapped function must have the same type. Exit status 77 (skipped) without a cuda.h.
"""
import glob
import os
import re
import subprocess
import sys
import tempfile


def find_cuda_h():
    places = [os.environ.get("CUDA_HOME", ""), os.environ.get("CUDA_PATH", ""), "/usr/local/cuda"]
    found = [f"{p}/include/cuda.h" for p in places if p]
    for path in sys.path:
        found += glob.glob(f"{path}/nvidia/*/include/cuda.h")
    found += glob.glob("/usr/lib/python3*/site-packages/nvidia/*/include/cuda.h")
    found += ["/usr/include/cuda.h"]
    return next((f for f in found if os.path.exists(f)), None)


def members(body):
    """Names of the plain members on the outermost level, and of nested ones as outer.inner."""
    out, depth, inner = [], 0, []
    for line in body.split("\n"):
        line = line.split("/*")[0].strip()
        if line.endswith("{"):
            depth += 1
            inner = []
        elif depth and line.startswith("}"):
            depth -= 1
            outer = re.sub(r"[};\s]", "", line)
            out += [f"{outer}.{m}" for m in inner] if outer else inner
        elif line.endswith(";"):
            names = [re.sub(r"\[.*\]", "", n).strip().lstrip("*") for n in
                     re.sub(r"^.*?(\*?\w+(\[[^]]*\])?(, \w+)*);$", r"\1", line).split(",")]
            (inner if depth else out).extend(n for n in names if not n.startswith("reserved"))
    return out


def facts(abi):
    text = open(abi, encoding="utf-8").read()
    checks = {}
    for name in re.findall(r"\b(CU[A-Z]*_\w+) = ", text):
        checks[name] = f"(long long){name}"
    for name in re.findall(r"#define (CU_MEM\w+) ", text):
        checks[name] = f"(long long){name}"
    pattern = r"typedef (?:struct|union) \w+ \{\n(.*?)\n\} (\w+);"
    for body, name in re.findall(pattern, text, re.S):
        checks[f"sizeof({name})"] = f"(long long)sizeof({name})"
        for m in members(body):
            where = f"(({name} *)0)->{m}"
            checks[f"offset {name}.{m}"] = f"(long long)((char *)&{where} - (char *)0)"
            checks[f"size {name}.{m}"] = f"(long long)sizeof({where})"
    return checks


def values(cc, flags, header, checks):
    """The value of every check, None for what the header does not know."""
    names = list(checks)
    with tempfile.TemporaryDirectory() as tmp:
        source, program = f"{tmp}/t.c", f"{tmp}/t"
        unknown = set()
        while True:
            with open(source, "w", encoding="utf-8") as out:
                out.write(f'#include <stdio.h>\n#include "{header}"\nint main(void)\n{{\n')
                for i, name in enumerate(names):
                    text = "0" if i in unknown else checks[name]
                    out.write(f'#line {i + 1} "check"\n    printf("%lld\\n", {text});\n')
                out.write("    return 0;\n}\n")
            run = subprocess.run([*cc, "-w", *flags, source, "-o", program], capture_output=True,
                                 text=True, check=False)
            bad = {int(n) - 1 for n in re.findall(r"^check:(\d+):\d+: error", run.stderr, re.M)}
            if not run.returncode:
                break
            if not bad - unknown:
                sys.exit(f"{header}: {run.stderr}")
            unknown |= bad
        lines = subprocess.run([program], capture_output=True, text=True, check=True).stdout.split()
        return {n: None if i in unknown else int(lines[i]) for i, n in enumerate(names)}


def compare_types(cc, include, table):
    """Wrapped functions whose type differs from the one in cuda.h, and how many were compared."""
    base = [*cc, "-w", f"-I{include}", "-D__CUDA_API_VERSION_INTERNAL"]
    known = subprocess.run([*base, "-E", f"{include}/cuda.h"], capture_output=True, text=True,
                           check=True).stdout
    lines, bad = ['#include "cuda.h"'], []
    old = "typedef unsigned int CUdeviceptr_v1;" if "CUdeviceptr_v1;" not in known else ""
    lines.append(old)
    for line in open(table, encoding="utf-8"):
        head, colon, tail = line.partition(":")
        if line.startswith("#") or not colon:
            continue
        symbol, args = head.split()[0], tail.split(";")[0].strip()
        if re.search(rf"\b{symbol}\s*\(", known):
            lines.append(f'#line 1 "{symbol}"\ntypedef CUresult fn_{symbol}({args});\n'
                         f"_Static_assert(__builtin_types_compatible_p(fn_{symbol}, "
                         f'__typeof__({symbol})), "");')
    with tempfile.TemporaryDirectory() as tmp:
        source = f"{tmp}/t.c"
        with open(source, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")
        run = subprocess.run([*base, "-fsyntax-only", source], capture_output=True, text=True,
                             check=False)
        bad = sorted(set(re.findall(r"^(\w+):\d+:\d+: error", run.stderr, re.M)))
        if run.returncode and not bad:
            sys.exit(run.stderr)
    return bad, len(lines) - 2


def main():
    root, build, cc = sys.argv[1], sys.argv[2], sys.argv[3:]
    header = find_cuda_h()
    if not header:
        print("skipped: no cuda.h in CUDA_HOME, /usr/local/cuda or the python packages")
        sys.exit(77)
    include = os.path.dirname(header)
    checks = facts(f"{root}/src/cuda/abi.h")
    ours = values(cc, [f"-I{root}/src", f"-I{build}/src"], "cuda/abi.h", checks)
    theirs = values(cc, [f"-I{include}"], "cuda.h", checks)
    wrong = [n for n in checks if ours[n] is None or theirs[n] is not None and ours[n] != theirs[n]]
    unknown = [n for n in checks if theirs[n] is None]
    for name in wrong:
        print(f"{name}: ours {ours[name]}, cuda.h {theirs[name]}")
    bad, count = compare_types(cc, include, f"{root}/src/cuda/entry.tbl")
    for symbol in bad:
        print(f"{symbol}: other arguments than in cuda.h")
    print(f"{len(checks) - len(unknown)} values and {count} functions compared with {header}; "
          f"not in it: {' '.join(unknown) or 'none'}")
    sys.exit(bool(wrong or bad))


main()
