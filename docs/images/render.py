"""Draws docs/images/report.svg: what `srcompile examples/digits/model.py` prints.

python docs/images/render.py
"""

from __future__ import annotations

import io
import re
from pathlib import Path

from rich.console import Console

from srcompile.api import compile
from srcompile.frontend.model_file import load_model_file
from srcompile.report.terminal import print_report

HERE = Path(__file__).parent
MODEL = "examples/digits/model.py"
WIDTH = 110


def main() -> None:
    """Compile the digits example and save its report as a picture."""
    loaded = load_model_file(str(HERE.parent.parent / MODEL))
    compiled = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    )
    console = Console(record=True, width=WIDTH, file=io.StringIO())
    print_report(console, MODEL, compiled.cost, compiled.leakage)
    # a fixed id, so that the file changes only if the report does; no fonts from elsewhere
    picture = console.export_svg(title=f"srcompile {MODEL}", unique_id="report")
    picture = re.sub(r"@font-face \{.*?\}\s*", "", picture, flags=re.DOTALL)
    (HERE / "report.svg").write_text(picture, encoding="utf-8")


if __name__ == "__main__":
    main()
