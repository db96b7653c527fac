"use strict";
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const rate = document.getElementById("rate");
  const rtt = document.getElementById("rtt");
  const dark = matchMedia("(prefers-color-scheme: dark)");
  const COLOURS = {
    light: { compute: "#0b5fa5", bandwidth: "#b35900", latency: "#00795c", text: "#1b1f24", line: "#d0d7de" },
    dark: { compute: "#5aa9e6", bandwidth: "#f0a04b", latency: "#3ecf9e", text: "#e6eaee", line: "#3a424b" },
  };
  let network = { rate: data.network.rate_mbit, rtt: data.network.rtt_ms };
  const charts = [];

  // seconds of [fixed seconds, bytes, rounds] on the network
  const parts = ([fixed, bytes, rounds], at = network) =>
    [fixed, (bytes * 8) / (at.rate * 1e6), (rounds * at.rtt) / 2e3];
  const seconds = (cost) => parts(cost).reduce((a, b) => a + b, 0);
  const time = (s) =>
    s < 1e-3 ? `${(s * 1e6).toFixed(0)} µs` : s < 1 ? `${(s * 1e3).toFixed(1)} ms` : `${s.toFixed(2)} s`;
  const numbers = (text) => text.split(",").map(Number);

  function showNumbers() {
    for (const cell of document.querySelectorAll("[data-cost]")) {
      const own = seconds(numbers(cell.dataset.cost));
      if (cell.dataset.of === undefined) {
        cell.textContent = time(own);
        continue;
      }
      const whole = seconds(numbers(cell.dataset.of));
      const share = whole ? own / whole : 0;
      cell.textContent = `${(share * 100).toFixed(1)}%`;
      cell.style.setProperty("--share", share.toFixed(4));
    }
    document.getElementById("rate-text").textContent = `${Number(network.rate.toPrecision(3))} Mbit/s`;
    document.getElementById("rtt-text").textContent = `${Number(network.rtt.toPrecision(3))} ms`;
  }

  function showCharts() {
    for (const { source, chart } of charts) {
      const rows = chart.costs.map((cost, k) => parts(cost, chart.networks ? chart.networks[k] : network));
      const scaled = (k) => rows.map((row) => row[k] * 1e3);
      source.data = { ...source.data, compute: scaled(0), bandwidth: scaled(1), latency: scaled(2) };
    }
  }

  function show() {
    showNumbers();
    showCharts();
  }

  function set(values, sliders) {
    network = values;
    if (sliders) {
      rate.value = Math.log10(network.rate);
      rtt.value = network.rtt > 0 ? Math.log10(network.rtt) : rtt.min;
    }
    show();
  }

  function fromAddress() {
    const asked = new URLSearchParams(location.hash.slice(1));
    const [r, t] = [Number(asked.get("rate")), Number(asked.get("rtt"))];
    if (r > 0 && t >= 0 && asked.has("rtt")) set({ rate: r, rtt: t }, true);
  }

  function paint() {
    const c = COLOURS[dark.matches ? "dark" : "light"];
    for (const { figure, bars } of charts) {
      for (const axis of [...figure.below, ...figure.left])
        axis.setv({
          axis_label_text_color: c.text, major_label_text_color: c.text, axis_line_color: c.line,
          major_tick_line_color: c.line, minor_tick_line_color: null,
        });
      for (const item of [...figure.center, ...figure.above]) {
        if (item.type === "Grid") item.setv({ grid_line_color: c.line });
        if (item.type === "Legend")
          item.setv({ label_text_color: c.text, background_fill_color: null, border_line_color: null });
      }
      for (const [name, bar] of Object.entries(bars)) bar.glyph.setv({ fill_color: c[name], line_color: null });
    }
  }

  async function draw(chart) {
    const views = await Bokeh.embed.embed_item(chart.item);
    const [view] = [...views];
    const doc = view.model.document;
    const find = (name) => doc.get_model_by_name(name);
    const bars = Object.fromEntries(["compute", "bandwidth", "latency"].map((n) => [n, find(n)]).filter(([, b]) => b));
    charts.push({ chart, figure: find("figure"), source: find("source"), bars });
  }

  rate.addEventListener("input", () => set({ ...network, rate: 10 ** Number(rate.value) }, false));
  rtt.addEventListener("input", () =>
    set({ ...network, rtt: rtt.value === rtt.min ? 0 : 10 ** Number(rtt.value) }, false));
  for (const button of document.querySelectorAll("[data-network]"))
    button.addEventListener("click", () => {
      const [r, t] = numbers(button.dataset.network);
      set({ rate: r, rtt: t }, true);
    });
  document.getElementById("network").addEventListener("submit", (event) => event.preventDefault());
  addEventListener("hashchange", fromAddress);
  dark.addEventListener("change", paint);

  set(network, true);
  fromAddress();
  Promise.all(data.charts.map(draw)).then(() => {
    paint();
    show();
    document.body.dataset.drawn = String(charts.length);
  });
})();
