#!/usr/bin/env bash
# Makes envoy/gke/generated/ and, if the module was chosen, envoy/gke/module/generated/: the filter or the module,
# and a certificate unless one is there, for the ConfigMap and the Secret of the manifests.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"
mkdir -p generated module/generated
cp ../../dist/envoy_healthz.wasm generated/
../make-cert.sh generated
if grep -q '^- module$' kustomization.yaml; then cp ../../dist/libenvoy_healthz.so module/generated/; fi
# What is easily forgotten, and what else Kubernetes says only as an image that cannot be pulled.
grep -n my-project kustomization.yaml | sed "s|^|prepare.sh: still the example's image: envoy/gke/kustomization.yaml:|" || true
