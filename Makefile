# Every task has its name here; CI calls the same ones. `make help` lists them.

SHELL := /bin/bash
PREFIX ?= /usr/local
LIBDIR ?= $(PREFIX)/lib
# Which build is installed and packed: release, or the debug one of `make test`.
BUILD ?= release
BUILT ?= $(or $(CARGO_TARGET_DIR),target)/$(BUILD)
PACKAGES := $(or $(CARGO_TARGET_DIR),target)/package
# The scenarios start whole routers; more than two at a time only makes a small machine miss their deadlines.
export RUST_TEST_THREADS ?= 2

# Network namespaces need root. Only what uses them runs as root; the build stays the user's.
HOST := $(shell rustc -vV | sed -n 's/^host: //p')
ifneq ($(shell id -u),0)
AS_ROOT := sudo --preserve-env=MRT,RUST_TEST_THREADS,RUST_LOG,HV_SOAK_MINUTES,HV_CALM_SPEED,HV_CALM_PREFIXES,HV_CALM_ROUNDS,HV_CALM_T_MS,HV_CALM_FIB,HV_CALM_MINUTES
export CARGO_TARGET_$(shell echo $(HOST) | tr 'a-z-' 'A-Z_')_RUNNER := $(AS_ROOT)
endif

# What virtd ran, and how often, once `make profile` has written it down; release builds lay out its code by it from then on. Where the
# source is newer, the compiler goes without it, function by function.
PROFILE := $(CURDIR)/target/profile/virtd.profdata
BY_PROFILE := -Cprofile-use=$(PROFILE) -Cllvm-args=-no-pgo-warn-mismatch
INSTRUMENTED := target/profile/release
PROFDATA := $(shell rustc --print sysroot)/lib/rustlib/$(HOST)/bin/llvm-profdata

.PHONY: help build profile test fuzz faults sessions curve soak crash calm topotests demo bench lint fmt deny man install install-files package package-test
.PHONY: clean packages

help: ## What can be made
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "%-12s %s\n", $$1, $$2 }' Makefile

build: ## virtd, virtctl, virtd-monitor, hv-replay and libhvlibc.so, into target/release
	cargo build --release --workspace
	[ ! -f $(PROFILE) ] || RUSTFLAGS="$(RUSTFLAGS) $(BY_PROFILE)" cargo build --release -p virtd --bin virtd
	@[ ! -f $(PROFILE) ] || [ -z "$$(find virtd wire voter replay -path '*/src/*.rs' -newer $(PROFILE) -print -quit)" ] || \
		echo "virtd's source is newer than its profile, which fits it in part only: 'make profile' writes a new one" >&2

# One UPDATE at a time is what virtd is laid out for, so most of the run is that; without a table what only tables need would count as never used.
profile: packages ## Runs virtd with real daemons and rebuilds it by what ran: less added latency; some eight minutes, once per version
	@[ -x $(PROFDATA) ] || rustup component add llvm-tools || \
		{ echo "make profile needs llvm-profdata of rustc's own LLVM, which 'rustup component add llvm-tools' brings" >&2; exit 1; }
	cargo build --release --workspace
	rm -f $(PROFILE)
	RUSTFLAGS="$(RUSTFLAGS) -Cprofile-generate=$(CURDIR)/target/profile/raw" cargo build --release --target-dir target/profile -p virtd --bin virtd
	rm -rf target/profile/{raw,bench} && mkdir target/profile/{raw,bench} # Build scripts leave something there, too.
	ln -f target/release/{hv-bench,hv-replay,virtctl,libhvlibc.so} $(INSTRUMENTED)
	$(AS_ROOT) $(INSTRUMENTED)/hv-bench --only latency,fib,table --rounds 2 --count 300 --table-rounds 1 --prefixes 100000 --large 0 \
		--fib-prefixes 200000 --fib-places fib-one,fib-three-birds --raw target/profile/bench --output target/profile/bench.json
	$(PROFDATA) merge --sparse --output $(PROFILE) target/profile/raw
	$(MAKE) --no-print-directory build

packages:
	.ci/install

