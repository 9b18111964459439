#!/bin/sh
# Installs the Debian packages that building and testing need, and only the missing ones. Without
# the right to install it prints the one command to run. Where everything is there it takes no
# network and a few milliseconds.
set -eu

packages="gcc libc6-dev make meson ninja-build pkg-config python3 libjansson-dev libsqlite3-dev
libyaml-dev libcurl4-openssl-dev libcmocka-dev curl ca-certificates procps"
[ "${1:-}" = --lint ] && packages="$packages clang clang-tidy cppcheck libclang-rt-14-dev llvm-14"

# What something is left out without: TLS, HTTP/2, images in containers. Tried once, and beside what is missing.
optional="libssl-dev libnghttp2-dev crun"
tried=.cache/optional-packages

missing_of() {
    for p in "$@"; do
        dpkg-query -W -f='${Status}' "$p" 2>/dev/null | grep -q '^install ok installed$' || printf ' %s' "$p"
    done
}
# shellcheck disable=SC2086 # lists
missing=$(missing_of $packages)
# shellcheck disable=SC2086
extra=$(missing_of $optional)
[ -f "$tried" ] && extra=
[ -z "$missing$extra" ] && exit 0
if [ -n "$extra" ] && command -v apt-get >/dev/null && [ "$(id -u)" = 0 ]; then
    mkdir -p "${tried%/*}"
    : >"$tried"
    # shellcheck disable=SC2086
    DEBIAN_FRONTEND=noninteractive sh -c "apt-get update && apt-get install -y --no-install-recommends$extra" \
        >/dev/null 2>&1 || echo "Not installed, and something is left out without:$extra"
fi
[ -z "$missing" ] && exit 0

command="apt-get update && apt-get install -y --no-install-recommends$missing"
if ! command -v apt-get >/dev/null; then
    echo "These packages (Debian names) are needed and there is no apt-get here:$missing" >&2
    exit 1
fi
if [ "$(id -u)" = 0 ]; then
    sudo=
elif command -v sudo >/dev/null && sudo -n true 2>/dev/null; then
    sudo=sudo
else
    echo "Some packages are missing. Run this once, then try again:" >&2
    echo "  sudo sh -c '$command'" >&2
    exit 1
fi
echo "Installing packages:$missing"
log=$(mktemp)
trap 'rm -f "$log"' EXIT
$sudo env DEBIAN_FRONTEND=noninteractive sh -c "$command" >"$log" 2>&1 || {
    cat "$log" >&2
    echo "Installing failed. The command was: $command" >&2
    exit 1
}
