#!/usr/bin/env python3
"""`make test-gke`: renders the manifests, both ways, and checks them against what will read them.

Kubernetes' own kinds: its schemas, from the package kubernetes-validate. Every kind, Google's and the
Gateway's too: each name, port and time that one document says of another. Envoy's configuration: Envoy.
Last, each defect that these manifests once had is put back, and must be found.
"""

import base64
import json
import pathlib
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).parent
KUBERNETES = "1.31"
KUBERNETES_GROUPS = ("v1", "apps/v1", "autoscaling/v2", "networking.k8s.io/v1", "policy/v1")
CHOICE = "#- autoscaler.yaml\n# One of the two: GKE Ingress, or GKE Gateway.\n- ingress.yaml\n#- gateway.yaml\n"


class Fault(Exception):
    """What is wrong with the manifests."""


def need(good, fault):
    if not good:
        raise Fault(fault)


def render(exposure, file=None, before=None, after=None):
    """The documents with ingress.yaml or gateway.yaml, after a change in one file, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "gke"
        shutil.copytree(HERE, folder)
        replace(folder / "kustomization.yaml", CHOICE, f"- autoscaler.yaml\n- {exposure}\n")
        if file:
            replace(folder / file, before, after)
        command = ["kubectl", "kustomize", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = [document for document in yaml.safe_load_all(output) if document]
    kinds = {document["kind"]: document for document in documents}
    assert len(kinds) == len(documents), "two documents of one kind"
    return kinds


def replace(path, before, after):
    text = path.read_text()
    assert before in text, f"{path.name} has no {before!r}"
    path.write_text(text.replace(before, after))


def check_schemas(kinds):
    for kind, document in kinds.items():
        if document["apiVersion"] in KUBERNETES_GROUPS:
            try:
                kubernetes_validate.validate(document, KUBERNETES, strict=True)
            except kubernetes_validate.ValidationError as error:
                raise Fault(f"{kind}: {error}") from error


def walk(value, path=()):
    """Every value of a document that is not a list, and the keys that lead to it."""
    if isinstance(value, list):
        for item in value:
            yield from walk(item, path)
        return
    yield path, value
    if isinstance(value, dict):
        for key, item in value.items():
            yield from walk(item, (*path, key))


# What a key says the name of, where the document does not say the kind itself.
REFERENCES = {
    "secretName": lambda value: ("Secret", value),
    "configMap": lambda value: ("ConfigMap", value["name"]),
    "certificateRefs": lambda value: (value.get("kind", "Secret"), value["name"]),
    "parentRefs": lambda value: (value.get("kind", "Gateway"), value["name"]),
    "backendRefs": lambda value: (value.get("kind", "Service"), value["name"]),
    "service": lambda value: ("Service", value["name"]),
    "targetRef": lambda value: (value["kind"], value["name"]),
    "scaleTargetRef": lambda value: (value["kind"], value["name"]),
}


def check_references(kinds):
    """Each name of another document is one, and so is each choice of pods."""
    names = {(kind, document["metadata"]["name"]) for kind, document in kinds.items()}
    labels = kinds["Deployment"]["spec"]["template"]["metadata"]["labels"]
    followed = 0
    for kind, document in kinds.items():
        for path, value in walk(document):
            key = path[-1] if path else ""
            if key in REFERENCES:
                target = REFERENCES[key](value)
                need(target in names, f"{kind}.{'.'.join(path)}: there is no {target}")
                check_group(kinds[target[0]], value, f"{kind}.{'.'.join(path)}")
                followed += 1
            elif key.endswith(("Ref", "Refs")):
                raise AssertionError(f"{kind}.{'.'.join(path)}: a reference that nobody follows")
            elif key == "matchLabels" or path == ("spec", "selector") and kind == "Service":
                need(value and value.items() <= labels.items(), f"{kind}.{'.'.join(path)}: no pod has {value}")
                followed += 1
    for kind, document in kinds.items():
        namespace = document["metadata"].get("namespace")
        need(namespace == "default", f"{kind} is in the namespace {namespace}")
    return followed


def check_group(target, reference, where):
    """A reference that says a group or a version says the target's."""
    if not isinstance(reference, dict):
        return
    version = target["apiVersion"]
    group = version.rpartition("/")[0]
    need(reference.get("group", group) == group, f"{where}: {target['kind']} is of the group {group!r}")
    need(reference.get("apiVersion", version) == version, f"{where}: {target['kind']} is {version}")


