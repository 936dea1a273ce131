#!/usr/bin/env bash
# redis-cli against HOST PORT: the commands of docs/REDIS.md and Redis' own error words, over RESP2 and RESP3.
# Ends with the first wrong answer, naming it. Everything here holds for Redis 7.0 as well.
set -euo pipefail

host=$1 port=$2
protocol=-2

cli() { redis-cli -h "$host" -p "$port" "$protocol" --no-raw "$@" 2>&1; }

# is EXPECTED COMMAND...: the answer as redis-cli shows it to people, line by line.
is() {
    local expected=$1 found
    shift
    found=$(cli "$@")
    if [ "$found" != "$expected" ]; then
        printf 'redis-cli %s %s: expected %q, found %q\n' "$protocol" "$*" "$expected" "$found" >&2
        exit 1
    fi
}

# like PATTERN COMMAND...: the whole answer matches a glob.
like() {
    local pattern=$1 found
    shift
    found=$(cli "$@")
    # shellcheck disable=SC2053 # a pattern is meant
    if [[ $found != $pattern ]]; then
        printf 'redis-cli %s %s: expected something like %q, found %q\n' "$protocol" "$*" "$pattern" "$found" >&2
        exit 1
    fi
}

strings() {
    is OK SET k v
    is '"v"' GET k
    is '(nil)' GET none
    is '(nil)' SET k w NX
    is OK SET k w XX
    is '(nil)' SET none w XX
    is '"w"' SET k x GET
    is '(nil)' SET new x GET
    is '"x"' SET k y NX GET
    is '"x"' GET k
    is OK SET k v EX 100
    is '(integer) 100' TTL k
    is OK SET k w KEEPTTL
    is '(integer) 100' TTL k
    is OK SET k w
    is '(integer) -1' TTL k
    is OK SET k v PX 100000
    like '(integer) ?????' PTTL k
    is OK SET k v EXAT 4102444800
    is '(integer) 4102444800' EXPIRETIME k
    is OK SET k v PXAT 4102444800123
    is '(integer) 4102444800123' PEXPIRETIME k
    is '(integer) 0' SETNX k v
    is '(integer) 1' SETNX fresh v
    is OK SETEX k 100 v
    is OK PSETEX k 100000 v
    is '(integer) 100' TTL k
    is '"v"' GETSET k w
    is '"w"' GETDEL k
    is '(nil)' GETDEL k
    is '(nil)' GETSET k v
    is OK MSET a 1 b 2 c 3
    is $'1) "1"\n2) "3"\n3) (nil)\n4) "2"' MGET a c none b
    is '(integer) 1' STRLEN a
    is '(integer) 0' STRLEN none
    is '(integer) 3' APPEND a xy
    is '(integer) 2' APPEND grown zz
    is '"1xy"' GET a
    is OK SET 'key with spaces' 'v"\'
    is '"v\"\\"' GET 'key with spaces'
    is OK SET empty ''
    is '""' GET empty
}

numbers() {
    is '(integer) 1' INCR n
    is '(integer) 11' INCRBY n 10
    is '(integer) 10' DECR n
    is '(integer) -5' DECRBY n 15
    is '(integer) -6' INCRBY n -1
    is '"-5.5"' INCRBYFLOAT n 0.5
    is '"3"' INCRBYFLOAT fresh-float 3.0
    is OK SET huge 9223372036854775807
    is '(error) ERR increment or decrement would overflow' INCR huge
    is '"9223372036854775807"' GET huge
    is '(error) ERR decrement would overflow' DECRBY n -9223372036854775808
    is OK SET word x
    is '(error) ERR value is not an integer or out of range' INCR word
    is '(error) ERR value is not an integer or out of range' INCRBY n 1.5
    is '(error) ERR value is not a valid float' INCRBYFLOAT word 1
}

