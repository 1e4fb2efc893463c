"""The pages in a real browser: start, watch, steer, stop, download, compare, export and import runs."""

import contextlib
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
import zipfile
from pathlib import Path
from urllib.parse import parse_qs, urlparse

import numpy as np
import psutil
import pytest
from PIL import Image

from bench.measurements import Comparison, Measurement, Timing
from core import paths, settings
from core.images import codec, geometry
from core.jobs.workers import Readiness
from core.machine.processes import ProcessId
from core.samples.gallery import PHOTOS, STYLES

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
CHROMIUM_OPTIONS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-sync"]
CHROMIUM_OPTIONS += ["--disable-background-networking", "--disable-component-update"]
CHECKOUT = Path(__file__).resolve().parent.parent.parent
HOSTILE = '"><script>alert(1)</script>'
PATIENCE = 120_000  # ms; a busy machine is slow

pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium (Debian: apt install chromium)")


@pytest.fixture(scope="module")
def server(request, tmp_path_factory):
    """Serve the page, or use the page at `NST_SERVED` with the process `NST_SERVED_PROCESS`, as from a container."""
    if address := os.environ.get("NST_SERVED"):
        yield address, psutil.Process(int(os.environ["NST_SERVED_PROCESS"]))
        return
    request.getfixturevalue("model")
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    home = tmp_path_factory.mktemp("served")
    command = [sys.executable, "-m", "nst", "dashboard", "--server.port", str(port), "--server.headless", "true"]
    environment = os.environ | {"NST_HOME": str(home), "NST_WORKER_IDLE": "120"}
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
    for worker in workers:  # they would end only after loading TensorFlow
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
    """Compare the preview of the default pictures; the page's own process paints it."""
    address, process = server
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(address)
    shown = page.locator("[data-testid=stImage]", has_text="Instant preview").locator("img")
    shown.wait_for()
    served = page.request.get(f"{address}{shown.get_attribute('src').removeprefix(address)}").body()
    photo = geometry.resize(codec.read_image(PHOTOS[0].path()), 512)
    painting = codec.read_image(STYLES[0].path()).resize((256, 256), Image.Resampling.LANCZOS, reducing_gap=3.0)
    same = served == codec.encode_jpeg(network.paint(photo, np.asarray(painting)))
    assert same  # without the bytes: pytest would take minutes to show their difference
    assert_without_tensorflow(process)
    page.close()


@pytest.mark.timeout(600)
def test_a_run_is_started_watched_stopped_and_downloaded(server, browser, tmp_path):
    address, process = server
    page = browser.new_page(viewport={"width": 1280, "height": 1000})
    page.set_default_timeout(PATIENCE)
    page.goto(address)

    page.get_by_role("button", name="Cup of coffee", exact=True).click()
    page.get_by_role("button", name="Stained glass", exact=True).click()
    settled(page)
    page.get_by_role("spinbutton", name="Size (px)").fill("96")
    page.get_by_role("spinbutton", name="Size (px)").press("Enter")
    page.get_by_text("96 × 64 pixels").wait_for()
    settled(page)
    page.get_by_role("spinbutton", name="Iterations").fill("5000")
    page.get_by_role("spinbutton", name="Iterations").press("Enter")
    page.get_by_text("5000 iterations").wait_for()
    settled(page)
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

    page.goto(address)  # a new page, without the run in its URL
    page.get_by_text("Iteration ").first.wait_for()
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Download", exact=True).click()
    with page.expect_download() as download:
        page.get_by_role("button", name="Download PNG").click()
    page.get_by_text("Time per phase").wait_for()
    page.get_by_text("VGG19 weights: ").wait_for()

    result = tmp_path / "result.png"
    download.value.save_as(result)
    with Image.open(result) as picture:
        assert picture.size == (96, 64)
    asked = json.loads(codec.read_metadata(result)["Settings"])
    assert settings.TransferSettings(**asked).iterations == 5000

    assert_without_tensorflow(process)
    page.close()


