#!/usr/bin/env python3
"""What OpenFaaS's certifier asks of a platform, test by test under its names, without Go; and what its
users expect beside that: namespaces, images, manifests, and an API that a browser cannot misuse."""
import base64
import hashlib
import json
import os
import socket
import subprocess
import sys
import tarfile
import tempfile
import unittest

import gateway
import node
import stack
import wire
from gateway import wait_until

FAST = os.path.join(node.BUILD, "src", "cli", "fast")
ALPINE = "docker.io/functions/alpine:latest"
NOTE = '{\n\t"glossary":{\n\t\t"title":"example \\"glossary\\""\n\t}\n }'


# A server with as many fields in its answer as there may be, none with a blank behind the colon.
TERSE = """
import socket, sys
server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
server.settimeout(60)
while True:
    sock, got = server.accept()[0], b""
    while b"\\r\\n\\r\\n" not in got:
        got += sock.recv(65536)
    fields = b"".join(b"a%d:b\\r\\n" % i for i in range(127))
    sock.sendall(b"HTTP/1.1 200 OK\\r\\n" + fields + b"b:%d\\r\\n\\r\\n" % got.count(b": b\\r\\n"))
    sock.close()
"""


class Watchdog(unittest.TestCase):
    @staticmethod
    def ask(port):
        fields = b"".join(b"a%d:b\r\n" % i for i in range(126))
        try:
            with socket.create_connection(("127.0.0.1", port), timeout=node.WAIT_S) as s:
                s.sendall(b"GET / HTTP/1.1\r\nHost:b\r\nConnection:close\r\n" + fields + b"\r\n")
                return b"".join(iter(lambda: s.recv(65536), b""))
        except ConnectionRefusedError:
            return b""

    def test_as_many_fields_as_there_may_be(self):
        """Each is longer when it is written anew, in both directions."""
        port, upstream = stack.free_port(), stack.free_port()
        env = dict(os.environ, PORT=str(port), http_upstream_url=f"http://127.0.0.1:{upstream}")
        with subprocess.Popen([FAST, "watchdog", "--mode", "http", "--", sys.executable, "-c", TERSE, str(upstream)],
                              env=env) as dog:
            self.addCleanup(dog.kill)
            got = wait_until(lambda: self.ask(port), "the watchdog does not listen")
            self.assertEqual((got.count(b": b\r\n"), got.count(b"\r\nb: 127\r\n")), (127, 1), got)
            dog.terminate()
            self.assertEqual(dog.wait(node.WAIT_S), 0)


