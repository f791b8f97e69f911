# Builds the filter with Docker only, into dist/:
#
#   docker build --target wasm --output dist .      # dist/envoy_healthz.wasm
#   docker build --target module --output dist .    # dist/libenvoy_healthz.so
#
# Docker before 23 also needs DOCKER_BUILDKIT=1. Another base image with Rust 1.95 and gcc: --build-arg RUST_IMAGE=…
ARG RUST_IMAGE=rust:1.95-bookworm

FROM ${RUST_IMAGE} AS sources
WORKDIR /envoy-healthz
COPY . .

FROM sources AS build-wasm
RUN ./wasm-build.sh

FROM scratch AS wasm
COPY --from=build-wasm /envoy-healthz/dist/envoy_healthz.wasm /

# The linker, Zig, comes from PyPI.
FROM sources AS build-module
RUN apt-get update -qq && apt-get install -qq -y --no-install-recommends make python3-pip
RUN make module

FROM scratch AS module
COPY --from=build-module /envoy-healthz/dist/libenvoy_healthz.so /
