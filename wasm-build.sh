#!/usr/bin/env bash
# Builds dist/envoy_healthz.wasm and prints its size, SHA-256 and, last, its path.
# Needs rustup's cargo alone; the same sources give the same bytes wherever they lie.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")"

target=wasm32-wasip1
if [ ! -d "$(rustc --print sysroot)/lib/rustlib/$target" ]; then
  rustup target add "$target"
fi
# Panic messages hold source paths: name them the same on every machine.
export RUSTFLAGS="--remap-path-prefix=$PWD=. --remap-path-prefix=${CARGO_HOME:-$HOME/.cargo}=cargo"
# Cargo does not see when the linker changes.
built=target/$target/wasm/deps/envoy_healthz.wasm
[ "$built" -nt src/link.sh ] || rm -f "$built"
# A cdylib alone: as long as an rlib is made beside it, cargo leaves out link-time optimization.
cargo rustc --quiet --locked --package envoy-healthz --lib --crate-type cdylib \
  --profile wasm --target "$target" -- -C linker=src/link.sh -C linker-flavor=wasm-ld

mkdir -p dist
# Left alone if it is the same: an Envoy may read it just now.
install -C -m 644 "target/$target/wasm/envoy_healthz.wasm" dist/
echo "size: $(stat -c %s dist/envoy_healthz.wasm) bytes"
echo "sha256: $(sha256sum dist/envoy_healthz.wasm | cut -d' ' -f1)"
echo "dist/envoy_healthz.wasm"
