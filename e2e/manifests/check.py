#!/usr/bin/env python3
"""`make test-gke`: renders the manifests of envoy/gke in each way that they offer, and checks what no cluster here
can: Google's kinds, the names, ports and times that one document says of another, and that Envoy takes the
configuration. envoy/mesh as well. What Kubernetes itself does with them, `make test-kubernetes` sees.

Kubernetes' own kinds: its schemas, from the package kubernetes-validate. Other kinds: schemas.yaml, the part of their
CRDs that is used here. Last, each defect that these manifests once had, or could have, is put in, and must be found.
"""

import base64
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import yaml

import mesh
from documents import MODULE, ROOT, check_schema, found, free_ports, need, running, wait_for, walk

GKE = ROOT / "envoy/gke"
# Each way to render: Ingress or Gateway, with the module or not, and where its file comes from.
WAYS = {
    "ingress": ("ingress.yaml", False, None),
    "gateway": ("gateway.yaml", False, None),
    "module": ("ingress.yaml", True, None),
    "image-volume": ("gateway.yaml", True, "image-volume.yaml"),
    "init-container": ("ingress.yaml", True, "init-container.yaml"),
}
OPTIONS = ("autoscaler.yaml", "managed-prometheus.yaml", "prometheus-operator.yaml", "network-policy.yaml")


def render(way, file=None, before=None, after=None):
    """The documents rendered in this way, with all options, after a change in one file, by kind."""
    exposure, module, source = WAYS[way]
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "gke"
        shutil.copytree(GKE, folder)
        choose(folder / "kustomization.yaml", "ingress.yaml", False)
        for option in (exposure, *OPTIONS):
            choose(folder / "kustomization.yaml", option)
        if module:
            replace(folder / "kustomization.yaml", "#components:\n#- module\n", "components:\n- module\n")
        if source:
            choose(folder / "module/kustomization.yaml", f"path: {source}")
            replace(folder / "module/kustomization.yaml", f"  - generated/{MODULE}\n", "")
        if file:
            replace(folder / file, before, after)
        command = ["kubectl", "kustomize", str(folder)]
        done = subprocess.run(command, capture_output=True, text=True)
        need(done.returncode == 0, f"kustomize: {done.stderr}")
    documents = [document for document in yaml.safe_load_all(done.stdout) if document]
    kinds = {document["kind"]: document for document in documents}
    assert len(kinds) == len(documents), "two documents of one kind"
    return kinds


def choose(path, item, yes=True):
    """Takes the `#` off a list's item, or puts it there."""
    off, on = f"\n#- {item}\n", f"\n- {item}\n"
    replace(path, *((off, on) if yes else (on, off)))


def replace(path, before, after):
    text = path.read_text()
    assert before in text, f"{path.name} has no {before!r}"
    path.write_text(text.replace(before, after))


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
            elif key == "matchLabels" and path[-2:-1] != ("namespaceSelector",) or path == ("spec", "selector") and kind == "Service":
                need(value and value.items() <= labels.items(), f"{kind}.{'.'.join(path)}: no pod has {value}")
                followed += 1
    return followed


def check_group(target, reference, where):
    """A reference that says a group or a version says the target's."""
    if not isinstance(reference, dict):
        return
    version = target["apiVersion"]
    group = version.rpartition("/")[0]
    need(reference.get("group", group) == group, f"{where}: {target['kind']} is of the group {group!r}")
    need(reference.get("apiVersion", version) == version, f"{where}: {target['kind']} is {version}")


def pod(kinds):
    """The pod's spec, its Envoy, and its service."""
    spec = kinds["Deployment"]["spec"]["template"]["spec"]
    (envoy,) = (item for item in spec["initContainers"] if item["name"] == "envoy")
    (service,) = spec["containers"]
    return spec, envoy, service


def argument(envoy, name):
    return envoy["command"][envoy["command"].index(name) + 1]


