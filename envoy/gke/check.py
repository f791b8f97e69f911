#!/usr/bin/env python3
"""`make test-gke`: renders the manifests in each way that they offer, and checks them against what will
read them; envoy/mesh as well.

Kubernetes' own kinds: its schemas, from the package kubernetes-validate. Other kinds: schemas.yaml, the
part of their CRDs that is used here. Every kind: each name, port and time that one document says of
another. Envoy's configuration: Envoy. Last, each defect that these manifests once had, or could have, is
put in, and must be found.
"""

import base64
import contextlib
import json
import os
import pathlib
import re
import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request

import jsonschema
import kubernetes_validate
import yaml

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parent.parent
KUBERNETES = "1.31"
KUBERNETES_GROUPS = ("v1", "apps/v1", "autoscaling/v2", "networking.k8s.io/v1", "policy/v1")
CHOICE = "#- autoscaler.yaml\n# One of the two: GKE Ingress, or GKE Gateway.\n- ingress.yaml\n#- gateway.yaml\n"
# Each way to render: Ingress or Gateway, with the module or not, and where its file comes from.
WAYS = {
    "ingress": ("ingress.yaml", False, None),
    "gateway": ("gateway.yaml", False, None),
    "module": ("ingress.yaml", True, None),
    "image-volume": ("gateway.yaml", True, "image-volume.yaml"),
    "init-container": ("ingress.yaml", True, "init-container.yaml"),
}
MODULE = "libenvoy_healthz.so"
MIB = 1024 * 1024


class Fault(Exception):
    """What is wrong with the manifests."""


def need(good, fault):
    if not good:
        raise Fault(fault)


def render(way, file=None, before=None, after=None):
    """The documents rendered in this way, after a change in one file, by kind."""
    exposure, module, source = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "gke"
        shutil.copytree(HERE, folder)
        replace(folder / "kustomization.yaml", CHOICE, f"- autoscaler.yaml\n- {exposure}\n")
        if module:
            replace(folder / "kustomization.yaml", "#components:\n#- module\n", "components:\n- module\n")
        if source:
            replace(folder / "module/kustomization.yaml", f"#- path: {source}\n", f"- path: {source}\n")
            replace(folder / "module/kustomization.yaml", f"  - generated/{MODULE}\n", "")
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


def check_schema(document):
    kind = document["kind"]
    try:
        if document["apiVersion"] in KUBERNETES_GROUPS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
        else:
            schema = SCHEMAS.get(f"{document['apiVersion']}/{kind}")
            need(schema, f"{kind}: schemas.yaml does not know {document['apiVersion']}")
            jsonschema.validate(document["spec"], schema)
    except (kubernetes_validate.ValidationError, jsonschema.ValidationError) as error:
        where = ".".join(str(part) for part in error.path)
        raise Fault(f"{kind}: {where}: {error.message}") from error


def strict(schema):
    """The same schema, which takes no field that it does not know."""
    if isinstance(schema, dict):
        schema = {key: strict(value) for key, value in schema.items()}
        if "properties" in schema:
            schema.setdefault("additionalProperties", False)
    elif isinstance(schema, list):
        schema = [strict(item) for item in schema]
    return schema


SCHEMAS = {
    kind: strict({"type": "object", "properties": spec})
    for kind, spec in yaml.safe_load((HERE / "schemas.yaml").read_text())["kinds"].items()
}


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
    files = config_files(kinds)
    # Of all values together, before base64: Kubernetes refuses more.
    need(sum(len(data) for data in files.values()) <= MIB, "the ConfigMap has more than 1 MiB")
    for mount in mounts:
        if "subPath" in mount:
            need(mount["subPath"] in files, f"the ConfigMap has no {mount['subPath']}")
    for metric in kinds["HorizontalPodAutoscaler"]["spec"]["metrics"]:
        container = metric["containerResource"]["container"]
        need(container in containers, f"the autoscaler's container {container} is none")
        resource = metric["containerResource"]["name"]
        need(resource in containers[container]["resources"]["requests"], f"{container} requests no {resource}")

    for name, item in containers.items():
        ports = {port["name"]: port["containerPort"] for port in item.get("ports", [])}
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
    allowed = [item.get("exact") for item in config["admin"]["allow_paths"]]
    need("/healthcheck/fail" in allowed, "the admin refuses what the preStop hook asks")
    if "env" in envoy:
        check_module(template, envoy, config)
    else:
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


