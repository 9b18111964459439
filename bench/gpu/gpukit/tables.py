"""results.json as Markdown and SVG."""
from gpukit import questions, targets

PAPER_GRID = {6: (13.5, 25, 34.5, 42.5, 50), 12: (19, 35.5, 46, 59, 68.5)}
PAPER_GRID_REST = (19.5, 38, 50, 63.5, 74.5)
QUOTAS = (200, 400, 600, 800, 1000)
# Total device memory of a replica alone and with sharing, MB.
PAPER_MEMORY = {"resnet50": (1525, 1427), "resnext101": (3335, 1829), "vit_huge": (4735, 2101)}
COLORS = ("#1b6ca8", "#c0392b", "#27803b", "#8e44ad", "#b9770e", "#555555")


def number(value, digits=1):
    return "-" if value is None else f"{value:.{digits}f}" if isinstance(value, float) else str(value)


def table(head, rows):
    out = ["| " + " | ".join(head) + " |", "|" + "---|" * len(head)]
    return "\n".join(out + ["| " + " | ".join(number(c) if isinstance(c, float) else str(c) for c in row) + " |"
                            for row in rows]) + "\n"


def plot(title, x_name, y_name, lines):
    """An SVG of lines [(name, [(x, y), ...])]."""
    width, height, left, bottom = 640, 380, 60, 46
    points = [p for _, line in lines for p in line]
    top_x, top_y = max(p[0] for p in points) or 1, (max(p[1] for p in points) or 1) * 1.08
    def place(p):
        return left + p[0] / top_x * (width - left - 150), height - bottom - p[1] / top_y * (height - bottom - 40)
    out = [f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" font-family="sans-serif" '
           f'font-size="12"><rect width="100%" height="100%" fill="white"/><text x="{left}" y="20" font-size="14">{title}</text>']
    for i in range(6):
        (x, y0), (_, y) = place((top_x * i / 5, 0)), place((0, top_y * i / 5))
        out.append(f'<text x="{x:.0f}" y="{y0 + 16:.0f}" text-anchor="middle">{top_x * i / 5:g}</text>'
                   f'<text x="{left - 6}" y="{y + 4:.0f}" text-anchor="end">{top_y * i / 5:.3g}</text>'
                   f'<line x1="{left}" x2="{width - 150}" y1="{y:.1f}" y2="{y:.1f}" stroke="#ddd"/>')
    out.append(f'<text x="{left + 200}" y="{height - 8}">{x_name}</text><text x="{left}" y="36">{y_name}</text>')
    for i, (name, line) in enumerate(lines):
        color = COLORS[i % len(COLORS)]
        text = " ".join(f"{x:.1f},{y:.1f}" for x, y in map(place, line))
        out.append(f'<polyline points="{text}" fill="none" stroke="{color}" stroke-width="2"/>'
                   f'<text x="{width - 140}" y="{50 + 18 * i}" fill="{color}">{name}</text>')
    return "\n".join(out) + "\n</svg>\n"