def check_pod(kinds):
    """Names within the pod, its ports against Envoy's configuration, and how it is secured."""
    template = kinds["Deployment"]["spec"]["template"]["spec"]
    containers = {item["name"]: item for item in template["initContainers"] + template["containers"]}
    envoy, backend = containers["envoy"], containers["service"]
    need(envoy.get("restartPolicy") == "Always", "Envoy is no native sidecar")
    volumes = {volume["name"]: volume for volume in template["volumes"]}
    mounts = [mount for item in containers.values() for mount in item.get("volumeMounts", [])]
    need({mount["name"] for mount in mounts} == set(volumes), "volumes and their mounts differ")
    files = {**kinds["ConfigMap"].get("data", {}), **kinds["ConfigMap"].get("binaryData", {})}
    for mount in mounts:
        if "subPath" in mount:
            need(mount["subPath"] in files, f"the ConfigMap has no {mount['subPath']}")
    for metric in kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]:
        container = metric["containerResource"]["container"]
        need(container in containers, f"the autoscaler's container {container} is none")
        resource = metric["containerResource"]["name"]
        need(resource in containers[container]["resources"]["requests"], f"{container} requests no {resource}")

    for name, item in containers.items():
        ports = {port["name"]: port["containerPort"] for port in item["ports"]}
        for path, value in walk(item):
            if path[-1:] == ("port",):
                need(value in ports or value in ports.values(), f"{name}: {'.'.join(path)} {value} is none of its ports")
    config = yaml.safe_load(kinds["ConfigMap"]["data"]["envoy.yaml"])
    port = lambda value: value["address"]["socket_address"]["port_value"]
    listening = [port(listener) for listener in config["static_resources"]["listeners"]]
    need(listening == [item["containerPort"] for item in envoy["ports"]], "Envoy listens on other ports than its container's")
    hosts = {
        cluster["name"]: port(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"])
        for cluster in config["static_resources"]["clusters"]
    }
    need(hosts["my_service"] == backend["ports"][0]["containerPort"], "Envoy's backend is not the container's port")
    need(hosts["local_admin"] == port(config["admin"]), "local_admin does not lead to the admin")
    hook = " ".join(envoy["lifecycle"]["preStop"]["exec"]["command"])
    need(f"/127.0.0.1/{port(config['admin'])} " in hook, "the preStop hook does not ask the admin's port")
    path = envoy["command"][envoy["command"].index("-c") + 1]
    need(path in [mount["mountPath"] for mount in envoy["volumeMounts"]], f"{path} is not mounted")
    for path in re.findall(r"/etc/envoy/[\w./]+", kinds["ConfigMap"]["data"]["envoy.yaml"]):
        mounted = any(path == mount["mountPath"] or path.startswith(mount["mountPath"] + "/") for mount in mounts)
        need(mounted, f"{path} is not mounted")

    need(template.get("automountServiceAccountToken") is False, "the pod gets a service account's token")
    for name, item in containers.items():
        profile = item["securityContext"].get("seccompProfile", template["securityContext"].get("seccompProfile", {}))
        need(profile.get("type") == "RuntimeDefault", f"{name}: no seccomp profile")
        need(item["resources"]["limits"]["memory"].endswith("Mi"), f"{name}: no memory limit in Mi")
    need(template.get("topologySpreadConstraints"), "the pods are not spread")
    need("--concurrency" in envoy["command"], "Envoy takes a worker for each core of the node")
    workers = int(envoy["command"][envoy["command"].index("--concurrency") + 1])
    limit = int(envoy["resources"]["limits"]["memory"].removesuffix("Mi"))
    # docs/operations.md has what was measured: 30 MB for the engine and a VM, 1.5 for each VM more.
    need(limit >= 128 + 30 + 2 * workers, f"{limit} Mi is too little for {workers} workers")
    probe = envoy["readinessProbe"]["httpGet"]
    need((probe["path"], probe["scheme"]) == ("/healthz", "HTTPS"), "kubelet does not ask /healthz by HTTPS")


def check_balancer(kinds):
    """What Google's load balancer is told: protocol, ports, paths and times."""
    service, pod = kinds["Service"], kinds["Deployment"]["spec"]["template"]["spec"]
    (envoy,), (backend,) = pod["initContainers"], pod["containers"]
    (port,) = service["spec"]["ports"]
    container_port = envoy["ports"][0]["containerPort"]
    need(port["targetPort"] == container_port, "the Service's targetPort is none of Envoy's")
    if "Ingress" in kinds:
        annotations = service["metadata"].get("annotations", {})
        said = {key.partition("/")[2]: json.loads(value) for key, value in annotations.items()}
        need(said.get("neg") == {"ingress": True}, "the Service has no network endpoint group")
        need(said.get("app-protocols") == {port["name"]: "HTTP2"}, "the Ingress would not speak HTTP/2 to the pods")
        config = kinds["BackendConfig"]
        need(said.get("backend-config") == {"default": config["metadata"]["name"]}, "the Service names no BackendConfig of these")
        check = config["spec"]["healthCheck"]
        need(check["type"] == "HTTP2", "the health check is not HTTP/2 over TLS")
        named = kinds["Ingress"]["spec"]["defaultBackend"]["service"]["port"]
        need(named == {"name": port["name"]}, "the Ingress's port is none of the Service's")
        policy = config["spec"]
    else:
        need("annotations" not in service["metadata"], "annotations of the Ingress on the Gateway's Service")
        need(port.get("appProtocol") == "HTTP2", "the Gateway would speak plain HTTP to a TLS port")
        check = kinds["HealthCheckPolicy"]["spec"]["default"]
        need(check["config"]["type"] == "HTTP2", "the health check is not HTTP/2 over TLS")
        check = {**check, **check["config"]["http2HealthCheck"]}
        need(check["portSpecification"] == "USE_FIXED_PORT", "the health check's port is not used")
        (rule,) = kinds["HTTPRoute"]["spec"]["rules"]
        need([item["port"] for item in rule["backendRefs"]] == [port["port"]], "the HTTPRoute's port is none of the Service's")
        need("GCPBackendPolicy" in kinds, "no GCPBackendPolicy: calls end after 30 s and are not drained")
        policy = kinds["GCPBackendPolicy"]["spec"]["default"]
    need((check["requestPath"], check["port"]) == ("/healthz", container_port), "the health check asks elsewhere")
    need(policy["timeoutSec"] >= 3600, "the balancer cuts long calls off")
    # The pod outlives what the balancer needs to take it out, and the calls that it drains.
    out = check["checkIntervalSec"] * check["unhealthyThreshold"] + check["timeoutSec"]
    slept = backend["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = pod["terminationGracePeriodSeconds"]
    drained = out + policy["connectionDraining"]["drainingTimeoutSec"]
    need(out <= slept, f"the preStop hook sleeps {slept} s, the balancer needs {out}")
    need(max(slept + 10, drained) <= grace, f"the pod is killed after {grace} s: {slept} s of sleep, {drained} s of draining")


def check(kinds):
    check_schemas(kinds)
    followed = check_references(kinds)
    check_pod(kinds)
    check_balancer(kinds)
    return followed


# Each with what it was like, and a part of what must be said of it.
DEFECTS = [
    ("gateway.yaml", "kustomization.yaml", "\nconfigurations:\n- references.yaml\n", "\n", "certificateRefs: there is no ('Secret', 'envoy-tls')"),
    ("gateway.yaml", "gateway.yaml", "    appProtocol: HTTP2\n", "", "plain HTTP to a TLS port"),
    ("gateway.yaml", "gateway.yaml", "kind: GCPBackendPolicy", "kind: Other", "no GCPBackendPolicy"),
    ("gateway.yaml", "gateway.yaml", "drainingTimeoutSec: 30", "drainingTimeoutSec: 300", "the pod is killed after 60 s"),
    ("gateway.yaml", "gateway.yaml", "    kind: Service\n    name: my-service\n", "    kind: Service\n    name: other\n", "targetRef: there is no ('Service', 'other')"),
    ("gateway.yaml", "gateway.yaml", "  parentRefs:\n  - name: my-service", "  parentRefs:\n  - name: other", "parentRefs: there is no ('Gateway', 'other')"),
    ("gateway.yaml", "gateway.yaml", "      port: 443\n", "      port: 80\n", "HTTPRoute's port"),
    ("ingress.yaml", "ingress.yaml", '{"default": "my-service"}', '{"default": "other"}', "no BackendConfig"),
    ("ingress.yaml", "ingress.yaml", "secretName: envoy-tls", "secretName: other", "secretName: there is no ('Secret', 'other')"),
    ("ingress.yaml", "ingress.yaml", "port: {name: grpc}", "port: {name: other}", "the Ingress's port"),
    ("ingress.yaml", "ingress.yaml", "    port: 8080", "    port: 443", "the health check asks elsewhere"),
    ("ingress.yaml", "ingress.yaml", "selector: {app: my-service}", "selector: {app: other}", "no pod has"),
    ("ingress.yaml", "kustomization.yaml", "- disruption.yaml\n", "", "no PodDisruptionBudget"),
    ("ingress.yaml", "disruption.yaml", "matchLabels: {app: my-service}", "matchLabels: {app: other}", "no pod has"),
    ("ingress.yaml", "autoscaler.yaml", "container: envoy", "container: other", "the autoscaler's container"),
    ("ingress.yaml", "autoscaler.yaml", "kind: Deployment, name: my-service", "kind: Deployment, name: other", "scaleTargetRef"),
    ("ingress.yaml", "deployment.yaml", "      automountServiceAccountToken: false\n", "", "a service account's token"),
    ("ingress.yaml", "deployment.yaml", "        seccompProfile: {type: RuntimeDefault}\n", "", "no seccomp profile"),
    ("ingress.yaml", "deployment.yaml", '--concurrency, "2", ', "", "a worker for each core"),
    ("ingress.yaml", "deployment.yaml", "limits: {memory: 256Mi} # Envoy", "limits: {memory: 128Mi} # Envoy", "too little for 2 workers"),
    ("ingress.yaml", "deployment.yaml", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "the pod is killed after 30 s"),
    ("ingress.yaml", "deployment.yaml", "sleep: {seconds: 25}", "sleep: {seconds: 5}", "the preStop hook sleeps 5 s"),
    ("ingress.yaml", "deployment.yaml", "containerPort: 9000", "containerPort: 9001", "backend is not the container's port"),
    ("ingress.yaml", "deployment.yaml", "containerPort: 8080", "containerPort: 8081", "Envoy listens on other ports"),
    ("ingress.yaml", "deployment.yaml", "tcpSocket: {port: grpc}", "tcpSocket: {port: other}", "none of its ports"),
    ("ingress.yaml", "deployment.yaml", "/127.0.0.1/9901", "/127.0.0.1/9902", "does not ask the admin's port"),
    ("ingress.yaml", "deployment.yaml", "secret: {secretName: envoy-tls}", "secret: {secretName: other}", "there is no ('Secret', 'other')"),
    ("ingress.yaml", "deployment.yaml", "subPath: envoy.yaml", "subPath: other.yaml", "the ConfigMap has no other.yaml"),
    ("ingress.yaml", "deployment.yaml", "scheme: HTTPS", "scheme: HTTP", "kubelet does not ask"),
    ("ingress.yaml", "deployment.yaml", "topologySpreadConstraints:", "topologySpread:", "Deployment:"),
]


def check_defects():
    for exposure, file, before, after, said in DEFECTS:
        try:
            kinds = render(exposure, file, before, after)
            need("PodDisruptionBudget" in kinds, "no PodDisruptionBudget")
            check(kinds)
        except Fault as fault:
            assert said in str(fault), f"{file}: {before!r} -> {after!r}: {fault}, not {said}"
        else:
            raise AssertionError(f"{file}: {before!r} -> {after!r} is not found")
    print(f"each of {len(DEFECTS)} defects is found when it is put back")


def check_envoy(kinds, envoy):
    """Envoy takes the configuration of the ConfigMap, with the files as the pod mounts them."""
    config_map = kinds["ConfigMap"]
    wasm = base64.b64decode(config_map["binaryData"]["envoy_healthz.wasm"])
    assert wasm == (HERE / "../../dist/envoy_healthz.wasm").read_bytes()
    size = len(json.dumps(config_map))
    assert size < 1024 * 1024, f"the ConfigMap has {size} bytes"
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        (folder / "tls").mkdir()
        (folder / "envoy_healthz.wasm").write_bytes(wasm)
        for name, value in kinds["Secret"]["data"].items():
            (folder / "tls" / name).write_bytes(base64.b64decode(value))
        config = config_map["data"]["envoy.yaml"].replace("/etc/envoy", str(folder))
        (folder / "envoy.yaml").write_text(config)
        command = [envoy, "-l", "error", "--disable-hot-restart", "-c", str(folder / "envoy.yaml")]
        subprocess.run([*command, "--mode", "validate"], check=True)
        print(f"  Envoy takes it; the ConfigMap has {size} bytes")
        # For real, but on loopback and on ports that nobody has.
        port, admin = free_ports(2)
        config = config.replace("0.0.0.0", "127.0.0.1").replace("9901", str(admin)).replace("8080", str(port))
        (folder / "envoy.yaml").write_text(config)
        running = subprocess.Popen([*command, "--concurrency", "2"])
        try:
            check_pre_stop(kinds, admin)
        finally:
            running.terminate()
            running.wait()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def check_pre_stop(kinds, admin):
    """The command of Envoy's preStop hook makes /ready, and so /healthz, 503."""
    envoy = kinds["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    wait_for_ready(admin, 200)
    command = [part.replace("9901", str(admin)) for part in envoy["lifecycle"]["preStop"]["exec"]["command"]]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert output.startswith("HTTP/1.1 200 OK"), output
    wait_for_ready(admin, 503)
    print("  the preStop hook drains")


def wait_for_ready(admin, status):
    deadline = time.monotonic() + 30
    while True:
        try:
            found = urllib.request.urlopen(f"http://127.0.0.1:{admin}/ready", timeout=5).status
        except urllib.error.HTTPError as error:
            found = error.code
        except OSError:
            found = None
        if found == status:
            return
        assert time.monotonic() < deadline, f"/ready is {found}, not {status}"
        time.sleep(0.05)


def main(envoy):
    subprocess.run([str(HERE / "prepare.sh")], check=True)
    for exposure in ("ingress.yaml", "gateway.yaml"):
        print(exposure)
        kinds = render(exposure)
        followed = check(kinds)
        print(f"  {len(kinds)} documents, {followed} references: names, ports and times agree")
        check_envoy(kinds, envoy)
    check_defects()
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1])
