#!/usr/bin/env python3
"""Every symbol of entry.tbl, through the hook: check_entries.py TABLE HOOK DRIVER_DIR ENTRYPOINTS_MD [CSV].

Each one is looked up by dlsym and by cuGetProcAddress, once as a driver just new enough would be asked: symbols of
class pass are the driver's own, all others the hook's (what programs link directly is checked by check_symbols.py).
The documentation has each symbol with its class. CSV: a list of a driver's symbols (columns symbol, base_name,
introduced_num), where there is one; each of them has to be in the table, and none else."""
import csv
import ctypes
import os
import subprocess
import sys

DRIVER = "libcuda.so.1"


class DlInfo(ctypes.Structure):
    _fields_ = [("file", ctypes.c_char_p), ("base", ctypes.c_void_p), ("name", ctypes.c_char_p),
                ("addr", ctypes.c_void_p)]


def read_table(path):
    with open(path, encoding="utf-8") as f:
        lines = [line.partition(":")[0].split() for line in f if line.strip() and not line.startswith("#")]
    return {c[0]: (c[1], int(c[2]), c[3], c[4]) for c in lines}


def home(pointer):
    info = DlInfo()
    found = ctypes.CDLL(None).dladdr(ctypes.c_void_p(pointer), ctypes.byref(info))
    return (os.path.basename(info.file.decode()), (info.name or b"").decode()) if found else ("nowhere", "")


def look_up(table, hook):
    """In a process that has the hook preloaded."""
    lib = ctypes.CDLL(DRIVER)
    get = lib.cuGetProcAddress_v2
    errors = []

    def check(way, symbol, pointer):
        wanted = (DRIVER if table[symbol][3] == "pass" else hook, symbol)
        if not pointer or home(pointer) != wanted:
            errors.append(f"{symbol} by {way}: {home(pointer) if pointer else 'nothing'} instead of {wanted}")

    for symbol, (base, since, variant, _) in table.items():
        check("dlsym", symbol, ctypes.cast(getattr(lib, symbol), ctypes.c_void_p).value)
        if not since:
            continue
        pointer, status = ctypes.c_void_p(), ctypes.c_int()
        rc = get(base.encode(), ctypes.byref(pointer), since, ctypes.c_uint64(0 if variant == "-" else 2),
                 ctypes.byref(status))
        check(f"cuGetProcAddress, {rc}", symbol, pointer.value)
    return errors


def check_documentation(table, path):
    with open(path, encoding="utf-8") as f:
        rows = [[c.strip(" `") for c in line.strip().strip("|").split("|")] for line in f if line.startswith("| `")]
    found = {r[0]: r[-1] for r in rows}
    wanted = {s: row[3] for s, row in table.items()}
    return [f"{path}: {s} is of class {found.get(s)} there, {wanted.get(s)} in the table"
            for s in sorted(set(found) | set(wanted)) if found.get(s) != wanted.get(s)]


def check_csv(table, path):
    with open(path, encoding="utf-8", newline="") as f:
        listed = {r["symbol"]: (r["base_name"], int(r["introduced_num"] or 0)) for r in csv.DictReader(f)}
    errors = [f"{s} of {path} has no class: it needs a row in src/cuda/entry.tbl" for s in listed if s not in table]
    errors += [f"{s} is not in {path}" for s in table if s not in listed]
    return errors + [f"{s}: {table[s][:2]} in the table, {row} in {path}" for s, row in listed.items()
                     if s in table and table[s][:2] != row]


def main():
    table_path, hook, driver_dir, documentation = sys.argv[1:5]
    table = read_table(table_path)
    if os.environ.get("CHECK_ENTRIES_CHILD"):
        errors = look_up(table, os.path.basename(hook))
    else:
        errors = check_documentation(table, documentation)
        for path in sys.argv[5:]:
            errors += check_csv(table, path) if os.path.exists(path) else []
        env = dict(os.environ, CHECK_ENTRIES_CHILD="1", LD_PRELOAD=hook, LD_LIBRARY_PATH=driver_dir,
                   FAST_NODE_SOCKET="/nonexistent", FAST_TICKET="00112233445566778899aabbccddeeff")
        child = subprocess.run([sys.executable, *sys.argv], env=env, check=False, timeout=60)
        errors += [f"the look-ups ended with {child.returncode}"] if child.returncode else []
    print("\n".join(errors) or f"{len(table)} symbols are right")
    sys.exit(bool(errors))


main()
