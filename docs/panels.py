"""Draws the panels of the Grafana dashboards from a run of the pipeline: python docs/panels.py, in about six minutes.

The run publishes the demo's texts, with Prometheus beside the demo's processes. Each picture shows what Prometheus
answered to the panel's own queries. It needs the package `prometheus` of Debian. Run it after a change of a panel.
"""

from __future__ import annotations

import asyncio
import contextlib
import html
import itertools
import json
import math
import re
import shutil
import subprocess
import sys
import tempfile
import time
import urllib.parse
import urllib.request
from collections.abc import Iterator, Sequence
from importlib.resources import files
from pathlib import Path
from typing import Any, NamedTuple

import aiohttp
import msgspec

from safeguard_streams import ContentEvent, Publisher
from safeguard_streams.bus import kafka
from safeguard_streams.contract.records import now
from safeguard_streams.demo import broker, pipeline
from safeguard_streams.infra import brokers
from safeguard_streams.operations import dashboards
from safeguard_streams.policies.files import load_library
from safeguard_streams.releases import operator

PICTURES = Path(__file__).parent / "panels"
SCRAPE_SECONDS = 5
RATE = 3.5  # events per second, which the small model judges on two cores
WIDTH, LEFT, TOP, HEIGHT = 360, 58, 34, 110  # pixels: the picture, and where its chart begins; the chart's height
ROW = 15  # pixels between two lines of the legend
LEGENDS = 6  # the lines with the highest values; the others are counted
LONGEST = 54  # characters of a legend
COLOURS = ("#1f77b4", "#d95f02", "#2ca02c", "#b5179e", "#7f6000", "#17a2b8", "#d62728", "#6a51a3", "#555555", "#8c564b")
SMALL_UNITS = {"cps": "/s", "s": " s", "short": "", "bytes": " B"}


class Line(NamedTuple):
    """One line of a chart: its legend, and its values, one for each step; None where there is none."""

    legend: str
    values: list[float | None]

    @property
    def highest(self) -> float:
        return max((value for value in self.values if value is not None), default=0.0)


def charts() -> Iterator[tuple[str, dict[str, Any]]]:
    """The file name and the JSON of each panel that shows metrics."""
    for name, document in dashboards.documents().items():
        if name.startswith("dashboards/"):
            for panel in json.loads(document)["panels"]:
                if panel.get("targets"):
                    yield file_name(name, panel["title"]), panel


def file_name(board: str, title: str) -> str:
    """The picture of a panel, as in pipeline-share-escalated.svg."""
    return f"{Path(board).stem}-{re.sub(r'[^a-z]+', '-', title.lower())}.svg"


def queries(panel: dict[str, Any]) -> str:
    return "\n".join(target["expr"] for target in panel["targets"])


def draw(panel: dict[str, Any], lines: Sequence[Line]) -> str:
    """The picture of a panel, in SVG."""
    unit, shown = panel["fieldConfig"]["defaults"]["unit"], sorted(lines, key=lambda line: -line.highest)
    legends = [line.legend or panel["title"] for line in shown[:LEGENDS]]
    if len(shown) > LEGENDS:
        legends.append(f"and {len(shown) - LEGENDS} more")
    bottom = TOP + HEIGHT
    height = bottom + 26 + ROW * max(1, len(legends))
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}">',
        '<g font-family="sans-serif" font-size="11" fill="#374151">',
        f"<title>{html.escape(panel['title'])}</title>",
        f"<desc>{html.escape(queries(panel))}</desc>",
        f'<rect width="{WIDTH}" height="{height}" rx="4" fill="#ffffff" stroke="#d1d5db"/>',
        f'<text x="10" y="20" font-size="13" font-weight="bold" fill="#111827">{html.escape(panel["title"])}</text>',
    ]
    if not shown:
        parts.append(f'<text x="{WIDTH // 2}" y="{TOP + HEIGHT // 2}" text-anchor="middle">No data</text>')
    else:
        parts += _axes(unit, shown)
        parts += [_path(line, _top(shown), COLOURS[at % len(COLOURS)]) for at, line in enumerate(shown)]
    for at, legend in enumerate(legends):
        y = bottom + 34 + ROW * at
        text = legend if len(legend) <= LONGEST else legend[: LONGEST - 1] + "…"
        if at < LEGENDS:
            parts.append(f'<rect x="10" y="{y - 6}" width="12" height="3" fill="{COLOURS[at % len(COLOURS)]}"/>')
        parts.append(f'<text x="28" y="{y}">{html.escape(text)}</text>')
    return "\n".join([*parts, "</g></svg>"]) + "\n"


