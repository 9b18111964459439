#!/bin/sh
# Runs every fuzz target for some seconds under ASan and UBSan; fails at the first finding.
#
# Usage: tools/fuzz.sh [SECONDS for each target, 30] [TARGET...]
# What is found interesting is kept in build-fuzz/corpus/TARGET, a finding in build-fuzz/crash-*.
set -eu
cd "$(dirname "$0")/.."
seconds=${1:-30}
[ $# -gt 0 ] && shift
if ! command -v clang > /dev/null; then
    echo "fuzz: clang is needed for libFuzzer" >&2
    exit 1
fi
if [ ! -f build-fuzz/build.ninja ]; then
    CC="${FUZZ_CC:-clang}" CFLAGS=-fsanitize=fuzzer-no-link meson setup build-fuzz -Dfuzz=true -Dtests=disabled \
        -Db_sanitize=address,undefined -Db_lundef=false > /dev/null
fi
ninja -C build-fuzz fuzz > build-fuzz/build.log || { cat build-fuzz/build.log; exit 1; }
tools/fuzz-seeds.py build-fuzz/corpus
for program in build-fuzz/fuzz/fuzz_*; do
    [ -f "$program" ] && [ -x "$program" ] || continue
    name=${program##*/fuzz_}
    case " ${*:-$name} " in *" $name "*) ;; *) continue ;; esac
    mkdir -p "build-fuzz/corpus/$name"
    log=build-fuzz/$name.log
    if ! "$program" -max_total_time="$seconds" -timeout=10 -max_len=16384 -print_final_stats=1 \
        -artifact_prefix="build-fuzz/crash-$name-" "build-fuzz/corpus/$name" > "$log" 2>&1; then
        tail -n 60 "$log"
        echo "fuzz: $name found something: see $log" >&2
        exit 1
    fi
    runs=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    echo "fuzz: $name ran $runs inputs in $seconds s, nothing found"
done
