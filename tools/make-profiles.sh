#!/bin/bash
# Makes models/profiles/NAME.csv for every model, by simulation. Always gives the same files.
#
# Usage: tools/make-profiles.sh [BUILD]     default: build
set -eu
cd "$(dirname "$0")/.."
build=${1:-build}
ninja -C "$build" bench/make_profile >/dev/null
mkdir -p models/profiles
for model in models/*.model; do
    name=$(basename "$model" .model)
    "$build/bench/make_profile" "$name" >"models/profiles/$name.csv.new"
    mv "models/profiles/$name.csv.new" "models/profiles/$name.csv"
    echo "models/profiles/$name.csv"
done
