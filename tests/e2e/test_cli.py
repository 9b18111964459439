#!/usr/bin/env python3
"""The command line where it goes wrong: messages that name the next step, exit statuses, and output that
nobody takes."""
import json
import os
import subprocess
import tempfile
import unittest

import node
from test_gateway import GatewayTest

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
NOBODY = "http://127.0.0.1:1"


def fast(*args, **kwargs):
    kwargs = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True, "timeout": 60, **kwargs}
    return subprocess.run([FAST, *args], check=False, **kwargs)


class Alone(unittest.TestCase):
    def refused(self, status, words, *args):
        done = fast(*args)
        self.assertEqual((done.returncode, done.stdout), (status, ""), done.stderr)
        self.assertIn(words, done.stderr)

    def test_wrong_command_lines(self):
        for words, args in (
                ('did you mean "deploy"', ["deplyo"]), ("options stand behind the command", ["--json", "ls"]),
                ("no such option", ["ls", "--jsn"]), ("needs a value", ["ls", "--gateway"]),
                ("is not a number from 0.001 to 100000.000", ["load", "x", "--rate", "fast"]),
                ("leave out --rate", ["load", "x", "--closed", "--rate", "3"]),
                ("fast, timeshare or racing", ["policy", "fats"]),
                ("such as 69ms", ["logs", "x", "--since", "yesterday"]),
                ("v100-16gb", ["up", "--sim=v101"]), ("--scaling", ["up", "--sim=v100-16gb", "--scaling=x"]),
                ("give the command", ["watchdog"])):
            with self.subTest(args=args):
                self.refused(2, words, *args)

    def test_a_daemon_refuses_its_option(self):
        with tempfile.TemporaryDirectory() as tmp:
            self.refused(2, "from 10ms to 10s", "up", "--sim=v100-16gb", "--window=1ms", "--state-dir", tmp,
                         "--listen=127.0.0.1:0")

    def test_nobody_there(self):
        for args in ["ls"], ["load", "x"], ["logs", "x"]:
            self.refused(3, "Start one with `fast up`", *args, "--gateway", NOBODY)
        done = fast("ls", "--json", "--gateway", NOBODY)
        self.assertEqual(json.loads(done.stderr)["status"], 3)

    def test_images_are_there(self):
        with tempfile.TemporaryDirectory() as tmp:
            self.refused(1, "No such file", "image", "add", "x", tmp + "/nosuch", "--state-dir", tmp)
            self.assertEqual(fast("image", "add", "x", "tr a-z A-Z", "--state-dir", tmp).returncode, 0)

    def test_a_full_disk(self):
        with open("/dev/full", "w", encoding="ascii") as full:
            for args in ["help"], ["completion", "bash"]:
                done = fast(*args, stdout=full)
                self.assertEqual(done.returncode, 1, args)
                self.assertIn("cannot write to standard output", done.stderr)

    def test_no_reader_and_no_output(self):
        """Who reads no further has what it wanted; who closes standard output gets nothing in its place."""
        read, write = os.pipe()
        os.close(read)
        done = fast("help", stdout=write)
        os.close(write)
        self.assertEqual((done.returncode, done.stderr), (0, ""))
        done = subprocess.run(["sh", "-c", 'exec "$0" help >&-', FAST], capture_output=True, check=False)
        self.assertEqual((done.returncode, done.stderr), (0, b""))


class Completion(unittest.TestCase):
    @staticmethod
    def complete(*words):
        """As bash does for the last of |words|, in a folder without files."""
        script = subprocess.run([FAST, "completion", "bash"], capture_output=True, text=True, check=True).stdout
        ask = (f"{script}\nfast() {{ false; }}\nCOMP_WORDS=(fast \"$@\"); COMP_CWORD=$#; _fast; "
               "printf '%s\\n' \"${COMPREPLY[@]}\"")
        with tempfile.TemporaryDirectory() as tmp:
            done = subprocess.run(["bash", "-c", ask, "bash", *words], capture_output=True, text=True, check=True,
                                  cwd=tmp)
        return done.stdout.split()

    def test_bash(self):
        for words, want in ((["image", ""], "add ls rm"), (["model", "p"], "pin push"), (["policy", "t"], "timeshare"),
                            (["profile", "e"], "export"), (["completion", ""], "bash zsh"), (["help", "sim"], "simulate"),
                            (["up", "--policy", ""], "fast timeshare racing"), (["up", "--policy", "=", "r"], "racing"),
                            (["up", "--policy", "="], "fast timeshare racing"), (["up", "--list"], "--listen"),
                            (["profile", "--format", ""], "csv authors json"), (["ls", "--js"], "--json"),
                            (["up", "--metrics", ""], ""), (["dep"], "deploy")):
            self.assertEqual(self.complete(*words), want.split(), words)


class WithGateway(GatewayTest):
    def fast(self, *args, **kwargs):
        return fast(*args, "--gateway", f"http://127.0.0.1:{self.gw.port}", **kwargs)

    def test_load_on_nobody(self):
        done = self.fast("load", "nosuch")
        self.assertEqual((done.returncode, done.stdout), (1, ""))
        self.assertIn("there is no function nosuch; `fast ls` lists them", done.stderr)

    def test_logs(self):
        self.gw.up("talker")
        self.gw.post("/function/talker")
        self.assertIn("talker", self.fast("logs", "talker", "--since", "1h").stdout)
        self.assertIn("there is no function nosuch in namespace", self.fast("logs", "nosuch").stderr)
        # A reader that goes ends what follows the log, with the next line.
        read, write = os.pipe()
        with subprocess.Popen([FAST, "logs", "talker", "-f", "--gateway", f"http://127.0.0.1:{self.gw.port}"],
                              stdout=write, stderr=subprocess.PIPE) as follower:
            os.close(write)
            os.read(read, 1)
            os.close(read)
            node.wait_until(lambda: self.gw.post("/function/talker") and follower.poll() is not None)
            self.assertEqual((follower.returncode, follower.stderr.read()), (0, b""))

    def test_no_such_image(self):
        done = self.fast("deploy", "x", "--image", "nosuch")
        self.assertEqual(done.returncode, 2)
        self.assertIn("`fast image ls`", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
