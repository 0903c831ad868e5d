# Zero-OS. Two targets do it all on a fresh machine with Go, git and make:
# `make run` shows the main job, `make test` runs every test.

GO ?= go
export CGO_ENABLED ?= 0

.PHONY: run test build setup setup-run check fuzz bench nightly clean

build: ## bin/zos
	$(GO) build -trimpath -o bin/zos ./cmd/zos

run: setup-run build ## build a Debian image with nginx, serve, mount and run it; agree on a contract
	$(GO) build -trimpath -o bin/agreement ./examples/agreement
	$(GO) run ./examples/web -zos bin/zos -then bin/agreement

test: setup build bin/versitygw check ## everything that this machine can run
	$(GO) run ./test/summary -zos bin/zos

check: bin/staticcheck ## form and static analysis, without tests
	@test -z "$$(gofmt -l $$(git ls-files '*.go'))" || { echo "run gofmt -w on:"; gofmt -l $$(git ls-files '*.go'); exit 1; }
	$(GO) vet ./...
	bin/staticcheck ./...

# Programs that tests need, in a module of their own: a linter and a real S3 server.
bin/staticcheck: test/tools/go.mod
	cd test/tools && $(GO) build -o ../../bin/staticcheck honnef.co/go/tools/cmd/staticcheck

bin/versitygw: test/tools/go.mod
	cd test/tools && $(GO) build -o ../../bin/versitygw github.com/versity/versitygw/cmd/versitygw

setup: ## install the Debian packages that tests need
	@./test/setup.sh test

setup-run:
	@./test/setup.sh run

fuzz: ## a short run of every fuzz target
	@./test/fuzz.sh

bench: build ## the measured promises; see docs/explanation/performance.md
	$(GO) run ./test/bench

nightly: ## validators of a chain killed at 200 random points under load, after all other faults
	ZOS_ROUNDS=$${ZOS_ROUNDS:-200} $(GO) test -v -count=1 -timeout 90m ./test/chain/federation

clean:
	rm -rf bin
