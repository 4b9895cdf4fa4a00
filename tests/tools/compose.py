"""Reads a Compose file as Docker Compose does before it starts anything, and prints it as JSON.

Usage: compose.py FILE SCHEMA     variables come from the environment

Ends with 1, saying why, where the file is not valid against the schema or asks for a kind of variable that is not known here.
"""

import json
import os
import re
import sys

import yaml
from jsonschema import Draft7Validator

VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}$]*)\}")


def interpolated(value):
    """Replaces ${NAME:-default} in every text, as Compose does after it has parsed the YAML."""
    if isinstance(value, dict):
        return {key: interpolated(member) for key, member in value.items()}
    if isinstance(value, list):
        return [interpolated(member) for member in value]
    if not isinstance(value, str):
        return value
    text = VARIABLE.sub(lambda found: os.environ.get(found["name"]) or found["default"], value)
    if "$" in text:
        raise SystemExit(f"only ${{NAME:-default}} is known here: {value}")
    return text


def main():
    with open(sys.argv[1]) as file, open(sys.argv[2]) as schema:
        composed, schema = interpolated(yaml.safe_load(file)), json.load(schema)
    Draft7Validator.check_schema(schema)
    problems = [f"{error.json_path}: {error.message}" for error in Draft7Validator(schema).iter_errors(composed)]
    if problems:
        raise SystemExit("\n".join(problems))
    json.dump(composed, sys.stdout)


if __name__ == "__main__":
    main()
