#!/bin/sh
# make demo: everything on this machine, with a real GPU if there is one, else simulated.
# KEEP=1 leaves it running; DEMO_FLAGS goes to `fast demo`.
set -eu
build=$1
keep=
[ "${KEEP:-0}" = 1 ] && keep=--keep
# shellcheck disable=SC2086
exec "$build/src/cli/fast" demo $keep ${DEMO_FLAGS:-}
