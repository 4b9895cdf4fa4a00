"""Holds JSON documents against a JSON Schema.

Usage: validate.py SCHEMA     a list of documents comes on standard input

Prints a list: for each document null, or why it is refused.
"""

import json
import sys

from jsonschema.validators import validator_for

with open(sys.argv[1]) as file:
    schema = json.load(file)
kind = validator_for(schema)
kind.check_schema(schema)
validator = kind(schema)


def refusal(document):
    error = next(validator.iter_errors(document), None)
    return error and f"{error.json_path}: {error.message}"


json.dump([refusal(document) for document in json.load(sys.stdin)], sys.stdout)
