"""Draws the pictures of the README: the report of the digits example, on a terminal and as a page.

python docs/images/render.py

The picture of the page needs chromium; without it that picture stays as it is.
"""

from __future__ import annotations

import io
import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from rich.console import Console

from srcompile.api import compile
from srcompile.frontend.model_file import load_model_file
from srcompile.report.html import Shown, html_report
from srcompile.report.routing import route_costs
from srcompile.report.terminal import print_report
from srcompile.whatif import suggest

HERE = Path(__file__).parent
MODEL = "examples/digits/model.py"
WIDTH = 110
SHARES = (0.6, 0.3, 0.1)


def main() -> None:
    """Compile the digits example and save its report as pictures.

    Times are those of the built-in profile, wherever it runs: no other one is in an empty folder.
    """
    os.environ["XDG_CONFIG_HOME"] = tempfile.mkdtemp()
    loaded = load_model_file(str(HERE.parent.parent / MODEL))
    compiled = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    )
    report = compiled.cost_report()
    routes, suggestions = route_costs(report, SHARES), suggest(compiled)
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    print_report(console, MODEL, report, routes=routes, suggestions=suggestions)
    # a fixed id, so that the file changes only if the report does; no fonts from elsewhere
    picture = console.export_svg(title=f"srcompile {MODEL}", unique_id="report")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    (HERE / "report.svg").write_text(picture, encoding="utf-8")
    _draw_page(html_report(MODEL, [Shown(MODEL, report, routes, suggestions)]))


def _draw_page(page: str) -> None:
    browser = shutil.which("chromium") or shutil.which("google-chrome")
    if browser is None:
        print("no chromium: page.png is not drawn")
        return
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "page.html"
        file.write_text(page, encoding="utf-8")
        options = (
            "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
            "--disable-background-networking", "--disable-component-update", "--disable-sync",
            "--hide-scrollbars", "--virtual-time-budget=20000", "--window-size=1200,1420",
            f"--user-data-dir={folder}/profile", f"--screenshot={HERE / 'page.png'}",
        )  # fmt: skip
        subprocess.run([browser, *options, f"file://{file}"], check=True, capture_output=True)


if __name__ == "__main__":
    main()
