"""A real login: a browser, the served page and an OpenID Connect provider."""

import io
import json
import secrets
import shutil
import time
import zipfile
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread
from types import SimpleNamespace
from urllib.parse import parse_qs, urlencode, urlparse

import psutil
import pytest
from joserfc import jwt
from joserfc.jwk import RSAKey

from core.runs.run import Run
from export.report import bundle
from export.report.page import html

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
PATIENCE = 120_000  # ms; a busy machine is slow

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)")


@pytest.fixture
def provider():
    """Serve a provider that logs everyone in as `person`; `handed_out` lists its secrets."""
    key = RSAKey.generate_key(2048, {"kid": "1"})
    here = SimpleNamespace(person="ada", nonce="", handed_out=[])

    def token(nonce):
        now = int(time.time())
        claims = {"iss": here.address, "sub": here.person, "aud": "studio", "nonce": nonce, "name": here.person.title()}
        return jwt.encode({"alg": "RS256", "kid": "1"}, claims | {"iat": now, "exp": now + 600}, key)

    class Answer(BaseHTTPRequestHandler):
        def do_GET(self):
            asked = urlparse(self.path)
            query = {name: values[0] for name, values in parse_qs(asked.query).items()}
            if asked.path == "/authorize":
                here.nonce, code = query["nonce"], secrets.token_hex(16)
                here.handed_out.append(code)
                self.send_response(302)
                self.send_header(
                    "Location", f"{query['redirect_uri']}?{urlencode({'code': code, 'state': query['state']})}"
                )
                self.end_headers()
            elif asked.path == "/keys":
                self.tell({"keys": [key.as_dict(private=False)]})
            else:
                places = {"authorization": "authorize", "token": "token"}
                self.tell(
                    {
                        "issuer": here.address,
                        "jwks_uri": f"{here.address}/keys",
                        "id_token_signing_alg_values_supported": ["RS256"],
                        **{f"{name}_endpoint": f"{here.address}/{path}" for name, path in places.items()},
                    }
                )

        def do_POST(self):
            self.rfile.read(int(self.headers["Content-Length"]))
            given = {"access_token": secrets.token_hex(16), "id_token": token(here.nonce)}
            here.handed_out += given.values()
            self.tell({"token_type": "Bearer", "expires_in": 600, **given})

        def tell(self, what):
            self.send_response(200)
            self.send_header("Content-Type", "application/json")
            self.end_headers()
            self.wfile.write(json.dumps(what).encode())

        def log_message(self, *arguments):
            pass

    server = ThreadingHTTPServer(("localhost", 0), Answer)
    here.address = f"http://localhost:{server.server_port}"
    Thread(target=server.serve_forever, daemon=True).start()
    yield here
    server.shutdown()
    server.server_close()


@pytest.fixture
def studio(provider, serve, free_port, painted, tmp_path):
    """Serve the page with this login and a run of Bob's."""
    port = free_port()
    kept = SimpleNamespace(cookie=secrets.token_hex(32), client=secrets.token_hex(16))
    settings = tmp_path / "secrets.toml"
    settings.write_text(
        f"""[auth]
redirect_uri = "http://localhost:{port}/oauth2callback"
cookie_secret = "{kept.cookie}"
client_id = "studio"
client_secret = "{kept.client}"
server_metadata_url = "{provider.address}/.well-known/openid-configuration"
"""
    )
    home = tmp_path / "home"
    shutil.copytree(painted.done.path, home / "runs" / painted.done.id)
    bobs = Run(home / "runs" / painted.done.id)
    bobs.change(owner=f"{provider.address} bob")
    environment = {"STREAMLIT_SECRETS_FILES": str(settings), "NST_LOG": "json", "NST_WORKER_IDLE": "1"}
    with serve(home, port, **environment) as (_, process):
        yield SimpleNamespace(address=f"http://localhost:{port}", home=home, secrets=kept, bobs=bobs)
        workers = psutil.Process(process.pid).children(recursive=True)
    for worker in workers:
        with suppress(psutil.NoSuchProcess):  # it may have ended by itself
            worker.kill()
    psutil.wait_procs(workers, timeout=20)


@pytest.fixture
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        opened = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        yield opened
        opened.close()


@pytest.mark.timeout(600)
def test_people_log_in_and_start_runs_and_no_secret_is_written(studio, provider, browser, model):
    def logged_in(person, path=""):
        provider.person = person
        page = browser.new_context().new_page()
        page.set_default_timeout(PATIENCE)
        page.goto(f"{studio.address}/{path}")
        page.get_by_role("button", name="Log in").click()
        page.get_by_text(person.title(), exact=True).wait_for()
        return page

    page = logged_in("ada")
    page.goto(f"{studio.address}/?run={studio.bobs.id}")
    page.get_by_text("There is no run").wait_for()
    page.get_by_role("spinbutton", name="Size (px)").fill("64")
    page.get_by_role("spinbutton", name="Size (px)").press("Enter")
    page.get_by_text("64 × 64 pixels").wait_for()
    page.get_by_role("spinbutton", name="Iterations").fill("5000")
    page.get_by_role("spinbutton", name="Iterations").press("Enter")
    page.get_by_text(", 5000 iterations").wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Same settings, other picture").wait_for()
    mine = Run(studio.home / "runs" / parse_qs(urlparse(page.url).query)["run"][0])
    assert (mine.record().status, mine.record().owner) == ("stopped", f"{provider.address} ada")
    cookies = page.context.cookies()

    other = logged_in("bob", "library")
    other.goto(f"{studio.address}/library")
    other.locator(f".st-key-card-{studio.bobs.id}").wait_for()
    assert other.locator(f".st-key-card-{mine.id}").count() == 0
    other.get_by_role("button", name="Log out").click()
    other.get_by_role("button", name="Log in").wait_for()

    bundle.write_zip(packed := io.BytesIO(), [mine, studio.bobs], {}, measured_by="none", timings={})
    zipfile.ZipFile(packed).extractall(studio.home / "report")
    (studio.home / "report.html").write_text(html([mine, studio.bobs], {}, measured_by="none", timings={}))
    assert len(provider.handed_out) == 6  # a code and two tokens each
    hidden = [*vars(studio.secrets).values(), *provider.handed_out]
    hidden += [cookie["value"] for cookie in cookies if len(cookie["value"]) > 20]
    assert len(hidden) >= 10
    files = [path for path in studio.home.rglob("*") if path.is_file()]
    assert {"page.log", "worker.log", "run.json", "report.html"} <= {path.name for path in files}
    left = {(secret, path.name) for path in files for secret in hidden if secret.encode() in path.read_bytes()}
    assert left == set()
    told = [line for line in Path(studio.home / "page.log").read_text().splitlines() if line.startswith("{")]
    assert [json.loads(line)["run"] for line in told if json.loads(line)["event"] == "run queued"] == [mine.id]
