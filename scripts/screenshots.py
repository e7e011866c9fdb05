"""Photographs the page over the demo model: docs/images/page-*.webp, at a desktop's and a phone's size, light and dark.

    uv run python scripts/screenshots.py [--folder docs/images] [--url http://127.0.0.1:8892]

Needs Chromium and its driver. Without --url it serves the demo itself and makes one video, which takes a minute on two
cores.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import os
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from PIL import Image
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

DESKTOP, PHONE = (1280, 860, False), (390, 844, True)
WHOLE_FORM = (1280, 1330, False)
QUALITY = 80
"""Of WebP: text stays sharp, and a picture takes some 30 KB."""
MINUTES = 10


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, default=Path(__file__).parents[1] / "docs" / "images")
    parser.add_argument("--url", help="a server that runs already")
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    with contextlib.nullcontext(arguments.url) if arguments.url else _demo() as url, _chromium() as driver:
        photograph(driver, url, arguments.folder)


def photograph(driver: webdriver.Chrome, url: str, folder: Path) -> None:
    """First the filled form, then a finished video, then both on a phone, each light and dark."""
    _show(driver, WHOLE_FORM, dark=False)
    _open(driver, url)
    _fill(driver)
    _save(driver, folder / "page-form.webp")
    _show(driver, DESKTOP, dark=False)
    driver.find_element(By.ID, "submit").click()
    _wait(driver, "return document.querySelector('#stage.in_progress progress')?.value > 30")
    _save(driver, folder / "page-running.webp")
    _wait(driver, "return document.querySelector('#stage.completed video')?.readyState >= 2", MINUTES * 60)
    driver.execute_script("document.querySelector('#stage video').currentTime = 1.5")
    _wait(driver, "return !document.querySelector('#stage video').seeking")
    time.sleep(2)  # the player's spinner fades
    for name, size in (("desktop", DESKTOP), ("phone", PHONE)):
        for tone in ("light", "dark"):
            _show(driver, size, dark=tone == "dark")
            if size == PHONE:
                driver.execute_script("scrollTo(0, 0)")
                _save(driver, folder / f"page-{name}-{tone}.webp")
                driver.execute_script("document.getElementById('videos').scrollIntoView()")
                _save(driver, folder / f"page-{name}-video-{tone}.webp")
            else:
                _save(driver, folder / f"page-{name}-{tone}.webp")


@contextlib.contextmanager
def _demo() -> Iterator[str]:
    """A server of the demo on a free port; its URL."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "ltx_a2v", "serve", "--demo", "--port", "0", "--output-dir", folder]
        server = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env={**os.environ})
        assert server.stderr is not None
        try:
            for line in server.stderr:
                if match := re.search(r"listening on (http://\S+)", line):
                    yield match[1]
                    break
        finally:
            server.terminate()
            server.communicate(timeout=30)


@contextlib.contextmanager
def _chromium() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = shutil.which("chromium") or shutil.which("google-chrome") or ""
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--hide-scrollbars"):
        options.add_argument(flag)
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=shutil.which("chromedriver")))
    try:
        yield driver
    finally:
        driver.quit()


def _show(driver: webdriver.Chrome, size: tuple[int, int, bool], dark: bool) -> None:
    width, height, mobile = size
    metrics = {"width": width, "height": height, "deviceScaleFactor": 2 if mobile else 1, "mobile": mobile}
    driver.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)
    tone = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
    driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [tone]})


def _open(driver: webdriver.Chrome, url: str) -> None:
    driver.get(url)
    _wait(driver, "return document.body.dataset.ready === 'yes'")


def _fill(driver: webdriver.Chrome) -> None:
    _wait(driver, "return document.getElementById('machine-text').textContent.startsWith('Model')")
    driver.find_element(By.ID, "example").click()
    _wait(driver, "return !document.getElementById('cut').hidden && document.getElementById('fitted').textContent")
    time.sleep(1)  # the waveform and the estimate


def _wait(driver: webdriver.Chrome, script: str, seconds: float = 60) -> None:
    WebDriverWait(driver, seconds, 0.2).until(lambda found: found.execute_script(script))


def _save(driver: webdriver.Chrome, path: Path) -> None:
    time.sleep(0.5)
    with Image.open(io.BytesIO(driver.get_screenshot_as_png())) as picture:
        picture.convert("RGB").save(path, quality=QUALITY, method=6)
    sys.stderr.write(f"{path}: {path.stat().st_size / 1024:.0f} KiB\n")


if __name__ == "__main__":
    main()
