"""redis-py against HOST PORT, in its default protocol and in RESP2. Ends with the first wrong answer, naming it.

Everything here holds for Redis 7.0 as well.
"""

import sys
import time
import warnings

import redis

# Some of the commands are deprecated in Redis, and tested here all the same.
warnings.simplefilter("ignore", DeprecationWarning)


def check(name, found, expected):
    if found != expected or type(found) is not type(expected):
        sys.exit(f"redis-py: {name}: expected {expected!r}, found {found!r}")


def fails(name, error, words, call):
    try:
        found = call()
    except error as raised:
        if words not in str(raised):
            sys.exit(f"redis-py: {name}: {raised!s} does not say {words!r}")
    else:
        sys.exit(f"redis-py: {name}: expected an error, found {found!r}")


def strings(r):
    check("set", r.set("k", "v"), True)
    check("get", r.get("k"), "v")
    check("get of an absent key", r.get("none"), None)
    check("set ex", r.set("k", "v", ex=100), True)
    check("ttl after ex", r.ttl("k"), 100)
    check("set keepttl", r.set("k", "w", keepttl=True), True)
    check("ttl after keepttl", r.ttl("k"), 100)
    check("set px", r.set("k", "v", px=100_000), True)
    check("pttl after px", 99_000 < r.pttl("k") <= 100_000, True)
    check("set exat", r.set("k", "v", exat=4102444800), True)
    check("expiretime", r.expiretime("k"), 4102444800)
    check("set pxat", r.set("k", "v", pxat=4102444800123), True)
    check("pexpiretime", r.pexpiretime("k"), 4102444800123)
    check("set without ex", r.set("k", "v"), True)
    check("ttl without ex", r.ttl("k"), -1)
    check("set nx of a present key", r.set("k", "w", nx=True), None)
    check("set xx of an absent key", r.set("none", "w", xx=True), None)
    check("set nx of an absent key", r.set("fresh", "w", nx=True), True)
    check("set xx of a present key", r.set("k", "w", xx=True), True)
    check("set get", r.set("k", "x", get=True), "w")
    check("set get of an absent key", r.set("fresh2", "x", get=True), None)
    check("setnx", r.setnx("k", "y"), False)
    check("setex", r.setex("k", 100, "v"), True)
    check("psetex", r.psetex("k", 100_000, "v"), True)
    check("getset", r.getset("k", "z"), "v")
    check("getdel", r.getdel("k"), "z")
    check("mset", r.mset({"a": "1", "b": "2", "c": "3"}), True)
    check("mget", r.mget("a", "none", "b", "c"), ["1", None, "2", "3"])
    check("strlen", r.strlen("a"), 1)
    check("append", r.append("a", "xy"), 3)
    check("text beyond ASCII", (r.set("ü", "Grüße"), r.get("ü")), (True, "Grüße"))
    large = "x" * 3_000_000
    check("set of 3 MB", r.set("large", large), True)
    check("get of 3 MB", r.get("large") == large, True)


def numbers(r):
    check("incr", r.incr("n"), 1)
    check("incr by", r.incr("n", 10), 11)
    check("incrby", r.incrby("n", -1), 10)
    check("decr", r.decr("n"), 9)
    check("decr by", r.decr("n", 4), 5)
    check("incrbyfloat", r.incrbyfloat("n", 0.5), 5.5)
    r.set("word", "x")
    fails("incr of a word", redis.ResponseError, "value is not an integer or out of range", lambda: r.incr("word"))


def keys(r):
    r.mset({"a": "1", "b": "2", "c": "3"})
    check("exists", r.exists("a", "b", "none"), 2)
    check("delete", r.delete("a", "none"), 1)
    check("unlink", r.unlink("b", "c"), 2)
    r.set("k", "v")
    check("type", r.type("k"), "string")
    check("type of an absent key", r.type("none"), "none")
    check("expire", r.expire("k", 100), True)
    check("ttl", r.ttl("k"), 100)
    check("expire nx", r.expire("k", 200, nx=True), False)
    check("expire gt", r.expire("k", 200, gt=True), True)
    check("pexpire", r.pexpire("k", 100_000), True)
    check("expireat", r.expireat("k", 4102444800), True)
    check("pexpireat", r.pexpireat("k", 4102444800000), True)
    check("persist", r.persist("k"), True)
    check("persist again", r.persist("k"), False)
    check("ttl of an absent key", r.ttl("none"), -2)
    r.set("short", "v", px=50)
    deadline = time.monotonic() + 5
    while r.get("short") is not None:
        if time.monotonic() > deadline:
            sys.exit("redis-py: a key with px=50 is still there after 5 s")
        time.sleep(0.01)
    check("exists of an expired key", r.exists("short"), 0)
    r.mset({f"scan:{i}": "v" for i in range(500)})
    found = list(r.scan_iter(match="scan:*", count=50))
    check("scan_iter", sorted(set(found)), sorted(f"scan:{i}" for i in range(500)))
    size = r.dbsize()
    check("dbsize counts one more", (r.set("one more", "v"), r.dbsize()), (True, size + 1))


