"""The page in a real headless Chromium, driven through its debugging pipe (no driver package)."""

from __future__ import annotations

import dataclasses
import fcntl
import itertools
import json
import os
import re
import select
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from segue.report.page import write_report
from segue.runs.records import Record

FLAGS = (
    "--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-sync",
    "--disable-background-networking", "--disable-component-update", "--disable-dev-shm-usage",
    "--disable-extensions", "--hide-scrollbars", "--remote-debugging-pipe",
)  # fmt: skip
WIDTHS = (390, 1440)
THEMES = ("light", "dark")


def chromium() -> str:
    for name in ("chromium", "chromium-browser", "google-chrome", "chrome"):
        path = shutil.which(name)
        if path:
            return path
    if os.environ.get("CI") == "true":
        pytest.fail("CI must install chromium: without it nobody checks that the page is inert")
    pytest.skip("chromium is not installed")


class Browser:
    """One tab. Commands and events are JSON messages on a pipe, each ended by a zero byte."""

    def __init__(self, program: str, profile: str) -> None:
        to_read, self.write_end = os.pipe()
        self.read_end, to_write = os.pipe()
        # Numbers far from 3 and 4, which the browser expects and which these pipes may have.
        high = [fcntl.fcntl(fd, fcntl.F_DUPFD, 50) for fd in (to_read, to_write)]

        def hand_over() -> None:
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        self.process = subprocess.Popen(
            [program, *FLAGS, f"--user-data-dir={profile}", "about:blank"],
            preexec_fn=hand_over,
            pass_fds=(3, 4),
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        for fd in (to_read, to_write, *high):
            os.close(fd)
        self.buffer, self.events, self.ids = b"", [], itertools.count(1)
        self.session: str | None = None
        targets = self.call("Target.getTargets")["targetInfos"]
        target = next(t["targetId"] for t in targets if t["type"] == "page")
        self.session = self.call("Target.attachToTarget", targetId=target, flatten=True)[
            "sessionId"
        ]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _message(self, deadline: float) -> dict[str, Any]:
        while b"\0" not in self.buffer:
            ready, _, _ = select.select(
                [self.read_end], [], [], max(0.0, deadline - time.monotonic())
            )
            if not ready:
                raise TimeoutError("chromium did not answer")
            chunk = os.read(self.read_end, 1 << 16)
            if not chunk:
                raise RuntimeError("chromium ended")
            self.buffer += chunk
        message, self.buffer = self.buffer.split(b"\0", 1)
        parsed: dict[str, Any] = json.loads(message)
        if "method" in parsed:
            self.events.append(parsed)
        return parsed

    def call(self, method: str, *, within: float = 120.0, **parameters: Any) -> dict[str, Any]:
        number, deadline = next(self.ids), time.monotonic() + within
        message: dict[str, Any] = {"id": number, "method": method, "params": parameters}
        if self.session is not None:
            message["sessionId"] = self.session
        data = json.dumps(message).encode() + b"\0"
        while data:
            data = data[os.write(self.write_end, data) :]
        while True:
            answer = self._message(deadline)
            if answer.get("id") == number:
                if "error" in answer:
                    raise RuntimeError(f"{method}: {answer['error']}")
                return dict(answer["result"])

    def run(self, expression: str) -> Any:
        result = self.call(
            "Runtime.evaluate", expression=expression, awaitPromise=True, returnByValue=True
        )
        if "exceptionDetails" in result:
            raise RuntimeError(result["exceptionDetails"])
        return result["result"].get("value")

    def open(self, page: Path, *, width: int, theme: str, height: int = 900) -> None:
        """Load the page and draw all its figures."""
        self.events.clear()
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height,
                  deviceScaleFactor=1, mobile=width < 600)  # fmt: skip
        self.call(
            "Emulation.setEmulatedMedia",
            features=[{"name": "prefers-color-scheme", "value": theme}],
        )
        self.call("Page.navigate", url=page.resolve().as_uri())
        self.wait("document.readyState === 'complete' && !!window.Plotly")
        self.run("document.querySelectorAll('details').forEach((d) => { d.open = true; })")
        self.run(
            "(async () => { for (const e of document.querySelectorAll('.plot')) {"
            " e.scrollIntoView({behavior: 'instant'});"
            # A figure is drawn when it comes into view: on a busy machine that takes a while.
            " for (let n = 0; n < 2000 && !e.querySelector('svg'); n++)"
            " await new Promise((r) => setTimeout(r, 30)); } window.scrollTo(0, 0); })()"
        )
        self.wait("[...document.querySelectorAll('.plot')].every((e) => e.querySelector('svg'))")

    def wait(self, condition: str, within: float = 120.0) -> None:
        deadline = time.monotonic() + within
        while not self.run(condition):
            if time.monotonic() > deadline:
                raise TimeoutError(condition)
            time.sleep(0.05)

    def problems(self) -> list[str]:
        """Console errors, uncaught exceptions and requests beyond the page itself."""
        found = []
        for event in self.events:
            method, parameters = event["method"], event["params"]
            if method == "Runtime.exceptionThrown":
                found.append(str(parameters["exceptionDetails"]))
            elif method == "Runtime.consoleAPICalled" and parameters["type"] in ("error", "assert"):
                found.append(str(parameters["args"]))
            elif method == "Log.entryAdded" and parameters["entry"]["level"] == "error":
                found.append(str(parameters["entry"]))
            elif method == "Network.requestWillBeSent":
                url = parameters["request"]["url"]
                if not url.startswith(("file:", "data:", "blob:")):
                    found.append(f"request to {url}")
        return found

    def close(self) -> None:
        try:
            self.call("Browser.close", within=5.0)
        except (RuntimeError, TimeoutError, OSError):
            self.process.kill()
        self.process.wait(timeout=20)
        os.close(self.read_end)
        os.close(self.write_end)


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    program = chromium()
    profile = tempfile.mkdtemp(prefix="segue-chromium-")
    opened = Browser(program, profile)
    yield opened
    opened.close()
    shutil.rmtree(profile, ignore_errors=True)