keys() {
    is OK MSET a 1 b 2 c 3
    is '(integer) 2' EXISTS a b none
    is '(integer) 2' EXISTS a a
    is '(integer) 2' DEL a b none
    is '(integer) 1' UNLINK c
    is '(integer) 0' EXISTS a b c
    is OK SET k v
    is string TYPE k
    is none TYPE none
    is '(integer) -1' TTL k
    is '(integer) -2' TTL none
    is '(integer) -2' PTTL none
    is '(integer) -1' PEXPIRETIME k
    is '(integer) -2' EXPIRETIME none
    is '(integer) 1' EXPIRE k 100
    is '(integer) 0' EXPIRE none 100
    is '(integer) 100' TTL k
    is '(integer) 0' EXPIRE k 200 NX
    is '(integer) 1' EXPIRE k 200 XX
    is '(integer) 0' EXPIRE k 100 GT
    is '(integer) 1' EXPIRE k 300 GT
    is '(integer) 0' EXPIRE k 400 LT
    is '(integer) 1' PEXPIRE k 200000 LT
    is '(integer) 200' TTL k
    is '(integer) 1' PERSIST k
    is '(integer) 0' PERSIST k
    is '(integer) 1' EXPIREAT k 4102444800
    is '(integer) 1' PEXPIREAT k 4102444800000
    is '(integer) 4102444800' EXPIRETIME k
    is '(integer) 1' EXPIRE k -1
    is '(nil)' GET k
    is OK SET k v
    is '(error) ERR NX and XX, GT or LT options at the same time are not compatible' EXPIRE k 1 NX XX
    is '(error) ERR GT and LT options at the same time are not compatible' EXPIRE k 1 GT LT
    is '(error) ERR Unsupported option ZZ' EXPIRE k 1 ZZ
    is "(error) ERR invalid expire time in 'set' command" SET k v EX 0
    is "(error) ERR invalid expire time in 'setex' command" SETEX k -1 v
    is "(error) ERR invalid expire time in 'expire' command" EXPIRE k 9223372036854775807
}

scans() {
    local command=(MSET) key found cursor=0
    for key in $(seq 1 300); do command+=("scan:$key" v); done
    is OK "${command[@]}"
    found=$(redis-cli -h "$host" -p "$port" "$protocol" --scan --pattern 'scan:*' | sort -u | wc -l)
    [ "$found" = 300 ] || { echo "redis-cli $protocol --scan found $found of 300 keys" >&2; exit 1; }
    like $'1) "*"\n2) (empty array)' SCAN 0 MATCH 'nothing:*' COUNT 100000
    is '(error) ERR invalid cursor' SCAN x
    is '(error) ERR syntax error' SCAN 0 COUNT 0
    is '(error) ERR value is not an integer or out of range' SCAN 0 COUNT x
    like '(integer) [1-9]*' DBSIZE
}

# each COMMANDS: the commands of one connection, one a line, and what it shows.
each() {
    printf '%s\n' "$1" | redis-cli -h "$host" -p "$port" "$protocol" --no-raw 2>&1
}

# together COMMANDS EXPECTED: the answers of one connection.
together() {
    local found
    found=$(each "$1")
    if [ "$found" != "$2" ]; then
        printf 'redis-cli %s %q: expected %q, found %q\n' "$protocol" "$1" "$2" "$found" >&2
        exit 1
    fi
}

transactions() {
    local aborted='(error) EXECABORT Transaction discarded because of previous errors.'
    is '(error) ERR EXEC without MULTI' EXEC
    is '(error) ERR DISCARD without MULTI' DISCARD
    is OK UNWATCH
    together $'MULTI\nSET t 1\nINCR t\nEXEC' $'OK\nQUEUED\nQUEUED\n1) OK\n2) (integer) 2'
    together $'MULTI\nMULTI\nWATCH t\nGET t\nEXEC' \
        $'OK\n(error) ERR MULTI calls can not be nested\n(error) ERR WATCH inside MULTI is not allowed\nQUEUED\n1) "2"'
    together $'MULTI\nGET\nEXEC\nGET t' $'OK\n(error) ERR wrong number of arguments for \'get\' command\n'"$aborted"$'\n"2"'
    together $'MULTI\nSET t 9\nDISCARD\nGET t' $'OK\nQUEUED\nOK\n"2"'
    together $'WATCH t u\nSET t 2\nMULTI\nSET t 9\nEXEC\nGET t' $'OK\nOK\nOK\nQUEUED\n(nil)\n"2"'
    together $'WATCH t\nSET t 2\nUNWATCH\nMULTI\nSET t 3\nEXEC' $'OK\nOK\nOK\nOK\nQUEUED\n1) OK'
    together $'MULTI\nEXEC' $'OK\n(empty array)'
    is '(integer) 1' MSETNX nx1 a nx2 b
    is '(integer) 0' MSETNX nx3 a nx2 b
    is '(nil)' GET nx3
    is "(error) ERR wrong number of arguments for 'msetnx' command" MSETNX a 1 b
    is OK RENAME nx1 nx3
    is '"a"' GET nx3
    is '(error) ERR no such key' RENAME nx1 nx3
    is '(error) ERR no such key' RENAMENX nx1 nx3
    is OK RENAME nx3 nx3
    is '(integer) 0' RENAMENX nx3 nx3
    is '(integer) 0' RENAMENX nx3 nx2
    is '(integer) 1' RENAMENX nx3 nx1
    is '(integer) 0' COPY nx1 nx2
    is '(integer) 1' COPY nx1 nx2 REPLACE
    is '(integer) 0' COPY none nx2 REPLACE
    is '"a"' GET nx2
    is '(error) ERR source and destination objects are the same' COPY nx1 nx1
    is '(error) ERR DB index is out of range' COPY nx1 nx2 DB 99
    is '(error) ERR syntax error' COPY nx1 nx2 PLEASE
}

