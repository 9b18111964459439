#!/bin/sh
# Checks that the pure layers need nothing that waits, reads a clock, the environment or a descriptor,
# starts a thread or prints: the undefined symbols of their archives must be on the list below, or be
# defined by one of them. Nor may they have mutable globals, but for the level and the sink of the log.
#
# Usage: check_pure.sh [BUILD]
set -eu
build=${1:-build}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

# Memory, strings, formatting into memory, sorting, arithmetic; what the compiler itself adds.
tr ' ' '\n' >"$work/allowed" <<'LIST'
malloc calloc realloc free
memcpy memmove memset memcmp bcmp memchr memrchr memmem
strlen strnlen strcmp strncmp strcasecmp strncasecmp strchr strrchr strstr strspn strcspn strcpy strncpy strdup strndup
snprintf vsnprintf
qsort bsearch
exp log log2 pow sqrt floor ceil round lround llround fabs fmod sin cos
__stack_chk_fail __assert_fail __divti3 __divmodti4 __modti3 __udivti3 __umodti3 __popcountdi2 __ctype_b_loc __ctype_tolower_loc _GLOBAL_OFFSET_TABLE_
LIST

archives=
for layer in base core wire sim; do
    a=$build/src/$layer/lib$layer.a
    [ -f "$a" ] && archives="$archives $a"
done
[ -n "$archives" ] || { echo "check_pure.sh: no archives in $build; build first" >&2; exit 1; }

# shellcheck disable=SC2086 # a list
nm -A --defined-only $archives 2>/dev/null | awk 'NF > 1 {print $NF}' | sort -u >"$work/defined"
# shellcheck disable=SC2086
nm -A -u $archives 2>/dev/null | awk 'NF > 1 {print $NF, $1}' | sort -u >"$work/needed"
bad=$(awk 'NR == FNR {ok[$1] = 1; next} !($1 in ok) {print}' "$work/allowed" "$work/needed" |
    awk 'NR == FNR {ok[$1] = 1; next} !($1 in ok) {print "not pure: " $2 " needs " $1}' "$work/defined" -)
# Constant tables with addresses lie in .data.rel.ro; what else lies in .data or .bss can change.
# shellcheck disable=SC2086
globals=$(nm -f sysv --defined-only $archives 2>/dev/null | tr -d ' ' |
    awk -F'|' '$7 ~ /^\.(data|bss)/ && $7 !~ /^\.data\.rel\.ro/ && $1 !~ /^(fast_log_max|log_sink)$/ {
        print "mutable global: " $1}')
[ -z "$bad$globals" ] || {
    printf '%s\n' "$bad" "$globals" | sed '/^$/d'
    exit 1
}
echo "pure: $(wc -l <"$work/defined") symbols of base, core, wire and sim, $(awk '{print $1}' "$work/needed" | sort -u | wc -l) needed, all of them pure"