def _as_returns(records: list[Record]) -> list[Record]:
    """Some of the records, in a family that is judged by returns and has every kind of figure."""
    shifts = list(dict.fromkeys(r.config["shift"]["name"] for r in records))[:5]
    found = []
    for record in records:
        if record.config["shift"]["name"] in shifts and record.status == "completed":
            curves = {**record.curves, "score": record.curves["target_accuracy"]}
            metrics = dict.fromkeys(
                ("score_mean_score", "score_final", "score_largest_drop"),
                record.metrics["target_accuracy"],
            )
            found.append(
                dataclasses.replace(
                    record,
                    family="offline_to_online",
                    curves={**curves, "start_value_error": curves["score"]},
                    metrics=metrics,
                )
            )
    return found


@pytest.fixture(scope="module")
def pages(
    tmp_path_factory: pytest.TempPathFactory,
    make_records: Callable[..., list[Record]],
    hostile: list[Record],
) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("pages")
    records = make_records(num_seeds=6, shifts=("blur", "contrast", "label_permutation"))
    return {
        "ordinary": write_report(records, folder / "ordinary.html"),
        "returns": write_report(_as_returns(hostile), folder / "returns.html"),
        "hostile": write_report(hostile, folder / "hostile.html", title="<script>pwned=1</script>"),
    }


OVERFLOW = """
(() => { const width = document.documentElement.clientWidth, wide = [];
  for (const element of document.body.querySelectorAll('*')) {
    if (element.closest('.scroll') && !element.matches('.scroll')) continue;
    if (element.closest('svg') || element.closest('.plot') && !element.matches('.plot')) continue;
    const box = element.getBoundingClientRect();
    if (box.width && box.right > width + 1) wide.push(element.tagName + '.' + element.className);
  }
  return {page: document.documentElement.scrollWidth - width, wide: wide.slice(0, 5)};
})()
"""


@pytest.mark.parametrize("theme", THEMES)
@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["ordinary", "returns", "hostile"])
def test_page_fits_its_window_without_errors_or_requests(
    browser: Browser, pages: dict[str, Path], name: str, width: int, theme: str
) -> None:
    browser.open(pages[name], width=width, theme=theme)
    assert browser.run(OVERFLOW) == {"page": 0, "wide": []}
    assert browser.run("document.querySelectorAll('.plot').length") > 5
    assert browser.problems() == []


