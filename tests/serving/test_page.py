"""The page in a real Chromium. Set LTX_A2V_SCREENSHOTS to a folder to look at it."""

from __future__ import annotations

import json
import math
import os
import shutil
import struct
import wave
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageDraw
from selenium import webdriver
from selenium.webdriver.common.action_chains import ActionChains
from selenium.webdriver.common.by import By
from selenium.webdriver.common.keys import Keys
from selenium.webdriver.support.ui import WebDriverWait

import ltx_a2v
from ltx_a2v.prompts.templates import styled
from ltx_a2v.puppet.examples import PROMPT
from tests.marks.videos import write_marked
from tests.serving.conftest import Server, wait_for

CHROMIUM = shutil.which("chromium") or shutil.which("google-chrome")
DRIVER = shutil.which("chromedriver")
AXE = Path(find_spec("axe_core_python").origin).with_name("axe.min.js")  # type: ignore[union-attr, arg-type]

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]


class Page:
    def __init__(self, driver: webdriver.Chrome, server: Server) -> None:
        self.driver = driver
        self.server = server
        for kind in ("browser", "performance"):
            driver.get_log(kind)  # of the test before
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
        self.until("return / [0-9.]+ s[.]$/.test(document.getElementById('fitted').textContent)")
        self.until("return !document.getElementById('cut').hidden")
        self.set("prompt", prompt)

    def choose(self, name: str, value: str) -> None:
        radio = self.driver.find_element(By.CSS_SELECTOR, f"input[name={name}][value={value}]")
        self.driver.execute_script("arguments[0].scrollIntoView({block: 'center'})", radio)
        radio.click()

    def chosen(self, name: str) -> str:
        return str(self.driver.find_element(By.CSS_SELECTOR, f"input[name={name}]:checked").get_attribute("value"))

    def make(self, prompt: str, count: int) -> None:
        """Press the button and wait for the video; `count` with that prompt are there afterwards."""
        self.click("#submit")
        self.until(
            f"return [...document.querySelectorAll('.job.completed .name')]"
            f".filter((name) => name.textContent === '{prompt}').length === {count}"
        )

    def findings(self) -> list[str]:
        """What axe-core finds that is serious or worse."""
        self.driver.execute_script(AXE.read_text())
        found = self.driver.execute_async_script("axe.run().then(arguments[arguments.length - 1])")
        serious = [one for one in found["violations"] if one["impact"] in ("serious", "critical")]
        return [f"{one['id']}: {node['html'][:120]}" for one in serious for node in one["nodes"]]

    def width(self) -> int:
        return int(self.driver.execute_script("return document.documentElement.scrollWidth"))

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
    assert page.text("#fitted") == "512 × 768 pixels, 3.0 s."
    page.set("length", "1")
    page.until("return document.getElementById('fitted').textContent.includes('1.0 s')")
    page.photograph("filled")
    page.click("#submit")
    page.until("return document.querySelector('#stage .state').textContent.includes('step')")
    page.until("return +document.querySelector('#stage progress').value > 20")
    page.until("return document.querySelector('#screen img')?.naturalWidth === 400"), "its picture"
    page.until("return document.querySelector('#screen .sketch')?.naturalWidth === 48")
    page.until("return document.querySelector('.job.in_progress .thumb img')?.naturalWidth === 400")
    page.photograph("running")
    page.until("return document.querySelector('#stage.completed video')")
    assert not page.driver.find_elements(By.CLASS_NAME, "sketch")
    assert page.text("#stage .facts").startswith("512 × 768 · 1.0 s · seed ")
    page.driver.execute_script("document.querySelector('#stage video').play()")
    page.until("return document.querySelector('#stage video').readyState >= 2")
    page.photograph("completed")
    page.until("return document.getElementById('machine-text').textContent.startsWith('Model loaded')")
    assert page.complaints() == []
    assert page.outside_requests() == []


def test_the_example_is_one_click_away(page: Page) -> None:
    assert not page.driver.find_element(By.ID, "demo").is_displayed()
    page.click("#example")
    page.until("return document.getElementById('fitted').textContent.includes('5.7 s')")
    page.until("return document.querySelector('input[value=square]').checked")
    assert page.driver.execute_script("return document.getElementById('prompt').value") == PROMPT
    page.click("#submit")
    page.until(f"return document.querySelector('#stage.completed .prompt')?.textContent === '{PROMPT}'")
    assert page.complaints() == []
    assert page.outside_requests() == []


