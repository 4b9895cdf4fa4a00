"""The local AWS: moto's server, set up before it listens, and verifying signatures over the bytes that it received.

Usage: moto_server.py --dir DIR -H 127.0.0.1 -p PORT     (all but --dir are moto's own)

`make run`, the end-to-end tests and docker-compose.yaml start it by this one command. Whoever reaches the port finds an IAM user whose
policy allows invoking Lambda functions and nothing else, one function, and authentication switched on. DIR/aws.json says
which key and function. moto keeps nothing on disk: so that capabilities exported earlier still work after a restart, it is seeded
with the number in DIR/aws-seed and then set up by the same calls in the same order, which gives the same access key.

As it comes, moto 5.2.5 recomputes a signature over what it parsed: a body with a form's content type (which is what
`curl --data` sends) is taken apart and written anew, and in place of an absent body the request's headers are hashed. A right
signature is then refused. Nor does it find the operation of a REST service, Lambda for instance, in a request with that content
type, of which the real ones take no notice. Here body and content type are kept as they came and handed to moto's own check, which
is otherwise untouched: canonical request, string to sign and signature are still botocore's, and policies are still moto's.
"""

import argparse
import io
import json
import os
import secrets
import sys
import threading
import xml.etree.ElementTree
from pathlib import Path

import werkzeug.serving
import werkzeug.test
from moto import server
from moto.iam import access_control

FORM = "application/x-www-form-urlencoded"

REGION = "us-east-1"
FUNCTION = "membrane-demo"
# A zip file with `index.py`: `def handler(event, context): return event`. moto answers like it, without running it.
FUNCTION_ZIP = (
    "UEsDBBQAAAAAAAAAIVy0CHBpLgAAAC4AAAAIAAAAaW5kZXgucHlkZWYgaGFuZGxlcihldmVudCwgY29udGV4dCk6CiAgICByZXR1cm4gZXZl"
    "bnQKUEsBAhQDFAAAAAAAAAAhXLQIcGkuAAAALgAAAAgAAAAAAAAAAAAAAIABAAAAAGluZGV4LnB5UEsFBgAAAAABAAEANgAAAFQAAAAAAA=="
)


def policy(**statement):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **statement}]})


MAY_INVOKE = policy(Action=["lambda:Invoke", "lambda:InvokeFunction"], Resource="*")
FOR_LAMBDA = policy(Principal={"Service": "lambda.amazonaws.com"}, Action="sts:AssumeRole")

received = threading.local()


def keep_body(app):
    """WSGI middleware: the body is read once, kept for this thread, and offered again."""

    def keeping(environ, start_response):
        length = environ.get("CONTENT_LENGTH")
        if length:
            body = environ["wsgi.input"].read(int(length))
        elif environ.get("wsgi.input_terminated"):
            body = environ["wsgi.input"].read()
            environ["CONTENT_LENGTH"] = str(len(body))
            environ.pop("HTTP_TRANSFER_ENCODING", None)
        else:
            body = b""
        received.body = body
        received.content_type = environ.get("CONTENT_TYPE")
        # The services that speak forms, the query protocol, do so at the path `/`.
        if environ.get("PATH_INFO", "/") != "/" and (received.content_type or "").startswith(FORM):
            environ["CONTENT_TYPE"] = "application/octet-stream"
        environ["wsgi.input"] = io.BytesIO(body)
        return app(environ, start_response)

    return keeping


def over_received_bytes(original):
    def create(self):
        request = original(self)
        request.data = received.body
        if "Content-Type" in request.headers:
            request.headers.replace_header("Content-Type", received.content_type)
        return request

    return create


def set_up(app, seed):
    """Makes user, key, policy and function, and switches authentication on; gives the access key's id and secret."""
    moto = werkzeug.test.Client(app)

    def ask(status, path, service=None, **request):
        headers = {}
        if service:
            # Names the service in a credential scope, as moto needs it to tell whom a request is for. Signs nothing.
            scope = f"Credential=setup/20260101/{REGION}/{service}/aws4_request"
            headers["Authorization"] = f"AWS4-HMAC-SHA256 {scope}, SignedHeaders=host, Signature=0"
            headers["X-Amz-Date"] = "20260101T000000Z"
        answer = moto.post(path, headers=headers, **request)
        if answer.status_code != status:
            # The whole answer may hold the secret.
            raise SystemExit(f"setting up moto: POST {path} answered {answer.status}, not {status}")
        return answer

    def iam(action, **parameters):
        return ask(200, "/", "iam", data={"Version": "2010-05-08", "Action": action, **parameters}).text

    ask(201, "/moto-api/config", json={"lambda": {"use_docker": False}})
    ask(200, f"/moto-api/seed?a={seed}")
    iam("CreateUser", UserName="membrane")
    created = xml.etree.ElementTree.fromstring(iam("CreateAccessKey", UserName="membrane"))
    iam("PutUserPolicy", UserName="membrane", PolicyName="may-invoke", PolicyDocument=MAY_INVOKE)
    iam("CreateRole", RoleName="membrane-function", AssumeRolePolicyDocument=FOR_LAMBDA)
    function = {
        "FunctionName": FUNCTION,
        "Runtime": "python3.12",
        "Handler": "index.handler",
        "Role": "arn:aws:iam::123456789012:role/membrane-function",
        "Code": {"ZipFile": FUNCTION_ZIP},
    }
    ask(201, "/2015-03-31/functions", "lambda", json=function)
    ask(200, "/moto-api/reset-auth", data="0", content_type="text/plain")
    # What follows proves nothing if nothing is checked: an unsigned invocation must be refused now.
    ask(403, f"/2015-03-31/functions/{FUNCTION}/invocations", "lambda", data="{}")
    return created.findtext(".//{*}AccessKeyId"), created.findtext(".//{*}SecretAccessKey")


def write_private(file, text):
    """Writes a file that its owner alone may read, whole or not at all."""
    unfinished = file.with_name(f".{file.name}.unfinished")
    unfinished.unlink(missing_ok=True)
    with open(os.open(unfinished, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as out:
        out.write(text)
    unfinished.replace(file)


def seed_of(file):
    if not file.exists():
        write_private(file, f"{secrets.randbits(64)}\n")
    text = file.read_text().strip()
    if not text.isdecimal():
        raise SystemExit(f"{file} must hold one whole number: remove it, and the local AWS gets another access key")
    return int(text)


def main():
    arguments = argparse.ArgumentParser(add_help=False)
    arguments.add_argument("--dir", type=Path, required=True)
    ours, motos = arguments.parse_known_args()
    base = access_control.IAMRequestBase
    base._create_aws_request = over_received_bytes(base._create_aws_request)
    run_simple = werkzeug.serving.run_simple

    def run(host, port, app, **options):
        app = keep_body(app)
        key, secret = set_up(app, seed_of(ours.dir / "aws-seed"))
        aws = {
            "accessKeyId": key,
            "secretAccessKey": secret,
            "region": REGION,
            "function": FUNCTION,
            "endpoint": f"http://127.0.0.1:{port}",
        }
        write_private(ours.dir / "aws.json", json.dumps(aws, indent=2) + "\n")
        run_simple(host, port, app, **options)

    server.run_simple = run
    server.main(motos)


if __name__ == "__main__":
    main()
