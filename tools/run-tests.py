#!/usr/bin/env python3
"""Runs the tests of a build folder and closes with 'N passed, N failed, N skipped'.

Usage: run-tests.py BUILD [meson test arguments]
The count is of test functions where a program says how many it ran (cmocka, Python's unittest), else of programs.
"""
import json
import re
import subprocess
import sys


def unittest_counts(text):
    """(passed, failed, skipped) of the runs that unittest reports in |text|, None without one."""
    runs = re.findall(r"^Ran (\d+) tests? in .*\n+(OK|FAILED)(?: \((.*)\))?", text, re.M)
    if not runs:
        return None
    total = failed = skipped = 0
    for ran, _, details in runs:
        counts = {k: int(v) for k, v in re.findall(r"([\w ]+)=(\d+)", details)}
        total += int(ran)
        failed += counts.get("failures", 0) + counts.get(" errors", counts.get("errors", 0))
        skipped += counts.get(" skipped", counts.get("skipped", 0))
    return total - failed - skipped, failed, skipped


def main():
    build, extra = sys.argv[1], sys.argv[2:]
    rc = subprocess.call(["meson", "test", "-C", build, "--no-rebuild", "--print-errorlogs", *extra])
    passed = failed = skipped = 0
    with open(f"{build}/meson-logs/testlog.json", encoding="utf-8") as log:
        for line in log:
            row = json.loads(line)
            text = row.get("stdout", "") + row.get("stderr", "")
            ok = re.findall(r"\[  PASSED  \] (\d+) test", text)
            bad = re.findall(r"\[  FAILED  \] (\d+) test", text)
            skip = re.findall(r"\[  SKIPPED \] (\d+) test", text)
            python = unittest_counts(text)
            if row["result"] == "SKIP":
                skipped += 1
            elif python:
                passed, failed, skipped = (a + b for a, b in zip((passed, failed, skipped), python))
                if row["result"] not in ("OK", "EXPECTEDFAIL") and not python[1]:
                    failed += 1
            elif ok or bad:
                passed += sum(map(int, ok))
                failed += sum(map(int, bad))
                skipped += sum(map(int, skip))
                if row["result"] not in ("OK", "EXPECTEDFAIL") and not bad:
                    failed += 1
            elif row["result"] in ("OK", "EXPECTEDFAIL"):
                passed += 1
            else:
                failed += 1
    print(f"{passed} passed, {failed} failed, {skipped} skipped")
    sys.exit(rc or (1 if failed or not passed else 0))


main()
