"""Reads OpenMetrics 1.0 text and refuses what its grammar does not allow: a family in two places, a
sample that does not fit its type, a label twice, a value that is no number, something behind the end.
Where Prometheus' own reader is installed (the package prometheus_client), it has to agree."""
import math
import re

try:
    from prometheus_client.openmetrics.parser import text_string_to_metric_families as peer
except ImportError:
    peer = None

NAME = r"[a-zA-Z_:][a-zA-Z0-9_:]*"
SAMPLE = re.compile(rf"({NAME})(?:\{{(.*)\}})? (\S+)(?: (\S+))?")
LABEL = re.compile(r'([a-zA-Z_][a-zA-Z0-9_]*)="((?:[^"\\\n]|\\["\\n])*)"(,|$)')
SUFFIXES = {"gauge": ("",), "unknown": ("",), "counter": ("_total", "_created"), "info": ("_info",),
            "histogram": ("_bucket", "_sum", "_count", "_created"),
            "summary": ("", "_sum", "_count", "_created")}


def labels(text):
    found = {}
    while text:
        m = LABEL.match(text)
        assert m, f"labels: {text}"
        assert m[1] not in found, f"label {m[1]} twice"
        found[m[1]] = m[2]
        text = text[m.end():]
    return found


def number(text):
    assert re.fullmatch(r"[+-]?(\d+(\.\d*)?([eE][+-]?\d+)?|Inf)|NaN", text), f"value: {text}"
    return float(text)


def check_buckets(family, rows):
    groups = {}
    for name, its, value in rows:
        if name.endswith("_bucket"):
            key = tuple(sorted((k, v) for k, v in its.items() if k != "le"))
            groups.setdefault(key, []).append((number(its["le"]), value))
    for key, buckets in groups.items():
        assert buckets == sorted(buckets), f"{family}{key}: buckets are not in order"
        assert math.isinf(buckets[-1][0]), f"{family}{key}: there is no +Inf"
        counts = [v for n, its, v in rows if n.endswith("_count")
                  and tuple(sorted(its.items())) == key]
        assert counts == [buckets[-1][1]], f"{family}{key}: count and +Inf differ"


def check_reserved(kind, its, line):
    """Labels that only say something in their own types, and numbers in the form that all write alike."""
    assert kind == "histogram" or "le" not in its, line
    assert kind == "summary" or "quantile" not in its, line
    for name in ("le", "quantile"):
        assert name not in its or its[name] == "+Inf" or repr(float(its[name])) == its[name], line


def check_with_peer(text):
    if peer:
        families = list(peer(text))
        assert {f.name: f.type for f in families} == parse(text)[1]


def parse(text):
    """Returns {sample name: [(labels, value)]} and {family: type}."""
    assert text.endswith("# EOF\n"), "no # EOF at the end"
    types, seen, samples, family = {}, set(), {}, None
    rows = {}
    for line in text[:-len("# EOF\n")].split("\n")[:-1]:
        assert line and line == line.strip(), f"line: {line!r}"
        meta = re.fullmatch(rf"# (HELP|TYPE|UNIT) ({NAME}) (.*)", line)
        if meta:
            if meta[2] != family:
                assert meta[2] not in types and meta[2] not in seen, f"{meta[2]} in two places"
                family = meta[2]
                seen.add(family)
                rows[family] = []
            assert not rows[family], f"{line}: behind samples"
            if meta[1] == "TYPE":
                assert family not in types and meta[3] in SUFFIXES, line
                types[family] = meta[3]
            continue
        m = SAMPLE.fullmatch(line)
        assert m, f"neither a sample nor about one: {line}"
        assert family in types, f"{line}: no type"
        suffixes = SUFFIXES[types[family]]
        assert any(m[1] == family + s for s in suffixes), f"{line}: in family {family}, {types[family]}"
        its, value = labels(m[2] or ""), number(m[3])
        check_reserved(types[family], its, line)
        assert types[family] != "counter" or value >= 0, line
        assert (its, m[1]) not in [(i, n) for n, i, _ in rows[family]], f"{line}: twice"
        rows[family].append((m[1], its, value))
        samples.setdefault(m[1], []).append((its, value))
    for name, kind in types.items():
        if kind == "histogram":
            check_buckets(name, rows[name])
    return samples, types
