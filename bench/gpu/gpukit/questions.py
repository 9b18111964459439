"""What only a real GPU can tell, and which cells tell it: nine questions that the design left open."""
from gpukit.targets import cells


def say(value):
    return "-" if value is None else f"{value:.3g}" if isinstance(value, float) else str(value)


def unhooked(data):
    rows = [r for k, r in sorted(cells(data, 1).items())]
    if not rows:
        return None
    names = sorted({n for r in rows for n in r["unhooked"]})
    what = "replay, which uses the driver alone" if data["meta"].get("stand_in") else "PyTorch"
    return f"{what}: {len(names)} symbols asked for that the hook does not know ({', '.join(names[:12]) or 'none'})"


def marker(data):
    c = cells(data, 0).get("alone.costs", {})
    parts = [f"{kind} {', '.join(say(c.get(f'marker.{kind}_k{k}_stream_us')) for k in (1, 8, 32))}"
             for kind in ("write", "event", "timed_event") if f"marker.{kind}_k1_stream_us" in c]
    return "us per kernel on the stream at K = 1, 8, 32: " + "; ".join(parts) if parts else None


def overrun(data):
    c = cells(data, 0).get("alone.overrun")
    if not c:
        return None
    return "p99 beyond the kernel that had begun, by its length: " + ", ".join(
        f"{k} {r['p99_us']:.0f} us" for k, r in sorted(c["beyond_a_kernel"].items()))


def sms(data):
    c = cells(data, 0).get("mps.sms")
    return c and "SMs by percentage: " + ", ".join(f"{p} %: {say(n)}" for p, n in sorted(c.items(), key=lambda x: int(x[0])))


def read_only(data):
    c = cells(data, 0).get("alone.vmm", {})
    if "vmm.after_write" not in c:
        return None
    return f"the writer gets {c.get('vmm.write_sync', c.get('vmm.write_call'))}; {c['vmm.after_write']}"


def shared_fd(data):
    out = []
    for where in ("alone", "mps"):
        c = cells(data, 0).get(where + ".vmm", {})
        names = ("vmm.import_status", "vmm.import_other_uid_status", "vmm.import_other_namespaces_status")
        if any(n in c for n in names):
            out.append(f"{'under MPS' if where == 'mps' else 'without MPS'}: same user {say(c.get(names[0]))}, other user "
                       f"{say(c.get(names[1]))}, other namespaces {say(c.get(names[2]))}")
    return "exit status of an importer, 0 is well. " + "; ".join(out) if out else None


def context(data):
    c = cells(data, 0)
    parts = [f"{say(c[k]['mib'])} MiB {words}" for k, words in (("alone.context", "alone"), ("mps.context", "under MPS")) if k in c]
    return ", ".join(parts) or None


def per_process(data):
    c = cells(data, 0).get("mps.nvml")
    if not c:
        return None
    return (f"two clients {c['pids']}: SM % {c.get('process_sm_util')}, MiB {c.get('processes_mib')}, as MPS processes "
            f"{c.get('mps_processes_mib')}; device SM % {say(c['mean'].get('sm_util'))}")


def sets(rows, name):
    return [set(str(r[name]).split()) for r in rows if isinstance(r.get(name), str) and r[name].strip()[:1].isdigit()]


def green(data):
    rows = cells(data, 0).get("mps.green_pair")
    if not rows:
        return None
    got = sets(rows, "green.smid_set")
    if len(got) < 2:
        why = next((v for r in rows for k, v in r.items() if k.startswith(("green", "driver")) and isinstance(v, str) and v != "ok"), None)
        return f"not told: {why}"
    return f"{len(got[0])} and {len(got[1])} SMs, {len(got[0] & got[1])} of them the same"


QUESTIONS = (
    ("A program on the CUDA runtime under the hook: symbols that are not hooked", 1, unhooked),
    ("What a marker costs, as a write and as an event", 0, marker),
    ("How long kernels run on after a token is revoked", 0, overrun),
    ("SMs that a client sees, by MPS percentage", 0, sms),
    ("A write to memory that is mapped to be read, outside MPS", 0, read_only),
    ("Memory shared as a descriptor: other users, other namespaces", 0, shared_fd),
    ("Device memory of a context, by NVML", 0, context),
    ("Figures of NVML for each process under MPS", 0, per_process),
    ("Green contexts of two MPS clients: on the same SMs?", 0, green),
)


def rows(data):
    """(number, question, answer); without one, why not."""
    out = []
    for i, (question, stage, ask) in enumerate(QUESTIONS, 1):
        answer = ask(data)
        if not answer:
            row = data["stages"].get(str(stage))
            mps = cells(data, 0).get("mps", {})
            answer = "not asked: " + (f"stage {stage} was not run" if not row else mps["why"] if mps.get("why") else
                                      row["why"] or ("--short leaves it out" if data["meta"]["short"] else "no cell of it"))
        out.append((i, question, answer))
    return out