def test_the_demo_says_what_it_is(browser: webdriver.Chrome, start: Callable[..., Server]) -> None:
    page = Page(browser, start("--demo", environment={"LTX_A2V_MODEL_DIR": ""}))
    assert page.text("#demo").endswith("miniature that animates drawn faces, not the 22B model.")
    page.click("#example")
    page.until("return document.getElementById('fitted').textContent.startsWith('256 × 256')")
    page.photograph("demo")


def test_a_style_is_shown_before_it_is_used(page: Page, tmp_path: Path) -> None:
    assert page.text("#final-prompt") == ""
    page.fill(tmp_path, "a man of $& speaks")  # text that a replacement could take for a pattern
    page.set("style", "stage")
    shown = page.text("#final-prompt").removeprefix("Becomes: ")
    assert shown == styled("a man of $& speaks", "stage")
    assert not page.driver.find_element(By.ID, "enhance").is_displayed(), "there is nothing to enhance with"
    page.click("#style")
    page.photograph("style")
    page.make("a man of $& speaks", 1)
    (job,) = [
        job for job in page.server.client.get("/v1/videos").json()["data"] if job["prompt"] == "a man of $& speaks"
    ]
    assert job["settings"]["prompt_style"] == "stage"
    page.set("style", "none")
    page.click("#about .again")
    page.until("return document.getElementById('style').value === 'stage'")


def test_product_version_and_help(page: Page) -> None:
    assert page.text("h1").startswith("ltx-a2v")
    assert page.text("#version") == f"ltx-a2v {ltx_a2v.__version__}"
    assert page.text("#model") == "ltx-2.3-fake"
    page.click("nav a[href='/static/help.html']")
    page.until("return document.title.startsWith('Help')")
    assert page.complaints() == []


def test_the_preview_shows_how_the_picture_is_cut(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "a picture that is cut")  # of 400x600, in a video of 512x768
    page.until("return document.getElementById('cut').textContent === 'All of the picture is used.'")
    page.choose("orientation", "landscape")  # 768x512 of 400x600: 267 of 600 rows
    page.until("return document.getElementById('cut').textContent === '56 % is cut off, top and bottom.'")
    shares = page.driver.execute_script(
        "const [kept, all] = ['kept', 'image-preview']"
        ".map((id) => document.getElementById(id).getBoundingClientRect());"
        "return [kept.width / all.width, kept.height / all.height, (kept.top - all.top) / all.height]"
    )
    assert shares == pytest.approx([1.0, 0.444, 0.278], abs=0.02)
    page.photograph("cut")


def test_each_video_has_another_seed_until_one_is_kept(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "seeds")
    for count in (1, 2):
        page.make("seeds", count)
    jobs = page.server.client.get("/v1/videos?limit=2").json()["data"]
    assert jobs[0]["seed"] != jobs[1]["seed"]
    page.driver.execute_script("document.getElementById('details').open = true")
    page.choose("seeding", "same")
    page.set("seed", "77")
    page.make("seeds", 3)
    assert page.server.client.get("/v1/videos?limit=1").json()["data"][0]["seed"] == 77


def test_the_line_before_the_button_says_time_and_memory(
    browser: webdriver.Chrome, start: Callable[..., Server], tmp_path: Path
) -> None:
    server = start("--max-pixels", str(4096 * 4096))
    wait_for(lambda: server.worker_state() == "standby")
    page = Page(browser, server)
    page.fill(tmp_path, "how long")
    page.until("return document.getElementById('estimate').textContent.includes('memory for the model')")
    assert page.text("#estimate").startswith("Time unknown before a first video, ")
    page.make("how long", 1)
    page.until("return document.getElementById('estimate').textContent.startsWith('About 1 s to make')")


