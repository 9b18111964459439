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
            with open(self.node.path("logs", "times", os.path.basename(self.log)), "rb") as f:
                return int.from_bytes(f.read()[-16:-8], "little") == os.path.getsize(self.log)
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
