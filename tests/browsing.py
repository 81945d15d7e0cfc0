"""A browser without a window, driven through its DevTools protocol: for tests of the book and its demo."""

import contextlib
import itertools
import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any
from urllib.parse import urlparse

import pytest
import websocket

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
OFF = "gpu quic dev-shm-usage background-networking component-update sync"
FLAGS = ["--headless", "--no-sandbox", "--no-first-run", "--remote-debugging-port=0"]
FLAGS += [f"--disable-{name}" for name in OFF.split()]
SEEN = """({title: document.title, text: document.body.innerText.length,
           images: [...document.images].map(i => [i.getAttribute("alt") || "", i.complete && i.naturalWidth > 0]),
           links: [...document.querySelectorAll("a[href]")].map(a => a.href),
           ids: [...document.querySelectorAll("[id]")].map(e => e.id),
           formulas: [...document.querySelectorAll("math")].map(m => m.getBoundingClientRect().height),
           tables: [...document.querySelectorAll("p")].filter(p => /[|] *[-—]+[|]/.test(p.innerText)).length,
           wide: document.documentElement.scrollWidth - window.innerWidth, width: window.innerWidth})"""


class Tab:
    """A tab of the browser, `width` pixels wide; `events` collects what the browser reports."""

    def __init__(self, devtools: str, width: int, dark: bool = False) -> None:
        self.socket = websocket.create_connection(devtools, timeout=60, suppress_origin=True)
        self.numbers, self.events, self.session = itertools.count(1), [], {}
        self.target = self.call("Target.createTarget", url="about:blank")["targetId"]
        self.session["sessionId"] = self.call("Target.attachToTarget", targetId=self.target, flatten=True)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)
        scheme = {"name": "prefers-color-scheme", "value": "dark" if dark else "light"}
        self.call("Emulation.setEmulatedMedia", features=[scheme])

    def receive(self) -> dict:
        message = json.loads(self.socket.recv())
        if "method" in message:
            self.events.append(message)
        return message

    def call(self, method: str, **parameters: Any) -> dict:
        number = next(self.numbers)
        self.socket.send(json.dumps({"id": number, "method": method, "params": parameters, **self.session}))
        while (answer := self.receive()).get("id") != number:
            pass
        assert "error" not in answer, answer
        return answer["result"]

    def open(self, address: str) -> None:
        """Load a page, to its end."""
        self.events.clear()
        self.call("Page.navigate", url=address)
        while not any(e["method"] == "Page.loadEventFired" for e in self.events):
            self.receive()

    def run(self, program: str) -> Any:
        """What an expression of JavaScript gives, after a promise is kept; its exception fails the test."""
        answer = self.call("Runtime.evaluate", expression=program, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in answer, answer["exceptionDetails"]
        return answer["result"].get("value")

    def press(self, key: str, text: str = "") -> None:
        """Press and release a key, such as "Tab", or " " with the text that it types."""
        codes = {"Tab": 9, " ": 32, "ArrowDown": 40, "ArrowRight": 39, "Enter": 13}
        pressed = {"key": key, "code": {" ": "Space"}.get(key, key), "windowsVirtualKeyCode": codes[key]}
        self.call("Input.dispatchKeyEvent", type="keyDown", text=text, **pressed)
        self.call("Input.dispatchKeyEvent", type="keyUp", **pressed)

    @property
    def complaints(self) -> list[str]:
        return [*filter(None, map(complaint, self.events))]


@contextlib.contextmanager
def started(profile: Path) -> Iterator[str]:
    """A browser with that folder for its profile: the address of its DevTools."""
    program = next(filter(None, map(shutil.which, NAMES)), None)
    if program is None and os.environ.get("CLIPNULL_NO_BROWSER") == "1":
        pytest.skip("no browser, as CLIPNULL_NO_BROWSER=1 says")
    if program is None:
        pytest.fail("no browser; expected one (apt-get install chromium), or CLIPNULL_NO_BROWSER=1")
    command, end = [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"], time.monotonic() + 60
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    port = Path(profile, "DevToolsActivePort")
    try:
        while not (port.exists() and len(lines := port.read_text().split()) == 2):
            assert process.poll() is None and time.monotonic() < end, "the browser did not start"
            time.sleep(0.05)
        yield f"ws://127.0.0.1:{lines[0]}{lines[1]}"
    finally:
        process.terminate()
        process.wait(60)


@contextlib.contextmanager
def tab(devtools: str, address: str, width: int = 800, dark: bool = False) -> Iterator[Tab]:
    """A tab with a page loaded, closed at the end."""
    opened = Tab(devtools, width, dark)
    try:
        opened.open(address)
        yield opened
        opened.call("Target.closeTarget", targetId=opened.target)
    finally:
        opened.socket.close()


def visit(devtools: str, address: str, width: int = 800) -> SimpleNamespace:
    """Open `address` in a tab of its own, wait for it, and look at it."""
    with tab(devtools, address, width) as opened:
        seen = opened.run(SEEN)
        opened.run("new Promise(done => setTimeout(done, 100))")
        return SimpleNamespace(**seen, complaints=opened.complaints)


def complaint(event: dict) -> str:
    """What an event of the DevTools protocol complains of, or nothing."""
    kind, params = event["method"], event["params"]
    if kind == "Runtime.exceptionThrown":
        return f"exception: {params['exceptionDetails']['text']}"
    if kind == "Runtime.consoleAPICalled" and params["type"] in ("error", "assert"):
        return f"console: {[a.get('value') for a in params['args']]}"
    if kind == "Log.entryAdded" and params["entry"]["level"] == "error":
        return f"log: {params['entry']['text']} {params['entry'].get('url', '')}"
    if kind == "Network.loadingFailed" and not params.get("canceled"):
        return f"network: {params['errorText']}"
    if kind == "Network.responseReceived" and params["response"]["status"] >= 400:
        return f"network: {params['response']['status']} {params['response']['url']}"
    if kind == "Network.requestWillBeSent" and urlparse(params["request"]["url"]).hostname not in ("127.0.0.1", None):
        return f"asks another site: {params['request']['url']}"
    return ""


def page_faults(page: SimpleNamespace) -> list[str]:
    """What is wrong with a page that was visited."""
    faults = list(page.complaints)
    faults += ["no title"] * (not page.title) + ["no text"] * (page.text < 40)
    faults += [f"image {i} has no alt text" for i, (alt, _) in enumerate(page.images) if not alt.strip()]
    faults += [f"image {i} is missing" for i, (_, there) in enumerate(page.images) if not there]
    faults += [f"formula {i} is not drawn" for i, height in enumerate(page.formulas) if height < 3]
    faults += [f"{page.tables} tables are not drawn"] * (page.tables > 0)
    return faults + [f"{page.wide} pixels wider than the window"] * (page.wide > 0)
