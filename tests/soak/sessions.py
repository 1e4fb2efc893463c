"""Twenty sessions watch a run while others wait: check that all see its progress and the server's memory is stable.

    python tests/soak/sessions.py [--minutes M]

Two sessions are pages in Chromium; the others speak Streamlit's protocol as the page does. Prints the memory of server
and worker and the longest time without progress in any session. Exits with 1 if that is more than 3 s, if the server's
memory grows by more than 100 MB after a third of the time, or if anything else fails.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path

import psutil
from playwright.async_api import async_playwright
from streamlit.proto.BackMsg_pb2 import BackMsg
from streamlit.proto.ForwardMsg_pb2 import ForwardMsg
from websockets.asyncio.client import ClientConnection, connect
from websockets.typing import Subprotocol

ROOT = Path(__file__).resolve().parents[2]
sys.path[:0] = [str(ROOT), str(ROOT / "tests")]

from soak.runs import WAIT, Held, home, new_run, worker

from core import paths
from core.jobs import control
from core.machine import hardware
from core.runs.run import Run
from core.settings import SETTINGS

PAGES, CLIENTS, QUEUED = 2, 18, 3
STALE = 3.0  # seconds; no session may wait longer for a change
WARM_UP = 15.0  # seconds after all sessions have seen progress
PRINTED = 6  # times, evenly spaced
CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
#: Calls `saw` with each text of the progress bar.
WATCH = """
let last = "";
new MutationObserver(() => {
  const text = document.querySelector("[data-testid=stProgress]")?.textContent ?? "";
  if (text !== last) window.saw(last = text);
}).observe(document, {subtree: true, childList: true, characterData: true});
"""


@dataclass
class Sight:
    """What a session saw of the run's progress."""

    name: str
    text: str = ""
    changed: float = 0.0  # time of the last change, by the monotonic clock
    changes: int = 0
    longest: float = 0.0  # seconds without a change

    def see(self, text: str) -> None:
        if text.startswith("Iteration ") and text != self.text:
            self.look()
            self.text, self.changed, self.changes = text, time.monotonic(), self.changes + 1

    def look(self) -> float:
        """Return the longest time without a change, including the current time."""
        self.longest = max(self.longest, time.monotonic() - self.changed)
        return self.longest

    def begin(self) -> None:
        self.changed, self.changes, self.longest = time.monotonic(), 0, 0.0


@dataclass
class Session:
    """A session that speaks Streamlit's protocol like the page in a browser, but caches no messages."""

    socket: ClientConnection
    query: str
    sight: Sight
    fail: Callable[[str], None]
    page: str = ""
    timers: dict[str, asyncio.Task[None]] = field(default_factory=dict)  # by the fragment that the timer runs again

    async def watch(self) -> None:
        await self._rerun()
        try:
            async for data in self.socket:
                assert isinstance(data, bytes)
                self._take(ForwardMsg.FromString(data))
            self.fail(f"{self.sight.name} was disconnected")
        finally:
            self._end(list(self.timers))

    def _take(self, message: ForwardMsg) -> None:
        match message.WhichOneof("type"):
            case "new_session":
                self.page = message.new_session.page_script_hash
                if not message.metadata.run.fragment_ids:  # the whole page: its fragments ask for new timers
                    self._end(list(self.timers))
            case "auto_rerun" if message.auto_rerun.fragment_id not in self.timers:
                asked = message.auto_rerun
                self.timers[asked.fragment_id] = asyncio.create_task(self._keep(asked.fragment_id, asked.interval))
            case "stop_auto_rerun":
                self._end(message.stop_auto_rerun.fragment_ids)
            case "delta":
                element = message.delta.new_element
                if element.HasField("progress"):
                    self.sight.see(element.progress.text)
                elif element.HasField("exception"):
                    self.fail(f"{self.sight.name} was shown {element.exception.type}")

    async def _keep(self, fragment: str, interval: float) -> None:
        """Run a fragment at each interval, even if the last run has not been answered."""
        due = time.monotonic()
        while True:
            due += interval
            await asyncio.sleep(max(0.0, due - time.monotonic()))
            await self._rerun(fragment)

    async def _rerun(self, fragment: str = "") -> None:
        message = BackMsg()
        state = message.rerun_script
        state.query_string, state.page_script_hash = self.query, self.page
        if fragment:
            state.fragment_id, state.is_auto_rerun = fragment, True
        await self.socket.send(message.SerializeToString())

    def _end(self, fragments: Iterable[str]) -> None:
        for fragment in fragments:
            if timer := self.timers.pop(fragment, None):
                timer.cancel()


