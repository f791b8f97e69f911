"""envoy/mesh: the fields of its documents, and what Envoy Gateway makes of the module's."""

import json
import pathlib
import socket
import tempfile

import yaml

from documents import MODULE, ROOT, check_schema, found, free_ports, need, running, wait_for, walk

# Each with what it was like, and a part of what must be said of it.
DEFECTS = [
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


def check(envoy):
    for path in sorted((ROOT / "envoy/mesh").glob("*.yaml")):
        documents = mesh(path.name)
        check_mesh(documents)
        print(f"{path.name}\n  {len(documents)} documents: their fields are those of the CRDs")
    check_gateway_module_in_envoy(mesh("envoy-gateway-module.yaml"), envoy)
    print("  Envoy takes the module as Envoy Gateway hands it over")
    for file, before, after, said in DEFECTS:
        with found(said, file, before, after):
            check_mesh(mesh(file, before, after))
    print(f"  each of {len(DEFECTS)} defects is found when it is put in")


def mesh(file, before="", after=""):
    """The documents of a file of envoy/mesh, after a change."""
    text = (ROOT / "envoy/mesh" / file).read_text()
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