def test_the_same_again_after_a_reload(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "again please")
    page.choose("orientation", "landscape")
    page.set("steps", "3")
    page.click("#submit")
    page.until("return document.querySelector('#stage.completed .prompt')?.textContent === 'again please'")
    page.open()
    assert page.text("#stage .prompt") == "again please", "the newest is shown"
    page.click("#stage .again")
    page.until("return document.getElementById('prompt').value === 'again please'")
    page.until("return document.getElementById('fitted').textContent.startsWith('768 × 512')")
    page.until("return document.getElementById('fitted').textContent.includes('3.0 s')")
    assert page.chosen("orientation") == "landscape"
    assert page.chosen("preset") == "standard"
    assert page.chosen("seeding") == "same"
    before = len(page.driver.find_elements(By.CLASS_NAME, "job"))
    page.click("#submit")
    page.until(f"return document.querySelectorAll('.job').length === {before + 1}")
    first, second = page.server.client.get("/v1/videos?limit=2").json()["data"]
    assert first["settings"] == second["settings"]


def test_a_made_video_gives_its_settings(page: Page, tmp_path: Path) -> None:
    video = write_marked(
        tmp_path / "earlier.mp4",
        **{"seed": 5, "width": 768, "height": 512, "num_inference_steps": 7, "visible_label": "Made by a test"},
        guidance={"cfg": 2.5},
    )
    page.fill(tmp_path, "like an earlier one")
    page.driver.execute_script("document.getElementById('details').open = true")
    page.driver.find_element(By.ID, "like").send_keys(str(video))
    page.until("return document.getElementById('like-said').textContent.startsWith('The form has its settings.')")
    page.until("return document.getElementById('fitted').textContent.startsWith('768 × 512')")
    assert page.chosen("seeding") == "same"
    assert page.text("#label-text") == "Show “Made by a test” in the picture"
    page.photograph("like")
    assert page.findings() == []
    page.make("like an earlier one", 1)
    (job,) = page.server.client.get("/v1/videos?limit=1").json()["data"]
    settings = job["settings"]
    assert (settings["seed"], settings["num_inference_steps"], settings["guidance"]["cfg"]) == (5, 7, 2.5)
    assert settings["visible_label"] == "Made by a test"
    assert page.text("#stage .marked").startswith("This video is marked as made by AI.")
    page.driver.find_element(By.ID, "like").send_keys(str(tmp_path / "face.png"))
    page.until("return document.getElementById('like-message').textContent === 'The file is not a video.'")


def test_quick_takes_one_pass_and_offers_no_guidance(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "quick please")
    page.set("negative", "rain")
    assert "best" in page.text("#qualities")
    page.choose("quality", "fast")
    assert page.driver.execute_script(
        "return ['steps', 'cfg', 'modality', 'negative'].every((id) => document.getElementById(id).disabled)"
    )
    page.photograph("quick")
    page.click("#submit")
    page.until("return document.querySelector('#stage.completed .prompt')?.textContent === 'quick please'")
    assert " · quick · seed" in page.text("#stage .facts")
    (job,) = page.server.client.get("/v1/videos?limit=1").json()["data"]
    assert (job["settings"]["quality"], job["result"]["quality"]) == ("fast", "fast")
    assert job["settings"]["negative_prompt"] != "rain"
    page.open()
    assert page.chosen("quality") == "standard"
    page.click("#stage .again")
    page.until("return document.querySelector('input[name=quality]:checked').value === 'fast'")
    assert page.complaints() == []


def test_a_thumbnail_brings_its_video_to_the_stage(page: Page) -> None:
    for prompt in ("the first one", "the second one"):
        page.server.make(prompt, size="128x64", num_frames=9)
    page.open()
    assert page.text("#stage .prompt") == "the second one"
    page.click(".job:nth-child(2) button")
    assert page.text("#stage .prompt") == "the first one"
    assert page.driver.find_element(By.CSS_SELECTOR, ".job:nth-child(2) button").get_attribute("aria-current") == "true"
    page.until("return document.querySelector('.job:nth-child(2) img')?.naturalWidth > 0")


