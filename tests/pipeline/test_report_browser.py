"""The report in a browser: everything shows, nothing is refused, and it fits a phone, a desk, day and night."""

from __future__ import annotations

import re
import shutil
import subprocess
from pathlib import Path

import pytest

from pipeline.report import write_report
from tests.pipeline.small_output import write_run, write_shard

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome") or "chromium"
pytestmark = pytest.mark.browser

# The page measures itself and tells the frame around it (a window has a least width, a frame has none), which --dump-dom prints.
FRAME = """<title>nothing</title><iframe src="probed.html" style="width:{width}px;height:900px;border:0"></iframe>
<script>onmessage = message => document.title = message.data</script>"""
PROBE = """<script>
const pictures = [...document.images];
onload = () => parent.postMessage(JSON.stringify({
  overflow: document.documentElement.scrollWidth - document.documentElement.clientWidth,
  pictures: pictures.length,
  broken: pictures.filter(picture => !picture.naturalWidth).length,
  light: Number(getComputedStyle(document.body).backgroundColor.match(/\\d+/)[0]),
}), "*");
</script>"""


@pytest.fixture(scope="module")
def report(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("out")
    write_run(out)
    write_shard(out, "a-0", [f"a_person_with_a_rather_long_name_{n}" for n in range(24)])
    return Path(write_report(str(out)))


def browse(page: Path, *flags: str) -> tuple[str, str]:
    """Return the page after scripts ran, and what the browser said."""
    command = [str(CHROMIUM), "--headless=new", "--no-sandbox", "--disable-gpu", "--enable-logging=stderr", *flags, page.as_uri()]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=True)
    return done.stdout, done.stderr


def test_the_browser_refuses_and_misses_nothing(report: Path, tmp_path: Path) -> None:
    _, said = browse(report, f"--screenshot={tmp_path / 'page.png'}", "--window-size=1400,2000")
    assert "CONSOLE" not in said, [line for line in said.splitlines() if "CONSOLE" in line]
    assert (tmp_path / "page.png").stat().st_size > 50_000


@pytest.mark.parametrize("width", [360, 800, 1400])
@pytest.mark.parametrize("night", [False, True])
def test_it_fits_and_every_picture_decodes(report: Path, tmp_path: Path, width: int, night: bool) -> None:
    html = re.sub(r"<meta http-equiv[^>]*>", "", report.read_text(encoding="utf-8"))
    (tmp_path / "probed.html").write_text(html.replace("</body>", f"{PROBE}</body>"), encoding="utf-8")
    scheme = ["--blink-settings=preferredColorScheme=0"] if night else []
    frame = tmp_path / "frame.html"
    frame.write_text(FRAME.format(width=width))
    dom, _ = browse(frame, "--dump-dom", "--window-size=1600,1000", "--virtual-time-budget=5000", *scheme)
    found = dict(re.findall(r'"(\w+)":(\d+)', re.search(r"<title>(.*?)</title>", dom)[1]))  # type: ignore[index]
    assert (found["overflow"], found["broken"]) == ("0", "0")
    assert int(found["pictures"]) > 100
    assert (int(found["light"]) < 60) == night
