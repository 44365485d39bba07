# Every target does its own set-up; "make" alone tells what there is.

GO          ?= go
FUZZTIME    ?= 15s
GOFUMPT     := $(GO) run mvdan.cc/gofumpt@v0.12.0
STATICCHECK := $(GO) run honnef.co/go/tools/cmd/staticcheck@v0.8.2
# Not asked for: errors of closing and removing what nobody needs any more (.errcheck lists the functions).
ERRCHECK    := $(GO) run github.com/kisielk/errcheck@v1.30.0 -ignoretests -exclude .errcheck

.DEFAULT_GOAL := help

.PHONY: help
help: ## show this help
	@awk -F ':.*## ' '/^[a-z][a-z-]*:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

.PHONY: build
build: ## build bin/slipway
	$(GO) build -trimpath -o bin/ ./cmd/...

.PHONY: test
test: ## run the whole test suite on real servers (installs PostgreSQL 10, 13, 17 and 18 below var/)
	scripts/setup test
	SLIPWAY_REQUIRE_POSTGRES=1 $(GO) test -timeout 14m ./...

.PHONY: race
race: ## run the test suite with the race detector (needs a C compiler)
	scripts/setup test
	SLIPWAY_REQUIRE_POSTGRES=1 $(GO) test -race -timeout 30m ./...

.PHONY: demo
demo: ## migrate a live database between two servers of its own and report, in 2 minutes
	scripts/setup
	$(GO) build -trimpath -o bin/ ./cmd/...
	$(GO) run ./demo

.PHONY: bench
bench: ## measure beside pg_dump, pgcopydb and native replication (BENCH="-rounds 5 -markdown")
	scripts/setup bench
	$(GO) build -trimpath -o bin/ ./cmd/...
	$(GO) run ./bench $(BENCH)

.PHONY: fuzz
fuzz: ## run every fuzz target for FUZZTIME (15s)
	scripts/fuzz $(FUZZTIME)

.PHONY: lint
lint: ## check format, go vet, staticcheck, errcheck, shellcheck if it is there
	scripts/clean-format $(GOFUMPT)
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(ERRCHECK) ./...
	@if command -v shellcheck >/dev/null; then shellcheck scripts/* .ci/run; fi

.PHONY: check
check: lint ## lint, and check the import rule, documentation, go.mod, generated files
	$(GO) test ./internal/repotest
	$(GO) mod tidy -diff
	scripts/clean-generated

.PHONY: clean
clean: ## remove what was built; var/ with installed servers stays
	rm -rf bin
	$(GO) clean -testcache
