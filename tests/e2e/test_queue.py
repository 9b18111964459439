#!/usr/bin/env python3
"""Requests that wait for a replica: at most so many in flight, turns for callers, 429 for those that come too
late, another replica for those that may be repeated, and a time-out of the function's own."""
import json
import os
import socket
import threading
import time
import unittest

import gateway
import node
from gateway import wait_until


def notes(**more):
    return {"fastgshare/" + k: v for k, v in more.items()}


class Asks:
    """Requests in threads of their own, all at once; |done| has (name, answer) in the order of answers."""

    def __init__(self, gw):
        self.gw, self.done, self.threads = gw, [], []

    def ask(self, name, path, headers=None, body=b"x"):
        def run():
            answer = self.gw.post(path, body, headers=headers)
            self.done.append((name, answer))
        self.threads.append(threading.Thread(target=run))
        self.threads[-1].start()

    def join(self):
        for t in self.threads:
            t.join()
        return self.done


class QueueTest(gateway.TestCase):
    def tearDown(self):
        self.gw.ask("DELETE", "/system/functions", {"functionName": "f"})
        wait_until(lambda: not self.gw.get("/system/replicas").json(), "replicas stay")

    def waiting(self, name="f"):
        for line in self.gw.metrics().splitlines():
            if line.startswith(f'fast_function_queued{{function_name="{name}.openfaas-fn"'):
                return int(line.split()[-1])
        raise AssertionError("no metric of the queue")

    def wait_busy(self, count):
        wait_until(lambda: self.gw.replicas()[0]["in_flight"] == count, "it does not become busy")

    def hold(self, flag):
        """The path of a request that is answered when the file |flag| is there."""
        return f"/function/f/until{os.path.join(self.node.shared, flag)}"

    def release(self, flag):
        with open(os.path.join(self.node.shared, flag), "w", encoding="ascii"):
            pass


