#!/usr/bin/env python3
"""Every option of every program that takes a value refuses a wrong one: exit status 2, with the option's name and
what is accepted, before anything is done. The options are those that the help lists, so that a new one is asked
for its place in these tables: what may be any text has to be named here."""
import os
import re
import subprocess
import tempfile
import unittest

import node

CLI = os.path.join(node.BUILD, "src", "cli")
FAST = os.path.join(CLI, "fast")
NOBODY = "http://127.0.0.1:1"
PROFILE = os.path.join(node.HERE, "..", "..", "models", "profiles", "resnet50.csv")

# What a command needs beside the option in question.
NEEDS = {"deploy": ["f", "--image", "digits"], "describe": ["f"], "rm": ["f"], "scale": ["f", "1"], "explain": ["f"],
         "invoke": ["f"], "logs": ["f"], "load": ["f"], "profile": ["f"], "model": ["ls"], "image": ["ls"],
         "bench": ["memory"], "async": ["ls"], "completion": ["bash"], "isolate": ["--", "true"],
         "watchdog": ["--", "cat"], "simulate": ["--profile", PROFILE, "--rate", "1", "--seconds", "1", "--slo", "1s"]}
# Options that come with another one, or with other arguments.
WITH = {("profile", "slo"): ["f", "--rate", "1"], ("profile", "rate"): ["f", "--slo", "1s"],
        ("profile", "body"): ["f"], ("model", "gpu"): ["push", PROFILE, "--name", "x"],
        ("simulate", "rate"): ["--profile", PROFILE, "--seconds", "1", "--slo", "1s"],
        ("simulate", "trace"): ["--profile", PROFILE, "--slo", "1s"],
        ("simulate", "scenario"): ["--profile", PROFILE, "--slo", "1s"],
        ("simulate", "samples"): ["--profile", PROFILE, "--slo", "1s", "--scenario", "offline"],
        ("simulate", "slo"): ["--profile", PROFILE, "--rate", "1", "--seconds", "1"],
        ("simulate", "profile"): ["--rate", "1", "--seconds", "1", "--slo", "1s"],
        ("deploy", "file"): [], ("apply", "file"): []}
# Any text will do, or only the gateway, the node or the machine can tell: paths, images, names of profiles.
FREE = {"up": "state-dir images gateway-option basic-auth", "deploy": "image process profile secret",
        "invoke": "data type method", "load": "", "profile": "svg db state-dir", "simulate": "report svg",
        "image": "state-dir command", "model": "name version", "bench": "image", "watchdog": "",
        "isolate": "root cwd secrets secret hide env"}
FREE_OF = {"fast-gateway": "state-dir images profiles tls-cert tls-key access-log traces", "fast-node": "state-dir hook"}


def run(program, *args):
    env = dict(os.environ, OPENFAAS_URL=NOBODY)
    env.pop("FAST_SIM", None)
    return subprocess.run([program, *args], capture_output=True, text=True, check=False, env=env,
                          stdin=subprocess.DEVNULL, timeout=node.WAIT_S)


def options(text):
    """The names of those that take a value."""
    return re.findall(r"^ +(?:-\w, )?--([\w-]+) \S+(?:  |$)", text, re.M)


class Options(unittest.TestCase):
    def refused(self, program, args, named):
        done = run(program, *args)
        said = done.stderr.strip()
        self.assertEqual(done.returncode, 2, f"{args}: {said}")
        self.assertIn(named, said, args)
        self.assertEqual(said.count("\n"), 0, said)
        self.assertRegex(said, r"is not|is none of|is expected|cannot open", args)

    def test_urls(self):
        for url in ("http://127.0.0.1:1", "HTTP://localhost:1/", "127.0.0.1:1", "http://a:b!c$@127.0.0.1:1/",
                    "http://[::1]:1"):
            with self.subTest(url=url):
                self.assertEqual(run(FAST, "ls", "--gateway", url).returncode, 3)  # nobody is there
        for url in ("ftp://host", "http://", "http://a b", "http://host!", "http://a^b@host", "http://@"):
            with self.subTest(url=url):
                self.refused(FAST, ["ls", "--gateway", url], "--gateway")

    def test_fast(self):
        commands = re.findall(r"^  (\w+) ", run(FAST, "help").stdout.split("Commands:")[1].split("\n\n")[0], re.M)
        self.assertGreater(len(commands), 20)
        asked = 0
        for command in commands:
            for option in options(run(FAST, "help", command).stdout):
                if option in FREE.get(command, "").split():
                    continue
                asked += 1
                needs = WITH.get((command, option), NEEDS.get(command, []))
                bad = [f"--{option}=foo!"]
                named = f"--{option}"
                if option in ("body", "trace", "file") or (command, option) == ("simulate", "profile"):
                    named = "/nonexistent/x"
                    bad = [f"--{option}", named]
                with self.subTest(command=command, option=option):
                    self.refused(FAST, [command, *bad, *needs] if "--" in needs else [command, *needs, *bad], named)
        self.assertGreater(asked, 60)

    def test_daemons(self):
        for name, folder in ("fast-gateway", "gateway"), ("fast-node", "node"):
            program = os.path.join(node.BUILD, "src", folder, name)
            found = options(run(program, "--help").stdout)
            self.assertGreater(len(found), 10)
            for option in found:
                if option not in FREE_OF[name].split():
                    with self.subTest(program=name, option=option), tempfile.TemporaryDirectory() as state:
                        self.refused(program, ["--state-dir", state, f"--{option}=foo!"], f"--{option}")

    def test_a_value_is_missing_or_an_option_is_none(self):
        for program in (FAST, "ls"), (os.path.join(node.BUILD, "src", "gateway", "fast-gateway"),), \
                (os.path.join(node.BUILD, "src", "node", "fast-node"),):
            for more in ["--nosuch"], ["--nosuch=1"], ["extra"]:
                self.assertEqual(run(*program, *more).returncode, 2, (program, more))
        for args in ["ls", "--namespace"], ["logs", "f", "--lines"]:
            self.assertIn("needs a value", run(FAST, *args).stderr)

    def test_values_that_do_not_fit_together(self):
        for args, words in ((["deploy", "f", "--image", "x", "--min", "5", "--max", "2"], "--max"),
                            (["deploy", "f", "--image", "x", "--request", "0.5", "--limit", "0.1"], "--limit"),
                            (["scale", "f", "many"], "0 to 1000"), (["policy", "none"], "timeshare")):
            done = run(FAST, *args)
            self.assertEqual(done.returncode, 2, done.stderr)
            self.assertIn(words, done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
