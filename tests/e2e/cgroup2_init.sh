#!/bin/busybox sh
# shellcheck shell=sh
# The first process of the machine that test_cgroup2.py starts. Says "ok NAME" or "not ok NAME" for each check.
/bin/busybox --install -s /bin
export PATH=/bin
mount -t proc proc /proc
mount -t sysfs sys /sys
mount -t devtmpfs dev /dev
mount -t tmpfs tmp /tmp
mount -t cgroup2 none /sys/fs/cgroup
dmesg -n 1
echo # the console begins in the middle of a line
echo "+memory +cpu +pids" >/sys/fs/cgroup/cgroup.subtree_control

cat >/tmp/checks.sh <<'END'
cd "$GROUP"
check() { if eval "$2"; then echo "ok $WHO $1"; else echo "not ok $WHO $1 ($3)"; fi; }
run() { /bin/fast-run isolate "$@" 2>>/tmp/levels.$WHO; }
start() { exec /bin/fast-run isolate "$@" 2>/dev/null; } # with "&": then its number is fast-run's
# Waits until a condition holds, at most some 20 s.
await() { n=0; until eval "$1" 2>/dev/null || [ $n -ge 200 ]; do sleep 0.1; n=$((n + 1)); done; eval "$1"; }

check settled '[ "$(cat /proc/$PPID/cgroup)" = "0::/$NAME/fast-main" ]' "$(cat /proc/$PPID/cgroup)"
check controllers '[ "$(cat cgroup.subtree_control)" = "cpu memory pids" ]' "$(cat cgroup.subtree_control)"

run --memory 33554432 --cpu 500 --pids 20 -- /bin/sh -c \
    'echo $$; cd '"$GROUP"'/fast-$$ && cat memory.max memory.swap.max memory.oom.group cpu.max pids.max cgroup.procs |
     tr "\n" ","' >/tmp/files.$WHO
pid=$(head -n 1 /tmp/files.$WHO)
check files '[ "$(tail -n 1 /tmp/files.$WHO | cut -d , -f 1-6)" = "33554432,0,1,50000 100000,20,$pid" ]' \
    "$(cat /tmp/files.$WHO)"
check levels 'grep -q "memory, cpu, processes" /tmp/levels.$WHO' "$(cat /tmp/levels.$WHO)"
check "stays until it is ended" '[ -d fast-$pid ]' "$(ls -d fast-*)"
/bin/tool end $pid
check "is ended" '[ ! -d fast-$pid ]' "$(ls -d fast-*)"

# All of a replica goes when its memory is used up.
start --gpu --memory 33554432 -- /bin/sh -c 'setsid sleep 1000 & echo $$ $! >/tmp/oom.'$WHO'; /bin/tool grow 64; sleep 1000' &
await 'wait_for=$(cat /tmp/oom.$WHO 2>/dev/null); [ -n "$wait_for" ] && ! kill -0 ${wait_for% *} 2>/dev/null'
check memory '[ -n "$wait_for" ] && await "! kill -0 ${wait_for#* } 2>/dev/null"' "$(ps | grep "[s]leep")"
check "memory is told" 'grep -q "^oom_group_kill 1" fast-${wait_for% *}/memory.events' \
    "$(cat fast-${wait_for% *}/memory.events)"
/bin/tool sweep
check "sweeps what is gone" '[ ! -d fast-${wait_for% *} ]' "$(ls -d fast-*)"

start --pids 20 -- /bin/sh -c '(i=0; while [ $i -lt 40 ]; do sleep 1000 & i=$((i + 1)); done); exec sleep 1000' \
    >/dev/null 2>&1 &
pid=$!
await 'grep -q "^max [1-9]" fast-$pid/pids.events'
check processes '[ "$(cat fast-$pid/pids.current)" -le 20 ]' "$(cat fast-$pid/pids.current)"
/bin/tool sweep
check "leaves who lives" '[ -d fast-$pid ] && kill -0 $pid' "$(ls -d fast-*)"
/bin/tool end $pid
check "kills and removes" '[ ! -d fast-$pid ] && ! ps | grep -q "[s]leep 1000"' "$(ls -d fast-*; ps | grep "[s]leep")"

start --cpu 200 -- /bin/sh -c 'while :; do :; done' &
pid=$!
check cpu 'await "grep -q \"^nr_throttled [1-9]\" fast-$pid/cpu.stat"' "$(cat fast-$pid/cpu.stat 2>/dev/null)"
# Its leader goes, what it has left behind in another session does not.
start --pids 20 -- /bin/sh -c 'setsid sleep 1000 & echo $! >/tmp/stray.'$WHO'; exec sleep 1000' &
leader=$!
await '[ -s /tmp/stray.$WHO ]'
kill -9 $leader
wait $leader 2>/dev/null
check "a stray is there" 'kill -0 $(cat /tmp/stray.$WHO)' "$(ps | grep "[s]leep")"
/bin/tool sweep
check "a stray is swept" '[ ! -d fast-$leader ] && ! kill -0 $(cat /tmp/stray.$WHO) 2>/dev/null' "$(ls -d fast-*; ps | grep "[s]leep")"
/bin/tool end $pid
check "nothing is left" '[ "$(ls -d fast-*)" = fast-main ]' "$(ls -d fast-*)"
END

for user in 0 1000; do
    name=group-$user
    mkdir /sys/fs/cgroup/$name
    chown $user /sys/fs/cgroup/$name /sys/fs/cgroup/$name/cgroup.procs /sys/fs/cgroup/$name/cgroup.subtree_control \
        /sys/fs/cgroup/$name/cgroup.threads
    # As systemd does with Delegate=yes: who is started there stands alone in a group that is its own.
    NAME=$name GROUP=/sys/fs/cgroup/$name WHO=user-$user USER_ID=$user \
        sh -c 'echo $$ >$GROUP/cgroup.procs; exec /bin/tool as $USER_ID /bin/tool node ". /tmp/checks.sh"'
done

# Nothing is handed over: all of it works without limits, and says so.
mkdir /sys/fs/cgroup/closed
sh -c 'echo $$ >/sys/fs/cgroup/closed/cgroup.procs; exec /bin/tool as 1000 /bin/tool node \
    "/bin/fast-run isolate --memory 33554432 --pids 20 -- /bin/echo ran"' >/tmp/closed 2>&1
if grep -q ran /tmp/closed && ! grep -q ", memory\|, processes" /tmp/closed && [ "$(ls -d /sys/fs/cgroup/closed/fast-* 2>/dev/null)" = "" ]; then
    echo "ok closed"
else
    echo "not ok closed ($(cat /tmp/closed))"
fi
echo "end of checks"
poweroff -f
