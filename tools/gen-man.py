#!/usr/bin/env python3
"""Makes a manual page from a template and the --help of the program, so that they cannot disagree.

Usage: gen-man.py TEMPLATE VERSION PROGRAM OUTPUT
In the template, @VERSION@ is the version; a line @OPTIONS@ becomes the options that
`PROGRAM --help` lists; a line @COMMANDS@ its commands, each with the text and the options of
`PROGRAM COMMAND --help`, but for options that every command has, which a line @COMMON@ becomes.
"""
import os
import re
import subprocess
import sys

# "  -n, --name ARG   text": two blanks end the part that is typed.
OPTION = re.compile(r"^ {2,}((?:-\w, *)?--?[\w-]+(?:[ =]?\S+)*?)(?: {2,}(\S.*))?$")


def roff(text):
    text = text.replace("\\", "\\e").replace("-", "\\-")
    return "\\&" + text if text[:1] in (".", "'") else text


def run(program, *args):
    # A program of a build with AddressSanitizer need not account for its memory here.
    env = dict(os.environ, ASAN_OPTIONS="detect_leaks=0")
    done = subprocess.run([program, *args], capture_output=True, text=True, check=False, env=env)
    if done.returncode or not done.stdout:
        sys.exit(f"gen-man: {program} {' '.join(args)}: status {done.returncode}\n{done.stderr}")
    return done.stdout.splitlines()


def options(lines):
    """[(typed, text)] of the lines that are options, with the lines that continue their text."""
    found = []
    indent = 0
    for line in lines:
        m = OPTION.match(line)
        if m:
            found.append([m[1], m[2] or ""])
            indent = m.start(2) if m[2] else 0
        elif found and line.strip() and len(line) - len(line.lstrip()) >= max(indent, 8):
            found[-1][1] = (found[-1][1] + " " + line.strip()).strip()
    return [tuple(f) for f in found]


def render_options(found):
    out = []
    for typed, text in found:
        flags = re.sub(r"(--?[\w-]+)", r"\\fB\1\\fR", typed).replace("-", "\\-")
        out += [".TP", flags, roff(text)]
    return out


def commands(lines):
    """[(name, summary)] of the part of the help that begins with "Commands:"."""
    found, inside = [], False
    for line in lines:
        m = re.match(r"^  (\w[\w-]*) {2,}(\S.*)$", line)
        if line.startswith("Commands:"):
            inside = True
        elif inside and m:
            found.append((m[1], m[2]))
        elif inside and line.strip():
            break
    return found


def describe(program, name, common):
    """One command: its usage, the text before its options, and the options of its own."""
    lines = run(program, name, "--help")
    end = next((i for i, line in enumerate(lines) if line.startswith("Options:")), len(lines))
    usage = lines[0].removeprefix("Usage: ")
    out = [f".SS {roff(usage)}"]
    for line in lines[1:end]:
        if not line.strip():
            out.append(".PP")
        elif line.startswith(" "):
            out += [".nf", roff(line), ".fi"]
        else:
            out += [roff(line), ".br"]
    text = "\n".join(out).replace("\n.fi\n.nf\n", "\n")
    text = re.sub(r"(\.PP\n)+", ".PP\n", text).removesuffix(".PP").rstrip()
    own = [o for o in options(lines[end:]) if o not in common]
    return [text] + render_options(own)


def main():
    template, version, program, output = sys.argv[1:]
    top = run(program, "--help")
    names = commands(top)
    each = [options(run(program, name, "--help")) for name, _ in names]
    common = [o for o in each[0] if all(o in other for other in each)] if each else []
    out = []
    with open(template, encoding="utf-8") as f:
        for line in f.read().splitlines():
            if line == "@OPTIONS@":
                out += render_options(options(top))
            elif line == "@COMMON@":
                out += render_options(common)
            elif line == "@COMMANDS@":
                for name, _ in names:
                    out += describe(program, name, common)
            else:
                out.append(line.replace("@VERSION@", version))
    text = "\n".join(out) + "\n"
    for mark, found in (("@OPTIONS@", options(top)), ("@COMMANDS@", names)):
        with open(template, encoding="utf-8") as f:
            if mark in f.read() and not found:
                sys.exit(f"gen-man: {program} --help lists nothing for {mark}")
    with open(output, "w", encoding="utf-8") as f:
        f.write(text)


main()
