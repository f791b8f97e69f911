"""envoy/mesh: the fields of its documents, and what they say of each other. What the control planes make of them, and that
Envoy takes it, is in e2e/tests/all/meshes.rs."""

import pathlib

import yaml

from documents import MODULE, ROOT, check_schema, found, need, walk

# Each with what it was like, and a part of what must be said of it.
DEFECTS = [
    ("istio-traffic-extension.yaml", "failStrategy: FAIL_RELOAD # ", "failStrategy: RELOAD # ", "TrafficExtension: wasm.failStrategy"),
    ("istio-wasm-plugin.yaml", "failStrategy: ", "failurePolicy: ", "WasmPlugin:"),
    ("istio.yaml", "protocol: HTTP}", "protocol: 8081}", "Gateway: servers.0.port.protocol"),
    ("istio.yaml", "        volumeMounts:", "        mounts:", "Deployment:"),
    ("istio.yaml", "configMap: {name: healthz-bootstrap}", "configMap: {name: other}", "there is no ('ConfigMap', 'other')"),
    ("istio.yaml", "custom-bootstrap/custom_bootstrap.json", "other/custom_bootstrap.json", "is not mounted"),
    ("envoy-gateway.yaml", "failOpen: false", "failOpen: never", "EnvoyExtensionPolicy: wasm.0.failOpen"),
    ("envoy-gateway.yaml", "kind: HTTPRoute, name: healthz}", "kind: HTTPRoute, name: other}", "there is no ('HTTPRoute', 'other')"),
    ("envoy-gateway.yaml", "name: unavailable}", "name: other}", "there is no ('HTTPRouteFilter', 'other')"),
    ("envoy-gateway.yaml", "kind: EnvoyProxy, name: with-healthz}", "kind: EnvoyProxy, name: other}", "there is no ('EnvoyProxy', 'other')"),
    ("envoy-gateway.yaml", "  - {name: my-gateway}\n", "  - {name: other}\n", "there is no ('Gateway', 'other')"),
    ("envoy-gateway.yaml", "    - {name: my-service, port: 9000}", "    - {name: my-service, port: 80}", "the Service has no port 80"),
    ("envoy-gateway.yaml", "  mergeType: StrategicMerge", "  mergeType: JSONMerge", "replaces the GatewayClass's"),
    ("envoy-gateway-module.yaml", "- name: envoy-healthz", "- name: envoy_healthz", "does not match"),
    ("envoy-gateway-module.yaml", "  - name: envoy-healthz\n    source", "  - name: other\n    source", "EnvoyProxy has no module envoy-healthz"),
    ("envoy-gateway-module.yaml", "local: {path: /etc/envoy/modules/", "local: {path: /other/", "is not mounted"),
    ("envoy-gateway-module.yaml", "          - name: module\n            emptyDir", "          - name: other\n            emptyDir", "no init container fills it"),
    ("envoy-gateway-module.yaml", "            emptyDir: {sizeLimit: 8Mi}", "            image: {reference: REGISTRY}", "no init container fills it"),
    ("envoy-gateway-module.yaml", "            emptyDir: ", "            emptyFolder: ", "Deployment:"),
    ("envoy-gateway-module.yaml", '["httproute/default/healthz/rule/0"]', '["httproute/default/healthz/rule/1"]', "is not the route's cluster"),
    ("envoy-gateway-module.yaml", "type: GRPC,", "type: gRPC,", "BackendTrafficPolicy: healthCheck.active.type"),
    ("envoy-gateway-module.yaml", "operation: {op: add,", "operation: {op: put,", "EnvoyPatchPolicy: jsonPatches.3.operation.op"),
]


def check():
    for path in sorted((ROOT / "envoy/mesh").glob("*.yaml")):
        documents = mesh(path.name)
        check_mesh(documents)
        print(f"{path.name}\n  {len(documents)} documents: their fields are those of the CRDs")
    for file, before, after, said in DEFECTS:
        with found(said, file, before, after):
            check_mesh(mesh(file, before, after))
    print(f"  each of {len(DEFECTS)} defects is found when it is put in")


