#!/usr/bin/env bash
# Prints the image that the Dockerfile builds from if it is here or can be pulled, otherwise a stand-in of this
# machine's toolchain, gcc and the Debian packages that they need.
set -euo pipefail
image=$(sed -n 's/^ARG RUST_IMAGE=//p' "$(dirname "${BASH_SOURCE[0]}")/../Dockerfile")
if docker image inspect "$image" >/dev/null 2>&1 || timeout 60 docker pull -q "$image" >/dev/null 2>&1; then
  echo "$image"
  exit
fi
stand_in=envoy-healthz/rust-stand-in:${image#*:}
echo "rust-image: $image cannot be had; using a stand-in made of this machine's toolchain" >&2
if ! docker image inspect "$stand_in" >/dev/null 2>&1; then
  rootfs=$(mktemp -d)
  trap 'rm -rf "$rootfs"' EXIT
  apt-cache depends --recurse --installed --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
    --no-enhances bash coreutils dash gcc libc6-dev sed | grep '^[a-z]' | sort -u |
    while read -r package; do dpkg -L "$package" 2>/dev/null || true; done |
    grep -v '^/usr/share/' | sed -E 's,^/(bin|sbin|lib|lib64)/,/usr/\1/,' | sort -u >"$rootfs/files"
  # What no package lists: Debian's links, and what this machine's crates.io is trusted by.
  printf '%s\n' /bin /lib /lib64 /usr/bin/sh /usr/bin/cc /etc/alternatives/cc /etc/ssl/certs/ca-certificates.crt >>"$rootfs/files"
  tar -C / --create --no-recursion --ignore-failed-read --files-from "$rootfs/files" 2>/dev/null | tar -C "$rootfs" -x
  mkdir -p "$rootfs"/{tmp,root,usr/local}
  sysroot=$(rustc --print sysroot)
  (cd "$sysroot" && tar -c bin/rustc bin/cargo lib/*.so* lib/rustlib/{x86_64-unknown-linux-gnu,wasm32-wasip1}) |
    tar -C "$rootfs/usr/local" -x
  tar -C "$rootfs" --exclude ./files -c . | docker import \
    --change 'ENV PATH=/usr/local/bin:/usr/bin:/bin' --change 'CMD ["bash"]' - "$stand_in" >/dev/null
fi
echo "$stand_in"
