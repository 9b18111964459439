#!/bin/bash
# Tests that otherwise run functions as the platform's user, with users of their own for them: those that cover the
# most of the gateway in the least time. Ends with 77 where that cannot be tried, and says why.
#
# Usage: test-users.sh BUILD
set -u
build=$(cd "${1:?usage: test-users.sh BUILD}" && pwd) || exit 1
cd "$(dirname "$0")/.." || exit 1

skip() {
    echo "skipped: functions with users of their own: $1"
    exit 77
}

[ "$(id -u)" = 0 ] || skip "it takes root to give functions others"
command -v setpriv > /dev/null || skip "there is no setpriv"
somebody=(setpriv --reuid 65534 --regid 65534 --clear-groups)
for path in "$build/src/hook/libfast-hook.so" "$PWD/tests/e2e/gateway_function.py"; do
    "${somebody[@]}" test -r "$path" || skip "$path is closed to them"
done
"${somebody[@]}" env python3 -c '' 2> /dev/null || skip "they have no python3"
FAST_TEST_USERS=1 exec tools/run-tests.py "$build" queue limits logs batch websocket gang_gateway
