#!/usr/bin/env python3
"""Makes C and documentation from entry.tbl: gen.py TABLE OUTDIR DOCDIR."""
import os
import re
import sys
from dataclasses import dataclass, field

CLASSES = {
    "launch": "kernels: counted and gated",
    "graph": "graph launches: counted and gated as one unit with a learned cost",
    "copy": "copies of 64 KiB and more are gated",
    "memset": "memsets of 64 KiB and more are gated",
    "alloc": "device memory: reserved at the node before the driver allocates",
    "free": "gives device memory back",
    "access": "shared memory that is mapped for reading is not made writable",
    "report": "tells the memory cap instead of the whole device",
    "sync": "the host waits for the device, or asks whether it is done",
    "capture": "begins or ends a stream capture",
    "stream": "ends a stream",
    "context": "makes a context, changes the current one of the thread, or ends one",
    "lookup": "cuInit and cuGetProcAddress",
    "pass": "no wrapper: the driver's own function",
}
GATED = {"launch": "KERNEL", "graph": "GRAPH", "copy": "COPY", "memset": "COPY"}
VARIANTS = {"-": "LEGACY", "ptsz": "PTSZ", "ptds": "PTDS"}
KEYS = {"bytes", "stream", "done", "pdl"}
NOTE = "/* Made from src/cuda/entry.tbl by src/cuda/gen.py. */\n"


@dataclass
class Row:
    symbol: str
    base: str
    since: int
    variant: str
    cls: str
    args: list = field(default_factory=list)  # (declaration, name)
    keys: dict = field(default_factory=dict)

    @property
    def decl(self):
        return ", ".join(d for d, _ in self.args) or "void"

    @property
    def call(self):
        return ", ".join(n for _, n in self.args)

    def names(self):
        return {n for _, n in self.args}


def parse_args(text, where):
    if text == "void":
        return []
    out = []
    for decl in text.split(","):
        name = re.search(r"(\w+)$", decl.strip())
        if not name or name.group(1) == decl.strip():
            raise SystemExit(f"{where}: argument '{decl.strip()}' has no type or no name")
        out.append((decl.strip(), name.group(1)))
    return out


def parse_row(line, where):
    head, _, tail = line.partition(":")
    cells = head.split()
    if len(cells) != 5:
        raise SystemExit(f"{where}: {len(cells)} columns, 5 expected")
    row = Row(cells[0], cells[1], int(cells[2]), cells[3], cells[4])
    if row.cls not in CLASSES:
        raise SystemExit(f"{where}: {row.symbol}: unknown class '{row.cls}'")
    if row.variant not in VARIANTS:
        raise SystemExit(f"{where}: {row.symbol}: unknown variant '{row.variant}'")
    if (row.variant != "-") != row.symbol.endswith(("_ptsz", "_ptds")):
        raise SystemExit(f"{where}: {row.symbol}: the variant does not fit the name")
    parts = [p.strip() for p in tail.split(";")]
    if (row.cls == "pass") != (parts[0] == ""):
        raise SystemExit(f"{where}: {row.symbol}: every class but pass has arguments, pass has none")
    if row.cls != "pass":
        row.args = parse_args(parts[0], where)
    for part in parts[1:]:
        key, eq, value = part.partition("=")
        if not eq or key not in KEYS:
            raise SystemExit(f"{where}: {row.symbol}: unknown key '{part}'")
        row.keys[key] = value
    if row.cls in ("copy", "memset") and "bytes" not in row.keys and "bytes" not in row.names():
        raise SystemExit(f"{where}: {row.symbol}: a {row.cls} needs bytes=")
    return row


def read_table(path):
    rows = []
    with open(path, encoding="utf-8") as table:
        for number, line in enumerate(table, 1):
            if line.strip() and not line.startswith("#"):
                rows.append(parse_row(line.strip(), f"{path}:{number}"))
    symbols = [r.symbol for r in rows]
    if symbols != sorted(set(symbols)):
        raise SystemExit(f"{path}: the symbols are not sorted, or one is there twice")
    return rows


def lookup_order(rows):
    """Rows that cuGetProcAddress can answer with, by base, then since."""
    return sorted((r for r in rows if r.since), key=lambda r: (r.base, r.since, r.variant))


def entry_h(rows, hooked):
    out = [NOTE, "#ifndef FAST_CUDA_ENTRY_GEN_H", "#define FAST_CUDA_ENTRY_GEN_H", ""]
    out += ["enum fast_entry_class {"]
    out += [f"    FAST_CLASS_{c}, /* {text} */" for c, text in CLASSES.items()]
    out += ["    FAST_CLASS_COUNT", "};", "", "/* Entry points with a wrapper, sorted by name. */"]
    out += ["enum fast_entry {"]
    out += [f"    FAST_ENTRY_{r.symbol}," for r in hooked]
    out += ["    FAST_ENTRY_COUNT", "};", "", f"#define FAST_ENTRY_SYMBOLS {len(rows)}", "", "#endif"]
    return out


def entry_c(rows, hooked):
    out = [NOTE, '#include "cuda/entry.h"', ""]
    out += ["const struct fast_entry_info fast_entry_hooked[FAST_ENTRY_COUNT] = {"]
    out += [f'    {{"{r.symbol}", "{r.base}", FAST_CLASS_{r.cls}, {r.since}, '
            f"FAST_VARIANT_{VARIANTS[r.variant]}}}," for r in hooked]
    out += ["};", ""]
    strongest = {}
    for r in rows:
        if r.cls != "pass":
            strongest.setdefault(r.base, r.cls)
    out += ["const struct fast_entry_base fast_entry_bases[] = {"]
    out += [f'    {{"{b}", FAST_CLASS_{c}}},' for b, c in sorted(strongest.items())]
    out += ["};", f"const size_t fast_entry_base_count = {len(strongest)};"]
    return out


