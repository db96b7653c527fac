"""The web service with an embedded client: HTTP in front, a real cluster with TLS behind."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import numpy as np
import pytest

from srcompile.api import Compiled, compile
from srcompile.frontend.model_file import load_model_file
from srcompile.ops import registry
from srcompile.ops.interpreter import evaluate
from srcompile.runtime.services.client import deploy
from tests.support.services import ROOT, Running, config_file, free_ports, running, settings_in

SERVICE = ROOT / "examples" / "service" / "service.py"
MODEL = ROOT / "examples" / "digits" / "model.py"


@dataclass(frozen=True)
class Served:
    url: str
    compiled: Compiled
    cluster: Running
    images: np.ndarray[Any, Any]


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """Run dealer and parties with certificates, and the service in a process of its own."""
    folder = tmp_path_factory.mktemp("service")
    loaded = load_model_file(f"{MODEL}:mlp")
    compiled = compile(
        loaded.model, loaded.example_inputs, calibration_inputs=loaded.calibration_inputs
    )
    assert loaded.calibration_inputs is not None
    samples = [sample for sample in loaded.calibration_inputs[:4] if isinstance(sample, tuple)]
    images = np.concatenate([np.asarray(sample[0]) for sample in samples])
    compiled.save(folder / "digits.srp", weights=False)
    settings = settings_in(folder, idle=300.0)
    (port,) = free_ports(1)
    with running(settings, deployed=False) as cluster:
        deploy(compiled.program, settings)
        given = ["--port", port, "--config", config_file(settings, folder)]
        command = list(map(str, (sys.executable, SERVICE, folder / "digits.srp", *given)))
        process = subprocess.Popen(command, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        try:
            url = f"http://127.0.0.1:{port}"
            _wait_for(url, process)
            yield Served(url, compiled, cluster, images)
        finally:
            process.terminate()
            _, said = process.communicate(timeout=30)
    assert "Traceback" not in said


def _wait_for(url: str, process: subprocess.Popen[str]) -> None:
    end = time.monotonic() + 60
    while time.monotonic() < end:
        with contextlib.suppress(httpx.TransportError):
            httpx.get(f"{url}/openapi.json")
            return
        assert process.poll() is None, process.communicate()[1]
        time.sleep(0.1)
    raise AssertionError("the service does not answer")


@pytest.mark.parametrize("form", ["rows", "list"])
def test_an_image_is_classified_over_http_as_the_model_does(served: Served, form: str) -> None:
    # given an image as rows or as a list of numbers
    image = served.images[0, 0]
    pixels = image.tolist() if form == "rows" else image.reshape(-1).tolist()
    # when it is posted
    answer = httpx.post(f"{served.url}/predict", json={"pixels": pixels}, timeout=60)
    # then the digit is the model's, and what was sent is what was compiled
    assert answer.status_code == 200, answer.text
    want, _ = evaluate(served.compiled.stages.graph, {"image": image[None, None]}, registry())
    total = served.compiled.cost.total()
    assert answer.json() == {
        "digit": int(want["output"].argmax()),
        "route": None,
        "online_bytes": total.online_bytes[0],
        "rounds": total.rounds,
    }


@pytest.mark.parametrize(
    ("pixels", "said"),
    [
        ([0.5] * 63, "an image has 8 rows of 8 pixels"),
        ([[0.5] * 8] * 7, "an image has 8 rows of 8 pixels"),
        ([1e9] * 64, "the program was calibrated for"),
    ],
)
def test_an_image_that_does_not_fit_is_refused_with_a_sentence(
    served: Served, pixels: Any, said: str
) -> None:
    answer = httpx.post(f"{served.url}/predict", json={"pixels": pixels}, timeout=60)
    assert answer.status_code == 422
    assert said in answer.json()["detail"]


def test_a_session_that_the_parties_ended_is_replaced(served: Served) -> None:
    # given a service with a session that has ended at the parties
    image = {"pixels": served.images[0, 0].tolist()}
    first = httpx.post(f"{served.url}/predict", json=image, timeout=60).json()
    for role in served.cluster.parties:
        for channel in list(role._open):
            channel.interrupt()
    # when the next image comes, then it is classified all the same
    second = httpx.post(f"{served.url}/predict", json=image, timeout=60)
    assert second.status_code == 200
    assert second.json() == first
