"""Makes what tests/e2e/services.rs uses in the local AWS, while moto's authentication is off: a user and a role that may do what the
tests do and nothing else, a bucket, a table, a queue, a topic, a secret and a stream. Prints their names and credentials as JSON.

Usage: aws_resources.py ENDPOINT REGION
       aws_resources.py ENDPOINT REGION keys BUCKET     prints the keys in the bucket, asked for as the user in the environment
"""

import json
import sys

import boto3

ACTIONS = [
    "dynamodb:GetItem",
    "dynamodb:PutItem",
    "kinesis:PutRecord",
    "lambda:Invoke",
    "lambda:InvokeFunction",
    "s3:DeleteObject",
    "s3:GetObject",
    "s3:ListBucket",
    "s3:PutObject",
    "secretsmanager:GetSecretValue",
    "sns:Publish",
    "sqs:ReceiveMessage",
    "sqs:SendMessage",
]


def statement(**more):
    return json.dumps({"Version": "2012-10-17", "Statement": [{"Effect": "Allow", **more}]})


def make(client):
    may = statement(Action=ACTIONS, Resource="*")
    iam = client("iam")
    user = iam.create_user(UserName="services")["User"]
    iam.put_user_policy(UserName="services", PolicyName="may", PolicyDocument=may)
    key = iam.create_access_key(UserName="services")["AccessKey"]
    trust = statement(Action="sts:AssumeRole", Principal={"AWS": user["Arn"]})
    role = iam.create_role(RoleName="services-role", AssumeRolePolicyDocument=trust)["Role"]
    iam.put_role_policy(RoleName="services-role", PolicyName="may", PolicyDocument=may)
    temporary = client("sts").assume_role(RoleArn=role["Arn"], RoleSessionName="e2e")["Credentials"]
    client("s3").create_bucket(Bucket="membrane-bucket")
    client("dynamodb").create_table(
        TableName="things",
        KeySchema=[{"AttributeName": "id", "KeyType": "HASH"}],
        AttributeDefinitions=[{"AttributeName": "id", "AttributeType": "S"}],
        BillingMode="PAY_PER_REQUEST",
    )
    client("kinesis").create_stream(StreamName="events", ShardCount=1)
    client("secretsmanager").create_secret(Name="hush", SecretString="what the secret holds")
    return {
        "id": key["AccessKeyId"],
        "secret": key["SecretAccessKey"],
        "temporary": {
            "id": temporary["AccessKeyId"],
            "secret": temporary["SecretAccessKey"],
            "token": temporary["SessionToken"],
        },
        "queue": client("sqs").create_queue(QueueName="jobs")["QueueUrl"],
        "topic": client("sns").create_topic(Name="news")["TopicArn"],
    }


def main():
    endpoint, region, *more = sys.argv[1:]

    def client(service):
        return boto3.client(service, endpoint_url=endpoint, region_name=region)

    if more:
        pages = client("s3").get_paginator("list_objects_v2").paginate(Bucket=more[1])
        print(json.dumps([item["Key"] for page in pages for item in page.get("Contents", [])]))
    else:
        print(json.dumps(make(client)))


main()