def hook_proto_h(hooked):
    out = [NOTE, "#ifndef FAST_CUDA_HOOK_PROTO_H", "#define FAST_CUDA_HOOK_PROTO_H", "",
           '#include "cuda/abi.h"', ""]
    for r in hooked:
        out += [f"typedef CUresult fast_fn_{r.symbol}({r.decl});",
                f"fast_fn_{r.symbol} {r.symbol};"]
    return out + ["", "#endif"]


def gate_call(r):
    stream = r.keys.get("stream", "stream" if "stream" in r.names() else "NULL")
    size = "0"
    if r.cls in ("copy", "memset"):
        size = r.keys.get("bytes", "bytes")
    elif r.cls == "graph":
        size = "(uintptr_t)exec"
    elif "pdl" in r.keys:
        size = r.keys["pdl"]
    kind = GATED[r.cls] + ("_DONE" if "done" in r.keys else "")
    per_thread = "true" if r.variant != "-" else "false"
    return f"fast_gate_enter(&op, FAST_GATE_{kind}, {stream}, {per_thread}, {size})"


def hook_stubs_c(hooked):
    out = [NOTE, '#include "hook/gate.h"', '#include "hook/hook.h"',
           '#include "hook/memory.h"', ""]
    for r in hooked:
        if r.cls not in GATED:
            continue
        # A graph may allocate memory when it is launched.
        graph = r.cls == "graph"
        out += [f"FAST_EXPORT CUresult {r.symbol}({r.decl})", "{",
                f"    fast_fn_{r.symbol} *real = FAST_REAL({r.symbol});",
                "    struct fast_gate_op op;"]
        out += ["    struct fast_graph_launch memory;",
                "    if (!fast_graph_before(&memory))",
                "        return CUDA_ERROR_OUT_OF_MEMORY;"] if graph else []
        out += [f"    bool gated = {gate_call(r)};",
                f"    CUresult r = real({r.call});",
                "    if (gated)",
                "        fast_gate_leave(&op, r);"] if graph else [
                f"    if (!{gate_call(r)})",
                f"        return real({r.call});",
                f"    CUresult r = real({r.call});",
                "    fast_gate_leave(&op, r);"]
        out += ["    fast_graph_after(&memory);"] if graph else []
        out += ["    return r;", "}", ""]
    out += ["fast_any_fn *const fast_hook_wrappers[FAST_ENTRY_COUNT] = {"]
    out += [f"    (fast_any_fn *)&{r.symbol}," for r in hooked]
    return out + ["};"]


def sim_stubs_c(rows):
    out = [NOTE, '#include "cuda/abi.h"', '#include "cuda/entry.h"', "",
           "/* Weak: a function of the same name elsewhere in the driver takes its place. */",
           "#define STUB(symbol)                                                          \\",
           "    CUresult symbol(void);                                                    \\",
           '    __attribute__((weak, visibility("default"))) CUresult symbol(void)       \\',
           "    {                                                                         \\",
           "        return CUDA_ERROR_NOT_SUPPORTED;                                      \\",
           "    }", ""]
    out += [f"STUB({r.symbol})" for r in rows]
    ordered = lookup_order(rows)
    out += ["", "const struct fast_entry_fn fast_entry_fns[] = {"]
    out += [f'    {{"{r.base}", "{r.symbol}", {r.since}, FAST_VARIANT_{VARIANTS[r.variant]}, '
            f"(fast_any_fn *)&{r.symbol}}}," for r in ordered]
    return out + ["};", f"const size_t fast_entry_fn_count = {len(ordered)};"]


def version_script(symbols):
    return ["{", "global:"] + [f"    {s};" for s in symbols] + ["local:", "    *;", "};"]


def entrypoints_md(rows):
    out = ["# Driver entry points", "",
           "Made from `src/cuda/entry.tbl`. What the hook does with every symbol of the CUDA driver.",
           "", "| class | symbols | what the hook does |", "|---|---|---|"]
    for c, text in CLASSES.items():
        out.append(f"| {c} | {sum(r.cls == c for r in rows)} | {text} |")
    out += ["", "| symbol | cuGetProcAddress name | since | default stream | class |",
            "|---|---|---|---|---|"]
    for r in rows:
        since = f"{r.since // 1000}.{r.since % 1000 // 10}" if r.since else "-"
        stream = "legacy" if r.variant == "-" else "per thread"
        out.append(f"| `{r.symbol}` | {r.base} | {since} | {stream} | {r.cls} |")
    return out


def main():
    table, outdir, docdir = sys.argv[1:4]
    rows = read_table(table)
    hooked = [r for r in rows if r.cls != "pass"]
    extra = ["dlsym", "dlopen", "nvmlDeviceGetMemoryInfo", "nvmlDeviceGetMemoryInfo_v2"]
    os.makedirs(docdir, exist_ok=True)
    files = {
        f"{outdir}/entry_gen.h": entry_h(rows, hooked),
        f"{outdir}/entry_gen.c": entry_c(rows, hooked),
        f"{outdir}/hook_proto.h": hook_proto_h(hooked),
        f"{outdir}/hook_stubs.c": hook_stubs_c(hooked),
        f"{outdir}/sim_stubs.c": sim_stubs_c(rows),
        f"{outdir}/hook.map": version_script(extra + [r.symbol for r in hooked]),
        f"{outdir}/sim.map": version_script([r.symbol for r in rows]),
        f"{docdir}/entrypoints.md": entrypoints_md(rows),
    }
    for path, lines in files.items():
        with open(path, "w", encoding="utf-8") as out:
            out.write("\n".join(lines) + "\n")


main()