test: packages ## Everything, with the real daemons in network namespaces (installs the Debian packages that are missing)
	cargo build --workspace
	cargo test --workspace --doc
	@rm -f target/not-tested
	cargo test --workspace --no-fail-fast --lib --bins --tests; status=$$?; .ci/not-tested; exit $$status

fuzz: ## Mutated inputs for everything that reads what others wrote, a minute for each target; it ends with how to run cargo-fuzz (FUZZ_SECONDS=60, TARGET=NAME)
	cargo run --profile fuzz -p fuzz --bin hv-fuzz -- --seconds $(or $(FUZZ_SECONDS),60) $(if $(TARGET),--target $(TARGET))
	@echo "Led by coverage, with a nightly compiler: 'cargo install cargo-fuzz', then 'cargo +nightly fuzz run --fuzz-dir tests/fuzz $(or $(TARGET),update)'"

faults: packages ## Every fault under every strategy, judged by the neighbours' own logs; about eight minutes (FILTER=TEXT, STRATEGY=NAME)
	cargo build --workspace
	$(AS_ROOT) target/debug/hv-faults $(if $(FILTER),--filter $(FILTER)) $(if $(STRATEGY),--strategy $(STRATEGY))

sessions: packages ## What ends a session and what must not: every row, router and strategy, with the daemons' own times; about an hour (FILTER=TEXT, ROW=LETTER, ROUTER=TEXT, STRATEGY=NAME)
	cargo build --workspace
	$(AS_ROOT) target/debug/hv-sessions $(if $(FILTER),--filter $(FILTER)) $(if $(ROW),--row $(ROW)) $(if $(ROUTER),--router $(ROUTER)) $(if $(STRATEGY),--strategy $(STRATEGY))

curve: packages ## How often three FRRs that are told things late lose the route that one loses; about twelve minutes, draws target/curve.svg
	cargo build --workspace
	$(AS_ROOT) target/debug/hv-curve --svg target/curve.svg --json target/curve.jsonl

soak: packages ## An hour (MINUTES=60) of updates while links, addresses and routes change; the kernel ends as the vote says
	cargo build --workspace
	HV_SOAK_MINUTES=$(or $(MINUTES),60) cargo test -p tests --test soak

crash: packages ## kill -9 of virtd's worker, 1170 times, under real daemons while the neighbours' routes change: no session is lost, nothing withdrawn, nothing told twice; some hours (PREFIXES=100000, KILLS=100, BURSTS=1000, AIMED=10, STEPS=30, SEED=N, FIB=1)
	cargo build --workspace
	$(AS_ROOT) target/debug/hv-crash --prefixes $(or $(PREFIXES),100000) --kills $(or $(KILLS),100) --bursts $(or $(BURSTS),1000) --aimed $(or $(AIMED),10) --steps $(or $(STEPS),30) \
		$(if $(SEED),--seed $(SEED)) $(if $(filter 1,$(FIB)),--fib)

calm: packages ## Real tables and traces through three code bases, then an hour of one with ten neighbours: no alarm, no verdict (SPEED=8, PREFIXES=1000000, ROUNDS=2, T_MS=120000, MINUTES=60; FIB=1: in the kernel, too)
	cargo build --release --workspace
	HV_CALM_SPEED=$(or $(SPEED),8) HV_CALM_PREFIXES=$(or $(PREFIXES),1000000) HV_CALM_ROUNDS=$(or $(ROUNDS),2) HV_CALM_T_MS=$(or $(T_MS),120000) HV_CALM_FIB=$(or $(FIB),0) \
		HV_CALM_MINUTES=$(or $(MINUTES),60) cargo test --release -p tests --test false_alarms -- --nocapture --test-threads 1

topotests: packages build ## FRR's own tests of BGP, each router's bgpd bare and behind a virtd of its own; two hours (JOBS=3, FOLDER="bgp_gshut ...", MODE=bare,native,voted)
	.ci/install topotests
	[ -d target/topotests/suite ] || tools/topotests fetch
	$(AS_ROOT) tools/topotests run --again --jobs $(or $(JOBS),3) $(if $(MODE),--mode $(MODE)) $(FOLDER)
	tools/topotests table

