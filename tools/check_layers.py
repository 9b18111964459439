#!/usr/bin/env python3
"""Checks that every #include in src/ is allowed by the ```arrows block of ARCHITECTURE.md.

Fails on: an include that no arrow allows, a folder of src/ that has no row, a cycle of arrows, an
arrow between two programs, an include without a folder, a cycle of headers, and a function program
(functions/) that includes anything of src/.
"""
import os
import re
import sys

ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
PROGRAMS = {"simdriver", "hook", "node", "store", "gateway", "cli"}
# Functions know nothing of this project, but for two formats of data: the device code that the
# simulated driver loads, and the model files.
FORMATS = {"simdriver/module.h", "sim/model.h", "storelib/fast_store.h"}
INCLUDE = re.compile(r'^[ \t]*#[ \t]*include[ \t]*"([^"]+)"', re.M)
COMMENT = re.compile(r"/\*.*?\*/", re.S)
errors = []


def fail(text):
    errors.append(text)


def read(path):
    with open(os.path.join(ROOT, path), encoding="utf-8") as f:
        return f.read()


def read_arrows():
    block = re.search(r"```arrows\n(.*?)```", read("ARCHITECTURE.md"), re.S)
    if not block:
        sys.exit("ARCHITECTURE.md has no ```arrows block")
    arrows = {}
    for line in block.group(1).splitlines():
        if line.strip():
            left, sep, right = line.partition("->")
            if not sep or left.strip() in arrows:
                sys.exit(f"ARCHITECTURE.md: not an arrow, or a second one: {line}")
            arrows[left.strip()] = set(right.split())
    return arrows


def find_cycle(graph):
    """A list of nodes around a cycle of |graph|, or None."""
    done, path = set(), []

    def visit(node):
        if node in path:
            return path[path.index(node):] + [node]
        if node in done:
            return None
        path.append(node)
        for to in sorted(graph.get(node, ())):
            cycle = visit(to)
            if cycle:
                return cycle
        path.pop()
        done.add(node)
        return None

    for node in sorted(graph):
        cycle = visit(node)
        if cycle:
            return cycle
    return None


def check_arrows(arrows):
    for left, right in arrows.items():
        for to in right - set(arrows):
            fail(f"ARCHITECTURE.md: {left} -> {to}: there is no row for {to}")
        for to in right & PROGRAMS if left in PROGRAMS else ():
            fail(f"ARCHITECTURE.md: {left} -> {to}: programs never include each other")
    cycle = find_cycle(arrows)
    if cycle:
        fail("ARCHITECTURE.md: the arrows go in a circle: " + " -> ".join(cycle))


def sources(top):
    for folder, dirs, files in os.walk(os.path.join(ROOT, top)):
        dirs.sort()
        for name in sorted(files):
            if name.endswith((".c", ".h", ".def", ".tbl", ".inc")):
                yield os.path.relpath(os.path.join(folder, name), ROOT)


def includes(path):
    text = COMMENT.sub(lambda m: "\n" * m.group().count("\n"), read(path))
    for m in INCLUDE.finditer(text):
        yield text.count("\n", 0, m.start()) + 1, m.group(1)


def check_src(arrows):
    graph, count = {}, 0
    for path in sources("src"):
        layer = path.split(os.sep)[1]
        if layer not in arrows:
            fail(f"{path}: ARCHITECTURE.md has no row for src/{layer}")
            continue
        for line, name in includes(path):
            count += 1
            to = name.split("/")[0]
            graph.setdefault(path, set()).add(os.path.join("src", name))
            if "/" not in name or to not in arrows:
                fail(f'{path}:{line}: "{name}" does not name its layer ("folder/file.h")')
            elif to != layer and to not in arrows[layer]:
                fail(f'{path}:{line}: {layer} may not include {to} ("{name}")')
    cycle = find_cycle(graph)
    if cycle:
        fail("headers include each other: " + " -> ".join(cycle))
    return count


def check_functions(arrows):
    for path in sources("functions"):
        for line, name in includes(path):
            if name not in FORMATS and (name.split("/")[0] in arrows or ".." in name):
                fail(f'{path}:{line}: a function knows nothing of this project ("{name}")')


def main():
    arrows = read_arrows()
    check_arrows(arrows)
    count = check_src(arrows)
    check_functions(arrows)
    for text in errors:
        print(text)
    print(f"layers: {count} includes, {len(errors)} not allowed")
    sys.exit(1 if errors else 0)


main()
