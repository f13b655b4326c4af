"""In a browser: JupyterLab runs the notebook, TensorBoard shows curves, the report renders.

uv run pytest -m browser                                 looks
SCREENSHOTS=docs/images uv run pytest -m browser         looks, and keeps the pictures
"""

import json
import os
import re
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from urllib.request import urlopen

import nbformat
import pytest
from playwright.sync_api import Browser, Page, sync_playwright

from sarashina_grpo import PROJECT_ROOT

pytestmark = [pytest.mark.browser, pytest.mark.timeout(900)]
CHROMIUM = shutil.which("chromium") or "/usr/bin/chromium"
STEPS = 40
TOKEN = "for-this-test-only"


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """Chromium with a profile of its own."""
    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield chromium
        chromium.close()


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    context = browser.new_context(viewport={"width": 1280, "height": 900})
    yield context.new_page()
    context.close()


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    chosen = os.environ.get("SCREENSHOTS")
    return PROJECT_ROOT / chosen if chosen else tmp_path_factory.mktemp("pictures")


@pytest.fixture(scope="module")
def notebook(artifact: Path) -> Path:
    """finetuning.ipynb, with the artifact folder and the steps of this test as its parameters."""
    book = nbformat.read(PROJECT_ROOT / "notebooks/finetuning.ipynb", as_version=4)
    (cell,) = (cell for cell in book.cells if "parameters" in cell.metadata.get("tags", []))
    chosen = {"ARTIFACT": repr(str(artifact)), "MAX_STEPS": str(STEPS)}
    for name, value in chosen.items():
        cell.source = re.sub(rf"^{name} = \S+", f"{name} = {value}", cell.source, flags=re.M)
    path = artifact / "finetuning.ipynb"
    nbformat.write(book, path)
    return path