class Pages:
    def __init__(self, data):
        self.data, self.sim = data, data["meta"]["simulated"]
        self.word = " (simulated)" if self.sim else ""
        self.files, self.text = {}, []

    def cells(self, number_):
        return self.data["stages"].get(str(number_), {}).get("cells", {})

    def add(self, title, body):
        self.text.append(f"## {title}{self.word}\n\n{body}\n")

    def figure(self, name, title, x, y, lines):
        lines = [(n, p) for n, p in lines if p]
        name = ("simulated-" if self.sim else "") + name
        if lines:
            self.files[name] = plot(title + self.word, x, y, lines)
        return f"![{title}]({name})\n\n" if lines else ""

    # ---- one for each stage ----

    def probe(self):
        c = self.cells(0)
        rows = [(k, n, v) for k in sorted(c) if isinstance(c[k], dict) and k != "machine" for n, v in sorted(c[k].items())
                if not n.startswith("driver.") or n == "driver.cuda_version"]
        shown = [(k, n, str(v)[:120].replace("|", "/")) for k, n, v in rows]
        if shown:
            self.add("0. What this driver does", table(("probe", "what", "answer"), shown))

    def hook(self):
        c = self.cells(1)
        rows = [(k, r["bare_rps"], r["hooked_rps"], number(r["overhead_pct"], 2), "yes" if r["same_output"] else "NO",
                 ", ".join(r["unhooked"]) or "none", r["launches"]) for k, r in sorted(c.items())]
        if rows:
            self.add("1. The hook under " + ("replay, in PyTorch's place" if self.sim else "PyTorch"),
                     table(("model", "bare, req/s", "hooked", "overhead, %", "same output", "unhooked", "launches"), rows))

    def grid(self):
        c = self.cells(2)
        shares = sorted({int(k.split(".")[0]) for k in c})
        rows, lines = [], []
        for sm in shares:
            got = [c.get(f"{sm}.{q}", {}).get("rps") for q in QUOTAS]
            rows.append((f"{sm} %", *(f"{number(g)} ({p:g})" for g, p in zip(got, PAPER_GRID.get(sm, PAPER_GRID_REST)))))
            lines.append((f"SM {sm} %", [(q / 1000, g) for q, g in zip(QUOTAS, got) if g is not None]))
        if rows:
            self.add("2. ResNet-50, requests/s by SM partition and quota (in brackets: the paper's V100)",
                     self.figure("grid.svg", "ResNet-50 by slice", "time quota", "requests/s", lines)
                     + table(("SM", *(f"quota {q / 1000:g}" for q in QUOTAS)), rows))

    def replicas(self):
        c = {k: v for k, v in self.cells(3).items() if not k.endswith(".slice")}
        body = ""
        for model in sorted({k.split(".")[0] for k in c}):
            mine = {tuple(k.split(".")[1:]): v for k, v in c.items() if k.startswith(model + ".")}
            counts = sorted({int(n) for _, n in mine})
            configs = sorted({name for name, _ in mine})
            body += f"### {model}{self.word}\n\n" + self.figure(
                f"replicas-{model}.svg", f"{model} by replicas", "replicas", "requests/s",
                [(n, [(k, mine[n, str(k)]["rps"]) for k in counts if (n, str(k)) in mine]) for n in configs])
            body += table(("how", *(f"{k} replicas: req/s (p99 ms)" for k in counts)), [
                (n, *(f"{mine[n, str(k)]['rps']:.1f} ({mine[n, str(k)]['p99_ms']:.1f})" if (n, str(k)) in mine else "-"
                      for k in counts)) for n in configs]) + "\n"
        if body:
            self.add("3. Throughput by number of replicas", "timeshare: one token, all SMs. racing: MPS without percentages. "
                     "static: MPS percentages. sliced: no MPS. ours: the partition of the best throughput together.\n\n" + body)

    def goodput(self):
        c = {k: r for k, r in self.cells(11).items() if isinstance(r, dict) and "offered_rps" in r}
        names = sorted({k.split(".")[0] for k in c})
        by = {n: sorted((r for k, r in c.items() if k.startswith(n + ".")), key=lambda r: r["offered_rps"]) for n in names}
        rows = [(n, r["offered_rps"], r["good_rps"], number(r["late_pct"], 2), r["p99_ms"]) for n in names for r in by[n]]
        if rows:
            self.add("11. Goodput of ResNet-50 under the SLO", f"Poisson arrivals at the same rates for all; the SLO is {targets.SLO_TEXT}. "
                     "Goodput is the highest rate at which at most 1 % are late, linear between the rates tried.\n\n" + self.figure(
                         "goodput.svg", "goodput", "requests/s offered", "requests/s in time",
                         [(n, [(r["offered_rps"], r["good_rps"]) for r in by[n]]) for n in names])
                     + table(("how", "offered, req/s", "in time, req/s", "late, %", "p99, ms"), rows)
                     + "\n" + ", ".join(f"{n}: {number(targets.good(self.data, n))}" for n in names) + " requests/s of goodput.\n")

    def interference(self):
        c = self.cells(4)
        rows = [(n, r["resnet_alone"]["rps"], r["resnet"]["rps"], r["rnnt"]["rps"], number(r["kept_pct"]),
                 number(r["p99_ratio"], 2)) for n, r in sorted(c.items())]
        if rows:
            self.add("4. Interference: ResNet-50 (limit 80 %) beside RNN-T (limit 50 %)", table(
                ("how", "ResNet alone", "ResNet beside RNN-T", "RNN-T", "kept, %", "p99 ratio"), rows)
                + "\nThe paper: time sharing 66 to 40-56 requests/s, spatio-temporal 61-66 throughout.\n")

    def packing(self):
        c = self.cells(5)
        rows = [(n, *(number(r["gpu"].get(k)) for k in ("graphics_util", "sm_util", "sm_occupancy")),
                 ", ".join(f"{m} {v:.1f}" for m, v in r["rps"].items())) for n, r in sorted(c.items())]
        if rows:
            self.add("5. Packing: 4 ResNet-50, 2 RNN-T, 2 BERT on one GPU; by time sharing they take four", table(
                ("how", "utilization, %", "SM activity, %", "SM occupancy, %", "requests/s"), rows)
                + "\nThe paper: 88.6 % and 25.3 % packed; 28.9-47.5 % and 3.1-9.4 % by time sharing.\n")

    def ramp(self):
        r = self.cells(6).get("ramp")
        if r:
            steps = [(s[0], s[1]) for s in r["steps"]]
            stairs = [p for a, b in zip(steps, steps[1:] + [(r["seconds"], steps[-1][1])]) for p in (a, (b[0], a[1]))]
            self.add("6. The ramp, SLO 69 ms", self.figure("ramp.svg", "replicas over the ramp", "seconds", "replicas",
                                                          [("ready replicas", stairs)])
                     + f"{r['sent']} requests at {r['scale']:.2f} times the paper's rates, time times {r['stretch']:g}: p50 "
                     f"{r['p50_ms']:.1f}, p99 {r['p99_ms']:.1f} ms, {r['violation_pct']:.2f} % violations. "
                     f"Profile: {r['profile']}.\n")

    def memory(self):
        c = self.cells(7)
        rows = []
        for key, r in sorted(c.items()):
            model, how = key.split(".")
            paper = PAPER_MEMORY.get(model)
            rows.append((model, how, r["first_mib"], r["more_mib"], paper[how == "shared"] if paper else "-"))
        if rows:
            self.add("7. Device memory of a replica, MiB", table(("model", "weights", "the first", "each more", "paper, MB"), rows))

    def quota(self):
        c = self.cells(8)
        rows = [(n, number(r["error_points"], 2), number(r["overrun_us_per_token"]), number(r["overrun_pct"], 2), r["tokens"])
                for n, r in sorted(c.items())]
        if rows:
            self.add("8. Quota error and over-run", table(("cell", "worst error, points", "over-run, us a token",
                                                           "over-run, % of the time", "tokens"), rows))

    def faults(self):
        rows = [(n, r["failed_answers"], r["longest_silence_ms"], number(r["well_again_s"], 2), r["neighbours_restarted"],
                 r.get("error_told") or "-") for n, r in sorted(self.cells(9).items())]
        if rows:
            self.add("9. Faults of a neighbour", table(("what", "failed answers", "longest silence, ms", "all well after, s",
                                                        "neighbours restarted", "error"), rows))

    def calibration(self):
        rows = []
        for n, r in sorted(self.cells(10).items()):
            name = ("simulated-" if self.sim else "") + n + ".model"
            self.files[name] = r["file"]
            rows.append((f"[{name}]({name})", r["kernels"], r["busy_us"] / 1000, r["total_us"] / 1000, number(r["error_pct"], 2),
                         r["refused"] or "yes", ", ".join(f"{t['count']} x {t['name'][:40]}" for t in r["top"][:3]).replace("|", "/")))
        if rows:
            self.add("10. Models for the simulator", "From the kernels of one eager inference; the error is that of the file's own time.\n\n"
                     + table(("file", "kernels", "GPU busy, ms", "inference, ms", "error, %", "replay takes it", "most time"), rows))

    def head(self):
        m, meta = self.cells(0).get("machine", {}), self.data["meta"]
        text = f"# Results: {meta['gpu']}\n\n"
        if self.sim:
            text += ("**No figure on this page is a GPU's.** Everything ran on the simulated driver, and PyTorch was replaced by "
                     "`functions/replay`; the page shows that the kit works.\n\n")
        elif meta.get("stand_in"):
            text += "**No PyTorch was there:** `functions/replay` took its place, with kernels of set lengths.\n\n"
        if meta["short"]:
            text += "A short run: it shows that every stage works, and its figures are of little worth.\n\n"
        names = ("nvidia_smi", "others_on_the_gpu", "torch", "nvcc", "gcc", "kernel", "cpus", "root", "mps_control", "mps_server", "commit")
        rows = [(k, number(m[k])) for k in names if m.get(k) is not None] + [("note", n) for n in meta.get("notes") or []]
        rows = [(k, v.replace("|", "/").replace("\n", " ")[:400]) for k, v in rows]
        states = [(n, s["title"], s["state"], number(s["seconds"]), "; ".join(filter(None, [s["why"], *s["notes"]])))
                  for n, s in sorted(self.data["stages"].items(), key=lambda x: int(x[0]))]
        goals = [(name + self.word, number(value, 2), limit, state, why, paper)
                 for name, value, limit, state, why, paper in targets.rows(self.data)]
        return (text + f"Made by `bench/gpu/report` from a run at {meta['when']}.\n\n" + table(("machine", ""), rows)
                + "\n## Targets" + self.word + "\n\n" + table(("figure", "measured", "target", "", "why", "paper"), goals)
                + "\n## The nine questions" + self.word + "\n\n" + table(("", "question", "answer"), questions.rows(self.data))
                + "\n## Stages\n\n" + table(("", "stage", "state", "s", "notes"), states) + "\n")


def pages(data):
    """{file name: text}"""
    p = Pages(data)
    for part in (p.probe, p.hook, p.grid, p.replicas, p.goodput, p.interference, p.packing, p.ramp, p.memory, p.quota, p.faults,
                 p.calibration):
        part()
    p.files["README.md"] = p.head() + "\n".join(p.text)
    return p.files
