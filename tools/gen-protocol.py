#!/usr/bin/env python3
"""Writes docs/protocol.md from src/wire/msg.def, so that it cannot disagree with the code.

Usage: gen-protocol.py MSG.DEF OUTPUT
A comment in front of a message describes it; a heading "/* ---- a -> b ---- */" begins a section.
"""
import re
import sys

TYPES = {"u32": "32-bit unsigned", "u64": "64-bit unsigned", "i64": "64-bit signed",
         "str": "string", "strv": "list of strings"}

INTRO = """# Protocol

Generated from `src/wire/msg.def` by `tools/gen-protocol.py`; do not edit.

One packet is one message: a header, then the fields in order, nothing between them.

| bytes | header |
|---|---|
| 2 | protocol version, {version} |
| 2 | number of the message |
| 4 | id: of a request, and the same in its answers; 0 for what nobody asked for |

Numbers are little-endian. A string is its length (4 bytes), its bytes, and a NUL that the length does
not count; no NUL may be inside. A list of strings is one string in which each element ends with a
NUL. A packet has at most {largest} bytes. One that is shorter or longer than its fields say, of
another version, or of an unknown number is refused, and its sender is disconnected.
"""


def clean(comment):
    """The paragraphs of a comment, each in one line."""
    text = re.sub(r"^/\*|\*/$", "", comment.strip())
    lines = [re.sub(r"^\s*\*", "", line).strip() for line in text.splitlines()]
    return [" ".join(p.split()) for p in "\n".join(lines).split("\n\n") if p.strip()]


def parse(text):
    """Yields ("text", prose), ("section", title) and ("message", name, description, fields)."""
    pending = []
    token = re.compile(r"(?P<comment>/\*.*?\*/)|#define FAST_MSG_(?P<name>\w+)\((?P<arg>\w)\)"
                       r"(?P<body>(?:[^\n]*\\\n)*[^\n]*)", re.S)
    for m in token.finditer(text):
        if m["comment"]:
            comment = clean(m["comment"])
            title = re.fullmatch(r"-+ (.*?) -+", comment[0])
            if title:
                if pending:  # the head of the file; what it says of the file itself is not for here
                    yield "text", pending[-1]
                yield "section", title[1]
            pending = [] if title else comment
        elif m["arg"] == "F":
            yield "message", m["name"], "\n\n".join(pending), re.findall(r"\bF\((\w+), (\w+)\)", m["body"])
            pending = []


def marked(text):
    """|name| of the comments is `name` here."""
    return re.sub(r"\|(\w+)\|", r"`\1`", text)


def constant(text, name):
    return re.search(rf"#define {name} (\d+)", text)[1]


def main():
    def_path, out_path = sys.argv[1:]
    with open(def_path, encoding="utf-8") as f:
        text = f.read()
    with open(def_path.replace("msg.def", "msg.h"), encoding="utf-8") as f:
        header = f.read()
    numbers = dict(re.findall(r"\bX\((\w+), (\d+)\)", text))
    out = [INTRO.format(version=constant(header, "FAST_MSG_VERSION"),
                        largest=constant(header, "FAST_MSG_MAX"))]
    for item in parse(text):
        if item[0] == "section":
            out.append(f"\n## {item[1]}\n")
        elif item[0] == "text":
            out.append(f"\n{marked(item[1])}\n")
        else:
            _, name, description, fields = item
            out.append(f"\n### {name} ({numbers.pop(name)})\n\n{marked(description)}\n")
            out.append("\n| field | type |\n|---|---|\n")
            out.extend(f"| `{field}` | {TYPES[kind]} |\n" for kind, field in fields)
    if numbers:
        sys.exit(f"gen-protocol: {', '.join(numbers)} of the list have no definition")
    with open(out_path, "w", encoding="utf-8") as f:
        f.write("".join(out))


main()
