"""The notebook: it runs from top to bottom, and it is stored without outputs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient
from traitlets.config import Config

from tests.support.services import free_ports

read: Any = nbformat.read  # it has no types

PORTS = ("shell_port", "iopub_port", "stdin_port", "control_port", "hb_port")
FILE = Path(__file__).parents[2] / "examples" / "notebook" / "digits.ipynb"


def test_the_notebook_is_stored_without_outputs() -> None:
    notebook = read(FILE, as_version=4)
    nbformat.validate(notebook)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(not cell.outputs and cell.execution_count is None for cell in code)


@pytest.mark.filterwarnings("default")  # those of the kernel's own libraries
def test_the_notebook_runs_and_the_parties_agree_with_the_model() -> None:
    # given the notebook
    notebook = read(FILE, as_version=4)
    ports = dict(zip(PORTS, free_ports(5), strict=True))
    # when all of it is run in its folder
    NotebookClient(
        notebook,
        timeout=300,
        iopub_timeout=60,
        config=Config(AsyncKernelManager={**ports, "cache_ports": False}),
        resources={"metadata": {"path": str(FILE.parent)}},
    ).execute()
    # then it prints the report, and each digit is what the model says
    printed = "".join(
        output.get("text", "")
        for cell in notebook.cells
        if cell.cell_type == "code"
        for output in cell.outputs
    )
    assert "round" in printed
    runs = [line for line in printed.splitlines() if ", float " in line]
    assert len(runs) == 5
    for line in runs:
        secret, known = line.split("secret ")[1].split(", float ")
        assert known.startswith(secret)