def check_config(kinds):
    """Ports, paths and commands of the pod against Envoy's configuration."""
    _, envoy, _ = pod(kinds)
    config = yaml.safe_load(kinds["ConfigMap"]["data"]["envoy.yaml"])
    port = lambda value: value["address"]["socket_address"]["port_value"]
    listening = [(item["name"], port(item)) for item in config["static_resources"]["listeners"]]
    ports = [(item["name"], item["containerPort"]) for item in envoy["ports"]]
    need(listening == ports, f"Envoy listens on {listening}, its container has {ports}")
    for listener in config["static_resources"]["listeners"]:
        need(listener.get("drain_type") == "MODIFY_ONLY", f"drain_type of {listener['name']}")
    hosts = {
        cluster["name"]: port(cluster["load_assignment"]["endpoints"][0]["lb_endpoints"][0]["endpoint"])
        for cluster in config["static_resources"]["clusters"]
    }
    admin = port(config["admin"])
    need(hosts["local_admin"] == admin, "local_admin does not lead to the admin")
    allowed = [item.get("exact") for item in config["admin"]["allow_paths"]]
    hook = envoy["lifecycle"]["preStop"]["exec"]["command"][-1]
    need(f"/127.0.0.1/{admin} " in hook, "the preStop hook does not ask the admin's port")
    for path in re.findall(r"ask '?(/[\w?/]+)", hook):
        need(path in allowed, f"the admin refuses {path}, which the preStop hook asks")
    scraped = "/stats/prometheus?filter=healthz%7Cserver.(live%7Cuptime)%7Cmembership_"
    need(scraped in allowed, f"the admin refuses {scraped}, which the listener metrics asks")
    answered = {route["match"].get("path") for route in routes(config)}
    for name in ("startupProbe", "livenessProbe", "readinessProbe"):
        probe = envoy[name]["httpGet"]
        need(probe["path"] in answered, f"{name} asks {probe['path']}, which nobody answers")
        need((probe["port"], probe["scheme"]) == ("grpc", "HTTPS"), f"{name} does not ask Envoy's port by HTTPS")
        need(("healthz" in probe["path"]) == (name == "readinessProbe"), f"{name} asks {probe['path']}")
    metrics = {kind: kinds[kind]["spec"][field][0] for kind, field in (("PodMonitoring", "endpoints"), ("PodMonitor", "podMetricsEndpoints"))}
    for kind, endpoint in metrics.items():
        need((endpoint["port"], endpoint["path"]) == ("metrics", "/stats/prometheus"), f"{kind} asks elsewhere")
    allowed = [item["port"] for rule in kinds["NetworkPolicy"]["spec"]["ingress"] for item in rule["ports"]]
    need(allowed == [port for _, port in listening], f"the NetworkPolicy allows {allowed}")
    if "env" in envoy:
        check_module_routes(config)


def routes(config):
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    return manager["route_config"]["virtual_hosts"][0]["routes"]


def check_module_routes(config):
    """/healthz and gRPC health checks pass the drain filters and the module, for its own cluster; /livez only the module."""
    (chain,) = config["static_resources"]["listeners"][0]["filter_chains"]
    manager = chain["filters"][-1]["typed_config"]
    filters = {item["name"]: item for item in manager["http_filters"] if item.get("disabled")}
    need(list(filters) == ["hide-drain-headers", "fail-when-draining", "envoy-healthz"], "the filters are in another order")
    healthz, livez = filters["envoy-healthz"]["typed_config"]["filter_config"]["value"]["endpoints"]
    need((livez["path"], livez["clusters"]) == ("/livez", []), "/livez depends on a cluster")
    for route in routes(config)[:-1]:
        (what,) = route["match"].values()
        on = list(route["typed_per_filter_config"])
        if what == livez["path"]:
            need(on == ["envoy-healthz"], f"{what} has {on}: it would fail in a drain, and the kubelet would restart Envoy")
            continue
        need(on == list(filters), f"{what} has {on}")
        need(healthz["clusters"] == [route["route"]["cluster"]], f"the route of {what} does not lead to the cluster that the module judges")


