"""Pages of other origins in a real Chromium: none makes a job or reads anything, whatever it tries."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

import pytest
from selenium import webdriver
from selenium.webdriver.support.ui import WebDriverWait

from tests.serving.conftest import Server
from tests.serving.test_page import CHROMIUM, DRIVER

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (CHROMIUM and DRIVER), reason="needs Chromium: apt-get install chromium chromium-driver"),
]

REBOUND = "rebound.example"
"""A name that its owner points at this machine after its page was loaded."""

ATTACKS = """
const [server, paths, done] = arguments, results = {};
const form = () => { const f = new FormData(); f.set('prompt', 'x'); f.set('audio', new Blob(['x'])); return f; };
const attempts = {
  'cors': () => fetch(server + '/v1/videos').then(r => r.text()),
  'post': () => fetch(server + '/v1/videos', {method: 'POST', body: form()}).then(r => r.text()),
  'blind post': () => fetch(server + '/v1/videos', {method: 'POST', mode: 'no-cors', body: form()}).then(r => r.type),
  'blind load': () => fetch(server + '/api/load', {method: 'POST', mode: 'no-cors'}).then(r => r.type),
  'beacon': async () => navigator.sendBeacon(server + '/api/load', ''),
  'preflight': () => fetch(server + '/v1/videos', {method: 'DELETE'}).then(r => r.text()),
  'events': () => new Promise((ok, no) => { const e = new EventSource(server + paths.events);
    e.onmessage = e.onopen = () => ok('opened'); e.onerror = () => { e.close(); no('closed'); }; }),
  'socket': () => new Promise((ok, no) => { const s = new WebSocket(server.replace('http', 'ws') + '/v1/videos');
    s.onopen = () => ok('opened'); s.onerror = () => no('closed'); }),
};
for (const [kind, path] of [['img', paths.thumbnail], ['video', paths.content], ['script', '/v1/videos'],
    ['script', '/static/app.js']])
  attempts[kind + ' ' + path] = () => new Promise((ok, no) => { const e = document.createElement(kind);
    e.onload = e.onloadedmetadata = () => ok('loaded'); e.onerror = () => no('refused');
    e.src = server + path; document.body.append(e); });
attempts['frame'] = () => new Promise((ok, no) => { const f = document.createElement('iframe'); f.src = server + '/';
  f.onload = () => { try { ok(f.contentDocument.body.innerHTML.length ? f.contentDocument.title : no('empty')); }
    catch (e) { no('foreign'); } }; document.body.append(f); });
for (const type of ['multipart/form-data', 'text/plain', 'application/x-www-form-urlencoded'])
  attempts['form ' + type] = () => new Promise((ok, no) => { const f = document.createElement('form');
    const target = document.createElement('iframe'); target.name = type; document.body.append(target);
    Object.assign(f, {method: 'post', action: server + '/v1/videos', enctype: type, target: type});
    f.innerHTML = '<input name=prompt value=x><input name=audio value="data:audio/wav;base64,UklGRg==">';
    document.body.append(f); target.onload = () => no('sent'); f.submit(); });
Promise.all(Object.entries(attempts).map(([name, attempt]) =>
  Promise.race([attempt(), new Promise((ok, no) => setTimeout(no, 5000, 'nothing'))])
    .then(value => results[name] = 'got ' + value, error => results[name] = 'refused: ' + error)))
  .then(() => done(JSON.stringify(results)));
"""

OPAQUE = ("blind post", "blind load", "beacon")
"""These are told nothing by the browser: an opaque reply, or that something was sent."""


@pytest.fixture(scope="module")
def elsewhere() -> Iterator[str]:
    """The port of another site's server on this machine."""

    class Site(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200)
            self.send_header("Content-Type", "text/html")
            self.end_headers()
            self.wfile.write(b"<!doctype html><title>elsewhere</title><body></body>")

        def log_message(self, *_: Any) -> None:
            pass

    site = ThreadingHTTPServer(("127.0.0.1", 0), Site)
    threading.Thread(target=site.serve_forever, daemon=True).start()
    yield str(site.server_port)
    site.shutdown()
    site.server_close()


@pytest.fixture(scope="module")
def browser() -> Iterator[webdriver.Chrome]:
    options = webdriver.ChromeOptions()
    options.binary_location = str(CHROMIUM)
    rules = f"--host-resolver-rules=MAP {REBOUND} 127.0.0.1, MAP evil.example 127.0.0.1"
    for flag in ("--headless=new", "--no-sandbox", "--disable-dev-shm-usage", "--disable-background-networking", rules):
        options.add_argument(flag)
    # Chromium's own protection of local servers would hide what ours does.
    options.add_argument("--disable-features=LocalNetworkAccessChecks,BlockInsecurePrivateNetworkRequests")
    driver = webdriver.Chrome(options, webdriver.ChromeService(executable_path=str(DRIVER)))
    yield driver
    driver.quit()


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "evil.example"])
def test_a_page_of_another_origin_gets_nothing(
    browser: webdriver.Chrome, server: Server, elsewhere: str, host: str
) -> None:
    video = server.make(num_frames=9)
    paths = {
        "events": f"/v1/videos/{video['id']}/events",
        "content": f"/v1/videos/{video['id']}/content",
        "thumbnail": f"/v1/videos/{video['id']}/content?variant=thumbnail",
    }
    before, logged = state(server), len(server.lines)
    browser.get(f"http://{host}:{elsewhere}/")
    assert browser.title == "elsewhere"
    browser.set_script_timeout(15)
    results = json.loads(browser.execute_async_script(ATTACKS, server.base, paths))
    got = {name for name, result in results.items() if result.startswith("got")}
    assert got <= set(OPAQUE), results
    assert state(server) == before
    answers = [line for line in server.lines[logged:] if line.startswith("[http]")]
    assert len(answers) >= 12, "the attacks did not arrive"
    assert all(" 403 " in f"{line} " for line in answers), answers


def test_a_name_that_was_pointed_at_us_gets_nothing(browser: webdriver.Chrome, server: Server) -> None:
    before = state(server)
    browser.get(f"http://{REBOUND}:{server.base.rpartition(':')[2]}/")
    assert "is not served here" in browser.page_source
    assert "app.js" not in browser.page_source
    script = "const [method, done] = arguments; fetch('/v1/videos', {method}).then(reply => done(reply.status), done)"
    for method in ("GET", "POST"):
        assert browser.execute_async_script(script, method) == 403
    assert state(server) == before


def test_a_link_to_the_page_can_be_followed(browser: webdriver.Chrome, server: Server, elsewhere: str) -> None:
    browser.get(f"http://evil.example:{elsewhere}/")
    browser.execute_script("location.href = arguments[0]", f"{server.base}/")
    WebDriverWait(browser, 10).until(lambda one: one.execute_script("return document.body?.dataset.ready === 'yes'"))


def state(server: Server) -> tuple[list[str], str]:
    """What a foreign page must not change."""
    return [job["id"] for job in server.client.get("/v1/videos").json()["data"]], server.worker_state()
