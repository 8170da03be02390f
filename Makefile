# What people do with this project. `make help` lists it.

SHELL := /bin/sh
.DEFAULT_GOAL := help
TOOLS := target/tools
# What `make bench` is told, like BENCH="files --json"; BENCH=--help tells more.
BENCH :=
# How many lives `make simulate` simulates: some thousand a minute on each processor.
WALKS := 1000000

# How long `make fuzz` tries to break each parser.
FUZZ_SECONDS := 60

.PHONY: help demo test test-ui ui-picture test-heavy check-deploy deb simulate fuzz soak bench lint fmt tools

help: ## This list
	@awk -F':.*## ' '/^[a-z-]+:.*## /{printf "  make %-12s %s\n", $$1, $$2}' Makefile

demo: ## The whole way of a file on this machine, in seconds
	cargo run --locked -- demo

test: tools ## All tests but the long ones; installs what they need and is missing
	TOOLS=$(TOOLS) sh scripts/test.sh

test-ui: tools ## The web UI in a real browser
	sh scripts/test-ui.sh

ui-picture: ## Make the README's picture of the UI anew: needs what test-ui has installed and built
	cd tests/ui && SCORELINE=$${SCORELINE:-../../target/debug/scoreline} node shoot.mjs --docs

test-heavy: tools ## The long tests
	TOOLS=$(TOOLS) sh scripts/test.sh --heavy

check-deploy: tools ## What deploy/ holds, each by the real tool of its trade
	@for check in deploy/*/check.sh; do echo "-- $$check"; TOOLS=$(TOOLS) sh $$check || exit 1; done

deb: ## The Debian package, in target/debian
	cargo build --release --locked
	sh deploy/debian/package.sh $(TOOLS) target/release/scoreline target/debian

simulate: ## A night of simulated lives: WALKS=1000000; a failure names its seed, and SIMULATION_SEED=… repeats it
	SIMULATION_WALKS=$(WALKS) cargo test --locked -p simulation whatever_happens -- --nocapture

fuzz: ## Look for input that breaks a parser: FUZZ_SECONDS=60 FUZZ_SEED=… FUZZ_TARGET=status FUZZ_KEEP=1; see tests/it/fuzz.rs
	FUZZ_SECONDS=$(FUZZ_SECONDS) cargo test --locked --test it fuzz::make_fuzz -- --ignored --nocapture

soak: tools ## Break everything for minutes: SOAK_MINUTES=10 SOAK_FILES=5000 SOAK_SEED=… SOAK_PATRONI=1
	TOOLS=$(TOOLS) sh scripts/test.sh --soak

bench: tools ## How fast it is, as ratios to what is known; some minutes, best on a quiet machine
	cargo bench --locked --bench bench -- $(BENCH)

lint: ## Format and lints, as CI demands them
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets --features scoreline/otlp -- -D warnings

fmt: ## Format the code
	cargo fmt --all

tools: ## Install what the tests need: from npm, PyPI and Debian
	@sh scripts/tools.sh $(TOOLS)