def config_files(kinds):
    """What is in the ConfigMap, as bytes."""
    config_map = kinds["ConfigMap"]
    files = {name: text.encode() for name, text in config_map.get("data", {}).items()}
    return files | {name: base64.b64decode(data) for name, data in config_map.get("binaryData", {}).items()}


def check_module(template, envoy, config):
    """Envoy finds the module's file, and /healthz passes the drain filters and the module, for its own cluster."""
    variables = {variable["name"]: variable["value"] for variable in envoy["env"]}
    folder = variables.get("ENVOY_DYNAMIC_MODULES_SEARCH_PATH")
    need(folder, "Envoy is not told where modules are")
    mounts = {mount["mountPath"]: mount for mount in envoy["volumeMounts"]}
    if f"{folder}/{MODULE}" not in mounts:
        need(folder in mounts, f"nothing is mounted in {folder}")
        volume = next(item for item in template["volumes"] if item["name"] == mounts[folder]["name"])
        need("image" in volume or copied(template, volume["name"]), f"nobody puts {MODULE} into {folder}")
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    names = [item["name"] for item in manager["http_filters"] if item.get("disabled")]
    need(names[-3:] == ["hide-drain-headers", "fail-when-draining", "envoy-healthz"], "the filters are in another order")
    *probed, _ = manager["route_config"]["virtual_hosts"][0]["routes"]
    (endpoint,) = manager["http_filters"][names.index("envoy-healthz")]["typed_config"]["filter_config"]["value"]["endpoints"]
    for route in probed:
        (what,) = route["match"].values()
        for name in names[-3:]:
            need(name in route["typed_per_filter_config"], f"{name} is not on for {what}")
        need(endpoint["clusters"] == [route["route"]["cluster"]], f"the route of {what} does not lead to the cluster that the module judges")
    paths = [endpoint["path"], "/grpc.health.v1.Health/Watch", "/grpc.health.v1.Health/"]
    need([next(iter(route["match"].values())) for route in probed] == paths, "the routes are not those of the endpoint and of gRPC health checks")


def copied(template, volume):
    """Whether a container that ends before Envoy starts copies the module into this volume."""
    for item in template["initContainers"]:
        if item["name"] == "envoy":
            return False
        targets = [mount["mountPath"] + "/" for mount in item["volumeMounts"] if mount["name"] == volume]
        if "restartPolicy" not in item and item["command"] in [["cp", f"/{MODULE}", target] for target in targets]:
            return True
    return False


def check_balancer(kinds):
    """What Google's load balancer is told: protocol, ports, paths and times."""
    service, pod = kinds["Service"], kinds["Deployment"]["spec"]["template"]["spec"]
    (envoy,) = (item for item in pod["initContainers"] if item["name"] == "envoy")
    (backend,) = pod["containers"]
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
    for document in kinds.values():
        check_schema(document)
    followed = check_references(kinds)
    check_pod(kinds)
    check_balancer(kinds)
    return followed