def _axes(unit: str, lines: Sequence[Line]) -> list[str]:
    parts, top, right = [], _top(lines), WIDTH - 12
    step = _step(top)
    for at in range(round(top / step) + 1):
        y = TOP + HEIGHT * (1 - at * step / top)
        parts.append(f'<path d="M{LEFT} {y:.1f}H{right}" stroke="#e5e7eb"/>')
        parts.append(f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{_value(at * step, unit)}</text>')
    minutes = (len(lines[0].values) - 1) * SCRAPE_SECONDS / 60
    for at in range(int(minutes) + 1):
        x = LEFT + (right - LEFT) * at / minutes if minutes else LEFT
        parts.append(f'<text x="{x:.1f}" y="{TOP + HEIGHT + 15}" text-anchor="middle">{at} min</text>')
    return parts


def _path(line: Line, top: float, colour: str) -> str:
    across = (WIDTH - 12 - LEFT) / max(1, len(line.values) - 1)
    points, command = [], "M"
    for at, value in enumerate(line.values):
        if value is None:
            command = "M"
            continue
        points.append(f"{command}{LEFT + at * across:.1f} {TOP + HEIGHT * (1 - value / top):.1f}")
        command = "L"
    return f'<path d="{"".join(points)}h0" fill="none" stroke="{colour}" stroke-width="1.5" stroke-linecap="round"/>'


def _step(top: float) -> float:
    """The distance of the grid's lines, of which there are at most four above zero."""
    power = 10.0 ** math.floor(math.log10(top))
    return next(step * power for step in (0.25, 0.5, 1, 2, 5) if step * power * 4 >= top * 0.999)


def _top(lines: Sequence[Line]) -> float:
    """The upper end of the scale: a line of the grid."""
    highest = max(line.highest for line in lines) or 1.0
    step = _step(highest)
    return math.ceil(highest / step - 1e-9) * step


def _value(value: float, unit: str) -> str:
    if unit == "percentunit":
        return f"{100 * value:g}%"
    if unit == "s" and 0 < value < 1:
        return f"{1000 * value:g} ms"
    if value >= 1000:
        return f"{value / 1000:g}k{SMALL_UNITS[unit]}"
    return f"{value:g}{SMALL_UNITS[unit]}"


def ask(address: str, panel: dict[str, Any], begin: float, end: float) -> list[Line]:
    """What Prometheus answers to a panel's queries."""
    lines = []
    for target in panel["targets"]:
        query = target["expr"].replace(dashboards.WINDOW, f"{4 * SCRAPE_SECONDS}s")  # Grafana's rule
        words = {"query": query, "start": begin, "end": end, "step": SCRAPE_SECONDS}
        url = f"{address}/api/v1/query_range?{urllib.parse.urlencode(words)}"
        with urllib.request.urlopen(url) as response:  # noqa: S310  (it is Prometheus's)
            found = json.load(response)["data"]["result"]
        times = [begin + at * SCRAPE_SECONDS for at in range(int((end - begin) / SCRAPE_SECONDS) + 1)]
        for series in found:
            labels = series["metric"]
            legend = re.sub(r"{{(\w+)}}", lambda name, of=labels: of.get(name[1], ""), target["legendFormat"])
            by_time = {round(at): float(value) for at, value in series["values"]}
            values = [by_time.get(round(at), math.nan) for at in times]
            lines.append(Line(legend.strip(), [value if math.isfinite(value) else None for value in values]))
    return lines


@contextlib.contextmanager
def prometheus(folder: Path, ports: Sequence[int]) -> Iterator[str]:
    """The address of a Prometheus that scrapes these ports of this machine."""
    program, port = shutil.which("prometheus"), brokers.free_port()
    if program is None:
        sys.exit("no Prometheus here: apt-get install prometheus")
    targets = [f"127.0.0.1:{one}" for one in ports]
    jobs = [{"job_name": "safeguard", "static_configs": [{"targets": targets}]}]
    config = {"global": {"scrape_interval": f"{SCRAPE_SECONDS}s"}, "scrape_configs": jobs}
    (folder / "prometheus.yml").write_text(json.dumps(config), encoding="utf-8")  # JSON is YAML
    command = [
        program, f"--config.file={folder / 'prometheus.yml'}", f"--storage.tsdb.path={folder / 'metrics'}",
        f"--web.listen-address=127.0.0.1:{port}", "--log.level=warn",
    ]  # fmt: skip
    with subprocess.Popen(command) as process:
        try:
            yield f"http://127.0.0.1:{port}"
        finally:
            process.terminate()


async def publish(bootstrap: str) -> None:
    """Publish the demo's texts, RATE a second."""
    lines = files("safeguard_streams.demo").joinpath("events.jsonl").read_bytes().splitlines()
    async with Publisher(bootstrap) as publisher:
        start = time.monotonic()
        for number, line in enumerate(lines):
            await asyncio.sleep(max(0.0, start + number / RATE - time.monotonic()))
            fields = {**msgspec.json.decode(line), "created_at": now()}
            await publisher.publish(msgspec.convert(fields, ContentEvent))


async def look(console: str) -> None:
    """Ask for pages of the console, as somebody does who works with it."""
    async with aiohttp.ClientSession(console) as http:
        for path in itertools.cycle(("/", "/queue", "/search")):
            async with http.get(path) as response:
                await response.read()
            await asyncio.sleep(1)


async def run() -> dict[str, list[Line]]:
    """What the panels show of a run, by the pictures' names."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        async with broker.started(None, print) as here:
            await kafka.create_topics(here.settings)
            await operator.release(here.settings, load_library().values(), operator.ChangedBy("demo"))
            async with (
                pipeline.running(here.settings, None, folder, print) as children,
                pipeline.console(here.settings, folder, print) as console,
            ):
                if console is None:
                    sys.exit("the console does not run here")
                ports = [*(child.port for child in children), urllib.parse.urlsplit(console).port or 0]
                with prometheus(folder, ports) as address:
                    begin, looking = time.time(), asyncio.create_task(look(console))
                    await publish(here.settings.bootstrap)
                    await asyncio.sleep(4 * SCRAPE_SECONDS)  # the last answers
                    looking.cancel()
                    return {picture: ask(address, panel, begin, time.time()) for picture, panel in charts()}


def main() -> None:
    lines = asyncio.run(run())
    shutil.rmtree(PICTURES, ignore_errors=True)
    PICTURES.mkdir()
    for picture, panel in charts():
        (PICTURES / picture).write_text(draw(panel, lines[picture]), encoding="utf-8")


if __name__ == "__main__":
    main()
