"""The report in a real browser: hostile text does nothing, the page's own script does its work."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import pytest
from reported import Page, Reply, write

from erpo_ray.report.page import render
from erpo_ray.report.read import read
from erpo_ray.types import Prompt

BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
OWN = "document.body.dataset.owned=1"
ATTACKS = (f"<script>{OWN}</script>", f"<img src=x onerror={OWN}>", f"</span></details><svg onload={OWN}>")

pytestmark = pytest.mark.skipif(BROWSER is None, reason="no Chromium on the PATH")


def opened(page: Path, profile: Path) -> Page:
    """The page after its scripts have run."""
    quiet = ("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-quic")
    command = [str(BROWSER), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", *quiet]
    command += [f"--user-data-dir={profile}", "--virtual-time-budget=2000", "--dump-dom", page.as_uri()]
    return Page(subprocess.run(command, capture_output=True, text=True, check=True, timeout=120).stdout)


def test_planted_scripts_and_event_handlers_do_nothing(tmp_path: Path) -> None:
    asked = [Prompt(str(n), attack, "harmful", attack, source=attack) for n, attack in enumerate(ATTACKS)]
    run = write(
        tmp_path / "run", asked, {"base": lambda p: Reply(p.text), "00-x": lambda p: Reply(p.text)}, name=ATTACKS[0]
    )
    page = tmp_path / "report.html"
    page.write_text(render(read(run)), "utf-8")
    found = opened(page, tmp_path / "profile")
    assert found.all("body") == [{}]
    assert found.text("output") == "3 of 3" and "hidden" not in found.all("form")[0]
    # The same attack where nothing stops it: the browser would have told.
    page.write_text(f"<body>{ATTACKS[0]}")
    assert opened(page, tmp_path / "profile").all("body") == [{"data-owned": "1"}]