def check_rules(kinds):
    """The alerts of both operators are those of envoy/monitoring/rules.yaml."""
    expected = yaml.safe_load((ROOT / "envoy/monitoring/rules.yaml").read_text())["groups"]
    for kind in ("Rules", "PrometheusRule"):
        groups = [{key: value for key, value in group.items() if key != "interval"} for group in kinds[kind]["spec"]["groups"]]
        need(groups == expected, f"{kind} has other alerts than envoy/monitoring/rules.yaml")


def check_balancer(kinds):
    """What Google's load balancer is told: protocol, ports, paths and times."""
    spec, envoy, backend = pod(kinds)
    service = kinds["Service"]
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
    need(policy["timeoutSec"] >= 3600, "the load balancer cuts long calls off")
    # The pod outlives what the load balancer needs to take it out, and the calls that it drains.
    out = check["checkIntervalSec"] * check["unhealthyThreshold"] + check["timeoutSec"]
    slept = backend["lifecycle"]["preStop"]["sleep"]["seconds"]
    grace = spec["terminationGracePeriodSeconds"]
    drained = out + policy["connectionDraining"]["drainingTimeoutSec"]
    need(out <= slept, f"the service's preStop hook sleeps {slept} s, the load balancer needs {out}")
    need(max(slept + 10, drained) <= grace, f"the pod is killed after {grace} s: {slept} s of sleep, {drained} s of draining")
    # Envoy exits by itself so long after its hook began: not before the service has ended.
    (waits,) = re.findall(r"sleep (\d+)", envoy["lifecycle"]["preStop"]["exec"]["command"][-1])
    exits = int(waits) + int(argument(envoy, "--drain-time-s"))
    need(slept + 10 <= exits <= grace, f"Envoy exits after {exits} s: the service stops after {slept} s, the pod is killed after {grace}")
    need(int(argument(envoy, "--parent-shutdown-time-s")) > int(argument(envoy, "--drain-time-s")), "--parent-shutdown-time-s")


def check(kinds):
    for document in kinds.values():
        check_schema(document)
    followed = check_references(kinds)
    check_config(kinds)
    check_rules(kinds)
    check_balancer(kinds)
    return followed