# Each with what it was like, and a part of what must be said of it.
DEFECTS = [
    ("gateway", "kustomization.yaml", "\nconfigurations:\n- references.yaml\n", "\n", "certificateRefs: there is no ('Secret', 'envoy-tls')"),
    ("gateway", "gateway.yaml", "    appProtocol: HTTP2\n", "", "plain HTTP to a TLS port"),
    ("gateway", "gateway.yaml", (HERE / "gateway.yaml").read_text().partition("# What the BackendConfig is")[2], "", "no GCPBackendPolicy"),
    ("gateway", "gateway.yaml", "drainingTimeoutSec: 30", "drainingTimeoutSec: 300", "the pod is killed after 60 s"),
    ("gateway", "gateway.yaml", "    kind: Service\n    name: my-service\n", "    kind: Service\n    name: other\n", "targetRef: there is no ('Service', 'other')"),
    ("gateway", "gateway.yaml", "  parentRefs:\n  - name: my-service", "  parentRefs:\n  - name: other", "parentRefs: there is no ('Gateway', 'other')"),
    ("gateway", "gateway.yaml", "      port: 443\n", "      port: 80\n", "HTTPRoute's port"),
    ("ingress", "ingress.yaml", '{"default": "my-service"}', '{"default": "other"}', "no BackendConfig"),
    ("ingress", "ingress.yaml", "secretName: envoy-tls", "secretName: other", "secretName: there is no ('Secret', 'other')"),
    ("ingress", "ingress.yaml", "port: {name: grpc}", "port: {name: other}", "the Ingress's port"),
    ("ingress", "ingress.yaml", "    port: 8080", "    port: 443", "the health check asks elsewhere"),
    ("ingress", "ingress.yaml", "selector: {app: my-service}", "selector: {app: other}", "no pod has"),
    ("ingress", "kustomization.yaml", "- disruption.yaml\n", "", "no PodDisruptionBudget"),
    ("ingress", "disruption.yaml", "matchLabels: {app: my-service}", "matchLabels: {app: other}", "no pod has"),
    ("ingress", "autoscaler.yaml", "container: envoy", "container: other", "the autoscaler's container"),
    ("ingress", "autoscaler.yaml", "kind: Deployment, name: my-service", "kind: Deployment, name: other", "scaleTargetRef"),
    ("ingress", "deployment.yaml", "      automountServiceAccountToken: false\n", "", "a service account's token"),
    ("ingress", "deployment.yaml", "        seccompProfile: {type: RuntimeDefault}\n", "", "no seccomp profile"),
    ("ingress", "deployment.yaml", '--concurrency, "2", ', "", "a worker for each core"),
    ("ingress", "deployment.yaml", "limits: {memory: 256Mi} # Envoy", "limits: {memory: 128Mi} # Envoy", "too little for 2 workers"),
    ("ingress", "deployment.yaml", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "the pod is killed after 30 s"),
    ("ingress", "deployment.yaml", "sleep: {seconds: 25}", "sleep: {seconds: 5}", "the preStop hook sleeps 5 s"),
    ("ingress", "deployment.yaml", "containerPort: 9000", "containerPort: 9001", "backend is not the container's port"),
    ("ingress", "deployment.yaml", "containerPort: 8080", "containerPort: 8081", "Envoy listens on other ports"),
    ("ingress", "deployment.yaml", "tcpSocket: {port: grpc}", "tcpSocket: {port: other}", "none of its ports"),
    ("ingress", "deployment.yaml", "/127.0.0.1/9901", "/127.0.0.1/9902", "does not ask the admin's port"),
    ("ingress", "deployment.yaml", "secret: {secretName: envoy-tls}", "secret: {secretName: other}", "there is no ('Secret', 'other')"),
    ("ingress", "deployment.yaml", "subPath: envoy.yaml", "subPath: other.yaml", "the ConfigMap has no other.yaml"),
    ("ingress", "deployment.yaml", "scheme: HTTPS", "scheme: HTTP", "kubelet does not ask"),
    ("ingress", "deployment.yaml", "topologySpreadConstraints:", "topologySpread:", "Deployment:"),
    ("ingress", "ingress.yaml", "    type: HTTP2 # over TLS", "    type: HTTP3 # over TLS", "BackendConfig: healthCheck.type"),
    ("gateway", "gateway.yaml", "        portSpecification:", "        portSpec:", "HealthCheckPolicy: default.config.http2HealthCheck"),
    ("gateway", "gateway.yaml", "    timeoutSec: 3600", "    timeout: 3600", "GCPBackendPolicy: default"),
    ("gateway", "gateway.yaml", "apiVersion: networking.gke.io/v1\n", "apiVersion: networking.gke.io/v2\n", "does not know"),
    ("module", "module/deployment.yaml", "value: /etc/envoy/modules}", "value: /etc/envoy/other}", "nothing is mounted in /etc/envoy/other"),
    ("module", "module/deployment.yaml", "ENVOY_DYNAMIC_MODULES_SEARCH_PATH", "SEARCH_PATH", "not told where modules are"),
    ("module", "module/deployment.yaml", "        - {mountPath: /etc/envoy/envoy_healthz.wasm, $patch: delete}\n", "", "the ConfigMap has no envoy_healthz.wasm"),
    ("module", "module/kustomization.yaml", f"  - generated/{MODULE}\n", "", f"the ConfigMap has no {MODULE}"),
    ("module", "module/generated/envoy.yaml", "  - {exact: /healthcheck/fail}", "  - {exact: /other}", "the admin refuses"),
    ("module", "module/generated/envoy.yaml", "                  fail-when-draining: *on\n", "", "fail-when-draining is not on for /healthz"),
    ("module", "module/generated/envoy.yaml", "clusters: [my_service]", "clusters: [other]", "the cluster that the module judges"),
    ("image-volume", "module/image-volume.yaml", "        image:\n", "        images:\n", "Deployment:"),
    ("image-volume", "module/image-volume.yaml", "{name: module, mountPath: /etc/envoy/modules,", "{name: module, mountPath: /etc/modules,", "nothing is mounted in /etc/envoy/modules"),
    ("init-container", "module/init-container.yaml", "[cp, /libenvoy_healthz.so, /modules/]", "[cp, /libenvoy_healthz.so, /other/]", "nobody puts"),
    ("init-container", "module/init-container.yaml", "        image: REGISTRY", "        restartPolicy: Always\n        image: REGISTRY", "nobody puts"),
]

