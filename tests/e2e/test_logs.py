#!/usr/bin/env python3
"""When a line of a log came: told with the line, whoever reads it when, over restarts of gateway and node."""
import json
import os
import time
import unittest
import urllib.parse
import urllib.request

import gateway
import node
from gateway import wait_until

TICK = 0.02  # by which the time of a write may be before what its writer read from the clock


def seconds(text):
    """Of 2026-11-24T02:10:22.533000000Z."""
    whole, _, part = text.rstrip("Z").partition(".")
    return time.mktime(time.strptime(whole + " UTC", "%Y-%m-%dT%H:%M:%S %Z")) - time.timezone + float("0." + part)


class Times(gateway.TestCase):
    @classmethod
    def setUpClass(cls):
        super().setUpClass()
        assert cls.gw.deploy("f").status == 202
        cls.gw.wait_ready()
        cls.log = cls.node.path("logs", "f.openfaas-fn.1.log")

    def rows(self, **query):
        query = urllib.parse.urlencode({"name": "f", "follow": "false", **query})
        return [json.loads(line) for line in self.gw.get("/system/logs?" + query).text.splitlines()]

    def line(self, mark):
        found = [r for r in self.rows() if mark in r["text"]]
        self.assertEqual(len(found), 1, mark)
        return found[0]

    def noted(self):
        """Until the node knows of all that is in the log."""
        def all_of_it():
            try:
                with open(self.node.path("logs", "times", os.path.basename(self.log)), "rb") as f:
                    return int.from_bytes(f.read()[-16:-8], "little") == os.path.getsize(self.log)
            except FileNotFoundError:  # after a cut
                return False
        wait_until(all_of_it, "the node does not note what is written")

    def say(self, mark):
        before = time.time()
        self.assertEqual(self.gw.get(f"/function/f/{mark}").status, 200)
        self.noted()
        return before, time.time()

    def test_times(self):
        first = self.say("raw?first")
        time.sleep(0.3)
        second = self.say("raw?second")
        told = [self.line(mark) for mark in ("first", "second")]
        for row, (before, after) in zip(told, (first, second)):
            self.assertGreaterEqual(seconds(row["timestamp"]), before - TICK)
            self.assertLessEqual(seconds(row["timestamp"]), after)

        def since(text):
            return [r["text"].split()[1][5:] for r in self.rows(since=text) if "raw?" in r["text"]]

        between = first[1] + 0.15
        text = time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(between)) + f"{between % 1:.6f}"[1:]
        self.assertEqual(since(told[1]["timestamp"]), ["second"])
        self.assertEqual(since(text + "Z"), ["second"])
        self.assertEqual(since(text + "+00:00"), ["second"])
        self.assertEqual(since("2999-01-01T00:00:00Z"), [])

        self.gw.stop()
        self.gw.start()
        self.gw.wait_ready()
        self.assertEqual([self.line(mark) for mark in ("first", "second")], told)

        # While no node runs.
        port = self.gw.replicas()[0]["port"]
        self.node.kill()
        before = time.time()
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/raw?alone", timeout=node.WAIT_S) as r:
            self.assertEqual(r.status, 200)
        after = time.time()
        row = self.line("alone")
        self.assertGreaterEqual(seconds(row["timestamp"]), before - TICK)
        self.assertLessEqual(seconds(row["timestamp"]), after)
        self.node.start()
        self.noted()
        self.gw.wait_ready()
        self.say("raw?last")
        self.assertEqual([self.line(mark) for mark in ("first", "second", "alone")], told + [row])
        self.assertGreater(seconds(self.line("last")["timestamp"]), after - TICK)

    def test_what_was_cut_off_is_told(self):
        """The node keeps logs short. The lines that came last are told all the same, with their times."""
        before = time.time()
        count = ((10 << 20) - os.path.getsize(self.log)) // 100
        with open(self.log, "ab", buffering=0) as f:
            f.write(b"".join(b"line %07d %s\n" % (i, b"x" * 87) for i in range(count)))
            for i in range(count, count + 3):  # this is too much
                f.write(b"line %07d\n%s\n" % (i, b"y" * 90))
        wait_until(lambda: os.path.getsize(self.log) < 1 << 20, "the log is not cut")
        after = time.time()

        def say(number):
            with open(self.log, "a", encoding="utf-8") as f:
                f.write(f"line {number}\n")
            self.noted()

        def lines(**query):
            return [(int(r["text"].split()[1]), r["timestamp"]) for r in self.rows(**query)
                    if r["text"].startswith("line ")]

        last = count + 3
        say(last)
        told = lines(tail=50)
        self.assertEqual([number for number, _ in told[-5:]], list(range(last - 4, last + 1)))
        for _, when in told[:-1]:
            self.assertGreaterEqual(seconds(when), before - TICK)
            self.assertLessEqual(seconds(when), after)
        self.assertLess(len(self.rows(tail=50)), 51)
        everything = [number for number, _ in lines()]
        self.assertEqual(everything, list(range(everything[0], last + 1)))  # whole lines, none twice
        self.assertGreater(len(everything), 5000)
        self.assertEqual(lines(since=told[-1][1])[-1][0], last)

        def follow(r):
            while True:
                text = json.loads(r.readline())["text"]
                if text.startswith("line "):
                    return int(text.split()[1])

        c = self.gw.connect()
        c.request("GET", "/system/logs?name=f&follow=true&tail=50")
        r = c.getresponse()
        while follow(r) != last:
            pass
        say(last + 1)
        self.assertEqual(follow(r), last + 1)
        c.close()

    def test_follow(self):
        c = self.gw.connect()
        c.request("GET", "/system/logs?name=f&follow=true&tail=0")
        r = c.getresponse()
        before = time.time()
        self.gw.get("/function/f/raw?followed")
        row = json.loads(r.readline())
        self.assertIn("followed", row["text"])
        self.assertGreaterEqual(seconds(row["timestamp"]), before - TICK)
        self.assertLessEqual(seconds(row["timestamp"]), time.time())
        c.close()


if __name__ == "__main__":
    unittest.main()