def pipelines(r):
    with r.pipeline(transaction=False) as pipeline:
        for i in range(1000):
            pipeline.set(f"p:{i}", i).get(f"p:{i}").incr("p:counter")
        pipeline.delete("p:counter")
        answers = pipeline.execute()
    check("answers of a pipeline", len(answers), 3001)
    for i in range(1000):
        check(f"pipeline {i}", answers[3 * i : 3 * i + 3], [True, str(i), i + 1])
    with r.pipeline(transaction=False) as pipeline:
        pipeline.set("word", "x").incr("word").get("word")
        answers = pipeline.execute(raise_on_error=False)
    check("an error in a pipeline", isinstance(answers[1], redis.ResponseError), True)
    check("what surrounds it", [answers[0], answers[2]], [True, "x"])


def transactions(r):
    with r.pipeline() as pipeline:
        pipeline.set("tx:a", 1).incr("tx:a").mset({"tx:b": 5, "tx:c": 6}).mget("tx:a", "tx:b", "tx:c").delete("tx:b")
        check("a transaction", pipeline.execute(), [True, 2, True, ["2", "5", "6"], 1])
    with r.pipeline() as pipeline:
        pipeline.set("word", "x").incr("word").get("word")
        answers = pipeline.execute(raise_on_error=False)
    check("an error in a transaction", isinstance(answers[1], redis.ResponseError), True)
    check("what surrounds it in a transaction", [answers[0], answers[2]], [True, "x"])
    with r.pipeline() as pipeline:
        pipeline.watch("tx:a")
        found = int(pipeline.get("tx:a"))
        pipeline.multi()
        pipeline.set("tx:a", found + 1)
        check("a watched key that stays", pipeline.execute(), [True])
    with r.pipeline() as pipeline:
        pipeline.watch("tx:a", "tx:b", "tx:c")
        r.incr("tx:c")
        pipeline.multi()
        pipeline.set("tx:a", "lost")
        fails("a watched key that changes", redis.WatchError, "Watched variable changed", pipeline.execute)
    check("what was not written", r.get("tx:a"), "3")
    check("transaction()", r.transaction(lambda p: (p.multi(), p.incr("tx:a")), "tx:a"), [4])
    with r.pipeline() as pipeline:
        pipeline.set("tx:a", "lost").execute_command("NOPE")
        fails("a refused command", redis.ResponseError, "unknown command", pipeline.execute)
    check("msetnx", [r.msetnx({"tx:d": 1, "tx:e": 2}), r.msetnx({"tx:f": 1, "tx:e": 2})], [True, False])
    check("rename", [r.rename("tx:d", "tx:g"), r.get("tx:g"), r.exists("tx:d")], [True, "1", 0])
    check("renamenx", [r.renamenx("tx:g", "tx:e"), r.renamenx("tx:g", "tx:d")], [False, True])
    check("copy", [r.copy("tx:d", "tx:e"), r.copy("tx:d", "tx:e", replace=True), r.get("tx:e")], [False, True, "1"])
    fails("rename of nothing", redis.ResponseError, "no such key", lambda: r.rename("none", "tx:e"))


def connection(r):
    check("ping", r.ping(), True)
    check("echo", r.echo("hi"), "hi")
    check("client_setname", r.client_setname("tester"), True)
    check("client_getname", r.client_getname(), "tester")
    check("client_id", isinstance(r.client_id(), int), True)
    info = r.info()
    check("info: redis_version", info["redis_version"].startswith("7."), True)
    check("info: role", info["role"], "master")
    check("info: db0", info["db0"]["keys"], r.dbsize())
    check("info of one section", "uptime_in_seconds" in r.info("server"), True)
    check("config_get", r.config_get("appendonly").keys(), {"appendonly": ""}.keys())
    check("command_count", r.command_count() > 40, True)
    check("command", r.command()["get"]["arity"], 2)
    check("time", abs(r.time()[0] - time.time()) < 60, True)
    fails("an unknown command", redis.ResponseError, "unknown command 'NOPE'", lambda: r.execute_command("NOPE", "x"))
    fails("wrong arity", redis.ResponseError, "wrong number of arguments for 'get'", lambda: r.execute_command("GET"))


def main(host, port):
    for protocol in (None, 2, 3):
        options = {} if protocol is None else {"protocol": protocol}
        r = redis.Redis(host=host, port=port, decode_responses=True, socket_timeout=20, client_name="redis-py", **options)
        for key in r.scan_iter():
            r.delete(key)
        check("dbsize of an empty store", r.dbsize(), 0)
        check("client_name", r.client_getname(), "redis-py")
        for part in (strings, numbers, keys, pipelines, transactions, connection):
            part(r)
        r.close()
        raw = redis.Redis(host=host, port=port, socket_timeout=20, **options)
        every_byte = bytes(range(256))
        check("any bytes", (raw.set(every_byte, every_byte), raw.get(every_byte)), (True, every_byte))
        check("any bytes as a key", raw.delete(every_byte), 1)
        raw.close()
    print(f"redis-py {redis.__version__}: all answers are right")


main(sys.argv[1], int(sys.argv[2]))
