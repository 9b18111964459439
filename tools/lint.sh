#!/bin/bash
# Static checks, independent of the build folder that tests run in: layers, sizes, generated tables, a
# clang build with warnings as errors, purity, clang-tidy, cppcheck, shellcheck. Runs all of them even
# when one fails, and then says which did.
#
# Usage: tools/lint.sh [quick]     quick: without clang-tidy and cppcheck
set -u
cd "$(dirname "$0")/.." || exit 1
quick=${1:-}
build="build-clang"
failed=

step() {
    local name=$1 began=$SECONDS
    shift
    if "$@"; then
        printf 'ok    %-10s %3d s\n' "$name" $((SECONDS - began))
    else
        printf 'WRONG %-10s %3d s\n' "$name" $((SECONDS - began))
        failed="$failed $name"
    fi
}

# The table of driver entry points passes the checks of its generator.
tables() {
    local out rc=0
    out=$(mktemp -d)
    python3 src/cuda/gen.py src/cuda/entry.tbl "$out" "$out" >"$out/log" 2>&1 || rc=1
    [ $rc = 0 ] || cat "$out/log"
    rm -rf "$out"
    return $rc
}

clang_build() {
    if [ ! -f $build/build.ninja ]; then
        CC=clang meson setup $build >$build.log 2>&1 || {
            cat $build.log
            rm -f $build.log
            return 1
        }
        rm -f $build.log
    fi
    ninja -j2 -k0 -C $build >$build/lint.log 2>&1 || {
        grep -E 'error:|warning:|undefined reference|^FAILED' $build/lint.log || tail -20 $build/lint.log
        return 1
    }
}

cpp_check() {
    mkdir -p $build/cppcheck
    cppcheck --quiet -j2 --enable=warning,performance,portability --inline-suppr \
        --suppressions-list=tools/cppcheck.supp --error-exitcode=1 --cppcheck-build-dir=$build/cppcheck \
        --std=c11 --platform=unix64 -D__STDC__ -D__x86_64__ -D_GNU_SOURCE -Isrc -I$build/src \
        -D'json_object_foreach(o,k,v)=for (k = next_key(o); (v = next_value(o));)' \
        -D'json_array_foreach(a,i,v)=for (i = 0; (v = json_array_get(a, i)); i++)' \
        --template='{file}:{line}: {message} [{id}]' src functions
}

shell_check() {
    # shellcheck disable=SC2046 # a list
    shellcheck -S warning $(git ls-files -co --exclude-standard '*.sh' '.ci/run')
}

tools/install-deps.sh --lint || exit 1
step layers tools/check_layers.py
step sizes tools/check_size.py
step tables tables
step clang clang_build
step pure tools/check_pure.sh $build
if [ "$quick" != quick ]; then
    step clang-tidy tools/run-tidy.py $build src functions
    step cppcheck cpp_check
    if command -v shellcheck >/dev/null; then
        step shellcheck shell_check
    fi
fi
if [ -n "$failed" ]; then
    echo "lint: wrong:$failed"
    exit 1
fi
echo "lint: all well"
