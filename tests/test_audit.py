"""The audit of the locked packages: the real pip-audit with a vulnerability service of this test."""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

ROOT = Path(__file__).parent.parent
LOCK = "".join(f"{name}==1.0 --hash=sha256:{'0' * 64}\n" for name in ("sound", "broken"))


@pytest.fixture
def service():
    """Run a service like OSV that knows a vulnerability of `broken`, fixed in the versions in the yielded list."""
    mended = []

    class Answer(BaseHTTPRequestHandler):
        def do_POST(self):
            asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["package"]
            events = [{"introduced": "0"}, *({"fixed": version} for version in mended)]
            affected = {"package": asked, "ranges": [{"type": "ECOSYSTEM", "events": events}]}
            known = {"vulns": [{"id": "TEST-1", "affected": [affected]}]} if asked["name"] == "broken" else {}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(known).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Answer)
    Thread(target=server.serve_forever, daemon=True).start()
    yield f"http://localhost:{server.server_port}", mended
    server.shutdown()
    server.server_close()


@pytest.fixture
def audit(tmp_path):
    def run(address, lock=LOCK):
        (tmp_path / "some.lock").write_text(lock)
        command = [sys.executable, ".ci/audit.py", tmp_path / "some.lock", "-s", "osv", "--osv-url", address]
        command += ["--cache-dir", tmp_path / "cache"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True)

    return run


def test_a_vulnerability_with_a_remedy_fails(audit, service):
    address, mended = service
    mended.append("1.1")
    done = audit(address)
    assert done.returncode == 1
    assert (
        "broken 1.0 has TEST-1, mended in 1.1" in done.stdout and "2 packages audited, 1 to be renewed" in done.stdout
    )


def test_a_vulnerability_without_a_remedy_is_reported(audit, service):
    address, _ = service
    done = audit(address)
    assert done.returncode == 0
    assert "broken 1.0 has TEST-1, no version mends it yet" in done.stdout


def test_sound_packages_pass(audit, service):
    done = audit(service[0], LOCK.replace("broken", "whole"))
    assert done.returncode == 0 and "2 packages audited, 0 to be renewed" in done.stdout


def test_an_unreachable_service_is_reported_but_passes(audit):
    done = audit("http://localhost:9")
    assert done.returncode == 0
    assert "NOT AUDITED, the vulnerability service cannot be reached" in done.stdout


def test_packages_unknown_to_the_service_are_reported_as_not_audited(capsys):
    """pip-audit gives a skip reason for a version that the index does not know."""
    import importlib.util

    spec = importlib.util.spec_from_file_location("audit", ROOT / ".ci" / "audit.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    assert module.judge("some.lock", [{"name": "sound", "skip_reason": "Dependency not found on PyPI"}]) == 0
    assert "NOT AUDITED, the service knows nothing of 1 of 1 packages: sound" in capsys.readouterr().out


def test_an_unreadable_lock_fails(audit, service):
    done = audit(service[0], "no lock at all !\n")
    assert done.returncode == 1 and "pip-audit failed" in done.stderr
