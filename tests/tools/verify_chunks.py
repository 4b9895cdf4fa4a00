"""Takes signed aws-chunked bodies apart and recomputes every signature: one JSON object a line in, one out.

In: {"secretAccessKey", "date" (x-amz-date), "region", "service", "seed" (the request's signature), "trailer" (whether trailers are
signed), "body" (base64)}. Out: {"body" (the decoded data, base64), "chunks" (their sizes), "trailers" ([name, value])} or {"error"}.

Written after AWS's description ("Signature Calculations for the Authorization Header: Transferring Payload in Multiple Chunks" and
"... Including Trailing Headers", Amazon S3 API Reference) with hmac and hashlib alone; it shares no code with what it checks, and
takes the one form that AWS describes, with CR LF throughout.
"""

import base64
import hashlib
import hmac
import json
import re
import sys

EMPTY = hashlib.sha256(b"").hexdigest()
CHUNK = re.compile(rb"([0-9a-f]+);chunk-signature=([0-9a-f]{64})\r\n")
TRAILER = re.compile(rb"([a-z0-9-]+):([^\r\n]*)\r\n")


def mac(key, text):
    return hmac.new(key, text.encode(), hashlib.sha256).digest()


def verify(case):
    date, scope_date = case["date"], case["date"][:8]
    scope = "/".join([scope_date, case["region"], case["service"], "aws4_request"])
    key = ("AWS4" + case["secretAccessKey"]).encode()
    for part in scope.split("/"):
        key = mac(key, part)
    body, place, previous = base64.b64decode(case["body"]), 0, case["seed"]
    data, sizes = bytearray(), []

    def check(algorithm, hashes, given):
        nonlocal previous
        expected = mac(key, "\n".join([algorithm, date, scope, previous, *hashes])).hex()
        if expected != given:
            raise ValueError(f"{algorithm} after {len(data)} bytes: expected {expected}, came {given}")
        previous = given

    while not sizes or sizes[-1] > 0:
        line = CHUNK.match(body, place)
        if not line:
            raise ValueError(f"no chunk begins at byte {place}")
        size, place = int(line[1], 16), line.end()
        chunk = body[place : place + size]
        if len(chunk) != size:
            raise ValueError("the body ends within a chunk")
        check("AWS4-HMAC-SHA256-PAYLOAD", [EMPTY, hashlib.sha256(chunk).hexdigest()], line[2].decode())
        data += chunk
        place += size
        sizes.append(size)
        if size > 0:
            if body[place : place + 2] != b"\r\n":
                raise ValueError("a chunk's data does not end with CR LF")
            place += 2
    trailers = []
    if case["trailer"]:
        while line := TRAILER.match(body, place):
            trailers.append([line[1].decode(), line[2].decode()])
            place = line.end()
        if not trailers or trailers[-1][0] != "x-amz-trailer-signature":
            raise ValueError("the trailers are not signed")
        _, signature = trailers.pop()
        canonical = "".join(f"{name}:{value}\n" for name, value in trailers)
        check("AWS4-HMAC-SHA256-TRAILER", [hashlib.sha256(canonical.encode()).hexdigest()], signature)
    if body[place:] != b"\r\n":
        raise ValueError(f"expected CR LF at the end, came {body[place:]!r}")
    return {"body": base64.b64encode(data).decode(), "chunks": sizes, "trailers": trailers}


for question in sys.stdin:
    try:
        answer = verify(json.loads(question))
    except (ValueError, KeyError) as error:  # reported to the test, which fails with it
        answer = {"error": str(error)}
    print(json.dumps(answer), flush=True)
