"""What check.py and mesh.py share: faults, the schemas, and an Envoy that runs."""

import contextlib
import os
import pathlib
import socket
import ssl
import subprocess
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
MODULE = "libenvoy_healthz.so"


class Fault(Exception):
    """What is wrong with the manifests."""


def need(good, fault):
    if not good:
        raise Fault(fault)


@contextlib.contextmanager
def found(said, file, before, after):
    """What is done here has this fault."""
    try:
        yield
    except Fault as fault:
        assert said in str(fault), f"{file}: {before!r} -> {after!r}: {fault}, not {said}"
    else:
        raise AssertionError(f"{file}: {before!r} -> {after!r} is not found")


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


def wait_for(url, expected):
    """Status and body, or a part of the body; as a prober asks: the certificate is not validated."""
    deadline = time.monotonic() + 30
    while True:
        try:
            with urllib.request.urlopen(url, timeout=5, context=ssl._create_unverified_context()) as answer:
                found = answer.status, answer.read().decode()
        except urllib.error.HTTPError as error:
            found = error.code, error.read().decode()
        except OSError as error:
            found = error
        if found == expected or isinstance(expected, str) and isinstance(found, tuple) and expected in found[1]:
            return
        assert time.monotonic() < deadline, f"{url} is {found}, not {expected}"
        time.sleep(0.05)
