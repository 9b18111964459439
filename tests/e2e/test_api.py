#!/usr/bin/env python3
"""What the API of the gateway says to clients of OpenFaaS in corners that its certifier does not look into:
pages with parameters, answers of the gateway itself, namespaces, usage, and the texts of refusals."""
import unittest

import gateway
from gateway import wait_until

ALPINE = "docker.io/functions/alpine:latest"


class Api(gateway.TestCase):
    def tearDown(self):
        self.remove_functions()

    def deploy(self, name, process="cat", want=202, **more):
        answer = self.gw.post("/system/functions", {"service": name, "image": ALPINE, "envProcess": process, **more})
        self.assertEqual(answer.status, want, answer.text)
        return answer

    def test_pages_take_no_notice_of_parameters(self):
        for port, path in ((self.gw.port, "/healthz"), (self.gw.port, "/"), (self.gw.metrics_port, "/healthz"),
                           (self.gw.metrics_port, "/metrics")):
            for query in ("", "?", "?a=b"):
                self.assertEqual(self.gw.get(path + query, port=port).status, 200, path + query)
            self.assertEqual(self.gw.get(path + "x", port=port).status, 404)
            self.assertEqual(self.gw.ask("HEAD", path, port=port).body, b"")
            answer = self.gw.ask("POST", path, b"", port=port)
            self.assertEqual((answer.status, answer.headers["Allow"]), (405, "GET, HEAD"))

    def test_refused_calls_have_an_identifier(self):
        self.deploy("f")
        for method, path, status, headers in (
                ("POST", "/function/nobody", 404, {}), ("POST", "/function/", 404, {}),
                ("TRACE", "/function/f", 405, {}), ("POST", "/async-function/nobody", 404, {}),
                ("GET", "/async-function/f", 405, {}),
                ("POST", "/async-function/f", 400, {"X-Callback-Url": "::bad"})):
            for own in {}, {"X-Call-Id": "mine"}:
                answer = self.gw.ask(method, path, headers={**headers, **own})
                self.assertEqual(answer.status, status, path)
                if own:
                    self.assertEqual(answer.headers["X-Call-Id"], "mine")
                else:
                    self.assertEqual(len(answer.headers["X-Call-Id"]), 36)
                self.assertTrue(answer.headers["X-Start-Time"].isdigit())
                self.assertEqual(answer.headers["X-OpenFaaS-Internal"], "proxy")
        self.assertEqual(self.gw.post("/async-function/nobody.team/x?y").text,
                         "error finding function nobody.team: there is no such function\n")

    def test_a_list_is_of_one_namespace(self):
        self.deploy("f")
        self.deploy("f", namespace="team")

        def namespaces(query):
            return [(r["name"], r["namespace"]) for r in self.gw.get("/system/functions" + query).json()]
        self.assertEqual(namespaces(""), [("f", "openfaas-fn")])
        self.assertEqual(namespaces("?namespace="), [("f", "openfaas-fn")])
        self.assertEqual(namespaces("?namespace=team"), [("f", "team")])
        self.assertEqual(namespaces("?namespace=*"), [("f", "openfaas-fn"), ("f", "team")])
        answer = self.gw.ask("DELETE", "/system/namespace/team", {})
        self.assertEqual((answer.status, answer.text), (409, "namespace team has 1 function: remove it first\n"))

    def test_namespaces_of_kubernetes_are_nobodys(self):
        self.assertIn("belongs to Kubernetes", self.deploy("f", want=403, namespace="kube-system").text)
        for path, body in (("/system/secrets", {"name": "a", "value": "b", "namespace": "kube-system"}),
                           ("/system/namespace/", {"name": "kube-system"})):
            self.assertEqual(self.gw.post(path, body).status, 403)
        self.assertEqual(self.gw.get("/system/namespaces").json(), ["openfaas-fn"])

    def test_usage_counts_processes_that_are_over(self):
        """A watchdog that forks for each request has used what its processes have."""
        self.deploy("busy", "sh -c 'i=0; while [ $i -lt 300000 ]; do i=$((i+1)); done'")
        self.gw.wait_ready(1, "busy")

        def used():
            self.assertEqual(self.gw.post("/function/busy").status, 200)
            return self.gw.get("/system/function/busy?usage=1").json()["usage"]["cpu"] > 100
        wait_until(used, "nothing is used")

    def test_refusals_name_the_next_step(self):
        answer = self.gw.post("/system/functions", {"service": "f", "image": ALPINE})
        self.assertEqual(answer.status, 400)
        self.assertIn("--fprocess", answer.text)
        answer = self.gw.post("/system/functions", {"service": "f", "image": "no/such:1"})
        self.assertEqual(answer.status, 400)
        self.assertIn('image: "no/such:1" is no image here', answer.text)
        self.assertIn("fast image add", answer.text)


if __name__ == "__main__":
    unittest.main(verbosity=2)