def mesh(file, before="", after=""):
    """The documents of a file of envoy/mesh, after a change."""
    text = (ROOT / "envoy/mesh" / file).read_text()
    assert before in text, f"{file} has no {before!r}"
    return list(yaml.safe_load_all(text.replace(before, after)))


# Of which kind a name is, where the document does not say.
KINDS = {"parentRefs": "Gateway", "backendRefs": "Service", "configMap": "ConfigMap"}


def check_mesh(documents):
    for document in documents:
        if document["kind"] != "Deployment":
            check_schema(document)
    names = {(document["kind"], document["metadata"]["name"]) for document in documents}
    for document in documents:
        for path, value in walk(document):
            if path[-1:] and path[-1] in ("targetRefs", "targetRef", "extensionRef", "parametersRef", *KINDS):
                target = (value.get("kind", KINDS.get(path[-1])), value["name"])
                need(target in names, f"{document['kind']}.{'.'.join(path)}: there is no {target}")
            if path[-1:] == ("backendRefs",):
                (service,) = (item["spec"] for item in documents if item["kind"] == "Service")
                need(value["port"] in [port["port"] for port in service["ports"]], f"the Service has no port {value['port']}")
    kinds = {document["kind"]: document["spec"] for document in documents if "spec" in document}
    if "EnvoyProxy" in kinds:
        need(kinds["EnvoyProxy"].get("mergeType") == "StrategicMerge", "this EnvoyProxy replaces the GatewayClass's")
    if "dynamicModules" in kinds.get("EnvoyProxy", {}):
        check_gateway_module(documents, kinds["EnvoyProxy"])
    if "Deployment" in kinds:
        check_istio_deployment(kinds["Deployment"]["template"])


def check_pod(spec):
    """The part of a pod that a control plane puts into a Deployment."""
    spec["containers"] = [{"image": "envoy", **container} for container in spec["containers"]]
    spec = {"selector": {}, "template": {"spec": spec}}
    check_schema({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "envoy"}, "spec": spec})


def check_gateway_module(documents, proxy):
    """The module is one of EnvoyProxy's, an init container fills the volume of its file, and its cluster is the route's."""
    modules = {item["name"]: pathlib.PurePath(item["source"]["local"]["path"]) for item in proxy["dynamicModules"]}
    for policy in (document["spec"] for document in documents if document["kind"] == "EnvoyExtensionPolicy"):
        (module,), (route,) = policy["dynamicModule"], policy["targetRefs"]
        need(module["name"] in modules, f"EnvoyProxy has no module {module['name']}")
        (endpoint,) = module["config"]["endpoints"]
        cluster = f"httproute/default/{route['name']}/rule/0"
        need(endpoint["clusters"] == [cluster], f"{endpoint['clusters']} is not the route's cluster, {cluster}")
    deployment = proxy["provider"]["kubernetes"]["envoyDeployment"]
    copies = deployment.get("initContainers", [])
    volumes = {item["name"] for item in deployment["pod"]["volumes"] if "emptyDir" in item}
    (mount,) = deployment["container"]["volumeMounts"]
    filled = [item["name"] for container in copies for item in container["volumeMounts"]]
    check_pod({"containers": [{"name": "envoy", "volumeMounts": [mount]}], "initContainers": copies, "volumes": deployment["pod"]["volumes"]})
    need(filled == [mount["name"]] and mount["name"] in volumes, f"{mount['name']}: no init container fills it")
    for path in modules.values():
        need(path == pathlib.PurePath(mount["mountPath"]) / MODULE, f"{path} is not mounted")


def check_istio_deployment(template):
    """It is added to a Deployment that is there."""
    check_pod(template["spec"])
    (container,) = template["spec"]["containers"]
    (mount,) = container["volumeMounts"]
    (variable,) = container["env"]
    need(pathlib.PurePath(variable["value"]).parent == pathlib.PurePath(mount["mountPath"]), f"{variable['value']} is not mounted")