# The same of envoy/mesh.
MESH_DEFECTS = [
    ("istio.yaml", "failStrategy: FAIL_RELOAD # ", "failStrategy: RELOAD # ", "TrafficExtension: wasm.failStrategy"),
    ("istio.yaml", "  phase: AUTHN\n  failStrategy:", "  phase: AUTHN\n  failurePolicy:", "WasmPlugin:"),
    ("envoy-gateway.yaml", "failOpen: false", "failOpen: never", "EnvoyExtensionPolicy: wasm.0.failOpen"),
    ("envoy-gateway.yaml", "kind: HTTPRoute, name: healthz}", "kind: HTTPRoute, name: other}", "there is no ('HTTPRoute', 'other')"),
    ("envoy-gateway.yaml", "name: unavailable}", "name: other}", "there is no ('HTTPRouteFilter', 'other')"),
    ("envoy-gateway-module.yaml", "- name: envoy-healthz", "- name: envoy_healthz", "does not match"),
    ("envoy-gateway-module.yaml", "- name: envoy-healthz # of", "- name: other # of", "EnvoyProxy has no module other"),
    ("envoy-gateway-module.yaml", "local: {path: /etc/envoy/modules/", "local: {path: /other/", "is not mounted"),
    ("envoy-gateway-module.yaml", "          - name: module\n", "          - name: other\n", "volumes and their mounts differ"),
    ("envoy-gateway-module.yaml", "            image:\n", "            picture:\n", "Deployment:"),
    ("envoy-gateway-module.yaml", "healthz/rule/0", "healthz/rule/1", "is not the route's cluster"),
    ("envoy-gateway-module.yaml", "type: GRPC,", "type: gRPC,", "BackendTrafficPolicy: healthCheck.active.type"),
]


def check_defects():
    for way, file, before, after, said in DEFECTS:
        with found(said, file, before, after):
            kinds = render(way, file, before, after)
            need("PodDisruptionBudget" in kinds, "no PodDisruptionBudget")
            check(kinds)
    for file, before, after, said in MESH_DEFECTS:
        with found(said, file, before, after):
            check_mesh(mesh(file, before, after))
    print(f"each of {len(DEFECTS) + len(MESH_DEFECTS)} defects is found when it is put in")


@contextlib.contextmanager
def found(said, file, before, after):
    """What is done here has this fault."""
    try:
        yield
    except Fault as fault:
        assert said in str(fault), f"{file}: {before!r} -> {after!r}: {fault}, not {said}"
    else:
        raise AssertionError(f"{file}: {before!r} -> {after!r} is not found")


def mesh(file, before="", after=""):
    """The documents of a file of envoy/mesh, after a change."""
    text = (HERE.parent / "mesh" / file).read_text()
    assert before in text, f"{file} has no {before!r}"
    return list(yaml.safe_load_all(text.replace(before, after)))


def check_mesh(documents):
    for document in documents:
        check_schema(document)
    # What is yours, or another's, is not here.
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        for path, value in walk(document):
            if path[-1:] in [("targetRefs",), ("extensionRef",)]:
                target = (value["kind"], value["name"])
                need(target in names, f"{document['kind']}.{'.'.join(path)}: there is no {target}")
    kinds = {document["kind"]: document["spec"] for document in documents}
    if "dynamicModules" in kinds.get("EnvoyProxy", {}):
        check_gateway_module(kinds)


