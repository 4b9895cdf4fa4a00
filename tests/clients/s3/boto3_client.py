"""Puts a file as an object, or gets one, as boto3 does it unless told otherwise: put|get URL BUCKET KEY FILE."""

import sys

import boto3
from botocore.config import Config

what, url, bucket, key, file = sys.argv[1:]
# Credentials that nothing accepts: the capability's stand in their place.
client = boto3.client(
    "s3",
    endpoint_url=url,
    region_name="us-east-1",
    aws_access_key_id="AKIANOBODY",
    aws_secret_access_key="nothing",
    config=Config(retries={"total_max_attempts": 1}, s3={"addressing_style": "path"}),
)
if what == "put":
    with open(file, "rb") as body:
        client.put_object(Bucket=bucket, Key=key, Body=body)
else:
    with open(file, "wb") as out:
        for piece in client.get_object(Bucket=bucket, Key=key)["Body"].iter_chunks(65536):
            out.write(piece)