def test_nothing_that_a_record_says_runs_or_becomes_markup(
    browser: Browser, pages: dict[str, Path], hostile_texts: list[str]
) -> None:
    browser.open(pages["hostile"], width=1440, theme="light")
    assert browser.run("typeof window.pwned") == "undefined"
    assert browser.run("document.scripts.length") == 3
    assert browser.run("document.querySelectorAll('body img, iframe, object, base').length") == 0
    links = browser.run(
        "[...document.querySelectorAll('a, svg a')].map((a) => a.getAttribute('href'))"
    )
    assert all(link is not None and link.startswith("#") for link in links)
    bold = browser.run("[...document.querySelectorAll('svg tspan')].length")
    assert bold == 0  # Plotly makes tspans of the tags it interprets, line breaks aside
    handlers = browser.run(
        "[...document.querySelectorAll('*')].filter((e) => e.getAttributeNames()"
        ".some((n) => n.startsWith('on'))).length"
    )
    assert handlers == 0
    text = browser.run(
        "document.querySelector('header').innerText + document.querySelector('main').innerText"
    )
    assert "<script>window.pwned=1</script>" in text
    assert "שלום עולם" in text
    assert not re.search("[\x00-\x08\x0b\x0c\x0e-\x1f\u202a-\u202e\u2066-\u2069]", text)


def test_hover_labels_show_hostile_names_as_text(browser: Browser, pages: dict[str, Path]) -> None:
    browser.open(pages["hostile"], width=1440, theme="light")
    shown = browser.run(
        "(async () => { const e = document.querySelector('.plot'); let text = '';"
        " for (let i = 0; i < e.data[0].x.length; i++) {"
        "  window.Plotly.Fx.hover(e, [{curveNumber: 0, pointNumber: i}]);"
        "  await new Promise((r) => setTimeout(r, 30));"
        "  text += e.querySelector('.hoverlayer').textContent; }"
        " return [text, e.querySelectorAll('.hoverlayer a, .hoverlayer image').length,"
        "  typeof window.pwned]; })()"
    )
    assert "<script>" in shown[0]
    assert shown[1:] == [0, "undefined"]


def test_theme_follows_the_system_and_the_button(browser: Browser, pages: dict[str, Path]) -> None:
    state = (
        "[getComputedStyle(document.body).backgroundColor,"
        " document.querySelector('.plot .xtick text').style.fill]"
    )
    seen = []
    for theme in THEMES:
        browser.open(pages["ordinary"], width=1440, theme=theme)
        browser.run("localStorage.clear()")
        seen.append(browser.run(state))
        browser.run("document.getElementById('theme').click()")
        browser.wait(
            f"JSON.stringify({state}) !== {json.dumps(json.dumps(seen[-1], separators=(',', ':')))}"
        )
        seen.append(browser.run(state))
        browser.run("localStorage.clear()")
    light, to_dark, dark, to_light = seen
    assert light[0] != dark[0]
    assert light[1] != dark[1]
    assert to_dark == dark
    assert to_light == light


def test_download_button_gives_the_same_data_as_the_file_next_to_the_page(
    browser: Browser, pages: dict[str, Path]
) -> None:
    browser.open(pages["ordinary"], width=1440, theme="light")
    files = browser.run("JSON.parse(document.getElementById('segue-data').textContent).files")
    folder = pages["ordinary"].parent / "ordinary_data"
    assert files == {p.name: p.read_text(encoding="utf-8") for p in folder.glob("*.csv")}
    name, text = browser.run(
        "(async () => { let blob = null, name = null; const make = URL.createObjectURL;"
        " URL.createObjectURL = (b) => { blob = b; return make(b); };"
        " HTMLAnchorElement.prototype.click = function () { name = this.download; };"
        " document.querySelector('button[data-file]').click();"
        " return [name, await blob.text()]; })()"
    )
    assert text.lstrip("\ufeff") == files[name]
