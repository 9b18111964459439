"""What has been measured, in one JSON file that is whole after every cell, and how much time is left."""
import json
import os
import time
import traceback


class Cut(Exception):
    """No time is left for the next cell."""


class Results:
    def __init__(self, path, end, meta):
        self.path, self.end = path, end
        self.data = {"meta": meta, "stages": {}}
        if os.path.exists(path):
            with open(path, encoding="utf-8") as f:
                old = json.load(f)
            if old["meta"].get("simulated") != meta["simulated"]:
                raise SystemExit(f"{path} holds results of {'the simulation' if not meta['simulated'] else 'a GPU'};"
                                 " name another --out")
            self.data["stages"] = old["stages"]
            self.data["meta"] = dict(old["meta"], **{k: v for k, v in meta.items() if v is not None})

    def save(self):
        temp = self.path + ".new"
        with open(temp, "w", encoding="utf-8") as f:
            json.dump(self.data, f, indent=1, sort_keys=True)
            f.write("\n")
            f.flush()
            os.fsync(f.fileno())
        os.replace(temp, self.path)

    def left(self):
        return self.end - time.monotonic()


class Stage:
    """One stage: its cells are measured once, also over several runs of the program."""

    def __init__(self, results, number, title, budget, say):
        self.results, self.number, self.say = results, number, say
        self.end = time.monotonic() + budget
        self.row = results.data["stages"].setdefault(str(number), {"cells": {}})
        self.row.update(title=title, budget=budget)
        self.row.setdefault("notes", [])

    def note(self, text):
        if text not in self.row["notes"]:
            self.row["notes"].append(text)
            self.say(f"      {text}")

    def has(self, key):
        return key in self.row["cells"]

    def get(self, key, default=None):
        return self.row["cells"].get(key, default)

    def check(self, need):
        """Raises Cut when less than |need| seconds are left, of the stage or of the whole."""
        left = min(self.end - time.monotonic(), self.results.left())
        if left < need:
            raise Cut(f"{left:.0f} s are left and the next part takes {need:.0f}")

    def put(self, key, value):
        self.row["cells"][key] = value
        self.results.save()

    def cell(self, key, need, measure):
        """The value of |key|; measured and stored when it is not there yet."""
        if not self.has(key):
            self.check(need)
            began = time.monotonic()
            value = measure()
            self.put(key, value)
            self.say(f"      {key}: {brief(value)} ({time.monotonic() - began:.1f} s)")
        return self.get(key)

    def run(self, work):
        """Returns "done", "cut" or "failed"; what was measured is kept in each case."""
        began = time.monotonic()
        try:
            work(self)
            state, why = "done", None
        except Cut as e:
            state, why = "cut", str(e)
        except (Exception, SystemExit) as e: # pylint: disable=broad-except
            state, why = "failed", f"{type(e).__name__}: {e}"
            self.row["traceback"] = traceback.format_exc()[-4000:]
        self.row.update(state=state, why=why)
        self.row["seconds"] = round(self.row.get("seconds", 0) + time.monotonic() - began, 1)
        self.results.save()
        return state


def brief(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        shown = [f"{k} {brief(v)}" for k, v in value.items() if isinstance(v, (int, float, str))]
        return ", ".join(shown[:5])
    if isinstance(value, list):
        return f"{len(value)} rows"
    return str(value)[:60]
