"""Asks a server for its health by grpcio's client of grpc.health.v1, and prints a line for each status.

health_client.py PORT CA check|list|watch SERVICE: over TLS with this certificate, or in the clear if CA is
empty. A status is printed by its name, a failed call as `error CODE`; `list` prints NAME=STATUS.
"""

import sys

import grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc


def channel(port, ca):
    target = f"127.0.0.1:{port}"
    if not ca:
        return grpc.insecure_channel(target)
    with open(ca, "rb") as file:
        credentials = grpc.ssl_channel_credentials(file.read())
    return grpc.secure_channel(target, credentials, [("grpc.ssl_target_name_override", "localhost")])


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
    for line in lines(health_pb2_grpc.HealthStub(channel(port, ca)), method, service):
        print(line, flush=True)
except grpc.RpcError as error:
    print("error", error.code().value[0], flush=True)
