"""Fail if a locked package has a known vulnerability that a later version fixes.

    python .ci/audit.py requirements.lock [options of pip-audit]

pip-audit asks the package index, or another service by its options. This script names the packages that the service
does not know; pip-audit would report them as safe. Such packages, or a service that does not answer, do not fail it.
"""

import json
import re
import subprocess
import sys

UNREACHABLE = re.compile(r"requests\.exceptions\.|urllib3\.exceptions\.|ConnectionError|ServiceError")
COMMAND = [sys.executable, "-m", "pip_audit", "--require-hashes", "--disable-pip", "--format", "json"]
COMMAND += ["--progress-spinner", "off", "--timeout", "20"]


def audit(lock: str, *options: str) -> int:
    done = subprocess.run([*COMMAND, "--requirement", lock, *options], capture_output=True, text=True)
    try:
        packages = json.loads(done.stdout)["dependencies"]
    except ValueError:
        last = (done.stderr.strip().splitlines() or ["no error message"])[-1]
        if not UNREACHABLE.search(last):
            print(f"{lock}: pip-audit failed: {last}", file=sys.stderr)
            return 1
        print(f"{lock}: NOT AUDITED, the vulnerability service cannot be reached: {last[:200]}")
        return 0
    return judge(lock, packages)


def judge(lock: str, packages: list[dict]) -> int:
    """Print what pip-audit found; return 1 if a package must be updated."""
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    fixable = 0
    for package in packages:
        for found in package.get("vulns", []):
            versions = ", ".join(found["fix_versions"])
            fixable += bool(versions)
            remedy = f"fixed in {versions}" if versions else "no version fixes it yet"
            print(f"{lock}: {package['name']} {package['version']} has {found['id']}, {remedy}")
    if unknown:
        names = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        print(f"{lock}: NOT AUDITED, the service does not know {len(unknown)} of {len(packages)} packages: {names}")
    else:
        print(f"{lock}: {len(packages)} packages audited, {fixable} to update")
    return 1 if fixable else 0


if __name__ == "__main__":
    sys.exit(audit(*sys.argv[1:]))
