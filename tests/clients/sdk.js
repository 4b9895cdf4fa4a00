"use strict";
// Calls npm capability-sdk as it is told to on standard input, one JSON line a call, and prints for each what the SDK
// handed to the callback. Capabilities come that way, and not as arguments, so that no process list shows them.
//
//   first line    {"trustedCA": {authority: PEM}}           answered with the SDK's version
//   then          {"call", "capability", "argument"?}       a call of the Membrane service
//                 {"call": "request" | "requestReply", "capability", "options"?, "data"?}
//   answer        {"error"} or {"response"}

const CapabilitySDK = require("capability-sdk");
const readline = require("readline");

// A callback that never comes should fail a test, not hang it.
const PATIENCE_MS = 30000;

let membrane;
let trustedCA;

const calls = {
    request: ({ capability, options, data }) => new Promise((resolve, reject) => {
        const req = CapabilitySDK.request(capability, trusting(capability, options), (resp) => {
            const chunks = [];
            resp.on("data", (chunk) => chunks.push(chunk));
            resp.on("end", () => resolve({
                response: { statusCode: resp.statusCode, headers: resp.headers, body: Buffer.concat(chunks).toString() },
            }));
            resp.on("error", reject);
        });
        req.on("error", reject);
        if (data !== undefined) {
            req.write(data);
        }
        req.end();
    }),
    requestReply: ({ capability, options, data }) => called((done) =>
        CapabilitySDK.requestReply(capability, trusting(capability, options), data, done)),
};
for (const name of ["create", "export", "query"]) {
    calls[name] = ({ capability, argument }) => called((done) => membrane[name](capability, argument, done));
}
for (const name of ["revoke", "deleteSelf"]) {
    calls[name] = ({ capability }) => called((done) => membrane[name](capability, done));
}

function trusting(capability, options) {
    const [, authority] = /^cpblty:\/\/([^/]+)\//.exec(capability);
    return { ca: trustedCA[authority], ...options };
}

// What the callback is given, in a form that JSON can hold: an Error's own members are not enumerable.
function called(call) {
    return new Promise((resolve) => call((error, response) => {
        const plain = error instanceof Error ? { name: error.name, message: error.message } : error;
        resolve({ error: plain, response });
    }));
}

async function answer(line) {
    if (membrane === undefined) {
        ({ trustedCA } = line);
        membrane = new CapabilitySDK.Membrane({ tls: { trustedCA } });
        return { response: CapabilitySDK.version };
    }
    return calls[line.call](line);
}

async function main() {
    for await (const text of readline.createInterface({ input: process.stdin })) {
        const line = JSON.parse(text);
        const late = setTimeout(() => {
            console.error(`no callback of ${line.call} within ${PATIENCE_MS} ms`);
            process.exit(1);
        }, PATIENCE_MS);
        console.log(JSON.stringify(await answer(line)));
        clearTimeout(late);
    }
}

main().catch((error) => {
    console.error(error);
    process.exit(1);
});
