// node-redis against HOST PORT in its default protocol. Ends with the first wrong answer, naming it.
// Everything here holds for Redis 7.0 as well.

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import path from "node:path";

const [host, port] = process.argv.slice(2);
const clients = process.env.GODWIT_CLIENTS_DIR ?? path.resolve(import.meta.dirname ?? ".", "../../target/clients");
const { createClient } = createRequire(path.join(clients, "package.json"))("redis");

const redis = createClient({ socket: { host, port: Number(port), reconnectStrategy: false } });
redis.on("error", (error) => fail("the connection", error.message));

function fail(name, message) {
    console.error(`node-redis: ${name}: ${message}`);
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
    let found;
    try {
        found = await call;
    } catch (error) {
        if (!error.message.includes(words)) fail(name, `${error.message} does not say ${words}`);
        return;
    }
    fail(name, `expected an error, found ${found}`);
}

await redis.connect();
for await (const keys of redis.scanIterator({ COUNT: 100 })) if (keys.length > 0) await redis.del(keys);

await is("dbSize of an empty store", redis.dbSize(), 0);
await is("ping", redis.ping(), "PONG");
await is("set", redis.set("k", "v"), "OK");
await is("get", redis.get("k"), "v");
await is("get of an absent key", redis.get("none"), null);
await is("set nx", redis.set("k", "w", { condition: "NX" }), null);
await is("set xx ex", redis.set("k", "w", { condition: "XX", expiration: { type: "EX", value: 100 } }), "OK");
await is("ttl", redis.ttl("k"), 100);
await is("set keepttl", redis.set("k", "x", { expiration: "KEEPTTL" }), "OK");
await is("ttl after keepttl", redis.ttl("k"), 100);
await is("set get", redis.set("k", "y", { GET: true }), "x");
await is("set px", redis.set("k", "v", { expiration: { type: "PX", value: 100000 } }), "OK");
await is("persist", redis.persist("k"), 1);
await is("expire", redis.expire("k", 50), 1);
await is("getDel", redis.getDel("k"), "v");
await is("mSet", redis.mSet({ a: "1", b: "2" }), "OK");
await is("mGet", redis.mGet(["a", "none", "b"]), ["1", null, "2"]);
await is("exists", redis.exists(["a", "b", "none"]), 2);
await is("incr", redis.incr("n"), 1);
await is("incrBy", redis.incrBy("n", 10), 11);
await is("decr", redis.decr("n"), 10);
await is("incrByFloat", redis.incrByFloat("n", 0.5).then(Number), 10.5);
await is("append", redis.append("a", "xy"), 3);
await is("strLen", redis.strLen("a"), 3);
await is("type", redis.type("a"), "string");
await is("del", redis.del(["a", "b", "none"]), 2);
await is("clientSetName", redis.clientSetName("tester"), "OK");
await is("clientGetName", redis.clientGetName(), "tester");
await is("info", redis.info().then((text) => text.includes("role:master")), true);
await is("configGet", redis.configGet("appendonly").then((found) => Object.keys(found)), ["appendonly"]);
const large = "x".repeat(3000000);
await is("set of 3 MB", redis.set("large", large), "OK");
await is("get of 3 MB", redis.get("large").then((found) => found === large), true);
await fails("incr of a word", redis.incr("large"), "value is not an integer or out of range");
await fails("an unknown command", redis.sendCommand(["NOPE", "x"]), "unknown command 'NOPE'");

await is("multi", redis.multi().set("t:a", "1").incr("t:a").mGet(["t:a", "none"]).exec(), ["OK", 2, ["2", null]]);
await is("multi of a pipeline", redis.multi().incr("t:a").get("t:a").execAsPipeline(), [3, "3"]);
await redis.watch(["t:a", "t:b"]);
await is("a watched key that stays", redis.multi().set("t:b", "1").exec(), ["OK"]);
await redis.watch(["t:a", "t:b"]);
await redis.incr("t:b");
await fails("a watched key that changes", redis.multi().set("t:a", "lost").exec(), "watched keys");
await is("mSetNX", redis.mSetNX({ "t:b": "1", "t:c": "2" }), 0);
await is("rename", redis.rename("t:a", "t:c"), "OK");
await is("renameNX", redis.renameNX("t:c", "t:b"), 0);
await is("copy", redis.copy("t:c", "t:d"), 1);
await is("get of a copy", redis.getDel("t:d"), "3");
await is("del of what transactions wrote", redis.del(["t:b", "t:c"]), 2);

// Commands of one turn are one pipeline.
const pipelined = Array.from({ length: 1000 }, (_, i) => [redis.set(`p:${i}`, String(i)), redis.get(`p:${i}`)]);
await is("pipeline", Promise.all(pipelined.flat()), Array.from({ length: 1000 }, (_, i) => ["OK", String(i)]).flat());

const found = new Set();
for await (const keys of redis.scanIterator({ MATCH: "p:*", COUNT: 50 })) keys.forEach((key) => found.add(key));
await is("scanIterator", found.size, 1000);
await is("dbSize", redis.dbSize(), 1002);
await redis.close();
console.log("node-redis: all answers are right");
