#!/bin/bash
# The tests of OpenFaaS itself against this platform on a simulated GPU: its certifier, with and
# without a password, and the commands of faas-cli with their exit statuses.
#
# Usage: tools/test-openfaas.sh BUILD
#   CERTIFIER=FILE   the certifier's test program; without it, it is built where go and the module
#                    github.com/openfaas/certifier are reachable (CERTIFIER_SOURCE: a checkout of it)
#   FAAS_CLI=FILE    the command line; without it, its part is skipped
#   RUN=PATTERN      some of the certifier's tests
# Exit status: 0 all passed, 77 there was nothing to run, else 1.
set -u
build=$(realpath "${1:-build}")
root=$(mktemp -d)
api=127.0.0.1:$((18000 + RANDOM % 900)) metrics=127.0.0.1:$((19000 + RANDOM % 900))
up=0 bad=0 ran=0

stop() {
    if [ "$up" != 0 ]; then
        kill "$up" 2> /dev/null
        wait "$up" 2> /dev/null
    fi
    up=0
}
trap 'stop; rm -rf "$root"' EXIT

start() { # arguments of fast up; each start has a state of its own
    stop
    state=$(mktemp -d "$root/state.XXXX")
    mkdir "$state/sim"
    FAST_SIM_DIR="$state/sim" "$build/src/cli/fast" up --sim=v100-16gb --listen "$api" \
        --metrics "$metrics" --state-dir "$state" "$@" > "$root/up.log" 2>&1 &
    up=$!
    for _ in $(seq 300); do
        grep -q '^Gateway' "$root/up.log" && return 0
        kill -0 "$up" 2> /dev/null || break
        sleep 0.1
    done
    cat "$root/up.log"
    exit 1
}

find_certifier() {
    [ -n "${CERTIFIER:-}" ] && return 0
    command -v go > /dev/null || return 1
    source=${CERTIFIER_SOURCE:-}
    if [ -z "$source" ]; then
        source=$(go mod download -json github.com/openfaas/certifier@latest 2> /dev/null |
            sed -n 's/.*"Dir": "\(.*\)",*/\1/p')
    fi
    [ -d "$source/tests" ] || return 1
    (cd "$source" && go test -c -mod=vendor -o "$root/certifier.test" ./tests) || return 1
    CERTIFIER=$root/certifier.test
}

certify() { # its further arguments
    OPENFAAS_CONFIG=$root CERTIFIER_NAMESPACES=certifier-test timeout 600 "$CERTIFIER" -test.v \
        -test.count=1 -test.run "${RUN:-.}" -gateway="http://$api/" "$@" > "$root/certifier.log" 2>&1
    rc=$?
    grep -E '^--- ' "$root/certifier.log"
    if [ $rc != 0 ]; then
        bad=1
        tail -40 "$root/certifier.log"
    fi
}

expect() { # a status, then a command of faas-cli; what it prints is in $root/out
    want=$1
    shift
    OPENFAAS_CONFIG=$root OPENFAAS_URL=http://$api timeout 90 "$FAAS_CLI" "$@" > "$root/out" 2>&1 \
        < "$root/in"
    rc=$?
    if [ $rc = "$want" ]; then
        echo "ok   faas-cli $* ($rc)"
    else
        echo "FAIL faas-cli $*: status $rc, not $want"
        sed 's/^/     /' "$root/out"
        bad=1
    fi
}

says() {
    grep -q -- "$1" "$root/out" && return
    echo "FAIL it does not say \"$1\":"
    sed 's/^/     /' "$root/out"
    bad=1
}

command_line() {
    cd "$root" || exit 1
    printf hello > in
    mkdir -p template/dockerfile handler
    printf 'language: dockerfile\nfprocess: cat\n' > template/dockerfile/template.yml
    touch template/dockerfile/Dockerfile handler/Dockerfile
    cat > fn.yml <<- END
	version: 1.0
	provider:
	  name: openfaas
	  gateway: http://$api
	functions:
	  shout:
	    lang: dockerfile
	    handler: ./handler
	    image: functions/alpine:latest
	    fprocess: tr a-z A-Z
	    skip_build: true
	    labels:
	      faas_function: shout
	    annotations:
	      example/note: "0.30"
	END
    printf secret > in
    expect 0 login -u admin --password-stdin
    printf hello > in
    expect 0 up -f fn.yml --skip-push
    expect 0 ready shout
    expect 0 invoke shout
    says HELLO
    expect 0 diff -f fn.yml
    expect 0 deploy --image functions/alpine:latest --name cat --fprocess cat
    expect 0 ready cat
    expect 0 list
    says shout
    expect 0 describe cat
    says 'Ready'
    expect 0 invoke cat --async
    says 'submitted asynchronously'
    expect 0 logs cat --tail=false
    says 'Forking fprocess'
    expect 0 secret create s1 --from-literal=abc
    expect 0 secret create s1 --from-literal=abc # there already: it says so, and ends with 0
    says already
    expect 0 secret list
    says s1
    expect 0 secret update s1 --from-literal=def
    expect 0 deploy --image functions/alpine:latest --name reader --secret s1 \
        --fprocess 'cat /var/openfaas/secrets/s1'
    expect 0 ready reader
    expect 0 invoke reader
    says def
    expect 1 deploy --image functions/alpine:latest --name bad --secret none --fprocess cat
    expect 0 remove reader
    expect 0 secret remove s1
    expect 1 secret remove s1
    expect 0 namespace create ns1
    expect 0 namespace get ns1
    expect 0 namespace update ns1 --label a=b
    expect 0 namespace list
    says ns1
    expect 0 deploy --image functions/alpine:latest --name cat --fprocess cat -n ns1
    expect 0 list -n ns1
    says cat
    expect 0 remove cat -n ns1
    expect 0 namespace remove ns1
    expect 1 namespace get ns1
    expect 0 remove cat
    expect 1 remove cat
    expect 1 describe cat
    expect 1 invoke cat
    expect 0 remove -f fn.yml
    expect 1 diff -f fn.yml
}

auth=$root/auth
mkdir "$auth"
printf admin > "$auth/basic-auth-user"
printf secret > "$auth/basic-auth-password"
printf secret > "$root/in"

if find_certifier; then
    ran=1
    echo "== certifier, without a password"
    start
    certify
fi
if [ -n "${FAAS_CLI:-}" ]; then
    ran=1
    echo "== faas-cli, with a password"
    start --basic-auth "$auth"
    (command_line; exit $bad) || bad=1
    if [ -n "${CERTIFIER:-}" ]; then
        echo "== certifier, with a password"
        start --basic-auth "$auth"
        printf secret > "$root/in"
        expect 0 login -u admin --password-stdin
        certify -enableAuth
    fi
fi
if [ $ran = 0 ]; then
    echo "skipped: neither CERTIFIER nor FAAS_CLI is given, and the certifier cannot be built here"
    exit 77
fi
exit $bad
