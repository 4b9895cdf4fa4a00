"""Reads Compose files as Docker Compose does before it starts anything, each later one over those before it, and prints JSON.

Usage: compose.py SCHEMA FILE…     variables come from the environment

Ends with 1, saying why, where a file is not valid against the schema or asks for a kind of variable that is not known here.
"""

import json
import os
import re
import sys

import yaml
from jsonschema import Draft7Validator

VARIABLE = re.compile(r"\$\{(?P<name>[A-Z_]+):-(?P<default>[^}$]*)\}")
# Lists that a later file says anew. Of `volumes`, those with the same target; what else is a list grows.
REPLACED = {"command", "entrypoint", "test"}


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


def merged(base, over, name=None):
    """The Compose Specification's rules of merging, for what our files hold."""
    if isinstance(base, dict) and isinstance(over, dict):
        return base | {key: merged(base[key], over[key], key) if key in base else over[key] for key in over}
    if isinstance(base, list) and isinstance(over, list) and name not in REPLACED:
        if name == "volumes":
            targets = {volume["target"] for volume in over}
            base = [volume for volume in base if volume["target"] not in targets]
        return base + [item for item in over if item not in base]
    return over


def read(file, validator):
    with open(file) as opened:
        composed = interpolated(yaml.safe_load(opened))
    problems = [f"{error.json_path}: {error.message}" for error in validator.iter_errors(composed)]
    if problems:
        raise SystemExit("\n".join(problems))
    return composed


def main():
    with open(sys.argv[1]) as file:
        schema = json.load(file)
    Draft7Validator.check_schema(schema)
    validator = Draft7Validator(schema)
    composed = {}
    for file in sys.argv[2:]:
        composed = merged(composed, read(file, validator))
    json.dump(composed, sys.stdout)


if __name__ == "__main__":
    main()
