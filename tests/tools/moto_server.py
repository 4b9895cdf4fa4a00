"""moto's server, verifying signatures over the bytes that it received.

As it comes, moto 5.2.5 recomputes a signature over what it parsed: a body with a form's content type (which is what
`curl --data` sends) is taken apart and written anew, and in place of an absent body the request's headers are hashed. A right
signature is then refused. Nor does it find the operation of a REST service, Lambda for instance, in a request with that content
type, of which the real ones take no notice. Here body and content type are kept as they came and handed to moto's own check, which
is otherwise untouched: canonical request, string to sign and signature are still botocore's, and policies are still moto's.

Usage: moto_server.py -H 127.0.0.1 -p PORT     (the arguments are moto's)
"""

import io
import sys
import threading

import werkzeug.serving
from moto import server
from moto.iam import access_control

FORM = "application/x-www-form-urlencoded"

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


def main():
    base = access_control.IAMRequestBase
    base._create_aws_request = over_received_bytes(base._create_aws_request)
    run_simple = werkzeug.serving.run_simple
    server.run_simple = lambda host, port, app, **options: run_simple(host, port, keep_body(app), **options)
    server.main(sys.argv[1:])


if __name__ == "__main__":
    main()
