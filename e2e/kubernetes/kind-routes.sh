#!/usr/bin/env bash
# Lets this machine (Linux, with kind's nodes as its containers) reach the pods of the current cluster: a route to each
# node's pods through the node.
set -euo pipefail
kubectl get nodes -o jsonpath='{range .items[*]}{.spec.podCIDR} {.status.addresses[?(@.type=="InternalIP")].address}{"\n"}{end}' |
  while read -r pods node; do sudo ip route replace "$pods" via "$node"; done
