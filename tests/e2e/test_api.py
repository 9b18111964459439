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

    def test_metrics_under_the_names_of_openfaas(self):
        """The gateway's, the provider's, the queue worker's and those of pods, with their labels."""
        gw = self.gw
        before = gw.open_metrics()[0]

        def value(name, samples, **labels):
            found = [v for ls, v in samples.get(name, []) if all(ls.get(k) == v for k, v in labels.items())]
            self.assertLess(len(found), 2, (name, labels))
            return float(found[0]) if found else 0

        self.deploy("f", labels={"com.openfaas.scale.min": "1", "com.openfaas.scale.max": "3"})
        self.deploy("bad", want=400, labels={"com.openfaas.scale.min": "x"})
        gw.wait_ready(1, "f")
        gw.get("/system/function/f")
        gw.get("/system/function/nobody?x=y")
        gw.get("/system/nosuch/thing")
        self.assertEqual(gw.post("/async-function/f", b"x").status, 202)
        wait_until(lambda: gw.get("/system/async").json()["waiting"] == 0, "the call is not made")
        after = gw.open_metrics()[0]

        def grown(name, **labels):
            return value(name, after, **labels) - value(name, before, **labels)
        for method, path, status, count in (("POST", "/system/functions", 202, 1), ("POST", "/system/functions", 400, 1),
                                            ("GET", "/system/function", 200, 1), ("GET", "/system/function", 404, 1),
                                            ("GET", "/system", 404, 1), ("POST", "/async-function", 202, 1)):
            labels = {"method": method, "path": path}
            self.assertEqual(grown("http_requests_total", **labels, status=str(status)), count, labels)
            self.assertEqual(grown("http_request_duration_seconds_count", **labels, status=str(status)), count)
            self.assertEqual(grown("http_request_duration_seconds_bucket", **labels, status=str(status), le="+Inf"),
                             count)
            of_provider = count if path.startswith("/system") else 0
            self.assertEqual(grown("provider_http_requests_total", **labels, code=str(status)), of_provider)
            self.assertEqual(grown("provider_http_request_duration_seconds_count", **labels, code=str(status)),
                             of_provider)
        # Calls of functions are counted by function.
        self.assertFalse([ls for ls, _ in after["http_requests_total"] if ls["path"].startswith("/function")])
        queue = {"queue_name": "faas-request"}
        self.assertEqual(grown("queue_worker_messages_submitted_total", **queue), 1)
        self.assertEqual(grown("queue_worker_messages_processed_total", **queue), 1)
        self.assertEqual(value("queue_worker_pending_messages", after, **queue), 0)
        of_f = {"function_name": "f.openfaas-fn"}
        self.assertEqual(value("gateway_service_min", after, **of_f), 1)
        self.assertEqual(value("gateway_service_target", after, **of_f), 5)
        self.assertEqual(value("gateway_service_target_load", after, **of_f, scaling_type="rps"), 5)
        pod = {**of_f, "namespace": "openfaas-fn", "pod": gw.replicas("f")[0]["replica"]}
        self.assertGreater(value("pod_memory_working_set_bytes", after, **pod), 100000)
        self.assertTrue([1 for ls, _ in after["pod_cpu_usage_seconds_total"] if ls["pod"] == pod["pod"]])

    def test_a_caller_shortens_its_timeout(self):
        """X-Timeout, behind a process for each request; one that is none or longer changes nothing."""
        self.deploy("slow", "sleep 60", envVars={"exec_timeout": "61s"})
        answer = self.gw.post("/function/slow", headers={"X-Timeout": "50ms"})
        self.assertEqual((answer.status, answer.headers["X-OpenFaaS-Internal"]), (504, "fast-watchdog"), answer.text)
        self.deploy("quick", envVars={"exec_timeout": "50s"})
        for value in "never", "10h", "", "-1s":
            self.assertEqual(self.gw.post("/function/quick", b"x", headers={"X-Timeout": value}).body, b"x")

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
