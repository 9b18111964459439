#!/usr/bin/env python3
"""Makes docs/simulated-gpu.md: gen-simulated.py TEMPLATE GAPS LIBCUDA OUT.

A function that the simulated driver has not got is a weak symbol of the library (src/cuda/gen.py), so the list is
read from there. Each has to belong to a group of GAPS, and each group has to have a member."""
import re
import struct
import sys

SHT_DYNSYM, STB_WEAK = 11, 2


def weak_symbols(path):
    with open(path, "rb") as f:
        data = f.read()
    if data[:6] != b"\x7fELF\x02\x01":
        raise SystemExit(f"{path}: no little-endian 64-bit ELF file")
    offset, = struct.unpack_from("<Q", data, 40)
    size, count = struct.unpack_from("<HH", data, 58)
    sections = [struct.unpack_from("<IIQQQQIIQQ", data, offset + i * size) for i in range(count)]
    found, total = [], 0
    for s in sections:
        if s[1] != SHT_DYNSYM:
            continue
        names = sections[s[6]][4]
        for at in range(s[4], s[4] + s[5], 24):
            name, info, _, section = struct.unpack_from("<IBBH", data, at)
            text = data[names + name:data.index(b"\0", names + name)].decode()
            if section and re.match(r"cu[A-Z]", text):
                total += 1
                if info >> 4 == STB_WEAK:
                    found.append(text)
    return sorted(found), total


def read_gaps(path):
    gaps = []
    with open(path, encoding="utf-8") as f:
        for line in f:
            if line.strip() and not line.startswith("#"):
                title, pattern, loss = re.split(r"(?<!\\)\|", line, maxsplit=2)
                gaps.append((title.strip(), re.compile(pattern.strip().replace("\\|", "|")), loss.strip(), []))
    return gaps


def main():
    template, gaps_path, library, out = sys.argv[1:5]
    symbols, total = weak_symbols(library)
    gaps = read_gaps(gaps_path)
    for symbol in symbols:
        plain = re.sub(r"_pt[sd][zs]$", "", symbol)
        group = next((g for g in gaps if g[1].fullmatch(plain)), None)
        if not group:
            raise SystemExit(f"{gaps_path}: nothing says what a program loses without {symbol}")
        group[3].append(symbol)
    empty = [g[0] for g in gaps if not g[3]]
    if empty:
        raise SystemExit(f"{gaps_path}: the driver does all of: {', '.join(empty)}; take it out")
    rows = [f"| {title} | {len(its)}: {', '.join(f'`{s}`' for s in its)} | {loss} |" for title, _, loss, its in gaps]
    summary = f"{len(symbols)} of {total}. Every one of them is exported and found by `cuGetProcAddress`, as on a GPU."
    with open(template, encoding="utf-8") as f:
        text = f.read().replace("@SUMMARY@", summary).replace("@TABLE@", "\n".join(rows))
    with open(out, "w", encoding="utf-8") as f:
        f.write(text)


main()
