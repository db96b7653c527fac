"""`/health` and `/metrics` of a service, over HTTP on loopback.

`/health` is JSON, with status 200, or 503 if the service stops or takes no visits. `/metrics` is
the text format of Prometheus. Neither has anything secret; there is no TLS, so it listens on
loopback only.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Callable, Mapping
from typing import Any

from srcompile.runtime.services.histogram import Histogram, Labels, labels_text

METRICS: Mapping[str, tuple[str, str]] = {
    "sessions": ("counter", "Sessions that were opened."),
    "failed_sessions": ("counter", "Sessions that ended with an error."),
    "refused_sessions": ("counter", "Sessions that the limits on their number refused."),
    "inferences": ("counter", "Inferences that were finished."),
    "inference_seconds": (
        "histogram",
        "From a party's masks for the client to the end of its rounds, by model; of parties.",
    ),
    "rounds": ("counter", "Rounds of inferences, as the cost report counts them."),
    "batches": ("counter", "Batches of inferences that were run; a lone inference needs none."),
    "waiting_inferences": ("gauge", "Inferences that wait for their batch; of party 0."),
    "blocks": ("counter", "Blocks of material that were dealt or received."),
    "online_bytes": ("counter", "Bytes sent online by this party, as the cost report counts them."),
    "material_bytes": ("counter", "Bytes of material that were dealt or received."),
    "refused_visits": ("counter", "Connections that were turned away."),
    "running_sessions": ("gauge", "Sessions that run now."),
    "free_bytes": ("gauge", "Free bytes on the disk of the state folder."),
    "stock_blocks": ("gauge", "Blocks in stock, by deployment and segment; of parties."),
    "stock_bytes": ("gauge", "Bytes of the stock on disk, by deployment; of parties."),
}
"""The metrics by name, without the prefix `srcompile_`: kind and meaning."""


Gauge = float | Mapping[Labels, float]
"""A value, or a value for each set of labels."""


def metrics_text(
    role: str, values: Mapping[str, Gauge], histograms: Mapping[str, Histogram]
) -> str:
    """Return metrics in the text format of Prometheus, in the order of METRICS."""
    lines = []
    for name, (kind, about) in METRICS.items():
        full = f"srcompile_{name}" + ("_total" if kind == "counter" else "")
        lines.append(f"# HELP {full} {about}")
        lines.append(f"# TYPE {full} {kind}")
        if kind == "histogram":
            lines += histograms[name].lines(full, role)
            continue
        found = values.get(name, {})
        for labels, value in (found if isinstance(found, Mapping) else {(): found}).items():
            shown = labels_text((("role", role), *labels))
            lines.append(f"{full}{{{shown}}} {value:.15g}")
    return "\n".join(lines) + "\n"


class Health:
    """Serves a role's health and metrics on a loopback port, on threads, until it is closed."""

    def __init__(
        self, port: int, state: Callable[[], dict[str, Any]], metrics: Callable[[], str]
    ) -> None:
        from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer  # off by default

        class Handler(BaseHTTPRequestHandler):
            timeout = 5

            def do_GET(self) -> None:
                found = state()
                if self.path == "/health":
                    status = 200 if found["listening"] and not found["stopping"] else 503
                    self._answer(status, "application/json", json.dumps(found))
                elif self.path == "/metrics":
                    self._answer(200, "text/plain; version=0.0.4; charset=utf-8", metrics())
                else:
                    self._answer(404, "text/plain", "there are /health and /metrics\n")

            def _answer(self, status: int, kind: str, text: str) -> None:
                body = text.encode()
                self.send_response(status)
                self.send_header("Content-Type", kind)
                self.send_header("Content-Length", str(len(body)))
                self.end_headers()
                self.wfile.write(body)

            def log_message(self, *_: object) -> None:
                """Log nothing: these are asked for every few seconds."""

        class Server(ThreadingHTTPServer):
            def handle_error(self, *given: Any) -> None:
                if not isinstance(sys.exception(), OSError):  # who asked did not wait
                    super().handle_error(*given)

        self._server = Server(("127.0.0.1", port), Handler)
        self._server.daemon_threads = True
        self._thread = threading.Thread(target=self._server.serve_forever, daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Stop serving."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