class Queue(QueueTest):
    def test_in_flight_limit(self):
        self.gw.up(annotations=notes(max_inflight="2"))
        asks = Asks(self.gw)
        for i in range(5):
            asks.ask(i, self.hold("limit"))
        wait_until(lambda: self.waiting() == 3)
        self.assertEqual(self.gw.replicas()[0]["in_flight"], 2)
        self.release("limit")
        self.assertEqual([a.status for _, a in asks.join()], [200] * 5)

    def test_callers_take_turns(self):
        self.gw.up(annotations=notes(max_inflight="1"))
        asks = Asks(self.gw)
        asks.ask("first", self.hold("fair"))
        self.wait_busy(1)
        for i in range(4):
            asks.ask("many", f"/function/f/many/{i}", headers={"Authorization": "Basic many"})
            wait_until(lambda n=i + 1: self.waiting() == n)
        asks.ask("one", "/function/f/one", headers={"Authorization": "Basic one"})
        wait_until(lambda: self.waiting() == 5)
        self.release("fair")
        self.assertEqual({a.status for _, a in asks.join()}, {200})

        def order():  # the function tells of requests as they reach it, one at a time
            lines = self.gw.get("/system/logs?name=f&follow=false").text.splitlines()
            paths = [(json.loads(line)["text"].split() + ["", ""])[1] for line in lines]
            return [p for p in paths if p.startswith(("/many", "/one"))]

        wait_until(lambda: len(order()) == 5)
        self.assertEqual(order(), ["/many/0", "/one", "/many/1", "/many/2", "/many/3"])

    def test_too_late_is_told_at_once(self):
        self.gw.up(annotations=notes(max_inflight="1", slo="300ms"))
        self.assertEqual(self.gw.post("/function/f/sleep/0.2").status, 200)  # so long does it take
        asks = Asks(self.gw)
        asks.ask("busy", self.hold("late"))
        self.wait_busy(1)
        late = self.gw.post("/function/f/echo")  # 0.2 s before it and 0.2 s itself: too much
        self.assertEqual(late.status, 429, late.text)
        self.assertGreaterEqual(int(late.headers["Retry-After"]), 1)
        self.assertIn("within its 300 ms", late.text)
        self.release("late")
        self.assertEqual([a.status for _, a in asks.join()], [200])
        self.assertIn('fast_function_shed_total{function_name="f.openfaas-fn"} 1\n', self.gw.metrics())

    def test_too_late_before_those_that_wait(self):
        """By count: who has no chance is answered before anybody's time has come, so the last before the first."""
        self.gw.up(annotations=notes(max_inflight="1", slo="10s"))
        self.assertEqual(self.gw.post("/function/f/sleep/0.5").status, 200)
        asks = Asks(self.gw)
        asks.ask("busy", self.hold("count"))
        self.wait_busy(1)
        last = -1
        while not asks.done and last < 25:
            last += 1
            asks.ask(last, "/function/f/echo")
            wait_until(lambda: self.waiting() == last + 1 or asks.done)
        self.assertEqual([(n, a.status) for n, a in asks.done], [(last, 429)])
        self.release("count")
        self.assertEqual([a.status for n, a in asks.join() if n != last], [200] * (last + 1))

    def test_its_time_comes_while_it_waits(self):
        self.gw.up(annotations=notes(max_inflight="1", slo="1s"))
        asks = Asks(self.gw)
        asks.ask("busy", self.hold("wait"))
        self.wait_busy(1)
        asks.ask("late", "/function/f/echo")  # nothing is known of the function: it may wait
        wait_until(lambda: asks.done)
        self.assertEqual([(n, a.status) for n, a in asks.done], [("late", 429)])
        self.release("wait")
        asks.join()

    def test_who_wakes_a_function_waits_for_it(self):
        self.gw.up(annotations=notes(max_inflight="1", slo="1ms"))
        self.gw.post("/system/scale-function/f", {"replicas": 0})
        wait_until(lambda: not self.gw.replicas())
        self.assertEqual(self.gw.post("/function/f/echo").status, 200)

    def test_marked_as_repeatable(self):
        self.gw.up(count=2, labels={"com.openfaas.scale.min": "2"}, annotations=notes(repeatable="true"))
        flag = os.path.join(self.node.shared, "repeat")
        answer = self.gw.post("/function/f/die-once" + flag, b"b" * 300000)
        self.assertEqual((answer.status, answer.text), (200, "alive\n"))

    def test_own_timeout(self):
        self.gw.up(envVars={"exec_timeout": "1s"})
        began = time.monotonic()
        answer = self.gw.post("/function/f/sleep/20")
        self.assertEqual(answer.status, 504, answer.text)
        self.assertLess(time.monotonic() - began, 15)


    def test_a_body_that_trickles_holds_no_place(self):
        """Else a few connections that send a byte now and then keep all others from a function."""
        self.gw.up(envVars={"exec_timeout": "1s"}, annotations={"fastgshare/max_inflight": "1"})
        with socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S) as s:
            s.sendall(b"POST /function/f/echo HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\n")
            s.settimeout(0.2)
            got = b""
            for _ in range(100):
                try:
                    s.sendall(b"x")
                    got = s.recv(1000)
                    break
                except TimeoutError:
                    pass
        self.assertTrue(got.startswith(b"HTTP/1.1 504 "), got)
        self.assertEqual(self.gw.get("/function/f/echo").status, 200)


class Full(QueueTest):
    """A queue with room for three: who has more of it makes room for who has less."""
    args = ("--queue", "3")

    def test_the_longest_line_makes_room(self):
        self.gw.up(annotations=notes(max_inflight="1"))
        asks = Asks(self.gw)
        asks.ask("first", self.hold("full"))
        self.wait_busy(1)
        for i in range(3):
            asks.ask(f"many {i}", "/function/f/echo", headers={"Authorization": "Basic many"})
            wait_until(lambda n=i + 1: self.waiting() == n)
        asks.ask("many 3", "/function/f/echo", headers={"Authorization": "Basic many"})
        wait_until(lambda: asks.done)
        asks.ask("one", "/function/f/echo", headers={"Authorization": "Basic one"})
        wait_until(lambda: len(asks.done) == 2)
        self.assertEqual([(n, a.status) for n, a in asks.done], [("many 3", 429), ("many 2", 429)])
        # Two and one: a second of the one caller would only change sides.
        wait_until(lambda: self.waiting() == 3)
        asks.ask("one more", "/function/f/echo", headers={"Authorization": "Basic one"})
        wait_until(lambda: len(asks.done) == 3)
        self.assertEqual([(n, a.status) for n, a in asks.done[2:]], [("one more", 429)])
        self.release("full")
        self.assertEqual(sorted((n, a.status) for n, a in asks.join()[3:]),
                         [("first", 200), ("many 0", 200), ("many 1", 200), ("one", 200)])


if __name__ == "__main__":
    unittest.main()