def test_cancel_and_delete(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "slow=0.3 for the cancel")
    page.click("#submit")
    page.until("return document.querySelector('#stage .state').textContent.includes('step')")
    assert not page.driver.find_element(By.CSS_SELECTOR, "#stage .again").is_displayed(), "not of a running job"
    page.click("#stage .cancel")
    page.until("return document.querySelector('#stage.cancelled')")
    count = "return document.querySelectorAll('.job').length"
    before = page.driver.execute_script(count)
    page.click("#stage .delete")
    page.until(f"{count} === {before - 1}")
    assert page.driver.execute_script("return document.activeElement !== document.body"), "the focus is kept"


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("prompt", " ", "Describe the video: who speaks, where, and how."),
        ("steps", "0", "Steps must be a whole number from 1 to 1000."),
        ("cfg", "101", "Follow the description must be a number from 0 to 100."),
    ],
)
def test_a_mistake_is_told_at_its_field(page: Page, tmp_path: Path, field: str, value: str, message: str) -> None:
    page.fill(tmp_path, "a mistake")
    page.set(field, value)
    page.click("#submit")
    page.until(f"return document.getElementById('{field}-message').textContent")
    assert page.text(f"#{field}-message").endswith(message)
    assert page.driver.execute_script("return document.activeElement.id") == field
    assert page.driver.find_element(By.ID, field).get_attribute("aria-invalid") == "true"
    assert page.driver.find_element(By.ID, "submit").is_displayed()


def test_the_server_s_refusal_is_told_at_its_field_in_the_page_s_words(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "half a picture")
    noise = Image.effect_noise((64, 64), 80)
    noise.save(tmp_path / "half.jpg")
    content = (tmp_path / "half.jpg").read_bytes()
    (tmp_path / "half.jpg").write_bytes(content[: len(content) // 2])  # browsers show what there is
    page.driver.find_element(By.ID, "image").send_keys(str(tmp_path / "half.jpg"))
    page.until("return document.getElementById('image-hint').textContent.startsWith('half.jpg')")
    page.click("#submit")
    page.until("return document.getElementById('image-message').textContent")
    assert "The image is damaged" in page.text("#image-message")
    worded = page.driver.execute_async_script(
        "const done = arguments[0];"
        "import('/static/messages.js').then(({ inPageWords }) => done(inPageWords("
        "{ message: 'num_inference_steps 0 is too small; reduce num_frames.', param: 'num_inference_steps' })))"
    )
    assert worded == "Steps 0 is too small; reduce Length."


def test_errors_in_words(page: Page, tmp_path: Path) -> None:
    page.click("#submit")
    page.until("return document.getElementById('audio-message').textContent")
    assert page.text("#audio-message").endswith("There is no voice yet: choose a file or record one.")
    page.fill(tmp_path, "fail-at=stage_1")
    page.click("#submit")
    page.until("return document.querySelector('#stage.failed')")
    assert page.text("#stage .state") == "Failed: The audio cannot be decoded: it holds no sound."
    page.until("return document.querySelector('#screen img')?.naturalWidth === 400")
    (tmp_path / "text.wav").write_text("no sound")
    page.driver.find_element(By.ID, "audio").send_keys(str(tmp_path / "text.wav"))
    page.until("return document.getElementById('audio-message').textContent.includes('the sound of text.wav')")
    (tmp_path / "text.png").write_text("no picture")
    page.driver.find_element(By.ID, "image").send_keys(str(tmp_path / "text.png"))
    page.until("return document.getElementById('image-message').textContent.includes('text.png cannot be read')")


def test_recording_from_the_microphone(page: Page) -> None:
    page.click("#record")
    page.until("return parseFloat(document.getElementById('record-time').textContent) > 0.8")
    page.click("#record")
    page.until("return document.getElementById('audio-hint').textContent.startsWith('recording')")
    page.until("return /[0-9] s[.]$/.test(document.getElementById('fitted').textContent)")


def test_queue_positions_and_unload(page: Page, tmp_path: Path) -> None:
    page.fill(tmp_path, "slow=0.2 first")
    page.click("#submit")
    page.until("return document.querySelector('.job.in_progress')")
    page.set("prompt", "second")
    page.click("#submit")
    page.until("return document.querySelector('#stage.queued .state')?.textContent === 'Next in the queue.'")
    page.photograph("queue")
    page.click(".job.in_progress button")
    page.click("#stage .cancel")
    page.until("return document.querySelector('.job.completed .name')?.textContent === 'second'")
    page.until("return !document.getElementById('unload').hidden")
    page.click("#unload")
    page.until("return document.getElementById('machine-text').textContent.startsWith('Model not loaded')")


# -- everyone's page ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tone", ["light", "dark"])
def test_no_serious_findings_of_axe(page: Page, tmp_path: Path, tone: str) -> None:
    """axe-core on the page with a video and its messages, on the help and on the API's page."""
    feature = {"name": "prefers-color-scheme", "value": tone}
    page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": [feature]})
    try:
        page.fill(tmp_path, f"for everyone, {tone}")
        page.driver.execute_script("document.getElementById('details').open = true")
        page.choose("seeding", "same")
        page.click("#submit")
        page.until(f"return document.querySelector('#stage.completed .prompt')?.textContent.endsWith('{tone}')")
        page.set("steps", "0")
        page.click("#submit")
        page.until("return document.getElementById('steps-message').textContent")
        assert page.findings() == []
        for path in ("/static/help.html", "/docs"):
            page.driver.get(page.server.base + path)
            page.until("return document.querySelector('h2')")
            page.until("return location.pathname !== '/docs' || document.body.dataset.ready")
            assert page.findings() == []
        assert page.complaints() == []
    finally:
        page.driver.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})