# Each with what it was like, and a part of what must be said of it.
DEFECTS = [
    ("gateway", "kustomization.yaml", "\nconfigurations:\n- references.yaml\n", "\n", "certificateRefs: there is no ('Secret', 'envoy-tls')"),
    ("gateway", "kustomization.yaml", "fieldPaths: [spec.listeners.0.tls.certificateRefs.0.name]", "fieldPaths: [spec.listeners.0.name]", "there is no ('Secret', 'set-by-"),
    ("gateway", "gateway.yaml", "    appProtocol: HTTP2\n", "", "plain HTTP to a TLS port"),
    ("gateway", "gateway.yaml", (GKE / "gateway.yaml").read_text().partition("# What the BackendConfig is")[2], "", "no GCPBackendPolicy"),
    ("gateway", "gateway.yaml", "drainingTimeoutSec: 30", "drainingTimeoutSec: 300", "the pod is killed after 60 s"),
    ("gateway", "gateway.yaml", "    kind: Service\n    name: my-service\n", "    kind: Service\n    name: other\n", "targetRef: there is no ('Service', 'other')"),
    ("gateway", "gateway.yaml", "  parentRefs:\n  - name: my-service", "  parentRefs:\n  - name: other", "parentRefs: there is no ('Gateway', 'other')"),
    ("gateway", "gateway.yaml", "      port: 443\n", "      port: 80\n", "HTTPRoute's port"),
    ("ingress", "ingress.yaml", '{"default": "my-service"}', '{"default": "other"}', "no BackendConfig"),
    ("ingress", "ingress.yaml", "port: {name: grpc}", "port: {name: other}", "the Ingress's port"),
    ("ingress", "ingress.yaml", "    port: 8080", "    port: 443", "the health check asks elsewhere"),
    ("ingress", "ingress.yaml", "selector: {app: my-service}", "selector: {app: other}", "no pod has"),
    ("ingress", "disruption.yaml", "matchLabels: {app: my-service}", "matchLabels: {app: other}", "no pod has"),
    ("ingress", "autoscaler.yaml", "kind: Deployment, name: my-service", "kind: Deployment, name: other", "scaleTargetRef"),
    ("ingress", "deployment.yaml", "terminationGracePeriodSeconds: 60", "terminationGracePeriodSeconds: 30", "the pod is killed after 30 s"),
    ("ingress", "deployment.yaml", "sleep: {seconds: 25}", "sleep: {seconds: 5}", "preStop hook sleeps 5 s"),
    ("ingress", "deployment.yaml", '--drain-time-s, "30"', '--drain-time-s, "20"', "Envoy exits after 30 s"),
    ("ingress", "deployment.yaml", "containerPort: 8080", "containerPort: 8081", "Envoy listens on"),
    ("ingress", "deployment.yaml", "/127.0.0.1/9901", "/127.0.0.1/9902", "does not ask the admin's port"),
    ("ingress", "deployment.yaml", "ask /healthcheck/fail;", "ask /quitquitquit;", "the admin refuses /quitquitquit"),
    ("ingress", "deployment.yaml", "httpGet: {path: /healthz,", "httpGet: {path: /readyz,", "which nobody answers"),
    ("ingress", "deployment.yaml", "httpGet: {path: /livez,", "httpGet: {path: /healthz,", "startupProbe asks /healthz"),
    ("ingress", "deployment.yaml", "topologySpreadConstraints:", "topologySpread:", "Deployment:"),
    ("ingress", "envoy.yaml", "    drain_type: MODIFY_ONLY\n    filter_chains:\n    - transport", "    filter_chains:\n    - transport", "drain_type of grpc"),
    ("ingress", "envoy.yaml", "  - {exact: \"/stats/prometheus?", "  - {exact: \"/stats/other?", "which the listener metrics asks"),
    ("ingress", "network-policy.yaml", "port: 9902", "port: 9903", "the NetworkPolicy allows"),
    ("ingress", "managed-prometheus.yaml", "  - port: metrics", "  - port: grpc", "PodMonitoring asks elsewhere"),
    ("ingress", "managed-prometheus.yaml", "for: 6m", "for: 1m", "Rules has other alerts"),
    ("ingress", "ingress.yaml", "    type: HTTP2 # over TLS", "    type: HTTP3 # over TLS", "BackendConfig: healthCheck.type"),
    ("gateway", "gateway.yaml", "        portSpecification:", "        portSpec:", "HealthCheckPolicy: default.config.http2HealthCheck"),
    ("gateway", "gateway.yaml", "    timeoutSec: 3600", "    timeout: 3600", "GCPBackendPolicy: default"),
    ("gateway", "gateway.yaml", "apiVersion: networking.gke.io/v1\n", "apiVersion: networking.gke.io/v2\n", "does not know"),
    ("module", "module/envoy.yaml", "                  fail-when-draining: *on\n", "", "/healthz has"),
    ("module", "module/envoy.yaml", "/livez, clusters: []}", "/livez, clusters: [my_service]}", "/livez depends on a cluster"),
    ("module", "module/envoy.yaml", "{path: /healthz, clusters: [my_service]}", "{path: /healthz, clusters: [other]}", "the cluster that the module judges"),
    ("image-volume", "module/image-volume.yaml", "        image:\n", "        images:\n", "Deployment:"),
]


def check_defects():
    for way, file, before, after, said in DEFECTS:
        with found(said, file, before, after):
            check(render(way, file, before, after))
    print(f"each of {len(DEFECTS)} defects is found when it is put in")


