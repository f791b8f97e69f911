"""Asks a server for its health by grpcio's client of grpc.health.v1, and prints a line for each status.

health_client.py PORT CA check|list|watch|connect|ping SERVICE: over TLS with this certificate, or in the clear if
CA is empty. A status is printed by its name, a failed call as `error CODE`; `list` prints NAME=STATUS. `connect`
prints the states of a channel that compresses and watches the service by itself. `ping`, for which PORT may be
several, with commas, calls yages.Echo/Ping over such a channel that does not compress, and prints each call's code.
"""

import json
import queue
import sys
import time

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def channel(port, ca):
    target = f"127.0.0.1:{port}"
    if not ca:
        return grpc.insecure_channel(target)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", "localhost")])


def watching(ports, service, compression):
    config = {"loadBalancingConfig": [{"round_robin": {}}], "healthCheckConfig": {"serviceName": service}}
    options = [("grpc.service_config", json.dumps(config)), ("grpc.default_authority", "localhost")]
    target = "ipv4:" + ",".join(f"127.0.0.1:{port}" for port in ports.split(","))
    return grpc.insecure_channel(target, options, compression=compression)


def states(port, service):
    changes = queue.SimpleQueue()
    client = watching(port, service, grpc.Compression.Gzip)
    client.subscribe(changes.put, try_to_connect=True)
    while True:
        yield changes.get().name


def pings(ports, service):
    ping = watching(ports, service, grpc.Compression.NoCompression).unary_unary("/yages.Echo/Ping")
    while True:
        try:
            ping(b"", timeout=30)
            yield 0
        except grpc.RpcError as error:
            yield error.code().value[0]
        time.sleep(0.05)


def name(answer):
    return health_pb2.HealthCheckResponse.ServingStatus.Name(answer.status)


def lines(stub, method, service):
    request = health_pb2.HealthCheckRequest(service=service)
    if method == "check":
        yield name(stub.Check(request, timeout=10))
    elif method == "list":
        statuses = stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
        yield from (f"{service}={name(statuses[service])}" for service in sorted(statuses))
    else:
        yield from map(name, stub.Watch(request))


port, ca, method, service = sys.argv[1:]
try:
    if method == "connect":
        printed = states(port, service)
    elif method == "ping":
        printed = pings(port, service)
    else:
        printed = lines(health_pb2_grpc.HealthStub(channel(port, ca)), method, service)
    for line in printed:
        print(line, flush=True)
except grpc.RpcError as error:
    print("error", error.code().value[0], flush=True)
