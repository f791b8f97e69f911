#!/usr/bin/env bash
# images.sh DIR ENVOY: writes the images that `make test-kubernetes` needs as tar files into DIR and loads each into the
# cluster by $LOAD_IMAGE FILE (default: `kind load image-archive`). The service, and the module with a `cp` for its
# init container. With STAND_IN=1 also an Envoy of the official image's shape, for clusters without a registry.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd) to=$(realpath -m "$1") envoy=$2
dist=$here/../../dist
mkdir -p "$to"
rootfs=$(mktemp -d)
trap 'rm -rf "$rootfs"' EXIT
# A program and the libraries that it needs.
add() { # ROOTFS FOLDER PROGRAM
  mkdir -p "$1$2" && cp "$3" "$1$2/"
  ldd "$3" | grep -o '/[^ ]*' | while read -r library; do install -D "$(readlink -f "$library")" "$1$library"; done
}
image() { # NAME FILE ROOTFS PATH COMMAND...
  "$here/image.py" "$@"
  ${LOAD_IMAGE:-kind load image-archive} "$2"
}
mkdir -p "$rootfs/service" && cp "$dist/echo-server" "$rootfs/service/"
image europe-docker.pkg.dev/my-project/my-repository/my-service:v1.0.0 "$to/service.tar" "$rootfs/service" / \
  /echo-server -- --listen 0.0.0.0:9000
mkdir -p "$rootfs/module" && cp "$dist/libenvoy_healthz.so" "$rootfs/module/"
add "$rootfs/module" /bin "$(command -v cp)"
image registry.local/envoy-healthz/module-cp:0.1.0 "$to/module.tar" "$rootfs/module" /bin -- /bin/true
[ "${STAND_IN:-}" = 1 ] || exit 0
mkdir -p "$rootfs"/envoy/{etc/envoy,tmp}
echo 'envoy:x:101:101::/:/bin/bash' >"$rootfs/envoy/etc/passwd"
add "$rootfs/envoy" /usr/local/bin "$envoy"
for program in bash cat sleep; do add "$rootfs/envoy" /bin "$(command -v $program)"; done
image docker.io/envoyproxy/envoy:v1.40.0 "$to/envoy.tar" "$rootfs/envoy" /usr/local/bin:/bin -- envoy -c /etc/envoy/envoy.yaml
