# What a person runs. `make help` lists it; `make test` is what CI runs.
export CGO_ENABLED := 0
GO      ?= go
FUZZ    ?= 10s
PKG     ?= ./...
# A cgo binary cannot change the identity of all its threads, so what starts as
# root and gives it up is tested without the race detector.
RACED   ?= ./internal/confine/... ./internal/egress/... ./internal/event ./internal/policy/... ./internal/kernel/notify ./internal/kernel/procfs ./internal/kernel/seccomp
CC_PATH := $(shell command -v gcc || command -v clang)

.PHONY: help build test vet unit race lint fuzz gen bench demo attack man schema image e2e-kubernetes e2e-kernels

help: ## list the targets
	@awk -F':.*## ' '/^[a-z0-9-]+:.*## / {printf "  %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

build: ## build bin/sallyport
	$(GO) build -trimpath -ldflags='-s -w' -o bin/sallyport ./cmd/sallyport

test: vet unit race ## all tests: vet, unit, then again under the race detector

vet: ## go vet, this architecture and the other one
	$(GO) vet ./...
	GOARCH=arm64 $(GO) vet ./...

unit: ## go test
	$(GO) test -count=1 -timeout=20m $(PKG)

race: ## go test -race, where a C compiler is installed
ifneq ($(CC_PATH),)
	CGO_ENABLED=1 $(GO) test -race -count=1 -timeout=20m $(RACED)
else
	@echo "race: skipped, no C compiler"
endif

lint: ## go vet, gofmt, golangci-lint of tools/go.mod
	@test -z "$$(gofmt -l cmd internal *.go)" || { gofmt -l cmd internal *.go; exit 1; }
	$(GO) vet ./...
	$(GO) tool -modfile=tools/go.mod golangci-lint run

fuzz: ## each fuzz target for FUZZ (10s, or a number of inputs: 500x)
	@GO=$(GO) test/fuzz.sh $(FUZZ)

gen: ## generate the Go code of api/*.proto
	cd api && $(GO) run github.com/bufbuild/buf/cmd/buf@v1.75.0 lint && $(GO) run github.com/bufbuild/buf/cmd/buf@v1.75.0 generate

bench: ## Go benchmarks; figures, never a verdict
	$(GO) test -run='^$$' -bench=. -benchmem $(PKG)
	$(GO) run ./test/bench
demo: ## show the walls hold, with no network
	$(GO) run ./cmd/sallyport demo
attack: ## try to get out, on this host, now
	$(GO) run ./cmd/sallyport attack
image: ## write the supervisor's image, sallyport-supervisor.tar
	$(GO) run ./deploy/image
e2e-kubernetes: ## test pods in a real cluster, as root; builds it first (cold: 15 minutes)
	$(GO) run ./test/kubernetes/cmd/kubebed test
e2e-kernels: ## run the attack suite on Debian's kernels, in qemu with software emulation (about an hour)
	$(GO) run ./test/kernels
man: ## print the manual page
	@$(GO) run ./cmd/sallyport man
