"""The way through the page in a real browser: start a run, see it change, stop it, download the picture."""

import contextlib
import json
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

import numpy as np
import psutil
import pytest
from PIL import Image

from core import images, samples, settings

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_OPTIONS += ["--disable-background-networking", "--disable-component-update"]
CHECKOUT = Path(__file__).resolve().parent.parent.parent
PATIENCE = 120_000  # milliseconds; a busy machine is slow

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def server(model, tmp_path_factory):
    """The page as `nst dashboard` serves it: its address and its process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "nst", "dashboard", "--server.port", str(port), "--server.headless", "true"]
    environment = os.environ | {"NST_HOME": str(home), "NST_WORKER_IDLE": "1"}
    process = subprocess.Popen(command, cwd=CHECKOUT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    address = f"http://localhost:{port}"
    for _ in range(600):
        try:
            urllib.request.urlopen(f"{address}/_stcore/health", timeout=1)
            break
        except OSError:
            time.sleep(0.1)
    else:
        raise AssertionError("the page was not served within a minute")
    yield address, process
    workers = psutil.Process(process.pid).children(recursive=True)
    process.terminate()
    process.wait(timeout=20)
    for worker in workers:  # they would leave by themselves, once they have loaded TensorFlow
        with contextlib.suppress(psutil.NoSuchProcess):
            worker.kill()
    psutil.wait_procs(workers, timeout=20)


@pytest.fixture(scope="module")
def browser():
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=CHROMIUM_OPTIONS)
        yield browser
        browser.close()


@pytest.mark.timeout(600)
def test_the_preview_is_the_networks_own(server, network, browser):
    """Seen at once, of the two pictures that the page opens with, and painted in the page's own process."""
    address, process = server
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    shown = page.locator("[data-testid=stImage]", has_text="Instant preview").locator("img")
    shown.wait_for()
    served = page.request.get(f"{address}{shown.get_attribute('src').removeprefix(address)}").body()
    photo = images.resize(images.read_image(samples.PHOTOS[0].path()), 512)
    painting = images.read_image(samples.STYLES[0].path()).resize(
        (256, 256), Image.Resampling.LANCZOS, reducing_gap=3.0
    )
    same = served == images.encode_jpeg(network.paint(photo, np.asarray(painting)))
    assert same  # not the bytes themselves: their difference would take pytest minutes to write
    assert_without_tensorflow(process)
    page.close()


@pytest.mark.timeout(600)
def test_the_main_way_through(server, browser, tmp_path):
    address, process = server
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(address)

    page.get_by_role("button", name="Cup of coffee", exact=True).click()
    page.get_by_role("button", name="Stained glass", exact=True).click()
    page.get_by_role("spinbutton", name="Size (px)").fill("96")
    page.get_by_role("spinbutton", name="Size (px)").press("Enter")
    page.get_by_text("96 × 64 pixels").wait_for()
    page.get_by_role("spinbutton", name="Iterations").fill("5000")
    page.get_by_role("spinbutton", name="Iterations").press("Enter")
    page.get_by_text("5000 iterations").wait_for()
    page.get_by_role("button", name="Start", exact=True).click()

    curves = page.get_by_test_id("stVegaLiteChart")
    painted_image = page.locator("[data-testid=stImage]", has_text="Painted so far").locator("img")
    painted_image.wait_for()
    curves.wait_for()
    first_source, first_curves = painted_image.get_attribute("src"), curves.screenshot()
    page.wait_for_function(
        "source => [...document.querySelectorAll('[data-testid=stImage]')].some("
        "e => e.innerText.includes('Painted so far') && e.querySelector('img').getAttribute('src') !== source)",
        arg=first_source,
    )
    assert painted_image.get_attribute("src") != first_source
    deadline = time.monotonic() + PATIENCE / 1000
    while (now := curves.screenshot()) == first_curves and time.monotonic() < deadline:
        time.sleep(0.5)
    assert now != first_curves

    page.goto(address)  # a page opened anew, without the run in its address
    page.get_by_text("Iteration ").first.wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    page.get_by_text("Where the seconds went").wait_for()
    page.get_by_text("VGG19 weights: ").wait_for()

    result = tmp_path / "result.png"
    download.value.save_as(result)
    with Image.open(result) as picture:
        assert picture.size == (96, 64)
    asked = json.loads(images.read_metadata(result)["Settings"])
    assert settings.TransferSettings(**asked).iterations == 5000

    assert_without_tensorflow(process)
    page.close()


def assert_without_tensorflow(process):
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.is_file():  # Linux: what the page's process has really loaded
        assert "tensorflow" not in maps.read_text()


def test_the_page_fits_a_phone(server, browser):
    address, _ = server
    page = browser.new_page(viewport={"width": 390, "height": 844})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    page.get_by_role("button", name="New picture").or_(
        page.get_by_role("button", name="Start", exact=True)
    ).first.wait_for()
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    page.close()