demo: ## One router out of FRR, BIRD and OpenBGPD; MRT=FILE plays a real table, NO_FIB=1 leaves the kernel out
	.ci/install demo
	$(MAKE) --no-print-directory build
	$(AS_ROOT) target/release/hv-demo $(if $(MRT),--mrt $(MRT)) $(if $(NO_FIB),--no-fib)

bench: packages build ## Measurements as ratios against HAProxy and the daemons alone; writes target/bench.json ("make profile bench": as virtd is meant to be built)
	@echo "virtd is built $$([ -f $(PROFILE) ] && echo by || echo without) a profile"
	cargo bench -p wire --bench canonical
	cargo bench -p virtd --bench votes
	cargo bench -p virtd --bench allocations
	$(AS_ROOT) target/release/hv-bench

lint: ## Formatting, clippy without warnings, licences and advisories
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	$(MAKE) --no-print-directory deny

fmt: ## Formats the source
	cargo fmt --all

deny: ## Licences, sources, duplicate and banned crates; advisories where their database can be reached
	.ci/deny

man: build ## The manual pages, into target/man, made of the programs' own command lines and docs/CONFIGURATION.md
	rm -rf target/man
	target/release/hv-man target/man

install: man install-files ## Into PREFIX (/usr/local), with manual pages and what bash, zsh and fish need to complete virtctl's words

# Of what BUILT has; nothing is built.
install-files:
	install -D -m 755 $(BUILT)/virtd $(DESTDIR)$(PREFIX)/sbin/virtd
	install -D -m 755 $(BUILT)/virtctl $(DESTDIR)$(PREFIX)/bin/virtctl
	install -D -m 755 $(BUILT)/virtd-monitor $(DESTDIR)$(PREFIX)/bin/virtd-monitor
	install -D -m 755 $(BUILT)/hv-replay $(DESTDIR)$(PREFIX)/bin/hv-replay
	install -D -m 755 tools/hv-versions $(DESTDIR)$(PREFIX)/sbin/hv-versions
	sed -i "s|^built=$$|built='$$($(BUILT)/virtctl --version | cut -d ' ' -f 2-)'|" $(DESTDIR)$(PREFIX)/sbin/hv-versions
	install -D -m 644 $(BUILT)/libhvlibc.so $(DESTDIR)$(LIBDIR)/libhvlibc.so
	rm -rf $(DESTDIR)$(PREFIX)/share/man/.virtd && mkdir -p $(DESTDIR)$(PREFIX)/share/man
	$(BUILT)/hv-man $(DESTDIR)$(PREFIX)/share/man/.virtd
	for page in $(DESTDIR)$(PREFIX)/share/man/.virtd/*; do \
		install -D -m 644 "$$page" $(DESTDIR)$(PREFIX)/share/man/man$${page##*.}/$${page##*/} || exit 1; done
	rm -r $(DESTDIR)$(PREFIX)/share/man/.virtd
	mkdir -p $(DESTDIR)$(PREFIX)/share/{bash-completion/completions,zsh/site-functions,fish/vendor_completions.d}
	$(BUILT)/virtctl completion bash >$(DESTDIR)$(PREFIX)/share/bash-completion/completions/virtctl
	$(BUILT)/virtctl completion zsh >$(DESTDIR)$(PREFIX)/share/zsh/site-functions/_virtctl
	$(BUILT)/virtctl completion fish >$(DESTDIR)$(PREFIX)/share/fish/vendor_completions.d/virtctl.fish

package: ## Debian packages (virtd, hv-replay, debug symbols apart) into target/package (BUILD=debug: of the debug build; VERSION=0.1.0)
	.ci/install package
	$(if $(filter debug,$(BUILD)),cargo build --workspace,$(MAKE) --no-print-directory build)
	tools/package $(BUILT) $(PACKAGES) $(VERSION)

package-test: ## The packages of the debug build in a Debian 12 of their own: installed, upgraded with virtd running, purged; some three minutes
	.ci/install package
	cargo build --workspace
	$(AS_ROOT) tools/package-test $(or $(CARGO_TARGET_DIR),target)/debug $(PACKAGES)-test

clean: ## Removes what was built
	cargo clean
