"""`make image-check`: build the CPU image without a container engine, and check what runs in it.

buildah (Debian's package, chroot isolation, as root) builds the image on a base from debootstrap. The image then runs
in its own namespaces, with only a loopback network, as its own user, from a read-only root file system with a volume
and a /tmp. Each line with a ✓ is a passed check.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SUITE = "bookworm"
BASE, IMAGE = "localhost/debian:bookworm-slim", "localhost/style-transfer-studio:cpu"
CERTIFICATES = Path("/usr/local/share/ca-certificates")  # of the host, for builds behind a proxy
PATIENCE = 120.0  # seconds, until the page answers


def main() -> None:
    os.environ.update(STORAGE_DRIVER="vfs", BUILDAH_ISOLATION="chroot")
    if sys.argv[1:] == ["look"]:
        look()
        return
    build()
    again = [sys.executable, str(Path(__file__).resolve()), "look"]
    subprocess.run(["unshare", "--net", "--mount", *again], check=True)


def build() -> None:
    if not output("buildah", "images", "--quiet", "--filter", f"reference={BASE}"):
        with tempfile.TemporaryDirectory() as folder:
            subprocess.run(["debootstrap", "--variant=minbase", SUITE, folder], check=True, stdout=subprocess.DEVNULL)
            container = output("buildah", "from", "scratch")
            output("buildah", "copy", "--quiet", container, folder, "/")
            output("buildah", "commit", "--quiet", "--rm", container, BASE)
    began = time.monotonic()
    command = ["buildah", "build", "--format", "docker", "--network", "host", "--target", "cpu", "--tag", IMAGE]
    command += ["--build-arg", f"BASE={BASE}", "--volume", f"{CERTIFICATES}:{CERTIFICATES}:ro", str(CHECKOUT)]
    with tempfile.TemporaryFile("w+") as log:
        if subprocess.run(command, stdout=log, stderr=subprocess.STDOUT).returncode:
            log.seek(0)
            sys.exit(f"The image could not be built:\n{log.read()[-4000:]}")
    size = output("buildah", "images", "--format", "{{.Size}}", IMAGE)
    seen(f"built in {time.monotonic() - began:.0f} s, {size}")


@dataclass(frozen=True)
class Container:
    """The root file system and the configuration of the image."""

    root: Path
    config: dict

    def command(self, arguments: Sequence[str]) -> list[str]:
        """Return a command that runs as in a container engine: with the image's user, environment, folder and PIDs."""
        uid = output("chroot", str(self.root), "id", "-u", self.config["User"])
        gid = output("chroot", str(self.root), "id", "-g", self.config["User"])
        enter = ["unshare", "--pid", "--fork", "--kill-child", f"--mount-proc={self.root}/proc"]
        enter += ["chroot", f"--userspec={uid}:{gid}", str(self.root), "env", "-i", *self.config["Env"]]
        return [*enter, "sh", "-c", 'cd "$0" && exec "$@"', self.config["WorkingDir"], *arguments]

    def run(self, *arguments: str) -> str:
        return output(*self.command(arguments))

    def nst(self, *arguments: str) -> str:
        return self.run(*self.config["Entrypoint"], *arguments)

    def healthy(self) -> bool:
        kind, *test = self.config["Healthcheck"]["Test"]
        assert kind == "CMD"
        return subprocess.run(self.command(test), capture_output=True).returncode == 0

    @contextmanager
    def served(self) -> Iterator[int]:
        """Start the image with its default command, wait until it is healthy, and yield the page's PID on the host."""
        began = time.monotonic()
        start = self.command([*self.config["Entrypoint"], *self.config["Cmd"]])
        outer = subprocess.Popen(start, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            while not self.healthy():
                assert outer.poll() is None and time.monotonic() - began < PATIENCE, "the page does not answer"
                time.sleep(0.2)
            seen(f"healthy {time.monotonic() - began:.1f} s after its start")
            page = int(output("pgrep", "--parent", str(outer.pid)))
            yield page
            os.kill(page, signal.SIGTERM)  # as a container engine does
            outer.wait(timeout=20)
        finally:
            outer.kill()


@contextmanager
def container() -> Iterator[Container]:
    """Mount the image read-only, with an empty volume."""
    name = output("buildah", "from", IMAGE)
    root, volume = Path(output("buildah", "mount", name)), Path(tempfile.mkdtemp())
    config = json.loads(output("buildah", "inspect", "--type", "image", IMAGE))["Docker"]["config"]
    owner = (root / "data").stat()
    os.chown(volume, owner.st_uid, owner.st_gid)
    try:
        for mount in (
            ["--bind", root, root],
            ["-o", "remount,bind,ro", root],
            ["--rbind", "/dev", root / "dev"],
            ["-t", "tmpfs", "tmpfs", root / "tmp"],
            ["--bind", volume, root / "data"],
        ):
            output("mount", *map(str, mount))
        yield Container(root, config)
    finally:
        output("umount", "--recursive", str(root))
        output("buildah", "rm", name)
        shutil.rmtree(volume)


def look() -> None:
    output("ip", "link", "set", "lo", "up")
    with container() as image:
        assert image.run("id", "-u") != "0"
        assert fails(image, "touch", "/opt/studio/x") and fails(image, "touch", "/x") and fails(image, "su", "-c", "id")
        assert image.run("cat", "/proc/net/dev").count(":") == 1
        seen(f"runs as {image.run('id', '-un')}, from a read-only root file system, with only a loopback network")

        found = {finding["what"]: finding for finding in json.loads(image.nst("doctor", "--json"))}
        assert not [finding for finding in found.values() if finding["state"] == "missing"]
        assert (
            found["VGG19 weights"]["state"] == found["ONNX model"]["state"] == found["instant preview"]["state"] == "ok"
        )
        seen(f"nst doctor: nothing is missing; {found['VGG19 weights']['found']}")

        image.nst("stylize", "chelsea", "glass", "-o", "/data/cat.png", "--preset", "draft", "--size", "128")
        seen("nst stylize paints a sample")

        with image.served() as page:
            environment = os.environ | {"NST_SERVED": "http://localhost:8501", "NST_SERVED_PROCESS": str(page)}
            way = "tests/dashboard/test_browser.py::test_a_run_is_started_watched_stopped_and_downloaded"
            subprocess.run([sys.executable, "-m", "pytest", "-q", way], cwd=CHECKOUT, env=environment, check=True)
            seen("the main workflow works in a browser")
        before = [run["id"] for run in json.loads(image.nst("runs", "--json"))]
        assert len(before) == 2
        with image.served():
            assert [run["id"] for run in json.loads(image.nst("runs", "--json"))] == before
            look_at_library(before)
            seen("after a restart with the same volume, both runs are in the library")


def look_at_library(runs: Sequence[str]) -> None:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        page = browser.new_page()
        page.goto("http://localhost:8501/library")
        for run in runs:
            page.locator(f"a[href*='{run}']").first.wait_for(timeout=60_000)
        browser.close()


def fails(image: Container, *arguments: str) -> bool:
    return subprocess.run(image.command(arguments), capture_output=True).returncode != 0


def output(*command: str) -> str:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)} failed ({done.returncode}):\n{(done.stderr or done.stdout)[-4000:]}")
    return done.stdout.strip()


def seen(what: str) -> None:
    print(f"✓ {what}", flush=True)


if __name__ == "__main__":
    main()