def assert_without_tensorflow(process):
    maps = Path(f"/proc/{process.pid}/maps")
    if maps.is_file():  # on Linux: the libraries that the page's process has loaded
        assert "tensorflow" not in maps.read_text()


@pytest.fixture(scope="module")
def served(server, painted):
    """Copy finished runs and a measurement into the server's home."""
    _, process = server
    home = Path(psutil.Process(process.pid).environ()["NST_HOME"])
    for run in vars(painted).values():
        shutil.copytree(run.path, home / "runs" / run.id, dirs_exist_ok=True)
    ways = ("convolutions alone, bfloat16", "compiled, bfloat16", "eager, float32")
    steps = [Timing(way=way, size=size, seconds=[0.1, 0.2, 0.4]) for way in ways for size in (256, 512)]
    measured = Measurement.begin("tests")
    measured.comparisons.append(Comparison(title="One step", timings=steps))
    measured.save(home / "bench" / "20260101-000000.json")
    return painted, home


#: Streamlit's own requests when a page other than the first is opened directly; it repeats them at the root.
PROBES = re.compile(r"/\w+/_stcore/(health|host-config)")


@pytest.fixture
def opened(server, browser):
    """Return a function that opens pages; at the end, check that none has logged an error to the console."""
    address, process = server
    contexts, errors = [], []

    def note(message):
        if message.type == "error" and not PROBES.search(message.location.get("url", "")):
            errors.append(f"{message.text} ({message.location.get('url', '')})")

    def open_page(path="", width=1280, theme="light", wait=True):
        context = browser.new_context(viewport={"width": width, "height": 900}, color_scheme=theme)
        contexts.append(context)
        page = context.new_page()
        page.set_default_timeout(PATIENCE)
        page.on("console", note)
        page.on("pageerror", lambda error: errors.append(str(error)))
        page.goto(f"{address}/{path}")
        if wait:
            settled(page)
        return page

    yield open_page
    for context in contexts:
        context.close()
    assert not errors
    assert_without_tensorflow(process)


def settled(page):
    page.locator("h1").first.wait_for()
    page.wait_for_function(
        "() => document.querySelector('[data-testid=stApp]')?.dataset.testScriptState !== 'running'"
        " && !document.querySelector('[data-testid=stSkeleton]')"
    )


PAGES = ("stylize", "library", "compare", "timings")


def place(name, painted):
    """Return the path of a page with content."""
    return {
        "stylize": f"?run={painted.steered.id}",
        "library": "library?words=script",
        "compare": f"compare?runs={painted.done.id},{painted.steered.id}",
        "timings": "timings",
    }[name]


@pytest.mark.timeout(600)
def test_a_finished_run_is_downloaded_in_each_format(served, opened, tmp_path):
    painted, _ = served
    page = opened(f"?run={painted.done.id}")
    page.get_by_role("button", name="Download", exact=True).click()
    for label, kind in {"PNG": "PNG", "JPEG": "JPEG", "WebP": "WEBP", "TIFF, 16 bits": "TIFF"}.items():
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Download {label}").click()
        download.value.save_as(tmp_path / kind)
        with Image.open(tmp_path / kind) as picture:
            assert (picture.format, picture.size) == (kind, (64, 48))
    with page.expect_download() as download:
        page.get_by_role("button", name="Download the run (ZIP)").click()
    download.value.save_as(tmp_path / "run.zip")
    assert f"{painted.done.id}/run.json" in zipfile.ZipFile(tmp_path / "run.zip").namelist()