def config_files(kinds):
    """What is in the ConfigMap, as bytes."""
    config_map = kinds["ConfigMap"]
    files = {name: text.encode() for name, text in config_map.get("data", {}).items()}
    return files | {name: base64.b64decode(data) for name, data in config_map.get("binaryData", {}).items()}


def check_envoy(kinds, envoy):
    """Envoy takes the configuration of the ConfigMap, with the files as the pod mounts them."""
    files = config_files(kinds)
    spec, container, _ = pod(kinds)
    volumes = {volume["name"]: volume for volume in spec["volumes"]}
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
        ports = dict(zip(("8080", "9901", "9902", "9000"), free_ports(4)))
        config = at_home(files["envoy.yaml"].decode()).replace("0.0.0.0", "127.0.0.1")
        for before, after in ports.items():
            assert before in config
            config = config.replace(f"port_value: {before}", f"port_value: {after}")
        path = pathlib.Path(folder) / "envoy.yaml"
        path.write_text(config)
        environment = {variable["name"]: at_home(variable["value"]) for variable in container.get("env", [])}
        command = [part if part != "/etc/envoy/envoy.yaml" else str(path) for part in container["command"]]
        command = [envoy, *command[1:], "--disable-hot-restart"]
        subprocess.run([*command, "--mode", "validate"], check=True, env=os.environ | environment)
        size = sum(len(data) for data in files.values())
        print(f"  Envoy takes it; the ConfigMap has {size} bytes")
        with running(command, environment):
            check_answers(container, ports)


def check_answers(envoy, ports):
    """Probes and metrics are answered, and the command of Envoy's preStop hook makes /healthz 503, not /livez."""
    port, admin, metrics = (ports[name] for name in ("8080", "9901", "9902"))
    wait_for(f"http://127.0.0.1:{admin}/ready", (200, "LIVE\n"))
    wait_for(f"https://127.0.0.1:{port}/healthz", (503, "unavailable"))
    wait_for(f"https://127.0.0.1:{port}/livez", (200, "ok"))
    wait_for(f"http://127.0.0.1:{metrics}/stats/prometheus", "\nenvoy_server_live{} 1\n")
    wait_for(f"http://127.0.0.1:{metrics}/stats/prometheus?filter=a", (404, ""))
    command = [part.replace("9901", str(admin)).replace("sleep 10", "sleep 0") for part in envoy["lifecycle"]["preStop"]["exec"]["command"]]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert output.count("HTTP/1.1 200 OK") == 2, output
    wait_for(f"http://127.0.0.1:{admin}/ready", (503, "DRAINING\n"))
    # With the module Envoy's own filter answers now, without a body.
    wait_for(f"https://127.0.0.1:{port}/healthz", (503, "" if "env" in envoy else "unavailable"))
    wait_for(f"https://127.0.0.1:{port}/livez", (200, "ok"))
    print("  the preStop hook drains")


def check_command(kinds):
    """Without --server-side kubectl puts a copy of each document into an annotation, of 256 KiB at most."""
    if max(len(json.dumps(document)) for document in kinds.values()) > 256 * 1024:
        for file in (GKE / "kustomization.yaml", ROOT / "docs/gke.md"):
            commands = re.findall(r"kubectl apply.* -k", file.read_text())
            assert set(commands) == {"kubectl apply --server-side -k"}, f"{file.name}: {commands}"


def main(envoy):
    (GKE / "module/generated").mkdir(parents=True, exist_ok=True)
    shutil.copy(ROOT / "dist" / MODULE, GKE / "module/generated")
    for way in WAYS:
        print(way)
        kinds = render(way)
        followed = check(kinds)
        check_command(kinds)
        print(f"  {len(kinds)} documents, {followed} references: names, ports and times agree")
        check_envoy(kinds, envoy)
    check_defects()
    mesh.check()
    print(f"{len(WAYS)} passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1])
