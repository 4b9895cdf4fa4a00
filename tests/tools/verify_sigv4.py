"""Verifies SigV4 signatures of requests as an origin received them, with botocore.

Reads {accessKeyId, secretAccessKey, region, service, requests: [{method, target, headers: [[name, base64]], body: base64}]}
from standard input. Ends with status 0 if every request is signed as expected, else prints why and ends with 1.
"""

import base64
import datetime
import hashlib
import hmac
import json
import re
import sys

from botocore.auth import S3SigV4Auth, SigV4Auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

# AWS refuses requests whose date is further away than this.
SKEW = datetime.timedelta(minutes=5)

S3_FAMILY = {"s3", "s3express", "s3-outposts", "s3-object-lambda"}


def verify(request, key_id, secret, region, service):
    """Returns the reason why the request is not signed as expected, or None."""
    # botocore signs values as UTF-8.
    headers = [(name.lower(), base64.b64decode(value).decode()) for name, value in request["headers"]]
    body = base64.b64decode(request["body"])

    def values(name):
        return [value for other, value in headers if other == name]

    for name in ("authorization", "host", "x-amz-date"):
        if len(values(name)) != 1:
            return f"expected one {name}, came {len(values(name))}"
    authorization = re.fullmatch(
        r"AWS4-HMAC-SHA256 Credential=([^/]+)/(\d{8})/([^/]+)/([^/]+)/aws4_request, ?"
        r"SignedHeaders=([a-z0-9;_.-]+), ?Signature=([0-9a-f]{64})",
        values("authorization")[0],
    )
    if not authorization:
        return "malformed authorization"
    got_key, day, got_region, got_service, signed, signature = authorization.groups()
    if (got_key, got_region, got_service) != (key_id, region, service):
        return f"credential scope: came {got_key}/{got_region}/{got_service}"
    date = values("x-amz-date")[0]
    sent = datetime.datetime.strptime(date, "%Y%m%dT%H%M%SZ").replace(tzinfo=datetime.timezone.utc)
    if abs(datetime.datetime.now(datetime.timezone.utc) - sent) > SKEW or not date.startswith(day):
        return f"date {date} with scope {day}"
    signed = signed.split(";")
    if signed != sorted(set(signed)):
        return f"SignedHeaders are not sorted: {signed}"
    for name, _ in headers:
        if (name in ("host", "content-type") or name.startswith("x-amz-")) and name not in signed:
            return f"{name} was sent unsigned"
    for name in signed:
        if not values(name):
            return f"{name} is signed but was not sent"
    for claimed in values("x-amz-content-sha256"):
        if re.fullmatch("[0-9a-f]{64}", claimed) and claimed != hashlib.sha256(body).hexdigest():
            return "x-amz-content-sha256 is not the body's hash"

    rebuilt = AWSRequest(method=request["method"], url=f"https://{values('host')[0]}{request['target']}", data=body)
    for name, value in headers:
        if name in signed:
            rebuilt.headers.add_header(name, value)
    rebuilt.context["timestamp"] = date
    signer = (S3SigV4Auth if service in S3_FAMILY else SigV4Auth)(Credentials(key_id, secret), service, region)
    canonical = signer.canonical_request(rebuilt)
    expected = signer.signature(signer.string_to_sign(rebuilt, canonical), rebuilt)
    if not hmac.compare_digest(expected, signature):
        return "signatures differ; botocore's canonical request is:\n" + canonical
    return None


def main():
    question = json.load(sys.stdin)
    failed = False
    for number, request in enumerate(question["requests"]):
        why = verify(
            request, question["accessKeyId"], question["secretAccessKey"], question["region"], question["service"]
        )
        if why:
            failed = True
            print(f"request {number} ({request['method']} {request['target']}): {why}")
    sys.exit(failed)


main()
