#!/usr/bin/env python3
"""TLS for clients: requests of all kinds through it, certificates that change, a stop without a lost request."""
import hashlib
import http.client
import os
import re
import shutil
import signal
import socket
import ssl
import subprocess
import tempfile
import threading
import unittest

import gateway
import node
from gateway import wait_until


def make_certificate(folder, name):
    subprocess.run(["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1",
                    "-nodes", "-days", "2", "-subj", f"/CN={name}", "-addext", "subjectAltName=IP:127.0.0.1",
                    "-keyout", f"{folder}/{name}.key", "-out", f"{folder}/{name}.crt"], check=True,
                   capture_output=True)


@unittest.skipUnless(shutil.which("openssl"), "there is no openssl to make certificates with")
class TlsTest(gateway.TestCase):
    @classmethod
    def setUpClass(cls):
        cls.folder = tempfile.mkdtemp(prefix="fast-tls-")
        cls.addClassCleanup(shutil.rmtree, cls.folder)
        for name in ("one", "two"):
            make_certificate(cls.folder, name)
        cls.use("one")
        cls.args = ("--tls-listen", "127.0.0.1:0", "--tls-cert", f"{cls.folder}/crt", "--tls-key", f"{cls.folder}/key")
        try:
            super().setUpClass()
        except AssertionError as e:
            if "built without OpenSSL" in str(e):
                raise unittest.SkipTest("built without OpenSSL") from e
            raise
        cls.port = int(re.search(r" tls=(\d+)", cls.gw.log())[1])
        cls.gw.up()

    @classmethod
    def use(cls, name):
        for kind in ("crt", "key"):
            shutil.copy(f"{cls.folder}/{name}.{kind}", f"{cls.folder}/{kind}")

    def context(self, name="one"):
        return ssl.create_default_context(cafile=f"{self.folder}/{name}.crt")

    def connect(self, name="one"):
        return http.client.HTTPSConnection("127.0.0.1", self.port, timeout=node.WAIT_S,
                                           context=self.context(name))


class Tls(TlsTest):
    def test_requests(self):
        c = self.connect()
        for i in range(20):
            c.request("POST", "/function/f/echo", b"x" * i)
            answer = c.getresponse()
            self.assertEqual((answer.status, answer.read().count(b"x" * i) > 0), (200, True))
        c.request("GET", "/function/f/bytes/5000000")
        self.assertEqual(len(c.getresponse().read()), 5000000)
        body = os.urandom(3000000)
        c.request("PUT", "/function/f/hash", body)
        self.assertEqual(c.getresponse().read().decode(), hashlib.sha256(body).hexdigest())
        c.request("POST", "/function/f/raw", iter([b"a" * 1000, b"b" * 300000]), encode_chunked=True)
        self.assertEqual(c.getresponse().read(), b"a" * 1000 + b"b" * 300000)
        c.request("GET", "/system/functions")
        self.assertEqual(c.getresponse().status, 200)
        c.close()

    @unittest.skipUnless(shutil.which("curl"), "there is no curl")
    def test_http2_is_chosen(self):
        done = subprocess.run(["curl", "-sSi", "--max-time", "60", "--http2", "--cacert", f"{self.folder}/one.crt",
                               f"https://127.0.0.1:{self.port}/function/f/bytes/300000"], capture_output=True, check=True)
        line = done.stdout.partition(b"\r\n")[0].strip()
        self.assertIn(line, (b"HTTP/2 200", b"HTTP/1.1 200 OK"))  # as both were built
        self.assertTrue(done.stdout.endswith(b"b" * 300000))

    def test_what_is_not_tls(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=node.WAIT_S) as s:
            s.sendall(b"GET / HTTP/1.1\r\nHost: a\r\n\r\n")
            try:
                self.assertNotIn(b"HTTP", s.recv(1000))
            except ConnectionResetError:
                pass
        old = self.context()
        old.maximum_version = ssl.TLSVersion.TLSv1_2
        for version in ("TLSv1.2", "TLSv1.3"):
            with socket.create_connection(("127.0.0.1", self.port), timeout=node.WAIT_S) as s:
                with (old if version == "TLSv1.2" else self.context()).wrap_socket(
                        s, server_hostname="127.0.0.1") as t:
                    self.assertEqual(t.version(), version)
        wrong = self.context()
        wrong.set_alpn_protocols(["spdy/3"])
        with socket.create_connection(("127.0.0.1", self.port), timeout=node.WAIT_S) as s:
            with self.assertRaises(ssl.SSLError):
                wrong.wrap_socket(s, server_hostname="127.0.0.1")

    def test_half_a_handshake_holds_nobody_up(self):
        with socket.create_connection(("127.0.0.1", self.port), timeout=node.WAIT_S) as s:
            s.sendall(b"\x16\x03\x01")
            c = self.connect()
            c.request("GET", "/function/f")
            self.assertEqual(c.getresponse().status, 200)
            c.close()

    def test_reload(self):
        kept = self.connect()
        kept.request("GET", "/function/f")
        kept.getresponse().read()
        self.use("two")

        def served(name):
            try:
                c = self.connect(name)
                c.request("GET", "/function/f")
                ok = c.getresponse().status == 200
                c.close()
                return ok
            except ssl.SSLError:
                return False

        self.assertFalse(served("two"))
        self.gw.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served("two"), "the new certificate is not used")
        kept.request("GET", "/function/f")  # on the connection that there was
        self.assertEqual(kept.getresponse().status, 200)
        kept.close()
        with open(f"{self.folder}/crt", "w", encoding="ascii") as f:
            f.write("nonsense")
        self.gw.process.send_signal(signal.SIGHUP)
        wait_until(lambda: "the certificate stays as it was" in self.gw.log())
        self.assertTrue(served("two"))
        self.use("one")
        self.gw.process.send_signal(signal.SIGHUP)
        wait_until(lambda: served("one"))


class Stop(TlsTest):
    def test_stop_answers_what_came(self):
        answers = []

        def ask():
            c = self.connect()
            c.request("GET", "/function/f/sleep/1")
            answers.append(c.getresponse().status)
            c.close()

        threads = [threading.Thread(target=ask) for _ in range(4)]
        for t in threads:
            t.start()
        wait_until(lambda: self.gw.replicas()[0]["in_flight"] == 4)
        self.assertEqual(self.gw.stop(), 0)
        for t in threads:
            t.join()
        self.assertEqual(answers, [200] * 4)


if __name__ == "__main__":
    unittest.main()