@pytest.mark.timeout(600)
def test_two_runs_are_chosen_compared_measured_and_reported(served, opened, browser, tmp_path):
    painted, home = served
    page = opened("library")
    for number, run in enumerate((painted.done, painted.steered), 1):
        page.locator(f".st-key-card-{run.id}").get_by_text("Compare", exact=True).click()
        page.get_by_text(f"{number} chosen").wait_for()
    page.get_by_role("link", name="Compare them").click()
    page.get_by_role("heading", name="Evaluated with the same settings").wait_for()
    assert painted.done.id in page.url and painted.steered.id in page.url
    page.get_by_text("Evaluating").first.wait_for()
    page.wait_for_function("() => !document.body.innerText.includes('Evaluating')")
    assert len(list((home / "cache" / "yardstick").glob("*.json"))) == 2
    assert page.locator("script", has_text="alert(1)").count() == 0
    with page.expect_download() as download:
        page.get_by_role("button", name="Report (HTML)").click()
    download.value.save_as(tmp_path / "report.html")
    page.go_back()
    page.get_by_role("heading", name="Library", exact=True).wait_for()

    context = browser.new_context(offline=True)
    report = context.new_page()
    asked = []
    report.on("request", lambda request: asked.append(request.url))
    report.goto((tmp_path / "report.html").as_uri())
    widths = report.evaluate("[...document.images].map(image => image.naturalWidth)")
    assert len(widths) >= 6 and min(widths) > 0
    assert not [url for url in asked if not url.startswith(("file:", "data:"))]
    context.close()


@pytest.mark.timeout(600)
def test_a_run_is_exported_deleted_restored_and_imported(served, opened, tmp_path):
    painted, _ = served
    name = painted.stopped.id
    page = opened("library")
    card = page.locator(f".st-key-card-{name}")

    def more():
        card.get_by_role("button").last.click()

    def delete():
        more()
        page.get_by_role("button", name="Delete …").click()
        page.get_by_role("dialog").get_by_role("button", name="Delete", exact=True).click()
        page.get_by_text("One run is deleted.").wait_for()
        card.wait_for(state="detached")

    more()
    with page.expect_download() as download:
        page.get_by_role("button", name="Export (ZIP)").click()
    download.value.save_as(tmp_path / "run.zip")
    page.keyboard.press("Escape")
    delete()
    page.get_by_role("button", name="Undo").click()
    card.wait_for()
    delete()
    page.get_by_role("button", name="Import a run").click()
    (tmp_path / "no.zip").write_bytes(b"no zip")
    page.locator("input[type=file]").set_input_files(tmp_path / "no.zip")
    page.get_by_text("no.zip is not a ZIP file, or is damaged.").wait_for()
    page.locator("input[type=file]").set_input_files(tmp_path / "run.zip")
    page.locator(f"[class*='st-key-card-{name}-']").wait_for()  # beside the deleted run, which can still be restored
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Undo").click()
    card.wait_for()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_fits_a_phone_and_reloads_unchanged(served, opened, name):
    painted, _ = served
    page = opened(place(name, painted), width=390)
    assert page.evaluate("document.documentElement.scrollWidth") <= 390
    assert page.get_by_text("None", exact=True).count() == 0  # a bare expression, as Streamlit would show it
    charts = page.get_by_test_id("stVegaLiteChart")
    for number in range(charts.count()):
        drawn = charts.nth(number).locator("canvas, svg").first
        drawn.wait_for()
        box = drawn.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= 390
    assert charts.count() == {"stylize": 2, "library": 0, "compare": 2, "timings": 2}[name]
    assert page.locator("script", has_text="alert(1)").count() == 0
    before = page.locator("[data-testid=stMain]").inner_text()
    page.reload()
    settled(page)
    evaluated = "Evaluated with the same settings"
    shown = {"stylize": HOSTILE, "library": HOSTILE, "compare": evaluated, "timings": "Measure this machine"}
    page.get_by_text(shown[name]).first.wait_for()
    assert shown[name] in before


