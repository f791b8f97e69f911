#!/usr/bin/env bash
# Makes envoy/gke/generated/: the filter, the configuration and a certificate, as the ConfigMap and
# the Secret of the manifests want them. The configuration is envoy/envoy.yaml for a pod: the backend
# on loopback, and the one admin path more that the preStop hook needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p generated
cp ../../dist/envoy_healthz.wasm generated/
../make-cert.sh generated
sed -e 's/{address: app, port_value: 9000}/{address: 127.0.0.1, port_value: 9000}/' \
  -e 's|^  - {exact: /ready}$|&\n  - {exact: /healthcheck/fail} # asked by the preStop hook|' \
  ../envoy.yaml >generated/envoy.yaml
grep -q '{address: 127.0.0.1, port_value: 9000}' generated/envoy.yaml
grep -q '{exact: /healthcheck/fail}' generated/envoy.yaml