def check_gateway_module(kinds):
    """The module is one of EnvoyProxy's, its file is mounted, and its cluster is the route's."""
    (module,) = kinds["EnvoyExtensionPolicy"]["dynamicModule"]
    modules = {item["name"]: item["source"]["local"]["path"] for item in kinds["EnvoyProxy"]["dynamicModules"]}
    need(module["name"] in modules, f"EnvoyProxy has no module {module['name']}")
    deployment = kinds["EnvoyProxy"]["provider"]["kubernetes"]["envoyDeployment"]
    volumes, mounts = deployment["pod"]["volumes"], deployment["container"]["volumeMounts"]
    # Envoy Gateway makes a Deployment of it.
    container = {"name": "envoy", "image": "envoy", "volumeMounts": mounts}
    spec = {"selector": {}, "template": {"spec": {"containers": [container], "volumes": volumes}}}
    check_schema({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "envoy"}, "spec": spec})
    need([item["name"] for item in volumes] == [item["name"] for item in mounts], "volumes and their mounts differ")
    path = pathlib.PurePath(modules[module["name"]])
    need(path == pathlib.PurePath(mounts[0]["mountPath"]) / MODULE, f"{path} is not mounted")
    (endpoint,) = module["config"]["endpoints"]
    cluster = "httproute/default/healthz/rule/0"
    need(endpoint["clusters"] == [cluster], f"{endpoint['clusters']} is not the route's cluster, {cluster}")


def check_gateway_module_in_envoy(documents, envoy):
    """Envoy takes what Envoy Gateway makes of the manifest (its internal/xds/translator): the module by its
    path, configured by a StringValue, off but for the route."""
    kinds = {document["kind"]: document["spec"] for document in documents}
    (module,) = kinds["EnvoyExtensionPolicy"]["dynamicModule"]
    ((match,),) = (rule["matches"] for rule in kinds["HTTPRoute"]["rules"])
    (cluster,) = module["config"]["endpoints"][0]["clusters"]
    name = "envoy.filters.http.dynamic_modules/envoyextensionpolicy/default/envoy-healthz/dynamicmodule/0"
    extensions = "type.googleapis.com/envoy.extensions.filters."
    port, admin, backend = free_ports(3)
    address = lambda port: {"socket_address": {"address": "127.0.0.1", "port_value": port}}
    filters = [
        {
            "name": name,
            "disabled": True,
            "typed_config": {
                "@type": extensions + "http.dynamic_modules.v3.DynamicModuleFilter",
                "dynamic_module_config": {"module": {"local": {"filename": str(ROOT / "dist" / MODULE)}}},
                "filter_name": module["filterName"],
                "filter_config": {
                    "@type": "type.googleapis.com/google.protobuf.StringValue",
                    "value": json.dumps(module["config"]),
                },
            },
        },
        {"name": "envoy.filters.http.router", "typed_config": {"@type": extensions + "http.router.v3.Router"}},
    ]
    route = {
        "match": {"path": match["path"]["value"]},
        "route": {"cluster": cluster},
        "typed_per_filter_config": {
            name: {"@type": "type.googleapis.com/envoy.config.route.v3.FilterConfig", "config": {}}
        },
    }
    manager = {
        "@type": extensions + "network.http_connection_manager.v3.HttpConnectionManager",
        "stat_prefix": "http",
        "http_filters": filters,
        "route_config": {"virtual_hosts": [{"name": "all", "domains": ["*"], "routes": [route]}]},
    }
    chain = {"filters": [{"name": "envoy.filters.network.http_connection_manager", "typed_config": manager}]}
    check = {"timeout": "1s", "interval": "1s", "unhealthy_threshold": 1, "healthy_threshold": 1, "tcp_health_check": {}}
    hosts = [{"lb_endpoints": [{"endpoint": {"address": address(backend)}}]}]
    config = {
        "admin": {"address": address(admin)},
        "static_resources": {
            "listeners": [{"address": address(port), "filter_chains": [chain]}],
            "clusters": [
                {
                    "name": cluster,
                    "load_assignment": {"cluster_name": cluster, "endpoints": hosts},
                    "health_checks": [{**check, "no_traffic_interval": "1s"}],
                }
            ],
        },
    }
    with tempfile.TemporaryDirectory() as folder:
        file = pathlib.Path(folder) / "envoy.json"
        file.write_text(json.dumps(config))
        with running([envoy, "-l", "error", "--disable-hot-restart", "--concurrency", "2", "-c", str(file)]):
            wait_for(f"http://127.0.0.1:{port}/healthz", (503, "unavailable"))
            with socket.create_server(("127.0.0.1", backend)):
                wait_for(f"http://127.0.0.1:{port}/healthz", (200, "ok"))


