"""What has been measured, in one JSON file that is whole after every cell, and how much time is left."""
import json
import os
import shutil
import signal
import time
import traceback

# Results of different kinds are not mixed in one file: what a figure was measured on is in its head.
FIXED = {"simulated": "simulated or not", "sim": "the simulated device", "gpu": "the GPU", "short": "short or not",
         "stand_in": "in the place of PyTorch"}
OVERTIME = 45 # seconds that a stage may take beyond its budget before it is broken off


class Cut(Exception):
    """No time is left for the next cell."""


class Skip(Exception):
    """The stage has no meaning on this machine."""


class Stop(BaseException):
    """Somebody wants the program to end. No stage catches it."""


class Results:
    def __init__(self, path, end, meta, earlier=None):
        """Goes on with |path|, where there is none with |earlier|, which is left as it is."""
        self.path, self.end = path, end
        self.data = {"meta": meta, "stages": {}}
        if earlier and not os.path.exists(path):
            shutil.copyfile(earlier, path)
        old = self.read()
        if old:
            for key, words in FIXED.items():
                if old["meta"].get(key) != meta.get(key):
                    raise SystemExit(f"run: {path} is of another kind ({words}: {old['meta'].get(key)}, now "
                                     f"{meta.get(key)}); name another --out")
            self.data["stages"] = old["stages"]
            self.data["meta"] = dict(old["meta"], **{k: v for k, v in meta.items() if v is not None})

    def read(self):
        """What is there. A file that is no JSON is moved aside: somebody copied half of it."""
        try:
            with open(self.path, encoding="utf-8") as f:
                old = json.load(f)
            if isinstance(old, dict) and isinstance(old.get("meta"), dict) and isinstance(old.get("stages"), dict):
                return old
        except FileNotFoundError:
            return None
        except ValueError:
            pass
        os.replace(self.path, self.path + ".unreadable")
        return None

    def forget(self, numbers):
        for n in numbers:
            self.data["stages"].pop(str(n), None)

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


def ring(*_):
    raise Cut("it took too long and was broken off")


class Stage:
    """One stage: its cells are measured once, also over several runs of the program."""

    def __init__(self, results, number, title, budget, say):
        self.results, self.number, self.say = results, number, say
        self.allow(budget)
        self.row = results.data["stages"].setdefault(str(number), {"cells": {}})
        # The state that the file has when the program is killed in this stage.
        self.row.update(title=title, budget=budget, state="cut", why="the program was ended")
        self.row.setdefault("notes", [])
        self.row.setdefault("seconds", 0)
        self.failures = []

    def allow(self, seconds):
        self.allowed, self.end = seconds, time.monotonic() + seconds

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
            raise Cut(f"{max(0, left):.0f} s are left and the next part takes {need:.0f}")

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

    def try_cell(self, key, need, measure):
        """As cell, for one that others do not rest on."""
        return self.attempt(key, lambda: self.cell(key, need, measure))

    def attempt(self, key, work):
        """A part that others do not rest on: when it fails, the stage goes on, and the failure is its state
        in the end unless it is mended by the next run."""
        try:
            return work()
        except Exception as e: # pylint: disable=broad-except
            if isinstance(e, (Cut, Skip)):
                raise
            self.failures.append(f"{key}: {type(e).__name__}: {e}")
            self.say(f"      {self.failures[-1]}")
            self.row["traceback"] = traceback.format_exc()[-4000:]
            return None

    def run(self, work):
        """Returns "done", "cut", "skipped" or "failed"; what was measured is kept in each case."""
        began = time.monotonic()
        self.row.pop("traceback", None)
        state, why = "cut", "the program was ended"
        signal.signal(signal.SIGALRM, ring)
        limit = min(self.allowed + OVERTIME, self.results.left() + 5)
        if limit != float("inf"):
            signal.setitimer(signal.ITIMER_REAL, max(0.1, limit))
        try:
            work(self)
            state, why = ("failed", "; ".join(self.failures)[:1000]) if self.failures else ("done", None)
        except Cut as e:
            why = str(e)
        except Skip as e:
            state, why = "skipped", str(e)
        except (Exception, SystemExit) as e: # pylint: disable=broad-except
            state, why = "failed", f"{type(e).__name__}: {e}"
            self.row["traceback"] = traceback.format_exc()[-4000:]
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)
            self.row.update(state=state, why=why)
            self.row["seconds"] = round(self.row["seconds"] + time.monotonic() - began, 1)
            self.results.save()
        return state


LEAST = 5 # seconds for which no stage is begun


def rounds(results, stages, say, work):
    """Runs |stages|, (number, title, budget, anything) in order of value; returns {number: state}. The
    budget of a stage holds over all runs, lest a long one take the time of the others each time. Who
    was cut by it has a second turn behind the others, with the budget once more. |work| gets a stage and
    the row of it."""
    states = {}
    for again in (False, True):
        for row in stages:
            number, title, budget = row[:3]
            if again and states[number] != "cut":
                continue
            spent = results.data["stages"].get(str(number), {}).get("seconds", 0)
            own = budget if again else budget - spent
            say(f"  {number:2}  {title}" + (", going on" if again else ""))
            if results.left() < LEAST:
                states[number] = "cut"
                say("      no time is left")
                continue
            if own < LEAST and results.data["stages"][str(number)]["state"] != "done":
                states[number] = "cut"
                say("      its budget is spent: it has a second turn behind the others")
                continue
            stage = Stage(results, number, title, budget, say)
            stage.allow(max(own, LEAST))
            states[number] = stage.run(lambda s, r=row: work(s, r))
            if states[number] != "done":
                say(f"      {states[number]}: {stage.row['why']}")
    results.save()
    return states


def brief(value):
    if isinstance(value, float):
        return f"{value:.4g}"
    if isinstance(value, dict):
        shown = [f"{k} {brief(v)}" for k, v in value.items() if isinstance(v, (int, float, str))]
        return ", ".join(shown[:5])
    if isinstance(value, list):
        return f"{len(value)} rows"
    return str(value)[:60]
