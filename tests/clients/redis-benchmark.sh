#!/usr/bin/env bash
# redis-benchmark against HOST PORT, without pipelining and with: it must finish, and print no error.
set -euo pipefail

host=$1 port=$2

for pipeline in 1 16; do
    # With a bound: it tries for ever where nobody answers.
    output=$(timeout 60 redis-benchmark -h "$host" -p "$port" -t ping,set,get,incr,mset -P "$pipeline" -n 2000 -c 20 -r 1000 -d 100 --csv 2>&1) || {
        printf 'redis-benchmark -P %s ended with %s:\n%s\n' "$pipeline" "$?" "$output" >&2
        exit 1
    }
    if grep -iE 'err|warn|could not|denied' <<<"$output" >&2; then
        echo "redis-benchmark -P $pipeline printed an error" >&2
        exit 1
    fi
    for name in PING_INLINE PING_MBULK SET GET INCR 'MSET (10 keys)'; do
        if ! grep -qF "\"$name\"," <<<"$output"; then
            printf 'redis-benchmark -P %s has no result for %s:\n%s\n' "$pipeline" "$name" "$output" >&2
            exit 1
        fi
    done
done
echo "redis-benchmark: no errors"
