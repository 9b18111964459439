#!/usr/bin/env python3
"""Runs clang-tidy over the sources of a build folder, two at a time.

Usage: run-tidy.py [-v] BUILD [PATH...]     -v: with notes; PATH: only files below it
A file whose preprocessed text, flags and .clang-tidy have passed before is not looked at again.
"""
import concurrent.futures
import hashlib
import json
import os
import shlex
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def entries(build, paths):
    """The (file, command, directory) of our own sources, each file once."""
    with open(f"{build}/compile_commands.json", encoding="utf-8") as f:
        seen = {}
        for row in json.load(f):
            path = os.path.realpath(os.path.join(row["directory"], row["file"]))
            rel = os.path.relpath(path, ROOT)
            ours = rel.split(os.sep)[0] in ("src", "functions", "tests", "bench")
            if ours and rel.endswith(".c") and (not paths or rel.startswith(tuple(paths))):
                seen.setdefault(rel, (row["command"], row["directory"]))
    return sorted((rel, *rest) for rel, rest in seen.items())


def key_of(rel, command, directory, config):
    words = shlex.split(command)
    if words and os.path.basename(words[0]) == "ccache":
        words = words[1:]
    out = words.index("-o")
    text = subprocess.run(words[:out] + words[out + 2:] + ["-E", "-o", "-"], cwd=directory,
                          capture_output=True, check=False).stdout
    return hashlib.sha256(config + rel.encode() + text).hexdigest()


def tidy(build, cache, config, entry):
    rel, command, directory = entry
    stamp = os.path.join(cache, key_of(rel, command, directory, config))
    if os.path.exists(stamp):
        return rel, 0, "", True
    done = subprocess.run(["clang-tidy", "-p", build, "--quiet", os.path.join(ROOT, rel)],
                          capture_output=True, text=True, check=False)
    if done.returncode == 0:
        with open(stamp, "w", encoding="utf-8"):
            pass
    # Beside findings it counts the warnings of system headers on stderr; those are nobody's.
    return rel, done.returncode, done.stdout, False


def shorten(text, verbose):
    """The findings with paths from the root; without -v not the way that leads to them."""
    text = text.replace(ROOT + "/", "").replace("build-clang/../", "").replace("../src/", "src/")
    lines = text.rstrip().split("\n")
    return "\n".join(line for line in lines if verbose or " error: " in line)


def main():
    verbose = "-v" in sys.argv[1:]
    build, *paths = [a for a in sys.argv[1:] if a != "-v"]
    cache = os.path.join(build, "tidy")
    os.makedirs(cache, exist_ok=True)
    version = subprocess.run(["clang-tidy", "--version"], capture_output=True, check=True).stdout
    with open(os.path.join(ROOT, ".clang-tidy"), "rb") as f:
        config = version + f.read()
    failed = cached = total = 0
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        jobs = [pool.submit(tidy, build, cache, config, e) for e in entries(build, paths)]
        for job in concurrent.futures.as_completed(jobs):
            rel, rc, text, known = job.result()
            total += 1
            cached += known
            if rc:
                failed += 1
                print(shorten(text, verbose) or f"{rel}: clang-tidy ended with {rc}", flush=True)
    print(f"clang-tidy: {total} files, {cached} of them unchanged, {failed} with findings")
    sys.exit(1 if failed or not total else 0)


main()
