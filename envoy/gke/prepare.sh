#!/usr/bin/env bash
# Makes envoy/gke/generated/ and envoy/gke/module/generated/: the filter or the module, the configuration
# and a certificate, as the ConfigMap and the Secret of the manifests want them. The configuration is
# envoy/envoy.yaml or envoy/module.yaml for a pod: the backend on loopback, and of the admin what the
# preStop hook needs.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p generated module/generated
cp ../../dist/envoy_healthz.wasm generated/
cp ../../dist/libenvoy_healthz.so module/generated/
../make-cert.sh generated
hook='  - {exact: /healthcheck/fail} # asked by the preStop hook'
backend='s/{address: app, port_value: 9000}/{address: 127.0.0.1, port_value: 9000}/'
sed -e "$backend" -e "s|^  - {exact: /ready}\$|&\n$hook|" ../envoy.yaml >generated/envoy.yaml
# The module itself asks nothing of the admin.
sed -e "$backend" -e '/^admin:$/,/^$/s|^$|  allow_paths:\n'"$hook"'\n  - {exact: /ready}\n|' \
  ../module.yaml >module/generated/envoy.yaml
for made in generated/envoy.yaml module/generated/envoy.yaml; do
  grep -q '{address: 127.0.0.1, port_value: 9000}' "$made"
  grep -qF "$hook" "$made"
done