def serve() -> tuple[str, psutil.Process]:
    """Start `nst dashboard`, which logs to `server.log` in the home; return its address and process."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "nst", "dashboard", "--server.port", str(port), "--server.headless", "true"]
    with _log().open("wb") as file:
        process = psutil.Popen(command, cwd=ROOT, stdout=file, stderr=subprocess.STDOUT)
    deadline = time.monotonic() + WAIT
    while time.monotonic() < deadline:
        try:
            urllib.request.urlopen(f"http://localhost:{port}/_stcore/health", timeout=1)
            return f"localhost:{port}", process
        except OSError:
            time.sleep(0.1)
    raise TimeoutError(_log().read_text())


def _log() -> Path:
    return paths.home() / "server.log"


async def watch(address: str, server: psutil.Process, run: Run, seconds: float) -> list[str]:
    """Let all sessions watch the run, print the results, and return the failures."""
    failures: list[str] = []
    query = f"run={run.id}"
    pages = [Sight(f"page {number + 1}") for number in range(PAGES)]
    clients = [Sight(f"session {number + 1}") for number in range(CLIENTS)]
    async with AsyncExitStack() as stack:
        playwright = await stack.enter_async_context(async_playwright())
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox", "--disable-gpu"])
        stack.push_async_callback(browser.close)
        for sight in pages:
            page = await browser.new_page()
            await page.expose_function("saw", sight.see)
            await page.add_init_script(WATCH)
            await page.goto(f"http://{address}/?{query}")
        watching = []
        for sight in clients:
            stream = connect(f"ws://{address}/_stcore/stream", subprotocols=[Subprotocol("streamlit")], max_size=None)
            connection = await stack.enter_async_context(stream)
            watching.append(asyncio.create_task(Session(connection, query, sight, failures.append).watch()))
        if blind := await _blind(pages + clients):
            failures.append(f"after {WAIT} s there was no progress in {', '.join(blind)}")
        else:
            await asyncio.sleep(WARM_UP)
            failures += await _measure(pages + clients, server, run, seconds)
        for task in watching:
            task.cancel()
        for ended in await asyncio.gather(*watching, return_exceptions=True):
            if isinstance(ended, Exception):
                failures.append(f"a session failed: {ended!r}")
    return failures


async def _blind(sights: list[Sight]) -> list[str]:
    """Return the sessions that see no progress after the longest wait."""
    deadline = time.monotonic() + WAIT
    while (blind := [sight.name for sight in sights if not sight.text]) and time.monotonic() < deadline:
        await asyncio.sleep(0.1)
    return blind


async def _measure(sights: list[Sight], server: psutil.Process, run: Run, seconds: float) -> list[str]:
    print(f"{'seconds':>8}{'iteration':>11}{'server, MB':>12}{'files':>7}{'worker, MB':>12}{'longest wait, s':>20}")
    for sight in sights:
        sight.begin()
    began, held = time.monotonic(), []
    for part in range(1, PRINTED + 1):
        await asyncio.sleep(began + seconds * part / PRINTED - time.monotonic())
        held.append(Held.by(server))
        painter = worker()
        painting = Held.by(painter).memory if painter else 0.0
        figures = f"{time.monotonic() - began:>8.0f}{run.metrics()['iteration'].max():>11}{held[-1].memory:>12.0f}"
        figures += f"{held[-1].files:>7}{painting:>12.0f}{max(sight.look() for sight in sights):>20.2f}"
        print(figures, flush=True)
    fewest = min(sight.changes for sight in sights)
    print(f"the slowest session saw a change every {seconds / max(1, fewest):.2f} s")
    failures = [f"{sight.name} saw no change for {sight.longest:.1f} s" for sight in sights if sight.longest > STALE]
    if (status := run.record().status) != "running":
        failures.append(f"the run was {status} before the end")
    third, end = held[PRINTED // 3 - 1], held[-1]
    if end.has_outgrown(third):
        failures.append(f"the server's memory grew from {third.memory:.0f} to {end.memory:.0f} MB")
    return failures


def main() -> int:
    options = argparse.ArgumentParser()
    options.add_argument("--minutes", type=float, default=30.0, help="how long the sessions watch")
    options.add_argument("--size", type=int, default=160, help="of the run, px; a smaller run may end too early")
    given = options.parse_args()
    print(f"{date.today()}, {hardware.processor()}, {os.cpu_count()} cores, {given.minutes:g} minutes")
    with home():
        run, *others = [
            new_run(2 * number, given.size, SETTINGS["iterations"].maximum, frame_every=100)
            for number in range(1 + QUEUED)
        ]
        address, server = serve()
        failures = asyncio.run(watch(address, server, run, given.minutes * 60))
        for waiting in others:
            control.cancel(waiting)
        control.stop(run)
        deadline = time.monotonic() + WAIT
        while run.record().unfinished and time.monotonic() < deadline:
            time.sleep(0.1)
        record = run.record()
        if record.status != "stopped" or record.steering:
            failures.append(f"the run was {record.status}, and steered: {record.steering}")
        failures += [line for line in _log().read_text().splitlines() if "failed" in line or "Traceback" in line]
    for failure in failures:
        print(f"FAILED {failure}")
    return 1 if failures else 0


if __name__ == "__main__":
    sys.exit(main())