def test_by_keyboard_alone(page: Page) -> None:
    """Tab reaches the example and every field in order; Enter makes the video."""
    page.driver.execute_script("document.getElementById('example').focus()")
    keys = ActionChains(page.driver)
    keys.send_keys(Keys.ENTER).perform()
    page.until("return document.getElementById('fitted').textContent.includes('5.7 s')")
    seen = []
    for _ in range(30):
        ActionChains(page.driver).send_keys(Keys.TAB).perform()
        seen.append(page.driver.execute_script("return document.activeElement.id || document.activeElement.name"))
        if seen[-1] == "submit":
            break
    for earlier, later in pairwise(["image", "audio", "record", "start", "length", "prompt", "preset", "submit"]):
        assert seen.index(earlier) < seen.index(later), seen
    visible = "const b = document.activeElement.getBoundingClientRect(); return b.bottom <= innerHeight && b.top >= 0"
    assert page.driver.execute_script(visible)
    ActionChains(page.driver).send_keys(Keys.ENTER).perform()
    page.until(f"return document.querySelector('#stage.completed .prompt')?.textContent === '{PROMPT}'")


def test_the_api_s_page_shows_every_operation(page: Page) -> None:
    page.driver.get(f"{page.server.base}/docs")
    page.until("return document.body.dataset.ready")
    schema = page.server.client.get("/openapi.json").json()
    count = sum(len(methods) for methods in schema["paths"].values())
    assert page.driver.execute_script("return document.querySelectorAll('#operations details').length") == count
    assert "audio_reference" in page.text("#VideoCreate")
    assert "Denoising steps of stage 1." in page.text("#VideoCreate")
    page.photograph("api")
    assert page.complaints() == []
    assert page.outside_requests() == []


def test_history_survives_a_restart(browser: webdriver.Chrome, start: Callable[..., Server]) -> None:
    first = start()
    first.make("made before the restart", size="128x64", num_frames=9)
    first.stop()
    page = Page(browser, start())
    assert page.text("#stage .prompt") == "made before the restart"
    assert page.driver.find_elements(By.CSS_SELECTOR, "#stage.completed video")


@pytest.mark.parametrize("width", [360, 390])
def test_on_a_phone(page: Page, tmp_path: Path, width: int) -> None:
    """Nothing scrolls sideways, and the button stays in sight."""
    page.driver.execute_cdp_cmd(
        "Emulation.setDeviceMetricsOverride", {"width": width, "height": 740, "deviceScaleFactor": 2, "mobile": True}
    )
    try:
        for path in ("/static/help.html", "/docs"):
            page.driver.get(page.server.base + path)
            page.until("return document.querySelector('h2')")
            page.until("return location.pathname !== '/docs' || document.body.dataset.ready")
            assert page.width() <= width, path
        page.open()
        page.photograph("phone")
        page.fill(tmp_path, "on a phone " + "averylongword" * 20)
        page.driver.execute_script("document.getElementById('details').open = true; scrollTo(0, 300)")
        bottom = page.driver.execute_script("return document.getElementById('submit').getBoundingClientRect().bottom")
        assert bottom <= 740
        assert page.width() <= width
        page.click("#submit")
        page.until("return document.querySelector('#stage.completed .prompt')?.textContent.startsWith('on a phone')")
        assert page.width() <= width
        page.photograph("phone-video")
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