class Certifier(gateway.TestCase):
    namespaces = ("openfaas-fn", "certifier-test")

    def tearDown(self):
        self.remove_functions()

    def deploy(self, name, process=None, ns="openfaas-fn", method="POST", want=202, **more):
        spec = {"service": name, "image": ALPINE, "namespace": ns, "labels": {}, "annotations": {}}
        if process:
            spec["envProcess"] = process
        spec.update(more)
        answer = self.gw.ask(method, "/system/functions", spec)
        self.assertEqual(answer.status, want, answer.text)
        return answer

    def get(self, name, ns="openfaas-fn"):
        return self.gw.get(f"/system/function/{name}?namespace={ns}&usage=1").json()

    def invoke(self, name, method="POST", body=b"", **headers):
        return self.gw.ask(method, f"/function/{name}", body, headers=headers)

    def fast(self, *args, want=0):
        env = dict(os.environ, OPENFAAS_URL=f"http://127.0.0.1:{self.gw.port}")
        done = subprocess.run([FAST, *args], env=env, capture_output=True, text=True, check=False,
                              stdin=subprocess.DEVNULL, timeout=node.WAIT_S)
        self.assertEqual(done.returncode, want, done.stderr + done.stdout)
        return done

    # ---- the certifier's, in its order ----

    def test_deploy_metadata(self):
        for ns in self.namespaces:
            self.deploy("stronghash", "sha512sum", ns)
            self.deploy("env-test-labels", "env", ns, labels={"upstream_uri": "example.com"})
            self.deploy("env-test-annotations", "env", ns, annotations={"some-json": NOTE})
            self.deploy("memory-limit", "env", ns, limits={"memory": "5Mi", "cpu": "100m"})
        for ns in self.namespaces:
            rows = {f["name"]: f for f in self.gw.get(f"/system/functions?namespace={ns}").json()}
            self.assertEqual(set(rows), {"stronghash", "env-test-labels", "env-test-annotations",
                                         "memory-limit"})
            for name, row in rows.items():
                self.assertEqual((row["image"], row["namespace"]), (ALPINE, ns))
                self.assertEqual(row["labels"]["faas_function"], name)
                self.assertIsInstance(row["annotations"], dict)
                self.assertNotIn("envVars", row)
                self.assertNotIn("requests", row)
                self.assertEqual(row.get("limits"), {"memory": "5Mi", "cpu": "100m"}
                                 if name == "memory-limit" else None)
            self.assertEqual(self.get("env-test-annotations", ns)["annotations"]["some-json"], NOTE)
            self.assertEqual(self.get("env-test-labels", ns)["labels"]["upstream_uri"], "example.com")
        self.assertEqual(set(self.gw.get("/system/namespaces").json()), set(self.namespaces))

    def test_health_and_info(self):
        self.assertEqual(self.gw.get("/healthz").status, 200)
        info = self.gw.get("/system/info").json()
        for text in (info["provider"]["provider"], info["provider"]["orchestration"],
                     info["provider"]["version"]["sha"], info["provider"]["version"]["release"],
                     info["version"]["sha"], info["version"]["release"]):
            self.assertTrue(text)

    def test_invoke_not_found(self):
        self.assertEqual(self.invoke(".openfaas-fn").status, 404)

    def test_invoke(self):
        for ns in self.namespaces:
            self.deploy("env-test", "env", ns, envVars={"custom_env": "custom_env_value"})
            for verb in ("GET", "POST", "PUT", "PATCH", "DELETE"):
                answer = self.invoke(f"env-test.{ns}?testing=1", verb)
                self.assertEqual(answer.status, 200, answer.text)
                self.assertIn(f"Http_Method={verb}\n", answer.text)
                self.assertIn("Http_Query=testing=1\n", answer.text)
                self.assertIn("custom_env=custom_env_value\n", answer.text)
                self.assertTrue(answer.headers["X-Call-Id"] and answer.headers["X-Start-Time"])

    def test_a_header_passes_for_nothing_else(self):
        self.deploy("env-test", "env")
        answer = self.invoke("env-test?a=1", "GET", **{
            "Method": "PUT", "Path": "/admin", "Query": "b=2", "ContentLength": "7",
            "X_Forwarded_For": "6.6.6.6", "X-Own": "1"})
        got = [line for line in answer.text.splitlines() if line.startswith("Http_")]
        self.assertEqual([line for line in got if line.startswith(("Http_Method=", "Http_Query="))],
                         ["Http_Method=GET", "Http_Query=a=1"])
        self.assertNotIn("/admin", answer.text)
        self.assertNotIn("6.6.6.6", answer.text)
        self.assertNotIn("Http_Contentlength=7", got)
        self.assertIn("Http_X_Own=1", got)

    def test_redirects_are_passed_on(self):
        self.deploy("redirector", "./handler", image="docker.io/theaxer/redirector:latest",
                    envVars={"destination": "http://example.com"})
        answer = self.invoke("redirector")
        self.assertEqual((answer.status, answer.headers["Location"]), (302, "http://example.com"))

    def test_function_logs(self):
        self.deploy("test-logger", "cat", image="functions/alpine:latest")
        self.assertEqual(self.invoke("test-logger", body=b"openfaas-fn").body, b"openfaas-fn")

        def lines():
            answer = self.gw.get("/system/logs?follow=false&name=test-logger&namespace=openfaas-fn")
            rows = [json.loads(line) for line in answer.text.splitlines()]
            self.assertEqual({r["name"] for r in rows}, {"test-logger"})
            return [r["text"].lstrip("0123456789/: ") for r in rows]

        for start in "Forking fprocess", "Wrote 11 Bytes":
            wait_until(lambda s=start: [t for t in lines() if t.startswith(s)], f"no line {start}")

    def test_scale_minimum_and_from_zero(self):
        self.deploy("scaled", "cat", labels={"com.openfaas.scale.min": "2"})
        self.assertEqual(self.get("scaled")["replicas"], 2)
        self.gw.wait_ready(2, "scaled")
        answer = self.gw.post("/system/scale-function/scaled",
                              {"serviceName": "scaled", "replicas": 0})
        self.assertEqual(answer.status, 202)
        self.assertNotIn("replicas", self.get("scaled"))
        self.assertEqual(self.invoke("scaled", body=b"wake").body, b"wake")

    def test_secret_crud(self):
        for ns in self.namespaces:
            for field, value in (("value", "text"), ("rawValue", base64.b64encode(b"\0raw\n").decode())):
                bytes_of = value.encode() if field == "value" else base64.b64decode(value)
                secret = {"name": "one", "namespace": ns, field: value}
                self.assertEqual(self.gw.post("/system/secrets", secret).status, 202)
                self.assertEqual(self.gw.post("/system/secrets", secret).status, 409)
                names = self.gw.get(f"/system/secrets?namespace={ns}").json()
                self.assertEqual([s["name"] for s in names], ["one"])
                self.assertNotIn("value", names[0])
                self.deploy("reader", "cat /var/openfaas/secrets/one", ns, secrets=["one"])
                self.assertEqual(self.invoke(f"reader.{ns}").body, bytes_of)
                secret = {"name": "one", "namespace": ns, "value": "changed"}
                self.assertEqual(self.gw.ask("PUT", "/system/secrets", secret).status, 202)
                self.deploy("reader", "cat /var/openfaas/secrets/one", ns, "PUT", secrets=["one"],
                            labels=None, annotations={"again": "1"})
                wait_until(lambda n=ns: self.invoke(f"reader.{n}").body == b"changed",
                           "the old secret stays")
                self.assertEqual(self.gw.ask("DELETE", "/system/functions",
                                             {"functionName": "reader", "namespace": ns}).status, 202)
                self.assertEqual(self.gw.ask("DELETE", "/system/secrets", secret).status, 202)
                self.assertEqual(self.gw.get(f"/system/secrets?namespace={ns}").json(), [])
        self.deploy("reader", "cat", secrets=["none"], want=400)

    # ---- beside them ----

    def test_secrets_of_any_name_are_listed(self):
        for name in ("a.tmp", "b.tmpl", "c", "a"):  # writing a must leave a.tmp alone
            self.assertEqual(self.gw.post("/system/secrets", {"name": name, "value": "v"}).status, 202)
        names = [s["name"] for s in self.gw.get("/system/secrets").json()]
        self.assertEqual(sorted(n for n in names if n in ("a.tmp", "b.tmpl", "c")), ["a.tmp", "b.tmpl", "c"])
        for name in ("a.tmp", "b.tmpl", "c", "a"):
            self.gw.ask("DELETE", "/system/secrets", {"name": name})

    def test_a_function_sees_its_own_secrets_alone(self):
        for name in "mine", "other":
            self.gw.post("/system/secrets", {"name": name, "value": name})
        self.addCleanup(lambda: [self.gw.ask("DELETE", "/system/secrets", {"name": n})
                                 for n in ("mine", "other")])
        self.deploy("reader", "ls /var/openfaas/secrets", secrets=["mine"])
        answer = self.invoke("reader")
        if "own mounts" not in self.gw.get("/system/logs?name=reader").text:
            self.skipTest("this machine allows no mount namespace")
        self.assertEqual(answer.text, "mine\n")

    def test_namespaces(self):
        ask, path = self.gw.ask, "/system/namespace/"
        self.assertEqual(ask("POST", path, {"name": "team", "annotations": {"openfaas": "1"}}).status, 201)
        self.assertEqual(ask("POST", path, {"name": "team"}).status, 409)
        self.gw.kill()
        self.gw.start()
        self.assertEqual(ask("GET", path + "team").json(),
                         {"name": "team", "annotations": {"openfaas": "1"}})
        self.assertEqual(ask("PUT", path + "team", {"name": "team", "labels": {"a": "b"}}).status, 202)
        self.assertEqual(ask("GET", path + "team").json()["labels"], {"a": "b"})
        self.assertIn("team", ask("GET", "/system/namespaces").json())
        self.deploy("f", "cat", "team")
        self.assertEqual(ask("DELETE", path + "team", {"name": "team"}).status, 409)
        ask("DELETE", "/system/functions", {"functionName": "f", "namespace": "team"})
        self.assertEqual(ask("DELETE", path + "team", {"name": "team"}).status, 202)
        self.assertEqual(ask("GET", path + "team").status, 404)
        self.assertEqual(ask("PUT", path + "team", {}).status, 404)
        self.assertEqual(ask("DELETE", path + "openfaas-fn").status, 403)
        self.assertEqual(ask("POST", path, {"name": "kube-system"}).status, 403)
        self.assertEqual(ask("POST", path, {"name": "a/b"}).status, 400)
        self.deploy("f", "cat", "fast-gshare-fn")
        self.assertEqual(self.invoke("f.fast-gshare-fn", body=b"x").body, b"x")

    def test_a_browser_cannot_misuse_it(self):
        body = json.dumps({"service": "x", "image": ALPINE, "envProcess": "cat"})

        def deploy(**headers):
            return self.gw.post("/system/functions", body,
                                headers={k.replace("_", "-"): v for k, v in headers.items()}).status

        own = f"127.0.0.1:{self.gw.port}"
        self.assertEqual(deploy(Origin="http://evil.example"), 403)
        self.assertEqual(deploy(Origin="null"), 403)
        self.assertEqual(deploy(Sec_Fetch_Site="cross-site"), 403)
        self.assertEqual(deploy(User_Agent="Mozilla/5.0", Content_Type="text/plain"), 403)
        self.assertEqual(deploy(Host="evil.example:8080"), 403)
        self.assertEqual(self.gw.get("/system/functions").json(), [])
        self.assertEqual(deploy(Host=own, Origin="http://" + own), 202)
        self.assertEqual(deploy(Host="localhost:1234"), 202)

    def test_wrong_methods_are_explained(self):
        answer = self.gw.ask("PATCH", "/system/functions")
        self.assertEqual((answer.status, answer.text), (405, "405 method not allowed\n"))
        self.assertEqual(answer.headers["Allow"], "GET, POST, PUT, DELETE")

    def test_a_failing_process_is_an_error(self):
        self.deploy("bad", "false")
        self.assertEqual(self.invoke("bad").status, 500)
        self.deploy("none", "no-such-program-here")
        self.assertEqual(self.invoke("none").status, 500)

    # ---- images ----

    def image(self, *args, want=0):
        return self.fast("image", args[0], "--state-dir", self.node.state_dir, *args[1:], want=want)

    def test_image_of_a_command(self):
        self.image("add", "ghcr.io/me/upper", "tr a-z A-Z", "--mode", "classic")
        self.addCleanup(self.image, "rm", "ghcr.io/me/upper")
        self.image("add", "ghcr.io/me/upper", "cat", want=1)
        self.assertIn("ghcr.io/me/upper", self.image("ls").stdout)
        self.deploy("upper", image="ghcr.io/me/upper:v1")
        self.assertEqual(self.invoke("upper", body=b"abc").body, b"ABC")
        self.assertEqual(self.get("upper")["runner"], "classic watchdog")
        self.assertIn("no_new_privs", self.get("upper")["isolation"])
        self.assertIn("no_new_privs", self.fast("describe", "upper").stdout)

    def layer(self, folder, files):
        """Writes one layer and returns its descriptor."""
        path = os.path.join(folder, "layer.tar")
        with tarfile.open(path, "w") as tar:
            for name, source in files.items():
                if source is None:
                    tar.addfile(tarfile.TarInfo(name))
                else:
                    tar.add(os.path.realpath(source), name)
        with open(path, "rb") as f:
            data = f.read()
        os.unlink(path)
        return self.blob(folder, data)

    @staticmethod
    def blob(folder, data):
        name = hashlib.sha256(data).hexdigest()
        os.makedirs(os.path.join(folder, "blobs", "sha256"), exist_ok=True)
        with open(os.path.join(folder, "blobs", "sha256", name), "wb") as f:
            f.write(data)
        return {"digest": "sha256:" + name, "size": len(data), "mediaType": "application/x"}

    def layout(self, folder):
        """An image with cat and its libraries in one layer, and a deletion in the next."""
        cat = os.path.realpath("/bin/cat")
        needed = subprocess.run(["ldd", cat], capture_output=True, text=True, check=True).stdout
        libs = [w for w in needed.split() if w.startswith("/")]
        first = self.layer(folder, {"bin/cat": cat, "etc/old": "/etc/hostname",
                                    **{p.lstrip("/"): p for p in libs}})
        second = self.layer(folder, {"etc/.wh.old": None})
        config = self.blob(folder, json.dumps({"config": {"Cmd": ["/bin/cat"], "WorkingDir": "/etc",
                                                          "Env": ["COLOUR=blue"]}}).encode())
        manifest = self.blob(folder, json.dumps({"config": config, "layers": [first, second]}).encode())
        with open(os.path.join(folder, "index.json"), "w", encoding="utf-8") as f:
            json.dump({"schemaVersion": 2, "manifests": [manifest]}, f)
        with open(os.path.join(folder, "oci-layout"), "w", encoding="utf-8") as f:
            f.write('{"imageLayoutVersion": "1.0.0"}')

    def test_image_of_an_oci_layout(self):
        with tempfile.TemporaryDirectory() as folder:
            self.layout(folder)
            self.image("add", "own", folder)
        self.addCleanup(self.image, "rm", "own")
        root = os.path.join(self.node.state_dir, "images", "own.root")
        self.assertTrue(os.path.exists(os.path.join(root, "bin", "cat")))
        self.assertFalse(os.path.lexists(os.path.join(root, "etc", "old")))
        seen = subprocess.run([FAST, "isolate", "--root", root, "--", "/bin/cat", "/proc/self/status"],
                              capture_output=True, text=True, check=False)
        if seen.returncode and "cannot get" in seen.stderr:
            self.skipTest("this machine allows no mount namespace")
        self.assertIn("NoNewPrivs:\t1", seen.stdout, seen.stderr)
        hidden = subprocess.run([FAST, "isolate", "--root", root, "--", "/bin/cat", FAST],
                                capture_output=True, check=False)
        self.assertNotEqual(hidden.returncode, 0)

    def test_what_image_refuses(self):
        with tempfile.TemporaryDirectory() as folder:
            self.image("add", "x", folder, want=1)
            self.layout(folder)
            with open(os.path.join(folder, "index.json"), "w", encoding="utf-8") as f:
                json.dump({"manifests": [{"digest": "sha256:../../../etc/passwd"}]}, f)
            self.image("add", "x", folder, want=1)
        self.image("add", ".x", "cat", want=1)
        self.image("add", "x", "cat", "--mode", "none", want=2)
        self.image("rm", "x", want=1)
        self.assertEqual(self.image("ls").stdout.count("\n"), 1)

    # ---- manifests ----

    def apply(self, text, want=0):
        with tempfile.NamedTemporaryFile("w", suffix=".yaml") as f:
            f.write(text)
            f.flush()
            return self.fast("apply", "-f", f.name, want=want)

    def test_apply_a_fastpod(self):
        done = self.apply(f"""
apiVersion: v1
kind: Namespace
metadata: {{ name: fast-gshare-fn, labels: {{ role: x }} }}
---
apiVersion: fastgshare.caps.in.tum/v1
kind: FaSTPod
metadata:
  name: pod
  namespace: fast-gshare-fn
  labels: {{ com.openfaas.scale.min: "1", com.openfaas.scale.max: "1" }}
  annotations:
    fastgshare/gpu_quota_request: "0.30"
    fastgshare/gpu_quota_limit: "0.5"
    fastgshare/gpu_sm_partition: "12"
    fastgshare/gpu_mem: "1073741824"
spec:
  replicas: 1
  selector: {{ matchLabels: {{ app: pod }} }}
  podSpec:
    containers:
      - name: c
        image: {gateway.FUNCTION}
        env:
          - {{ name: ASAN_OPTIONS, value: "{wire.ASAN_OPTIONS}" }}
        ports: [{{ containerPort: 8080 }}]
        args: [--workers, "1"]
        readinessProbe: {{ tcpSocket: {{ port: 5000 }}, periodSeconds: 10 }}
        livenessProbe: {{ httpGet: {{ path: /, port: 5000 }} }}
        resources: {{ limits: {{ memory: 1G, nvidia.com/gpu: 1 }} }}
        volumeMounts: [{{ name: models, mountPath: /models/ }}]
    volumes: [{{ name: models, hostPath: {{ path: /models/ }} }}]
""")
        ignored = {line.partition(" ignored: ")[2].removeprefix("podSpec.") for line in done.stderr.splitlines()}
        of_container = ("ports", "volumeMounts", "args", "readinessProbe.tcpSocket", "readinessProbe.periodSeconds",
                        "livenessProbe.httpGet.port", "resources.limits.nvidia.com/gpu")
        self.assertEqual(ignored, {"metadata.labels", "spec.selector", "volumes"} |
                         {"containers[0]." + key for key in of_container})
        row = self.get("pod", "fast-gshare-fn")
        self.assertEqual(row["annotations"]["fastgshare/gpu_quota_request"], "0.30")
        self.assertEqual(row["labels"]["com.openfaas.scale.max"], "1")
        replica = self.gw.wait_ready(1, "pod")[0]
        self.assertEqual((replica["sm_pct"], replica["quota_limit"]), (12, 0.5))

    def test_apply_a_stack_with_keys_of_other_versions(self):
        done = self.apply(f"""
version: 1.0
provider: {{ name: openfaas }}
functions:
  f: {{ lang: c, handler: ./f, image: {ALPINE}, fprocess: cat, newer_key: 1, environment: {{ N: 5, T: true }} }}
configuration: {{ templates: [{{ name: c }}] }}
""")
        self.assertIn("functions.f: ignored: newer_key", done.stderr)
        self.assertEqual(self.get("f")["envVars"], {"N": "5", "T": "true"})

    def test_apply_what_others_use(self):
        self.apply(f"""
apiVersion: openfaas.com/v1
kind: Function
metadata: {{ name: crd, namespace: openfaas-fn }}
spec: {{ name: crd, image: {ALPINE}, handler: cat, environment: {{ A: b }}, labels: {{ x: "1" }} }}
---
apiVersion: kubeshare.nthu/v1
kind: SharePod
metadata:
  name: share
  annotations: {{ kubeshare/gpu_request: "0.2", kubeshare/gpu_limit: "0.4" }}
spec:
  containers: [{{ name: c, image: {gateway.FUNCTION} }}]
---
apiVersion: caps.in.tum.fastgshare/v1
kind: FaSTFunc
metadata: {{ name: func, labels: {{ fast_function: func }} }}
spec:
  selector: {{ matchLabels: null }}
  podSpec: {{ containers: [{{ name: c, image: {ALPINE}, command: [sh, -c, 'echo "it''s"'] }}] }}
""")
        self.assertEqual(self.invoke("crd", body=b"x").body, b"x")
        self.assertEqual(self.get("crd")["envVars"], {"A": "b"})
        self.assertEqual(self.get("share")["annotations"]["fastgshare/gpu_quota_limit"], "0.4")
        self.assertEqual(self.invoke("func").text, "it's\n")
        self.apply(f"functions:\n  st: {{ image: {ALPINE}, fprocess: cat }}\n")
        self.assertEqual(self.invoke("st", body=b"y").body, b"y")

    def test_apply_changes_nothing_when_something_is_wrong(self):
        good = f"kind: Function\nspec: {{ name: ok, image: {ALPINE}, handler: cat }}\n"
        self.apply(good + "---\nkind: FaSTPod\nmetadata: { name: bad }\nspec: {}\n", want=2)
        self.apply(good + "---\nkind: Function\nspec: { name: bad, image: no-such-image }\n", want=2)
        self.apply("a: [", want=2)
        self.apply("hello: world\n", want=2)
        self.assertEqual(self.gw.get("/system/functions").json(), [])
        done = self.apply(good + "---\nkind: DaemonSet\nmetadata: { name: mps }\n")
        self.assertIn("DaemonSet mps", done.stderr)


if __name__ == "__main__":
    unittest.main(verbosity=2)
