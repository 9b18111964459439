#!/usr/bin/env python3
"""Runs the figures whose names match and prints one line of JSON for each.

Usage: run-bench.py BUILD [PATTERN]     PATTERN as in a shell, default *: 'sim.*', '*_error_pct'

Every program BUILD/bench/bench_* prints the names of its figures with --list. The lines also go to
BUILD/bench.jsonl, a readable summary to stderr. The exit status is 1 when a program crashed or printed
something else, not when a figure misses its target.
"""
import fnmatch
import json
import os
import subprocess
import sys


def programs(build):
    folder = os.path.join(build, "bench")
    names = sorted(os.listdir(folder)) if os.path.isdir(folder) else []
    paths = [os.path.join(folder, n) for n in names if n.startswith("bench_")]
    return [p for p in paths if os.path.isfile(p) and os.access(p, os.X_OK)]


def parse(line, path):
    try:
        row = json.loads(line)
    except ValueError:
        row = None
    if not isinstance(row, dict) or "name" not in row or "value" not in row:
        print(f"{path}: not a figure: {line}", file=sys.stderr)
        return None
    return row


def run(path, pattern, out):
    """Returns the figures of one program, and whether it went wrong."""
    listed = subprocess.run([path, "--list"], capture_output=True, text=True, check=False)
    if listed.returncode:
        print(f"{path} --list: exit status {listed.returncode}", file=sys.stderr)
        return [], True
    wanted = [n for n in listed.stdout.split() if fnmatch.fnmatch(n, pattern)]
    if not wanted:
        return [], False
    rows, bad = [], False
    with subprocess.Popen([path, *wanted], stdout=subprocess.PIPE, text=True) as child:
        for line in child.stdout:
            row = parse(line.strip(), path)
            if row is None:
                bad = True
                continue
            rows.append(row)
            for stream in (sys.stdout, out):
                stream.write(line)
                stream.flush()
    if child.returncode:
        print(f"{path}: exit status {child.returncode}", file=sys.stderr)
        bad = True
    missing = set(wanted) - {r["name"] for r in rows}
    if missing:
        print(f"{path}: printed no {', '.join(sorted(missing))}", file=sys.stderr)
        bad = True
    return rows, bad


def summary(rows):
    width = max(len(r["name"]) for r in rows)
    print(file=sys.stderr)
    for r in rows:
        value = "-" if r["value"] is None else f"{r['value']:.4g}"
        mark = {True: "ok", False: "MISSED", None: ""}[r.get("pass")]
        note = f"  skipped: {r['skipped']}" if r.get("skipped") else ""
        target = r.get("target") or ""
        print(f"{r['name']:{width}}  {value:>10} {r.get('unit', ''):6} {target:10} {mark}{note}",
              file=sys.stderr)


def main():
    if len(sys.argv) not in (2, 3):
        sys.exit(__doc__)
    build, pattern = sys.argv[1], sys.argv[2] if len(sys.argv) == 3 else "*"
    rows, bad = [], False
    with open(os.path.join(build, "bench.jsonl"), "w", encoding="utf-8") as out:
        for path in programs(build):
            more, wrong = run(path, pattern, out)
            rows += more
            bad = bad or wrong
    if rows:
        summary(rows)
    elif not bad:
        print(f"no figure matches {pattern}", file=sys.stderr)
    sys.exit(1 if bad else 0)


main()
