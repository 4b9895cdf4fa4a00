// Verifies CAP1-HMAC-SHA512 signatures of requests as an origin received them: written from the rules of docs/compatibility.md in the
// language of the reference implementation, and itself checked against everything that the reference signed (--vectors).
//
// Reads {key, keyId, requests: [{method, target, headers: [[name, base64]]}]} from standard input. Ends with status 0 if every
// request is signed as expected, else prints why and ends with 1.

import { createHash, createHmac, timingSafeEqual } from "node:crypto";
import { readFileSync } from "node:fs";
import { posix } from "node:path";

const SKEW_MS = 5 * 60 * 1000;

const latin1 = (bytes) => Buffer.from(bytes).toString("latin1");
const asText = (bytes) => Buffer.from(latin1(bytes), "utf8");
const mac = (key, text) => createHmac("sha512", key).update(text, "utf8").digest();

/** White space outside double quotes becomes one space. */
function folded(value) {
    let [quoted, out] = [false, ""];
    for (const part of value.trim().split(/(")/)) {
        if (part === '"') quoted = !quoted;
        out += quoted || part === '"' ? part : part.replace(/\s+/g, " ");
    }
    return out;
}

function canonicalQuery(query) {
    if (query === "") return "";
    const side = (text) => encodeURIComponent(decodeURIComponent(text));
    return query.split("&").sort().map((pair) => {
        const [name, value] = pair.split("=");
        return `${side(name)}=${side(value)}`;
    }).join("&");
}

/** `headers`: Map from lower-case name to value. */
function sign({ method, path, query, headers, signedHeaders, key, keyId }) {
    const [host, stamp] = [headers.get("host"), headers.get("x-cap-date")];
    const scope = [stamp.slice(0, 8), host.toLowerCase(), "cap1_request"].join("/");
    const canonical = [
        method.toUpperCase(),
        encodeURIComponent(posix.normalize(decodeURIComponent(path))),
        canonicalQuery(query),
        ...signedHeaders.map((name) => `${name}:${folded(headers.get(name))}`),
        "",
        signedHeaders.join(";"),
    ].join("\n");
    const hash = createHash("sha512").update(canonical, "utf8").digest("base64url");
    let signing = Buffer.from(`CAP1${key}`, "utf8");
    for (const part of [stamp.slice(0, 8), host, "cap1_request"]) signing = asText(mac(signing, part));
    const signature = mac(signing, ["CAP1-HMAC-SHA512", stamp, scope, hash].join("\n")).toString("base64url");
    return { authorization: `CAP1-HMAC-SHA512 Credential=${keyId}/${scope},SignedHeaders=${signedHeaders.join(";")},Signature=${signature}`, canonical };
}

function verify(request, key, keyId) {
    const headers = new Map();
    for (const [name, value] of request.headers) {
        const lower = name.toLowerCase();
        const text = latin1(Buffer.from(value, "base64"));
        headers.set(lower, headers.has(lower) ? `${headers.get(lower)}, ${text}` : text);
    }
    const given = headers.get("authorization") ?? "";
    const signedHeaders = /SignedHeaders=([^,]+),/.exec(given)?.[1].split(";") ?? [];
    for (const name of ["host", "x-cap-date"]) {
        if (!signedHeaders.includes(name)) return `${name} is not signed`;
    }
    if (String(signedHeaders) !== String([...new Set(signedHeaders)].sort())) return "SignedHeaders are not sorted";
    const missing = signedHeaders.find((name) => !headers.has(name));
    if (missing) return `${missing} is signed but was not sent`;
    const iso = headers.get("x-cap-date").replace(/^(\d{4})(\d\d)(\d\d)T(\d\d)(\d\d)(\d\d)Z$/, "$1-$2-$3T$4:$5:$6Z");
    if (!(Math.abs(Date.now() - Date.parse(iso)) < SKEW_MS)) return `date ${headers.get("x-cap-date")}`;
    const mark = request.target.indexOf("?");
    const [path, query] = mark < 0 ? [request.target, ""] : [request.target.slice(0, mark), request.target.slice(mark + 1)];
    const { authorization, canonical } = sign({ method: request.method, path, query, headers, signedHeaders, key, keyId });
    const [ours, theirs] = [Buffer.from(authorization), Buffer.from(given)];
    if (ours.length !== theirs.length || !timingSafeEqual(ours, theirs)) return `signatures differ; the canonical request is:\n${canonical}`;
    return null;
}

/** What the reference leaves out of a signature; its own vectors name no other. */
const HOP_BY_HOP = ["connection", "keep-alive", "proxy-authenticate", "proxy-authorization", "te", "trailer", "transfer-encoding", "upgrade", "x-forwarded-for", "x-request-id"];

function checkVectors(file) {
    const vectors = JSON.parse(readFileSync(file, "utf8"));
    for (const { request, result } of vectors) {
        const headers = new Map(Object.entries(request.headers).map(([name, value]) => [name.toLowerCase(), value]));
        const signedHeaders = [...headers.keys()].filter((name) => !HOP_BY_HOP.includes(name)).sort();
        const { authorization, canonical } = sign({
            method: request.httpRequestMethod, path: request.path, query: request.queryString, headers, signedHeaders, key: request.key, keyId: request.keyId,
        });
        if (authorization !== result.authorization) {
            console.log(`${authorization}\nis not\n${result.authorization}\n${canonical}`);
            process.exit(1);
        }
    }
    console.log(`${vectors.length} vectors`);
}

if (process.argv[2] === "--vectors") {
    checkVectors(process.argv[3]);
} else {
    const question = JSON.parse(readFileSync(0, "utf8"));
    const failures = question.requests
        .map((request, number) => [number, request, verify(request, question.key, question.keyId)])
        .filter(([, , why]) => why);
    for (const [number, request, why] of failures) console.log(`request ${number} (${request.method} ${request.target}): ${why}`);
    process.exit(failures.length > 0 ? 1 : 0);
}
