// ioredis against HOST PORT in its default protocol. Ends with the first wrong answer, naming it.
// Everything here holds for Redis 7.0 as well.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [host, port] = process.argv.slice(2);
const clients = process.env.GODWIT_CLIENTS_DIR ?? path.resolve(import.meta.dirname ?? ".", "../../target/clients");
const { Redis } = createRequire(path.join(clients, "package.json"))("ioredis");

const redis = new Redis({ host, port: Number(port), maxRetriesPerRequest: 1, commandTimeout: 20000 });
redis.on("error", (error) => fail("the connection", error.message));

function fail(name, message) {
    console.error(`ioredis: ${name}: ${message}`);
    process.exit(1);
}

async function is(name, found, expected) {
    try {
        assert.deepEqual(await found, expected);
    } catch (error) {
        fail(name, error.message);
    }
}

async function fails(name, call, words) {
    try {
        fail(name, `expected an error, found ${await call}`);
    } catch (error) {
        if (!error.message.includes(words)) fail(name, `${error.message} does not say ${words}`);
    }
}

const stream = redis.scanStream({ count: 100 });
for await (const keys of stream) if (keys.length > 0) await redis.del(...keys);

await is("dbsize of an empty store", redis.dbsize(), 0);
await is("ping", redis.ping(), "PONG");
await is("set", redis.set("k", "v"), "OK");
await is("get", redis.get("k"), "v");
await is("get of an absent key", redis.get("none"), null);
await is("set nx", redis.set("k", "w", "NX"), null);
await is("set xx ex", redis.set("k", "w", "EX", 100, "XX"), "OK");
await is("ttl", redis.ttl("k"), 100);
await is("set keepttl", redis.set("k", "x", "KEEPTTL"), "OK");
await is("ttl after keepttl", redis.ttl("k"), 100);
await is("set get", redis.set("k", "y", "GET"), "x");
await is("set px", redis.set("k", "v", "PX", 100000), "OK");
await is("persist", redis.persist("k"), 1);
await is("expire", redis.expire("k", 50), 1);
await is("getdel", redis.getdel("k"), "v");
await is("mset", redis.mset({ a: "1", b: "2" }), "OK");
await is("mget", redis.mget("a", "none", "b"), ["1", null, "2"]);
await is("exists", redis.exists("a", "b", "none"), 2);
await is("incr", redis.incr("n"), 1);
await is("incrby", redis.incrby("n", 10), 11);
await is("decr", redis.decr("n"), 10);
await is("incrbyfloat", redis.incrbyfloat("n", 0.5).then(Number), 10.5);
await is("append", redis.append("a", "xy"), 3);
await is("strlen", redis.strlen("a"), 3);
await is("type", redis.type("a"), "string");
await is("del", redis.del("a", "b", "none"), 2);
await is("client setname", redis.client("SETNAME", "tester"), "OK");
await is("client getname", redis.client("GETNAME"), "tester");
await is("info", redis.info().then((text) => text.includes("role:master")), true);
const bytes = Buffer.from(Array.from({ length: 256 }, (_, byte) => byte));
await is("set of any bytes", redis.set("bytes", bytes), "OK");
await is("get of any bytes", redis.getBuffer("bytes"), bytes);
const large = "x".repeat(3000000);
await is("set of 3 MB", redis.set("large", large), "OK");
await is("get of 3 MB", redis.get("large").then((found) => found === large), true);
await fails("incr of a word", redis.incr("large"), "value is not an integer or out of range");
await fails("an unknown command", redis.call("NOPE", "x"), "unknown command 'NOPE'");

const pipeline = redis.pipeline();
for (let i = 0; i < 1000; i++) pipeline.set(`p:${i}`, i).get(`p:${i}`);
await is("pipeline", pipeline.exec(), Array.from({ length: 1000 }, (_, i) => [[null, "OK"], [null, String(i)]]).flat());
await is("many at once", Promise.all(Array.from({ length: 500 }, () => redis.incr("together"))),
    Array.from({ length: 500 }, (_, i) => i + 1));

await is("multi", redis.multi().set("t:a", 1).incr("t:a").mget("t:a", "none").exec(),
    [[null, "OK"], [null, 2], [null, ["2", null]]]);
await redis.watch("t:a", "t:b");
await is("a watched key that stays", redis.multi().set("t:b", 1).exec(), [[null, "OK"]]);
await redis.watch("t:a", "t:b");
await redis.incr("t:b");
await is("a watched key that changes", redis.multi().set("t:a", "lost").exec(), null);
await is("multi without a pipeline", redis.multi({ pipeline: false }), "OK");
await is("queued", redis.get("t:a"), "QUEUED");
await is("exec", redis.exec(), [[null, "2"]]);
await is("msetnx", redis.msetnx({ "t:b": "1", "t:c": "2" }), 0);
await is("rename", redis.rename("t:a", "t:c"), "OK");
await is("renamenx", redis.renamenx("t:c", "t:b"), 0);
await is("copy", redis.copy("t:c", "t:d"), 1);
await is("get of a copy", redis.getdel("t:d"), "2");
await is("del of what transactions wrote", redis.del("t:b", "t:c"), 2);

const found = new Set();
for await (const keys of redis.scanStream({ match: "p:*", count: 50 })) keys.forEach((key) => found.add(key));
await is("scanStream", found.size, 1000);
await is("dbsize", redis.dbsize(), 1004);
await is("quit", redis.quit(), "OK");
console.log("ioredis: all answers are right");
