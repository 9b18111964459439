#!/usr/bin/env python3
"""Turns a binary file into C: bin2c.py INPUT OUTPUT NAME gives NAME[] and NAME_size."""
import sys

source, target, name = sys.argv[1:]
with open(source, "rb") as f:
    data = f.read()
with open(target, "w", encoding="ascii") as f:
    f.write(f"/* Generated from {source.rsplit('/', 1)[-1]}. */\n#include <stddef.h>\n")
    f.write(f"extern const unsigned char {name}[];\nextern const size_t {name}_size;\n")
    f.write(f"_Alignas(16) const unsigned char {name}[] = {{\n")
    for at in range(0, len(data), 24):
        f.write(",".join(map(str, data[at:at + 24])) + ",\n")
    f.write(f"}};\nconst size_t {name}_size = sizeof({name});\n")
