"""The HTML report: one file without network, exact figures, times that follow the sliders."""

from __future__ import annotations

import json
import re
import sys
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from srcompile.errors import UserError
from srcompile.passes.cost import Network
from srcompile.report.html import Shown, html_report
from srcompile.report.routing import route_costs
from srcompile.report.units import size_text, time_text
from tests.report import browser, samples
from tests.report.models import compiled

LARGEST = 5_000_000


class _Page(HTMLParser):
    """Collects elements, and the text of table cells with a cost."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.costs: list[tuple[str, str]] = []
        self._cost: str | None = None
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        found = {name: value or "" for name, value in attrs}
        self.elements.append((tag, found))
        self._cost = found.get("data-cost") if "data-of" not in found else None

    def handle_data(self, data: str) -> None:
        if self._cost is not None:
            self.costs.append((self._cost, data))
            self._cost = None


def pages() -> dict[str, str]:
    pool = samples.pool()
    shown = Shown("pool.py", pool, route_costs(pool, (0.5, 0.5)))
    encoder = Shown("net.py", samples.encoder(), None, samples.suggestions(), (samples.sweep(),))
    return {
        "encoder": html_report("net.py", [encoder]),
        "pool": html_report("pool.py", [shown]),
        "comparison": html_report("net.py and pool.py", [encoder, shown]),
    }


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("html")
    for name, text in pages().items():
        (folder / f"{name}.html").write_text(text, encoding="utf-8")
    return folder


each_page = pytest.mark.parametrize("name", ["encoder", "pool", "comparison"])


@each_page
def test_a_page_is_one_small_file_that_loads_nothing(folder: Path, name: str) -> None:
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    page = _Page(text)
    assert len(text.encode()) < LARGEST
    assert "default-src 'none'" in text
    tags = {tag for tag, _ in page.elements}
    assert not tags & {"link", "iframe", "img", "object", "base"}
    assert not any("src" in attrs for _, attrs in page.elements)
    assert not any(attrs.get("href", "#").startswith("http") for _, attrs in page.elements)


@each_page
def test_a_page_draws_all_its_charts_without_an_error(folder: Path, name: str) -> None:
    text = (folder / f"{name}.html").read_text(encoding="utf-8")
    charts = text.count('role="img"')
    seen = browser.visit(folder / f"{name}.html", folder)
    assert charts >= 2
    assert f'data-drawn="{charts}"' in seen.dom
    assert not [line for line in seen.console if re.search("error|refused|warn", line, re.I)]


@pytest.mark.parametrize("network", [None, Network("x", 50, 30), Network("y", 10_000, 0)])
def test_times_on_the_page_are_those_of_the_network_chosen(
    folder: Path, network: Network | None
) -> None:
    chosen = network or samples.LAN
    address = f"#rate={chosen.rate_mbit:g}&rtt={chosen.rtt_ms:g}" if network else ""
    page = _Page(browser.visit(folder / "encoder.html", folder, address).dom)
    assert len(page.costs) > 20
    for cost, shown in page.costs:
        fixed, sent, rounds = cost.split(",")
        want = float(fixed) + chosen.seconds(int(sent), int(rounds))
        assert shown == time_text(want), cost
    total = samples.encoder().total
    moved = total.compute_s + chosen.seconds(total.online_bytes[0], total.rounds)
    assert time_text(moved) in [shown for _, shown in page.costs]


def test_heat_is_the_share_of_the_time(folder: Path) -> None:
    dom = browser.visit(folder / "encoder.html", folder, "#rate=1&rtt=0").dom
    (part,) = samples.encoder().parts
    slow = Network("slow", 1, 0)
    at = [x.figures.compute_s + slow.seconds(x.figures.online_bytes[0], 0) for x in part.layers]
    share = max(at) / sum(at)
    assert f">{share:.1%}</span>" in dom
    assert f"--share: {share:.4f}" in dom


def test_a_dark_desktop_gets_a_dark_page(folder: Path) -> None:
    light, dark = (
        np.asarray(
            Image.open(browser.screenshot(folder / "encoder.html", folder, dark=d)).convert("L")
        )
        for d in (False, True)
    )
    assert np.median(light) > 200
    assert np.median(dark) < 60
    # and the charts are drawn on it: nowhere is there a large light area
    assert np.mean(dark > 200) < 0.1


@each_page
def test_a_page_can_be_used_without_seeing_or_pointing(folder: Path, name: str) -> None:
    page = _Page((folder / f"{name}.html").read_text(encoding="utf-8"))
    html = next(attrs for tag, attrs in page.elements if tag == "html")
    assert html["lang"] == "en"
    labelled = {attrs["for"] for tag, attrs in page.elements if tag == "label"}
    assert {attrs["id"] for tag, attrs in page.elements if tag == "input"} <= labelled
    for tag, attrs in page.elements:
        if attrs.get("role") == "img":
            assert "table has the same numbers" in attrs["aria-label"]
        if tag == "th":
            assert attrs.get("scope") in ("row", "col")
    tables = sum(tag == "table" for tag, _ in page.elements)
    captions = sum(tag == "caption" for tag, _ in page.elements)
    assert tables == captions > 0


def test_figures_on_the_page_are_exact(folder: Path) -> None:
    text = (folder / "encoder.html").read_text(encoding="utf-8")
    report = samples.encoder()
    assert size_text(report.total.online_bytes[0]) in text
    assert f'<td class="n">{report.total.rounds}</td>' in text
    data = re.search(r'id="data">(.*?)</script>', text, re.DOTALL)
    assert data is not None
    charts = json.loads(data[1])["charts"]
    sent = sum(cost[1] for cost in charts[0]["costs"])
    assert sent == report.total.online_bytes[0]


def test_names_from_a_model_cannot_put_elements_into_the_page() -> None:
    report = samples.encoder()
    (part,) = report.parts
    bad = replace(part.layers[0], name="a</script><script>alert(1)</script>", op="<b>x")
    text = html_report("<i>t", [Shown("<u>n", replace(report, parts=(
        replace(part, layers=(bad, *part.layers[1:])),)))])  # fmt: skip
    assert "<script>alert" not in text
    assert "<b>x" not in text
    assert "<i>t" not in text
    assert "<u>n" not in text


def test_without_bokeh_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "bokeh", None)
    with pytest.raises(UserError, match="needs bokeh, which is not installed"):
        html_report("x", [Shown("x", samples.encoder())])


@pytest.mark.parametrize("name", ["encoder", "pool"])
def test_a_compiled_program_has_a_page_too(name: str, tmp_path: Path) -> None:
    report = compiled(name).cost_report()
    page = tmp_path / "page.html"
    page.write_text(html_report(name, [Shown(name, report, route_costs(report))]), encoding="utf-8")
    seen = browser.visit(page, tmp_path)
    assert 'data-drawn="2"' in seen.dom
    assert time_text(report.total.seconds) in seen.dom
