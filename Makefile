# A thin face for meson. Everything is built in build/ (build-clang/, build-asan/ beside it).
BUILD ?= build
BENCH ?= *

.PHONY: all deps demo gpu-kit test test-openfaas bench docs lint asan tsan fuzz clang install clean distclean help

all: $(BUILD)/build.ninja
	@ninja -C $(BUILD)

help:
	@echo "make            build everything in $(BUILD)/"
	@echo "make demo       functions share a GPU behind the gateway (simulated where there is none)"
	@echo "make test       unit and end-to-end tests"
	@echo "make bench      figures, one JSON line each, also in $(BUILD)/bench.jsonl; BENCH='sim.*' for some"
	@echo "make test-openfaas  OpenFaaS' own certifier and faas-cli against it, where they are there"
	@echo "make gpu-kit    build/gpu-kit/: all that a machine with a GPU and without a network needs to measure"
	@echo "make docs       what is generated from tables, in $(BUILD)/docs/"
	@echo "make lint       layers, purity, sizes, clang-tidy, cppcheck, a clang build"
	@echo "make asan tsan  the tests under AddressSanitizer and UBSan, or ThreadSanitizer"
	@echo "make fuzz       every fuzz target for FUZZ_SECONDS (30) under clang's libFuzzer"
	@echo "make install    into PREFIX (default /usr/local)"

deps:
	@tools/install-deps.sh

$(BUILD)/build.ninja: | deps
	@CC="$${CC:-gcc}" meson setup $(BUILD) --prefix $${PREFIX:-/usr/local} > $(BUILD).log 2>&1 || { cat $(BUILD).log; rm -f $(BUILD).log; exit 1; }
	@rm -f $(BUILD).log

demo: deps all
	@tools/demo.sh $(BUILD)

test: deps all
	@tools/run-tests.py $(BUILD)

bench: all
	@tools/run-bench.py $(BUILD) '$(BENCH)'

# The tests of OpenFaaS itself, where their program is there: CERTIFIER=, FAAS_CLI= name programs.
test-openfaas: all
	@CERTIFIER="$(CERTIFIER)" FAAS_CLI="$(FAAS_CLI)" tools/test-openfaas.sh $(BUILD)

# docs/gpu-kit.md says how to use it.
gpu-kit: all
	@tools/make-gpu-kit.py $(BUILD) $(BUILD)/gpu-kit

docs: all
	@ls $(BUILD)/docs/*.md

lint: deps
	@tools/lint.sh

asan: deps
	@[ -f build-asan/build.ninja ] || meson setup build-asan -Db_sanitize=address,undefined -Db_lundef=false > /dev/null
	@ninja -C build-asan
	@tools/run-tests.py build-asan $(ASAN_TESTS)

tsan: deps
	@[ -f build-tsan/build.ninja ] || meson setup build-tsan -Db_sanitize=thread -Db_lundef=false > /dev/null
	@ninja -C build-tsan
	@# It cannot map the simulated GPU's addresses in a quarter of all processes unless they lie where they always do.
	@$$(setarch -R true 2>/dev/null && echo setarch -R) tools/run-tests.py build-tsan --suite unit --suite hook

fuzz:
	@tools/fuzz.sh $${FUZZ_SECONDS:-30}

# PREFIX may be another one than the build was set up with.
install: all
	@[ -z "$(PREFIX)" ] || meson configure $(BUILD) -Dprefix="$(PREFIX)"
	@meson install -C $(BUILD)

clean:
	@rm -rf build build-*
