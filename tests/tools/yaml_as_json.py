"""Prints the documents of a YAML file as a JSON list.

Usage: yaml_as_json.py FILE
"""

import json
import sys

import yaml

with open(sys.argv[1]) as file:
    json.dump(list(yaml.safe_load_all(file)), sys.stdout)
