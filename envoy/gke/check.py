#!/usr/bin/env python3
"""`make test-gke`: renders the manifests, both ways, and holds them against what will read them.

Kubernetes' own kinds: its schemas, from the package kubernetes-validate. Google's and the Gateway's
kinds, which have no schema there: that they name what is there. Envoy's configuration: Envoy.
"""

import base64
import json
import pathlib
import shutil
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
KUBERNETES_GROUPS = ("v1", "apps/v1", "networking.k8s.io/v1")


def render(exposure):
    """The documents with ingress.yaml or gateway.yaml, by kind."""
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder) / "gke"
        shutil.copytree(HERE, folder)
        path = folder / "kustomization.yaml"
        text = path.read_text()
        assert "- ingress.yaml\n#- gateway.yaml\n" in text
        path.write_text(text.replace("- ingress.yaml\n#- gateway.yaml\n", f"- {exposure}\n"))
        command = ["kubectl", "kustomize", str(folder)]
        output = subprocess.run(command, check=True, capture_output=True, text=True).stdout
    documents = [document for document in yaml.safe_load_all(output) if document]
    kinds = {document["kind"]: document for document in documents}
    assert len(kinds) == len(documents), "two documents of one kind"
    return kinds


def check_schemas(kinds):
    for kind, document in kinds.items():
        if document["apiVersion"] in KUBERNETES_GROUPS:
            kubernetes_validate.validate(document, KUBERNETES, strict=True)
            print(f"  {kind}: good by the schemas of Kubernetes {KUBERNETES}")


def check_names(kinds):
    """What one document says of another is so."""
    deployment, service = kinds["Deployment"], kinds["Service"]
    pod = deployment["spec"]["template"]["spec"]
    (envoy,), (backend,) = pod["initContainers"], pod["containers"]
    (port,) = service["spec"]["ports"]
    name = service["metadata"]["name"]
    container_port = envoy["ports"][0]["containerPort"]

    assert envoy["restartPolicy"] == "Always", "Envoy is no native sidecar"
    assert port["targetPort"] == container_port
    labels = deployment["spec"]["template"]["metadata"]["labels"]
    assert service["spec"]["selector"].items() <= labels.items()
    grace = pod["terminationGracePeriodSeconds"]
    assert backend["lifecycle"]["preStop"]["sleep"]["seconds"] < grace
    volumes = {volume["name"]: volume for volume in pod["volumes"]}
    assert volumes["envoy"]["configMap"]["name"] == kinds["ConfigMap"]["metadata"]["name"]
    assert volumes["envoy-tls"]["secret"]["secretName"] == kinds["Secret"]["metadata"]["name"]

    annotations = service["metadata"]["annotations"]
    assert json.loads(annotations["cloud.google.com/neg"]) == {"ingress": True}
    assert json.loads(annotations["cloud.google.com/app-protocols"]) == {port["name"]: "HTTP2"}
    if "Ingress" in kinds:
        config = kinds["BackendConfig"]
        named = json.loads(annotations["cloud.google.com/backend-config"])
        assert named == {"default": config["metadata"]["name"]}
        check = config["spec"]["healthCheck"]
        assert check["type"] == "HTTP2"
        backend = kinds["Ingress"]["spec"]["defaultBackend"]["service"]
        assert backend == {"name": name, "port": {"name": port["name"]}}
    else:
        policy = kinds["HealthCheckPolicy"]["spec"]
        assert policy["targetRef"] == {"group": "", "kind": "Service", "name": name}
        assert policy["default"]["config"]["type"] == "HTTP2"
        check = {**policy["default"], **policy["default"]["config"]["http2HealthCheck"]}
        (rule,) = kinds["HTTPRoute"]["spec"]["rules"]
        assert rule["backendRefs"] == [{"name": name, "port": port["port"]}]
        (parent,) = kinds["HTTPRoute"]["spec"]["parentRefs"]
        assert parent["name"] == kinds["Gateway"]["metadata"]["name"]
    assert (check["requestPath"], check["port"]) == ("/healthz", container_port)
    # The pod outlives what the balancer needs to take it out.
    needed = check["checkIntervalSec"] * check["unhealthyThreshold"] + check["timeoutSec"]
    assert needed <= pod["containers"][0]["lifecycle"]["preStop"]["sleep"]["seconds"]
    print("  names, ports and times agree")


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
        # For real, but on loopback.
        (folder / "envoy.yaml").write_text(config.replace("0.0.0.0", "127.0.0.1"))
        running = subprocess.Popen(command)
        try:
            check_pre_stop(kinds)
        finally:
            running.terminate()
            running.wait()


def check_pre_stop(kinds):
    """The command of Envoy's preStop hook turns /ready, and so /healthz, to 503."""
    envoy = kinds["Deployment"]["spec"]["template"]["spec"]["initContainers"][0]
    wait_for_ready(200)
    command = envoy["lifecycle"]["preStop"]["exec"]["command"]
    output = subprocess.run(command, check=True, capture_output=True, text=True, timeout=20).stdout
    assert output.startswith("HTTP/1.1 200 OK"), output
    wait_for_ready(503)
    print("  the preStop hook drains")


def wait_for_ready(status):
    deadline = time.monotonic() + 30
    while True:
        try:
            found = urllib.request.urlopen("http://127.0.0.1:9901/ready", timeout=5).status
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
        check_schemas(kinds)
        check_names(kinds)
        check_envoy(kinds, envoy)
    print("2 passed, 0 failed")


if __name__ == "__main__":
    main(sys.argv[1])
