#!/usr/bin/env python3
"""Checks sizes: files (600 lines warn, 800 fail), functions (60 warn, 100 fail), lines of C (100
columns warn, 120 fail), blanks at the end of a line and tabs in C (fail).

Usage: check_size.py [-v]    -v lists the warnings, too
"""
import os
import subprocess
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
FILE_WARN, FILE_FAIL = 600, 800
FUNCTION_WARN, FUNCTION_FAIL = 60, 100
COLUMNS_WARN, COLUMNS_FAIL = 100, 120
CODE = (".c", ".h", ".py", ".sh", ".def", ".tbl")
DATA = ("functions/digits/data/",)  # generated numbers, if a function needs some
errors, warnings = [], []


def blank(text):
    """|text| with comments, strings, characters and preprocessor lines blanked out, so that every
    brace left is one of the program. Line numbers stay."""
    out, i, n = [], 0, len(text)
    line_start = True
    while i < n:
        c, two = text[i], text[i:i + 2]
        end = i + 1
        if two == "/*":
            end = text.find("*/", i + 2) + 2 or n
            end = n if end == 1 else end
        elif two == "//":
            end = text.find("\n", i)
            end = n if end < 0 else end
        elif c == "#" and line_start:
            end = i
            while True:
                end = text.find("\n", end)
                if end < 0 or text[end - 1] != "\\":
                    break
                end += 1
            end = n if end < 0 else end
        elif c in "\"'":
            while end < n and text[end] != c:
                end += 2 if text[end] == "\\" else 1
            end += 1
        else:
            out.append(c)
            line_start = c == "\n" or (line_start and c in " \t")
            i = end
            continue
        out.append("".join("\n" if x == "\n" else " " for x in text[i:end]))
        i = end
    return "".join(out)


def functions(text):
    """(name, first line, last line) of every function body of C |text|."""
    text = blank(text)
    depth, line, start, head = 0, 1, None, ""
    for c in text:
        if c == "\n":
            line += 1
        if c == "{":
            if depth == 0 and head.rstrip().endswith(")"):
                before = head[:head.index("(")].split() if "(" in head else []
                start = (before[-1].lstrip("*") if before else "?", line)
            depth += 1
        elif c == "}":
            depth -= 1
            if depth == 0:
                if start:
                    yield start[0], start[1], line
                start, head = None, ""
        elif depth == 0:
            head = "" if c == ";" else head + c


def check_file(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        text = f.read()
    lines = text.split("\n")
    if lines and not lines[-1]:
        lines.pop()
    else:
        errors.append(f"{path}: no newline at the end")
    if len(lines) > FILE_WARN:
        (errors if len(lines) > FILE_FAIL else warnings).append(f"{path}: {len(lines)} lines")
    for number, line in enumerate(lines, 1):
        if line != line.rstrip():
            errors.append(f"{path}:{number}: blanks at the end of the line")
        if path.endswith((".c", ".h")):
            if len(line) > COLUMNS_WARN:
                (errors if len(line) > COLUMNS_FAIL else warnings).append(
                    f"{path}:{number}: {len(line)} columns")
            if "\t" in line:
                errors.append(f"{path}:{number}: a tab")
    count = 0
    if path.endswith((".c", ".h")):
        for name, first, last in functions(text):
            count += 1
            length = last - first + 1
            if length > FUNCTION_WARN:
                (errors if length > FUNCTION_FAIL else warnings).append(
                    f"{path}:{first}: {name}() has {length} lines")
    return count


def main():
    out = subprocess.run(["git", "ls-files", "-co", "--exclude-standard", "src", "functions",
                          "tests", "bench", "tools", ".ci"], cwd=ROOT, check=True,
                         capture_output=True, text=True).stdout
    files = [p for p in out.split("\n") if (p.endswith(CODE) or p == ".ci/run")
             and not p.startswith(DATA) and os.path.isfile(os.path.join(ROOT, p))]
    count = sum(check_file(p) for p in files)
    for text in errors:
        print(text)
    if "-v" in sys.argv:
        for text in warnings:
            print("warning: " + text)
    print(f"sizes: {len(files)} files, {count} functions, {len(warnings)} long, "
          f"{len(errors)} wrong")
    sys.exit(1 if errors else 0)


main()
