"""Calls grpc.health.v1 by grpcio's client, and prints a line for each status.

health_client.py PORT CA calls|watch|connect|ping SERVICE: over TLS with this certificate, or in the clear if CA is
empty. A status is printed by its name, a failed call as `error CODE`. `calls` reads lines `check SERVICE` and
`list `, whose entries are printed as NAME=STATUS; an empty line follows each answer. `connect` prints the states of a channel that compresses and watches the service by itself. `ping`, for which PORT may be
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
    # A connection of its own.
    options = [("grpc.use_local_subchannel_pool", 1), ("grpc.ssl_target_name_override", "localhost")]
    if not ca:
        return grpc.insecure_channel(target, options[:1])
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(target, credentials, options)


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


def watch(stub, service):
    try:
        yield from map(name, stub.Watch(health_pb2.HealthCheckRequest(service=service)))
    except grpc.RpcError as error:
        yield f"error {error.code().value[0]}"


def call(stub, method, service):
    try:
        if method == "check":
            return [name(stub.Check(health_pb2.HealthCheckRequest(service=service), timeout=10))]
        statuses = stub.List(health_pb2.HealthListRequest(), timeout=10).statuses
        return [f"{service}={name(statuses[service])}" for service in sorted(statuses)]
    except grpc.RpcError as error:
        return [f"error {error.code().value[0]}"]


def calls(port, ca):
    for line in sys.stdin:
        method, service = line.rstrip("\n").split(" ", 1)
        with channel(port, ca) as client:
            yield from call(health_pb2_grpc.HealthStub(client), method, service)
        yield ""


port, ca, method, service = sys.argv[1:]
if method == "calls":
    printed = calls(port, ca)
elif method == "watch":
    printed = watch(health_pb2_grpc.HealthStub(channel(port, ca)), service)
elif method == "connect":
    printed = states(port, service)
else:
    printed = pings(port, service)
for line in printed:
    print(line, flush=True)
