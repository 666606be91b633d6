# Two commands: `make run` starts the server, `make test` proves everything. Each does its own set-up.

CARGO := cargo
PORTER := target/release/porter
DATA := data
# The token that `make run` shows; the same each time, for as long as its label is not revoked.
RUN_TOKEN := token new --role manage --label make-run --data-dir $(DATA)

.PHONY: run test bench fuzz build set-up clean

run: build
	@echo "A management token for this data folder:"
	@$(PORTER) $(RUN_TOKEN) 2>/dev/null
	@exec $(PORTER) serve --bind 127.0.0.1 --data-dir $(DATA)

build:
	@tests/set-up build
	$(CARGO) build --release --locked

test: set-up
	@tests/run

# What it can bear, job by job; PEERS=1: against what people would use otherwise, and writes README's tables. Wants two quiet cores.
bench:
	@tests/set-up bench
	@benches/run

# Bytes of a fuzzer's making for every decoder in turn, so many seconds each (fuzz/README.md).
SECS := 60
fuzz:
	@tests/set-up fuzz
	@fuzz/run $(SECS)

# What a fresh Debian lacks; a tool that can't be had is an error.
set-up:
	@tests/set-up

clean:
	$(CARGO) clean
