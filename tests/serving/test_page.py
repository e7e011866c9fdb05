"""The page in a real Chromium. Set LTX_A2V_SCREENSHOTS to a folder to look at it."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import wave
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.by import By
from selenium.webdriver.support.ui import WebDriverWait

from ltx_a2v.puppet.examples import PROMPT
from tests.serving.conftest import Server

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


class Page:
    def __init__(self, driver: webdriver.Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server
        self.open()

    def open(self) -> None:
        self.driver.get(self.server.base)
        self.until("return document.body.dataset.ready === 'yes'")

    def until(self, script: str, seconds: float = 15) -> Any:
        return WebDriverWait(self.driver, seconds, 0.05).until(lambda d: d.execute_script(script))

    def set(self, name: str, value: str) -> None:
        self.driver.execute_script(
            "const field = document.getElementById(arguments[0]); field.value = arguments[1];"
            "field.dispatchEvent(new Event('input')); field.dispatchEvent(new Event('change'));",
            name,
            value,
        )

    def text(self, selector: str) -> str:
        return self.driver.find_element(By.CSS_SELECTOR, selector).text

    def click(self, selector: str) -> None:
        element = self.driver.find_element(By.CSS_SELECTOR, selector)
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", element)
        element.click()

    def fill(self, folder: Path, prompt: str) -> None:
        self.driver.find_element(By.ID, "audio").send_keys(str(speech(folder / "speech.wav")))
        self.driver.find_element(By.ID, "image").send_keys(str(portrait(folder / "face.png")))
        self.until("return document.getElementById('fitted').textContent.includes('frames')")
        self.set("prompt", prompt)

    def photograph(self, name: str) -> None:
        if folder := os.environ.get("LTX_A2V_SCREENSHOTS"):
            self.driver.save_screenshot(f"{folder}/{name}.png")

    def outside_requests(self) -> list[str]:
        messages = [json.loads(entry["message"])["message"] for entry in self.driver.get_log("performance")]
        urls = [m["params"]["request"]["url"] for m in messages if m["method"] == "Network.requestWillBeSent"]
        return [url for url in urls if not url.startswith((self.server.base, "blob:", "data:"))]

    def complaints(self) -> list[str]:
        return [entry["message"] for entry in self.driver.get_log("browser") if entry["level"] == "SEVERE"]


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    for flag in (
        "--headless=new",
        "--no-sandbox",
        "--disable-dev-shm-usage",
        "--disable-background-networking",
        "--window-size=1280,1000",
        "--use-fake-device-for-media-stream",
        "--use-fake-ui-for-media-stream",
    ):
        options.add_argument(flag)
    options.set_capability("goog:loggingPrefs", {"performance": "ALL", "browser": "ALL"})
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.fixture
def page(browser: webdriver.Chrome, server: Server) -> Page:
    browser.set_window_size(1280, 1000)
    return Page(browser, server)


def test_a_video_from_two_files(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "A young woman speaks calmly to the camera. slow=0.04")
    page.until("return document.querySelector('input[value=portrait]').checked")
    page.until("return document.getElementById('fitted').textContent.startsWith('512 × 768')")
    assert page.text("#fitted") == "512 × 768 pixels, 3.04 s (73 frames)"
    page.set("length", "1")
    page.until("return document.getElementById('fitted').textContent.includes('25 frames')")
    page.set("seed", "77")
    page.photograph("filled")
    page.click("#submit")
    page.until("return document.querySelector('.job .state')?.textContent.includes('step')")
    page.until("return +document.querySelector('.job progress').value > 20")
    page.photograph("running")
    page.until("return document.querySelector('.job.completed video')")
    assert "512 × 768, 1.04 s, seed 77" in page.text(".job .facts")
    page.driver.execute_script("document.querySelector('.job video').play()")
    page.until("return document.querySelector('.job video').readyState >= 2")
    page.photograph("completed")
    page.until("return document.getElementById('machine-text').textContent.startsWith('Model loaded')")
    assert page.complaints() == []
    assert page.outside_requests() == []


def test_the_example_is_one_click_away(page: Page) -> None:
    assert not page.driver.find_element(By.ID, "demo").is_displayed()
    page.click("#example")
    page.until("return document.getElementById('fitted').textContent.includes('129 frames')")
    page.until("return document.querySelector('input[value=square]').checked")
    assert page.driver.execute_script("return document.getElementById('prompt').value") == PROMPT
    page.click("#submit")
    page.until(f"return document.querySelector('.job.completed .prompt')?.textContent === '{PROMPT}'")
    assert page.complaints() == []
    assert page.outside_requests() == []


def test_the_demo_says_what_it_is(browser: webdriver.Chrome, start: Callable[..., Server]) -> None:
    page = Page(browser, start("--demo", environment={"LTX_A2V_MODEL_DIR": ""}))
    assert page.text("#demo").endswith("miniature that animates drawn faces, not the 22B model.")
    page.click("#example")
    page.until("return document.getElementById('fitted').textContent.startsWith('256 × 256')")
    page.photograph("demo")


def test_the_same_again_after_a_reload(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "again please")
    page.set("seed", "123")
    page.set("steps", "3")
    page.click("#submit")
    page.until("return document.querySelector('.job.completed .prompt')?.textContent === 'again please'")
    page.open()
    assert page.text(".job .prompt") == "again please"
    page.click(".job .again")
    page.until("return document.getElementById('prompt').value === 'again please'")
    page.until("return document.getElementById('fitted').textContent.startsWith('512 × 768')")
    page.until("return document.getElementById('fitted').textContent.includes('73 frames')")
    before = len(page.driver.find_elements(By.CLASS_NAME, "job"))
    page.click("#submit")
    page.until(f"return document.querySelectorAll('.job').length === {before + 1}")
    first, second = page.server.client.get("/v1/videos?limit=2").json()["data"]
    assert first["settings"] == second["settings"]


def test_quick_takes_one_pass_and_offers_no_guidance(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "quick please")
    page.set("negative", "rain")
    label = page.driver.find_element(By.XPATH, "//*[@id='qualities']//label[contains(., 'quick')]")
    assert "best" in page.text("#qualities")
    page.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", label)
    label.click()
    assert page.driver.execute_script(
        "return ['steps', 'cfg', 'modality', 'negative'].every((id) => document.getElementById(id).disabled)"
    )
    page.photograph("quick")
    page.click("#submit")
    page.until("return document.querySelector('.job.completed .prompt')?.textContent === 'quick please'")
    assert "seed 42, quick" in page.text(".job .facts")
    (job,) = page.server.client.get("/v1/videos?limit=1").json()["data"]
    assert (job["settings"]["quality"], job["result"]["quality"]) == ("fast", "fast")
    assert job["settings"]["negative_prompt"] != "rain"
    page.open()
    assert (
        page.driver.execute_script("return document.querySelector('input[name=quality]:checked').value") == "standard"
    )
    page.click(".job .again")
    page.until("return document.querySelector('input[name=quality]:checked').value === 'fast'")
    assert page.complaints() == []


def test_cancel_and_delete(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "slow=0.3 for the cancel")
    page.click("#submit")
    page.until("return document.querySelector('.job .state')?.textContent.includes('step')")
    page.click(".job .cancel")
    page.until("return document.querySelector('.job.cancelled')")
    count = "return document.querySelectorAll('.job').length"
    before = page.driver.execute_script(count)
    page.click(".job.cancelled .delete")
    page.until(f"{count} === {before - 1}")


def test_errors_in_words(page: Page, tmp_path: Path) -> None:
    page.click("#submit")
    page.until("return !document.getElementById('problem').hidden")
    assert page.text("#problem") == "There is no voice yet: choose an audio file or record one."
    page.fill(tmp_path, "fail-at=stage_1")
    page.click("#submit")
    page.until("return document.querySelector('.job.failed .state')")
    assert page.text(".job.failed .state") == "Failed: The audio cannot be decoded: it holds no sound."
    (tmp_path / "text.wav").write_text("no sound")
    page.driver.find_element(By.ID, "audio").send_keys(str(tmp_path / "text.wav"))
    page.until("return document.getElementById('problem').textContent.includes('cannot read the sound of text.wav')")


def test_recording_from_the_microphone(page: Page) -> None:
    page.click("#record")
    page.until("return parseFloat(document.getElementById('record-time').textContent) > 0.8")
    page.click("#record")
    page.until("return document.getElementById('audio-hint').textContent.startsWith('recording')")
    page.until("return document.getElementById('fitted').textContent.includes('frames')")


def test_queue_positions_and_unload(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "slow=0.2 first")
    page.click("#submit")
    page.until("return document.querySelector('.job.in_progress')")
    page.set("prompt", "second")
    page.click("#submit")
    page.until("return document.querySelector('.job.queued .state')?.textContent === 'Next in the queue.'")
    page.photograph("queue")
    page.click(".job.in_progress .cancel")
    page.until("return document.querySelector('.job.completed .prompt')?.textContent === 'second'")
    page.until("return !document.getElementById('unload').hidden")
    page.click("#unload")
    page.until("return document.getElementById('machine-text').textContent.startsWith('Model not loaded')")


def test_history_survives_a_restart(browser: webdriver.Chrome, start: Callable[..., Server]) -> None:
    first = start()
    first.make("made before the restart", size="128x64", num_frames=9)
    first.stop()
    page = Page(browser, start())
    assert page.text(".job .prompt") == "made before the restart"
    assert page.driver.find_elements(By.CSS_SELECTOR, ".job.completed video")


def test_on_a_phone(page: Page, tmp_path: Path) -> None:
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": 375, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        page.open()
        page.photograph("phone")
        page.fill(tmp_path, "on a phone")
        page.click("#submit")
        page.until("return document.querySelector('.job.completed .prompt')?.textContent === 'on a phone'")
        width = page.driver.execute_script("return document.documentElement.scrollWidth")
        assert width <= 375
        page.driver.execute_script("document.querySelector('#jobs').scrollIntoView()")
        page.photograph("phone-history")
    finally:
        page.driver.execute_cdp_cmd("Emulation.clearDeviceMetricsOverride", {})


def speech(path: Path) -> Path:
    """Three seconds with syllables."""
    rate = 16000
    samples = (
        math.sin(2 * math.pi * 180 * n / rate) * 0.8 * max(0.0, math.sin(2 * math.pi * 2.3 * n / rate)) ** 2
        for n in range(rate * 3)
    )
    with wave.open(str(path), "wb") as sound:
        sound.setnchannels(1)
        sound.setsampwidth(2)
        sound.setframerate(rate)
        sound.writeframes(b"".join(struct.pack("<h", int(32767 * sample)) for sample in samples))
    return path


def portrait(path: Path) -> Path:
    picture = Image.new("RGB", (400, 600), "#c8b8a0")
    draw = ImageDraw.Draw(picture)
    draw.ellipse((110, 120, 290, 350), fill="#e9c9a8")
    draw.rectangle((60, 380, 340, 600), fill="#4a6a88")
    picture.save(path)
    return path
