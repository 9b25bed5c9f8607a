"""browse.ipynb in a real JupyterLab, in a real browser: pick a user, see their cards."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from nrms import ROOT

WAIT = 120_000  # ms: a kernel that imports torch on a busy machine


@pytest.fixture(scope="module")
def server(finished, tmp_path_factory):
    """A JupyterLab: its folder, and its address."""
    folder = tmp_path_factory.mktemp("lab")
    (folder / "work").mkdir()
    own = {f"JUPYTER_{name}_DIR": str(folder / name.lower()) for name in ("CONFIG", "DATA", "RUNTIME")} | {"IPYTHONDIR": str(folder / "ipython")}
    command = [sys.executable, "-m", "jupyterlab", "--no-browser", "--port=0", "--IdentityProvider.token=secret", "--allow-root"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, cwd=folder / "work", env=os.environ | own, stdout=log, stderr=log)
        try:
            yield folder / "work", address(folder / "log", process)
        finally:
            process.terminate()
            process.wait(30)


@pytest.fixture
def lab(server, request):
    """The address of a copy of the notebook in JupyterLab, with the values of the runs that are there."""
    folder, start = server
    notebook = json.loads((ROOT / "notebooks" / "browse.ipynb").read_text())
    parameters = next(cell for cell in notebook["cells"] if cell["metadata"].get("tags") == ["parameters"])
    parameters["source"] += ["\nepochs = 1\n", 'device = "cpu"']
    (folder / f"{request.node.name}.ipynb").write_text(json.dumps(notebook))
    return f"{start}lab/tree/{request.node.name}.ipynb?token=secret&reset"


def address(log, server, seconds=90):
    """Where the server answers, as its log says."""
    end = time.monotonic() + seconds
    while time.monotonic() < end and server.poll() is None:
        if found := re.search(r"(http://127\.0\.0\.1:\d+/)lab", log.read_text()):
            return found[1]
        time.sleep(0.2)
    raise AssertionError(log.read_text()[-2000:])


def pictures(page):
    """How many pictures of the cards have pixels."""
    return page.evaluate("[...document.querySelectorAll('.nrms-list img')].filter(i => i.complete && i.naturalWidth > 0).length")


def test_pick_a_user(lab, browser, tmp_path):
    """All cells run; another user in the picker changes the cards, an unknown one is a sentence and changes nothing."""
    page, wrong = browser.new_page(viewport={"width": 1300, "height": 1000}), []
    page.set_default_timeout(WAIT)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(lab)
    page.locator(".jp-Notebook .jp-Cell").first.wait_for()
    page.get_by_text("| Idle").wait_for()  # asked to run before there is a kernel, it asks which
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    cards = page.locator(".nrms-list")
    cards.wait_for(state="attached")
    cards.scroll_into_view_if_needed()
    assert pictures(page) > 0 and page.locator(".nrms-list section").count() == 2
    picker = page.get_by_placeholder("type to search")
    before, user = cards.inner_text(), picker.input_value()
    assert f"User {user}" in before
    other = page.evaluate("u => [...document.querySelectorAll('datalist option')].map(o => o.value).find(v => v != u)", user)
    picker.fill(other)
    picker.press("Enter")
    cards.get_by_text(f"User {other}").wait_for()  # in the cards: the table of contents names the heading, too
    assert cards.inner_text() != before and pictures(page) > 0
    page.screenshot(path=tmp_path / "picked.png")
    picker.fill("nobody")
    picker.press("Enter")
    page.get_by_text("no user in the test part: 'nobody'").wait_for()
    assert f"User {other}" in cards.inner_text() and not wrong


def test_opened_again_without_its_kernel(lab, browser):
    """Saved after its cells ran, then opened when the kernel is gone: the cards stand there, and no word of a picker that is not."""
    page = browser.new_page()
    page.set_default_timeout(WAIT)
    page.goto(lab)
    page.get_by_text("| Idle").wait_for()
    page.get_by_role("menuitem", name="Run", exact=True).click()
    page.get_by_text("Run All Cells", exact=True).click()
    page.get_by_placeholder("type to search").wait_for(state="attached")
    page.locator(".nrms-list").wait_for(state="attached")
    page.get_by_role("menuitem", name="File", exact=True).click()
    page.get_by_text("Save Notebook", exact=True).click()
    page.locator(".jp-mod-dirty").wait_for(state="detached")
    page.get_by_role("menuitem", name="Kernel", exact=True).click()
    page.get_by_text("Shut Down Kernel", exact=True).click()
    page.get_by_text("No Kernel").first.wait_for()
    page.goto(lab)
    page.locator(".nrms-list").wait_for(state="attached")
    page.get_by_text("| Idle").wait_for()
    error = page.get_by_text("Error displaying widget")
    error.wait_for(state="attached")
    page.locator(".nrms-list").scroll_into_view_if_needed()
    assert pictures(page) > 0 and not error.is_visible()