@pytest.fixture
def getting_ready(served):
    """Keep the page in the preparation, in which it refreshes twice a second."""
    said = served[1] / "worker.json"
    before = said.read_bytes() if said.is_file() else b""
    loading = Readiness(writer=ProcessId.this_process(), message="Loading TensorFlow …")
    with paths.replacing(said) as file:
        file.write(loading.model_dump_json().encode())
    yield
    with paths.replacing(said) as file:
        file.write(before or loading.model_copy(update={"ready": True}).model_dump_json().encode())


def test_settings_survive_a_visit_to_another_page(served, getting_ready, opened):
    page = opened("?run=none", wait=False)
    page.get_by_text("Getting ready").wait_for()
    page.get_by_role("spinbutton", name="Size (px)").fill("320")
    page.get_by_role("spinbutton", name="Size (px)").press("Enter")
    page.get_by_text("320 × 320 pixels").wait_for()
    page.get_by_role("link", name="Library").click()
    page.get_by_role("heading", name="Library", exact=True).wait_for()
    settled(page)
    page.get_by_role("link", name="Stylize").click()
    page.get_by_text("320 × 320 pixels").wait_for()
    assert page.get_by_role("spinbutton", name="Size (px)").input_value() == "320"


@pytest.mark.timeout(600)
def test_a_part_marked_with_the_brush_stays_as_it_is(served, opened):
    home, page = served[1], opened()
    before = set((home / "runs").iterdir())
    page.get_by_role("button", name="Start", exact=True).wait_for()
    settled(page)
    page.locator("label", has_text="Leave a part of the photo as it is").click()
    paper = page.locator(".paper")
    paper.wait_for()
    settled(page)

    def stroke(*places):
        paper.hover()  # scrolls to it, and waits if the page draws it anew
        box = paper.bounding_box()  # the elements above may have grown
        x, y = places[0]
        page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"])
        page.mouse.down()
        for x, y in places[1:]:
            page.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=5)
        page.mouse.up()
        settled(page)  # the page may redraw earlier strokes

    def wait_until_marked(x, y, marked=True):
        opacity = (
            "(canvas, [x, y]) => canvas.getContext('2d')"
            ".getImageData(x * canvas.width, y * canvas.height, 1, 1).data[3]"
        )
        reached(lambda: (paper.locator("canvas").evaluate(opacity, [x, y]) > 0) == marked)

    page.get_by_text("Nothing is marked yet").wait_for()
    for _ in range(2):
        stroke((0.2, 0.2), (0.2, 0.8))
        wait_until_marked(0.2, 0.5)
    stroke((0.8, 0.2), (0.8, 0.8))
    wait_until_marked(0.8, 0.5)
    page.get_by_role("button", name="Undo", exact=True).click()
    wait_until_marked(0.8, 0.5, marked=False)
    settled(page)
    page.get_by_role("button", name="Erase", exact=True).click()
    settled(page)
    stroke((0.2, 0.5), (0.21, 0.5))
    wait_until_marked(0.2, 0.5, marked=False)
    wait_until_marked(0.8, 0.5, marked=False)
    page.get_by_text("Nothing is marked yet").wait_for(state="detached")
    settled(page)
    page.get_by_role("spinbutton", name="Size (px)").fill("96")
    page.get_by_role("spinbutton", name="Size (px)").press("Enter")
    page.get_by_text("96 × 96 pixels").wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.get_by_text("Photo, partly left as it is").wait_for()
    (made,) = set((home / "runs").iterdir()) - before
    with Image.open(made / "kept.png") as kept:
        grey = np.asarray(kept)
    height, width = grey.shape
    assert grey[int(0.3 * height), int(0.2 * width)] == 255 == grey[int(0.75 * height), int(0.2 * width)]
    assert grey[height // 2, int(0.2 * width)] == 0  # erased
    assert grey[:, int(0.6 * width) :].max() == 0  # undone
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Start again from this").or_(page.get_by_text("Stopped")).first.wait_for()


@pytest.mark.timeout(600)
def test_a_finger_draws_on_a_phone(served, browser, server):
    context = browser.new_context(viewport={"width": 390, "height": 844}, has_touch=True, is_mobile=True)
    page = context.new_page()
    page.set_default_timeout(PATIENCE)
    page.goto(server[0])
    page.get_by_role("button", name="Start", exact=True).wait_for()
    settled(page)
    page.locator("label", has_text="Only in a part of the photo").click()
    paper = page.locator(".paper")
    paper.wait_for()
    settled(page)
    nothing = page.get_by_text("Nothing is marked yet")
    nothing.first.wait_for()
    settled(page)
    assert nothing.count() == 1
    assert page.get_by_role("button", name="Clear", exact=True).is_disabled()
    paper.tap()
    nothing.wait_for(state="detached")
    page.get_by_role("button", name="Clear", exact=True).tap()
    nothing.wait_for()
    context.close()


@pytest.mark.timeout(600)
def test_a_run_is_steered_stopped_and_continued(server, opened):
    _, process = server
    home = Path(psutil.Process(process.pid).environ()["NST_HOME"])
    page = opened("?run=none", wait=False)  # during the preparation, the page refreshes all the time
    page.get_by_text("Iterations").or_(page.get_by_role("button", name="New picture")).first.wait_for()
    if page.get_by_role("button", name="New picture").count():
        page.get_by_role("button", name="New picture").click()
    for label, value in (("Size (px)", "64"), ("Iterations", "9000")):
        page.get_by_role("spinbutton", name=label).fill(value)
        page.get_by_role("spinbutton", name=label).press("Enter")
    page.get_by_text("9000 iterations").wait_for()
    page.get_by_role("button", name="Start", exact=True).click()
    page.wait_for_url(re.compile(r"run=\d"))
    page.get_by_text(re.compile(r"^Iteration \d")).wait_for()
    record = home / "runs" / parse_qs(urlparse(page.url).query)["run"][0] / "run.json"

    page.get_by_text("Steer", exact=True).click()
    page.get_by_role("slider", name="Style in").first.press("ArrowRight")
    reached(lambda: json.loads(record.read_text())["steering"])
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Continue").click()
    first = json.loads(record.read_text())["iteration"]
    page.get_by_role("button", name="Go on painting").click()
    page.get_by_role("button", name="Stop", exact=True).wait_for()
    reached(lambda: int((record.parent / "metrics.csv").read_text().splitlines()[-1].split(",")[0]) > first)
    page.get_by_role("button", name="Stop", exact=True).click()
    page.get_by_role("button", name="Continue").wait_for()
    assert json.loads(record.read_text())["iteration"] > first


def reached(condition):
    deadline = time.monotonic() + PATIENCE / 1000
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.2)


