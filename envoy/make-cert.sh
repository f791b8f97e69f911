#!/usr/bin/env bash
# Makes a self-signed certificate, tls.crt and tls.key, in DIR (default: envoy/tls) unless it is there.
# For trying things out: Google's load balancers and Kubernetes do not validate it either.
set -euo pipefail
dir=${1:-"$(dirname "${BASH_SOURCE[0]}")/tls"}
[ -s "$dir/tls.crt" ] && [ -s "$dir/tls.key" ] && exit 0
mkdir -p "$dir"
# CA:FALSE, so that clients which trust this one certificate (Rust's webpki) accept it as a server's.
openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -days 365 \
  -keyout "$dir/tls.key" -out "$dir/tls.crt" -config - 2>/dev/null <<'CONFIG'
[req]
prompt = no
distinguished_name = name
x509_extensions = extensions
[name]
CN = localhost
[extensions]
basicConstraints = critical, CA:FALSE
subjectAltName = DNS:localhost, DNS:envoy, IP:127.0.0.1, IP:::1
CONFIG
# Envoy's container runs as a user of its own, who must be able to read the mounted key.
chmod 644 "$dir/tls.key"