@contextmanager
def serving(*command: str, folder: Path, **environment: str) -> Iterator[str]:
    """The address of a server of a folder, on a free port, that is stopped at the end."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    process = subprocess.Popen(
        [sys.executable, "-m", *command, f"--port={port}"],
        cwd=folder,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, **environment},
    )
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        process.terminate()
        process.wait(30)


def wait_until(done: Any, seconds: float, what: str) -> None:
    """Ask once a second; errors of a server that is not there yet are no answer."""
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        try:
            if done():
                return
        except OSError:
            pass
        time.sleep(1)
    pytest.fail(f"after {seconds:.0f} s: {what}")


@pytest.fixture(scope="module")
def finished(browser: Browser, notebook: Path, pictures: Path) -> Any:
    """The notebook as JupyterLab saved it after Run All Cells."""
    lab = (
        *("jupyterlab", "--no-browser", "--ip=127.0.0.1", f"--IdentityProvider.token={TOKEN}"),
        "--allow-root",
    )
    # A profile without a past: JupyterLab asks about news once, and remembers the answer.
    profile = str(notebook.parent / "profile")
    with serving(*lab, folder=notebook.parent, JUPYTER_CONFIG_DIR=profile) as address:
        login = f"token={TOKEN}"
        wait_until(lambda: urlopen(f"{address}/api/status?{login}").status == 200, 60, "no server")
        page = browser.new_page(viewport={"width": 1280, "height": 900})
        page.goto(f"{address}/lab/tree/{notebook.name}?{login}")
        page.locator(".jp-Notebook .jp-Cell").first.wait_for(timeout=120_000)
        # A click while the kernel connects is lost.
        page.get_by_text("| Idle").wait_for(timeout=120_000)
        page.get_by_role("button", name="No", exact=True).click()
        page.get_by_role("menuitem", name="Run", exact=True).click()
        page.get_by_role("menuitem", name="Run All Cells", exact=True).click()

        def is_done() -> bool:
            page.keyboard.press("Control+s")
            page.wait_for_timeout(1000)
            cells = nbformat.read(notebook, as_version=4).cells
            outputs = [out for cell in cells for out in cell.get("outputs", [])]
            failed = any(out.output_type == "error" for out in outputs)
            return failed or bool(cells[-1].get("outputs"))

        wait_until(is_done, 400, "the last cell has no output")
        scroll_up_to(page, ".jp-OutputArea .widget-dropdown")
        page.screenshot(path=pictures / "completions.png")
        scroll_up_to(page, ".jp-OutputArea img")
        page.screenshot(path=pictures / "jupyterlab.png")
        page.close()
    return nbformat.read(notebook, as_version=4)


def scroll_up_to(page: Page, selector: str) -> None:
    """Scroll until something is there: JupyterLab keeps only what is in view in the page."""
    page.locator(".jp-WindowedPanel-outer").hover()
    wanted = page.locator(selector)
    for _ in range(100):
        if wanted.count():
            break
        page.mouse.wheel(0, -300)
        page.wait_for_timeout(200)
    wanted.first.scroll_into_view_if_needed()
    page.wait_for_timeout(500)


def test_jupyterlab_runs_all_cells_to_the_end(finished: Any) -> None:
    code = [cell for cell in finished.cells if cell.cell_type == "code"]
    errors = [out for cell in code for out in cell.outputs if out.output_type == "error"]
    assert errors == []
    assert all(cell.execution_count for cell in code)
    assert f"checkpoint-{STEPS}" in json.dumps(code[-1].outputs)


def test_tensorboard_shows_the_rewards_with_points(
    finished: Any, artifact: Path, page: Page, pictures: Path
) -> None:
    assert finished
    with serving("tensorboard.main", "--logdir=logs", folder=artifact) as address:
        wait_until(lambda: urlopen(address).status == 200, 60, "no server")
        page.goto(f"{address}/#custom_scalars")
        lines = page.locator("path.line")
        wait_until(lambda: lines.count() >= 4, 60, "no chart of all rewards")
        points = [line.get_attribute("d") or "" for line in lines.all()]
        assert max(path.count("L") for path in points) > STEPS / 2
        page.wait_for_timeout(2000)
        page.screenshot(path=pictures / "tensorboard.png")
        page.goto(f"{address}/#text")
        page.get_by_text("answered with").first.wait_for(timeout=60_000)


@pytest.fixture
def report(finished: Any, artifact: Path) -> Path:
    assert finished
    (path,) = artifact.glob("outputs/smalltalk/*/report.html")
    return path


def test_the_report_renders_without_an_error(report: Path, page: Page, pictures: Path) -> None:
    errors = watch_errors(page)
    page.goto(report.as_uri())
    assert page.locator("svg").count() == 2
    before = page.locator("#place").inner_text()
    page.get_by_text("next").click()
    assert page.locator("#place").inner_text() != before
    page.get_by_text("previous").click()
    page.evaluate("window.scrollTo(0, 0)")
    page.screenshot(path=pictures / "report.png")
    assert errors == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("width", [375, 768, 1280])
def test_the_report_fits_the_width(browser: Browser, report: Path, scheme: Any, width: int) -> None:
    page = browser.new_page(viewport={"width": width, "height": 800}, color_scheme=scheme)
    page.goto(report.as_uri())
    assert page.evaluate("document.documentElement.scrollWidth") <= width
    paper, ink = (
        page.evaluate(f"getComputedStyle(document.body).{name}")
        for name in ("backgroundColor", "color")
    )
    assert (lightness(paper) < lightness(ink)) == (scheme == "dark")
    page.close()


def test_nothing_that_a_model_says_runs(hostile_report: Path, page: Page) -> None:
    errors = watch_errors(page)
    page.goto(hostile_report.as_uri())
    title = page.title()
    for _ in range(page.locator(".sample").count()):
        page.locator(".sample:visible").hover()
        page.locator("#next").click()
    assert page.title() == title != "run"
    assert errors == []


def lightness(colour: str) -> int:
    """The sum of a CSS colour's parts."""
    return sum(map(int, re.findall(r"\d+", colour)[:3]))


def watch_errors(page: Page) -> list[str]:
    """What the page complains of, or asks, from now on."""
    heard: list[str] = []
    page.on("console", lambda message: message.type == "error" and heard.append(message.text))
    page.on("pageerror", lambda error: heard.append(str(error)))
    page.on("dialog", lambda dialog: (heard.append(dialog.message), dialog.dismiss()))
    return heard
