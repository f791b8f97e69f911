#!/usr/bin/env bash
# The linker of ./wasm-build.sh: the toolchain's own, told to export only what Envoy needs.
# The SDK exports every callback there is. Envoy calls those it finds, for each request, so those that
# src/wasm.rs does not implement cost time as well as bytes. Whoever adds one there adds it here.
set -euo pipefail

callbacks=" proxy_on_vm_start proxy_on_configure proxy_on_context_create proxy_on_delete
  proxy_on_request_headers proxy_on_request_body proxy_on_request_trailers
  proxy_on_tick proxy_on_queue_ready proxy_on_http_call_response proxy_on_memory_allocate "

arguments=()
while [ $# -gt 0 ]; do
  if [ "$1" = --export ] && [[ $2 = proxy_on_* && ! $callbacks =~ [[:space:]]$2[[:space:]] ]]; then
    shift 2
  else
    arguments+=("$1")
    shift
  fi
done
# The compiler has put its own rust-lld on the PATH.
exec rust-lld "${arguments[@]}" --compress-relocations
