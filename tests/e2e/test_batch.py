#!/usr/bin/env python3
"""Dynamic batching: requests that come together reach the function as one call, and everybody gets the own part
of the answer."""
import socket
import unittest

import node
from gateway import wait_until
from test_queue import Asks, QueueTest, notes


class Batch(QueueTest):
    def up(self, batch, **more):
        self.gw.up(annotations=notes(batch=batch, **more))

    def ask_many(self, path, n, headers=None):
        asks = Asks(self.gw)
        for i in range(n):
            asks.ask(i, path, headers=headers, body=b"part %d" % i)
        return sorted(asks.join(), key=lambda row: row[0])

    def test_as_many_as_it_takes(self):
        self.up("4,60s")  # the clock plays no part
        for i, answer in self.ask_many("/function/f/x?y=1", 4, {"Content-Type": "text/quiet"}):
            self.assertEqual((answer.status, answer.text), (200, f"PART {i}"))
            self.assertEqual((answer.headers["X-Batch-Size"], answer.headers["Content-Type"]), ("4", "text/loud"))
            self.assertTrue(answer.headers["X-Call-Id"])
        self.assertEqual(self.gw.replicas()[0]["in_flight"], 0)
        self.assertEqual(self.gw.status()["invocationCount"], 4)

    def test_as_long_as_the_first_waits(self):
        self.up("100,300ms")
        rows = self.ask_many("/function/f/x", 5)
        for i, answer in rows:
            self.assertEqual(answer.status, 200, answer.text)
            if "X-Batch-Size" in answer.headers:
                self.assertEqual(answer.text, f"PART {i}")

    def test_alone_it_goes_as_it_is(self):
        self.up("8,1ms")
        it = self.gw.post("/function/f/echo?q", b"hello", headers={"X-One": "1"})
        self.assertEqual((it.status, it.json()["body"], it.json()["path"]), (200, "hello", "/echo?q"))
        self.assertIn(["X-One", "1"], it.json()["headers"])
        self.assertEqual(self.gw.get("/function/f/echo").status, 200)  # not a POST: never in a batch
        empty = self.gw.post("/function/f/echo", b"")
        self.assertEqual((empty.status, empty.json()["body"]), (200, ""))

    def test_large_bodies_wait_for_nobody(self):
        self.up("2,60s")
        answer = self.gw.post("/function/f/hash", b"x" * (2**20 + 1))
        self.assertEqual(answer.status, 200)
        self.assertNotIn("X-Batch-Size", answer.headers)

    def test_different_paths_do_not_travel_together(self):
        self.up("2,60s")
        asks = Asks(self.gw)
        asks.ask("a", "/function/f/a", body=b"a")
        wait_until(lambda: self.inflight() == 1)
        asks.ask("b", "/function/f/b", body=b"b")  # the first one leaves by itself
        wait_until(lambda: len(asks.done) == 1)
        self.assertEqual((asks.done[0][0], asks.done[0][1].json()["body"]), ("a", "a"))
        asks.ask("b2", "/function/f/b", body=b"b2")
        self.assertEqual({a.text for n, a in asks.join() if n != "a"}, {"B", "B2"})

    def inflight(self):
        for line in self.gw.metrics().splitlines():
            if line.startswith('gateway_function_invocation_inflight{function_name="f.openfaas-fn"'):
                return int(line.split()[-1])
        return 0

    def test_errors_are_everybodys(self):
        self.up("3,60s")
        self.assertEqual([a.status for _, a in self.ask_many("/function/f/status/418", 3)], [418] * 3)
        self.assertEqual([a.status for _, a in self.ask_many("/function/f/short", 3)], [502] * 3)
        self.assertEqual([a.status for _, a in self.ask_many("/function/f/open", 3)], [502] * 3)
        self.assertEqual([a.status for _, a in self.ask_many("/function/f/more", 3)], [502] * 3)
        self.assertEqual([a.status for _, a in self.ask_many("/function/f/die", 3)], [200] * 3)  # a batch in capitals

    def test_who_has_gone_is_not_waited_for(self):
        self.up("3,60s")
        with socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S) as s:
            s.sendall(b"POST /function/f/x HTTP/1.1\r\nHost: a\r\nContent-Length: 4\r\n\r\ngone")
            wait_until(lambda: self.inflight() == 1)
        wait_until(lambda: self.inflight() == 0)
        self.assertEqual([a.text for _, a in self.ask_many("/function/f/x", 3)], ["PART 0", "PART 1", "PART 2"])

    def send(self, path, body=b"part"):
        """A request whose answer nobody reads; closed at the end at the latest."""
        s = socket.create_connection(("127.0.0.1", self.gw.port), timeout=node.WAIT_S)
        self.addCleanup(s.close)
        s.sendall(b"POST %s HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n%s" % (path.encode(), len(body), body))
        return s

    def test_a_batch_that_all_have_left_is_cut_off(self):
        self.up("2,60s")
        both = [self.send(self.hold("left")) for _ in range(2)]
        self.wait_busy(1)
        both[0].close()
        wait_until(lambda: self.inflight() == 2)  # the other one, and what carries it
        self.assertEqual(self.gw.replicas()[0]["in_flight"], 1)
        both[1].close()
        self.wait_busy(0)
        self.release("left")
        self.assertEqual([a.text for _, a in self.ask_many("/function/f/x", 2)], ["PART 0", "PART 1"])

    def test_a_batch_that_all_have_left_is_not_sent(self):
        self.up("2,60s", max_inflight="1")
        asks = Asks(self.gw)
        asks.ask("busy", self.hold("sent") + "?" + "x" * 600)  # too long a path for a batch
        self.wait_busy(1)
        both = [self.send("/function/f/nobody") for _ in range(2)]
        wait_until(lambda: self.waiting() == 1)
        for s in both:
            s.close()
        wait_until(lambda: self.waiting() == 0)
        self.release("sent")
        self.assertEqual([a.status for _, a in asks.join()], [200])
        self.assertEqual(self.gw.get("/function/f/last").status, 200)
        seen = lambda: self.gw.get("/system/logs?name=f&follow=false").text
        wait_until(lambda: "/last" in seen())
        self.assertNotIn("/nobody", seen())

    def test_with_a_limit_batches_wait(self):
        self.up("2,60s", max_inflight="1")
        rows = self.ask_many("/function/f/x", 8)
        self.assertEqual([a.text for _, a in rows], [f"PART {i}" for i in range(8)])


if __name__ == "__main__":
    unittest.main()
