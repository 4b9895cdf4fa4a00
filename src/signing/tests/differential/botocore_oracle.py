"""Signs requests with botocore's own signers: one JSON object a line in, one out. Driven by differential.rs."""

import datetime
import json
import sys
import traceback
from urllib.parse import quote, unquote_to_bytes

import botocore.auth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials

S3_FAMILY = {"s3", "s3express", "s3-outposts", "s3-object-lambda"}


def sign(case):
    now = datetime.datetime.fromtimestamp(case["now"], datetime.timezone.utc)
    botocore.auth.get_current_datetime = lambda *_: now

    body = None if case["body"] is None else bytes.fromhex(case["body"])
    request = AWSRequest(method=case["method"], url=case["url"], data=body)
    for name, value in case["headers"]:
        request.headers[name] = value
    if case["content_sha256"] is not None and case["service"] not in S3_FAMILY:
        request.headers["X-Amz-Content-SHA256"] = case["content_sha256"]

    credentials = Credentials(case["access_key_id"], case["secret_access_key"], case["token"])
    signer_class = botocore.auth.S3SigV4Auth if case["service"] in S3_FAMILY else botocore.auth.SigV4Auth
    signer = signer_class(credentials, case["service"], case["region"])
    if body is None or case["payload"] == "UNSIGNED-PAYLOAD":
        # A literal, or nothing: botocore's own choice depends on its configuration. A body it hashes itself.
        signer.payload = lambda _request: case["payload"]

    seen = {}

    def spy(name):
        method = getattr(signer, name)

        def wrapped(*arguments):
            seen[name] = method(*arguments)
            return seen[name]

        setattr(signer, name, wrapped)

    spy("canonical_request")
    spy("string_to_sign")
    signer.add_auth(request)
    return {
        "canonical_request": seen["canonical_request"],
        "string_to_sign": seen["string_to_sign"],
        "authorization": request.headers["Authorization"],
        # S3's path on the wire, which botocore's serialiser and not its signer makes.
        "s3_path": quote(unquote_to_bytes(bytes.fromhex(case["raw_path"])), safe="/-._~"),
    }


def main():
    for line in sys.stdin:
        try:
            answer = sign(json.loads(line))
        except Exception:  # reported to the test, which fails with it
            answer = {"error": traceback.format_exc()}
        print(json.dumps(answer), flush=True)


main()