connection() {
    is PONG PING
    is '"hi"' PING hi
    is '"hi"' ECHO hi
    is OK SELECT 0
    is OK QUIT
    like '*"proto"*3*"mode"*' HELLO 3
    like '*"proto"*2*"mode"*' HELLO 2
    is '(error) NOPROTO unsupported protocol version' HELLO 4
    is '(error) ERR Protocol version is not an integer or out of range' HELLO x
    like '(integer) *' CLIENT ID
    is OK CLIENT SETNAME tester
    is '(nil)' CLIENT GETNAME
    is '(error) ERR Client names cannot contain spaces, newlines or special characters.' CLIENT SETNAME 'a b'
    is RESET RESET
}

server() {
    like '*redis_version:7.*role:master*' INFO
    like '*redis_mode:standalone*' INFO server
    like '*# Keyspace*db0:keys=*' INFO keyspace
    like '(integer) *' COMMAND COUNT
    like '*"get"*2*readonly*' COMMAND INFO get
    like '*"summary"*' COMMAND DOCS get
    like '*"get"*' COMMAND LIST
    like '*"save"*' CONFIG GET save
    like '*"appendonly"*' CONFIG GET appendonly
    like '1) "1*2) "*' TIME
}

errors() {
    is "(error) ERR unknown command 'NOPE', with args beginning with: 'x' " NOPE x
    is "(error) ERR unknown command 'NOPE', with args beginning with: " NOPE
    is "(error) ERR wrong number of arguments for 'get' command" GET
    is "(error) ERR wrong number of arguments for 'get' command" GET a b
    is "(error) ERR wrong number of arguments for 'mset' command" MSET a 1 b
    is "(error) ERR wrong number of arguments for 'ping' command" PING a b
    is '(error) ERR DB index is out of range' SELECT 16
    is '(error) ERR value is not an integer or out of range' SELECT x
    is '(error) ERR syntax error' SET k v NX XX
    is '(error) ERR syntax error' SET k v EX
    is '(error) ERR syntax error' SET k v EX 1 PX 1
    is '(error) ERR syntax error' SET k v KEEPTTL EX 1
    is '(error) ERR value is not an integer or out of range' SET k v EX x
    is "(error) ERR unknown subcommand 'NOPE'. Try CLIENT HELP." CLIENT NOPE
    is "(error) ERR unknown subcommand 'NOPE'. Try CONFIG HELP." CONFIG NOPE
    is "(error) ERR wrong number of arguments for 'client|setname' command" CLIENT SETNAME
    is "(error) ERR wrong number of arguments for 'config|get' command" CONFIG GET
    is '(error) ERR This instance has cluster support disabled' CLUSTER MYID
}

for protocol in -2 -3; do
    # The keys of the round before; redis-cli reads one command a line.
    redis-cli -h "$host" -p "$port" --scan | sed 's/["\\]/\\&/g; s/.*/DEL "&"/' | redis-cli -h "$host" -p "$port" >/dev/null
    is '(integer) 0' DBSIZE
    strings
    numbers
    keys
    scans
    transactions
    connection
    server
    errors
done
echo "redis-cli: all answers are right"
