"""Whether a locked package has a known vulnerability that a later version mends: then this fails.

    python .ci/audit.py requirements.lock [options of pip-audit]

pip-audit asks the package index (or, by its options, another service). What could not be asked about is said, and fails
nothing: pip-audit itself would call a package sound that the service knows nothing of.
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
        last = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        if not UNREACHABLE.search(last):
            print(f"{lock}: pip-audit failed: {last}", file=sys.stderr)
            return 1
        print(f"{lock}: NOT AUDITED, the vulnerability service cannot be reached: {last[:200]}")
        return 0
    return judge(lock, packages)


def judge(lock: str, packages: list[dict]) -> int:
    """Tell what pip-audit found of the packages; 1 where one is to be renewed."""
    unknown = [package["name"] for package in packages if "skip_reason" in package]
    mended = 0
    for package in packages:
        for found in package.get("vulns", []):
            versions = ", ".join(found["fix_versions"])
            mended += bool(versions)
            remedy = f"mended in {versions}" if versions else "no version mends it yet"
            print(f"{lock}: {package['name']} {package['version']} has {found['id']}, {remedy}")
    if unknown:
        names = ", ".join(unknown[:5]) + (" …" if len(unknown) > 5 else "")
        print(f"{lock}: NOT AUDITED, the service knows nothing of {len(unknown)} of {len(packages)} packages: {names}")
    else:
        print(f"{lock}: {len(packages)} packages audited, {mended} to be renewed")
    return 1 if mended else 0


if __name__ == "__main__":
    sys.exit(audit(*sys.argv[1:]))