#: The dark theme's primary colour: white text on it is legible, but Streamlit also writes a row's selected item in it.
CHOSEN_IN_THE_DARK = "foreground color: #b9562c"
#: axe's rules that Streamlit itself breaks, with the reason; other violations are ours.
STREAMLITS_OWN = {
    "presentation-role-conflict": "the drop zone of a file uploader is role=presentation, and has a label",
    "landmark-unique": "each drop zone is a section, by the label of its uploader",
}


@pytest.mark.timeout(600)
@pytest.mark.parametrize("theme", ["light", "dark"])
@pytest.mark.parametrize("name", [*PAGES, "start"])
def test_a_page_is_accessible(served, opened, name, theme):
    from axe_playwright_python.sync_playwright import Axe

    painted, _ = served
    page = opened("?run=none" if name == "start" else place(name, painted), theme=theme)
    page.wait_for_timeout(1000)  # until elements have faded in
    found = Axe().run(page).response["violations"]
    ours = [
        f"{rule['id']}: {node['html'][:300]} {node['failureSummary']}"
        for rule in found
        if rule["id"] not in STREAMLITS_OWN
        for node in rule["nodes"]
        if CHOSEN_IN_THE_DARK not in node["failureSummary"]
    ]
    assert not ours, "\n".join(ours)