def check_envoy(kinds, envoy):
    """Envoy takes the configuration of the ConfigMap, with the files as the pod mounts them."""
    files = config_files(kinds)
    pod = kinds["Deployment"]["spec"]["template"]["spec"]
    (container,) = (item for item in pod["initContainers"] if item["name"] == "envoy")
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    with tempfile.TemporaryDirectory() as folder:
        at_home = lambda text: text.replace("/etc/envoy", folder)
        for mount in container["volumeMounts"]:
            path, volume = pathlib.Path(at_home(mount["mountPath"])), volumes[mount["name"]]
            (path.parent if "subPath" in mount else path).mkdir(parents=True, exist_ok=True)
            if "subPath" in mount:
                path.write_bytes(files[mount["subPath"]])
            elif "secret" in volume:
                for name, value in kinds["Secret"]["data"].items():
                    (path / name).write_bytes(base64.b64decode(value))
            else:
                shutil.copy(ROOT / "dist" / MODULE, path)
        for built in ("envoy_healthz.wasm", MODULE):
            assert files.get(built) in (None, (ROOT / "dist" / built).read_bytes()), f"{built} is not that of dist/"
        # For real, but on loopback and on ports that nobody has.
        port, admin, backend = free_ports(3)
        config = at_home(files["envoy.yaml"].decode()).replace("0.0.0.0", "127.0.0.1")
        for before, after in (("8080", port), ("9901", admin), ("9000", backend)):
            assert before in config
            config = config.replace(before, str(after))
        path = pathlib.Path(folder) / "envoy.yaml"
        path.write_text(config)
        environment = {variable["name"]: at_home(variable["value"]) for variable in container.get("env", [])}
        command = [envoy, "-l", "error", "--disable-hot-restart", "-c", str(path)]
        subprocess.run([*command, "--mode", "validate"], check=True, env=os.environ | environment)
        size = sum(len(data) for data in files.values())
        print(f"  Envoy takes it; the ConfigMap has {size} bytes")
        with running([*command, "--concurrency", "2"], environment):
            check_pre_stop(container, admin, port)


@contextlib.contextmanager
def running(command, environment=None):
    process = subprocess.Popen(command, env=os.environ | (environment or {}))
    try:
        yield
    finally:
        process.terminate()
        process.wait()


def free_ports(count):
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [item.getsockname()[1] for item in sockets]
    for item in sockets:
        item.close()
    return ports


def check_pre_stop(envoy, admin, port):
    """/healthz is the filter's, and the command of Envoy's preStop hook makes /ready, and so /healthz, 503."""
    wait_for(f"http://127.0.0.1:{admin}/ready", (200, "LIVE\n"))
    wait_for(f"https://127.0.0.1:{port}/healthz", (503, "unavailable"))
    command = [part.replace("9901", str(admin)) for part in envoy["lifecycle"]["preStop"]["exec"]["command"]]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert output.startswith("HTTP/1.1 200 OK"), output
    wait_for(f"http://127.0.0.1:{admin}/ready", (503, "DRAINING\n"))
    # With the module Envoy's own filter answers now, without a body.
    wait_for(f"https://127.0.0.1:{port}/healthz", (503, "" if "env" in envoy else "unavailable"))
    print("  the preStop hook drains")


def wait_for(url, expected):
    """As a prober asks: the certificate is not validated."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
                found = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            found = error.code, error.read().decode()
        except OSError as error:
            found = error
        if found == expected:
            return
        assert time.monotonic() < deadline, f"{url} is {found}, not {expected}"
        time.sleep(0.05)


def check_command(kinds):
    """Without --server-side kubectl puts a copy of each document into an annotation, of 256 KiB at most."""
    if max(len(json.dumps(document)) for document in kinds.values()) > 256 * 1024:
        for file in (HERE / "kustomization.yaml", ROOT / "docs/kubernetes.md"):
            commands = re.findall(r"kubectl apply.* -k", file.read_text())
            assert set(commands) == {"kubectl apply --server-side -k"}, f"{file.name}: {commands}"


def main(envoy):
    subprocess.run([str(HERE / "prepare.sh")], check=True)
    for way in WAYS:
        print(way)
        kinds = render(way)
        followed = check(kinds)
        check_command(kinds)
        print(f"  {len(kinds)} documents, {followed} references: names, ports and times agree")
        check_envoy(kinds, envoy)
    for path in sorted((HERE.parent / "mesh").glob("*.yaml")):
        documents = mesh(path.name)
        check_mesh(documents)
        print(f"{path.name}\n  {len(documents)} documents: their fields are those of the CRDs")
    check_gateway_module_in_envoy(mesh("envoy-gateway-module.yaml"), envoy)
    print("  Envoy takes the module as Envoy Gateway hands it over")
    check_defects()
    print(f"{len(WAYS)} passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1])
