"""Charts as SVG in the page: stacked bars, columns by month, and shares with their intervals. Names are escaped.

Colours are classes of the page's style. Each part says its figure on hover, and a table beside each chart has them all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from markupsafe import Markup, escape

from safeguard_streams.quality.proportions import Proportion

_WIDTH = 400
_ROW = 38  # height of a name with its bar
_BAR = 12
_PLOT = 130  # height of the columns
_NAME = 46  # characters of a name
_MONTHS = "JFMAMJJASOND"
_MONTH = 30  # width
_LEFT = 34


def bars(rows: Mapping[str, Mapping[str, int]], about: str) -> Markup:
    """A bar for each row, made of a part for each series."""
    most = max([1, *(sum(parts.values()) for parts in rows.values())])
    drawn = []
    for number, (name, parts) in enumerate(rows.items()):
        top, left = number * _ROW, 0.0
        drawn.append(_heading(name, f"{sum(parts.values()):,}", top))
        drawn.append(Markup('<rect class="track" y="{}" width="{}" height="{}"/>').format(top + 20, _WIDTH, _BAR))
        for series, count in parts.items():
            width = _WIDTH * count / most
            drawn.append(_part(series, f"{name}, {_words(series)}: {count:,}", (left, top + 20.0, width, _BAR)))
            left += width
    return _svg(drawn, len(rows) * _ROW, about)


def columns(months: Sequence[Mapping[str, int]], about: str) -> Markup:
    """A column for each month, made of a part for each series."""
    most = max([1, *(sum(parts.values()) for parts in months)])
    drawn = [
        Markup('<text class="soft" x="{}" y="12" text-anchor="end">{}</text>').format(_LEFT - 6, f"{most:,}"),
        Markup('<path class="axis" d="M{0} 2V{1}H{2}"/>').format(_LEFT, _PLOT + 4, _WIDTH),
    ]
    for number, parts in enumerate(months):
        left, bottom = _LEFT + 4 + number * _MONTH, _PLOT + 4.0
        for series, count in parts.items():
            height = _PLOT * count / most
            bottom -= height
            told = f"month {number + 1}, {_words(series)}: {count:,}"
            drawn.append(_part(series, told, (left, bottom, _MONTH - 8, height)))
        middle = left + (_MONTH - 8) / 2
        drawn.append(
            Markup('<text class="soft" x="{}" y="{}" text-anchor="middle">{}</text>').format(
                middle, _PLOT + 20, _MONTHS[number]
            )
        )
    return _svg(drawn, _PLOT + 26, about)


def shares(rows: Mapping[str, Proportion], about: str) -> Markup:
    """A share with its interval for each row; rows without a share are left out. The scale is below them."""
    known = {name: share for name, share in rows.items() if share.value is not None}
    most = max([0.01, *(share.high for share in known.values())])
    drawn = []
    for number, (name, share) in enumerate(known.items()):
        top = number * _ROW
        low, value, high = (_WIDTH * figure / most for figure in (share.low, share.value or 0.0, share.high))
        told = f"{name}: {percent(share.value)}, 95% interval {percent(share.low)} to {percent(share.high)}"
        drawn += [
            _heading(name, percent(share.value), top),
            Markup('<rect class="track" y="{}" width="{}" height="{}"/>').format(top + 20, _WIDTH, _BAR),
            _part("interval", told, (low, top + 24.0, max(1.0, high - low), 4.0)),
            Markup('<circle class="dot" cx="{:.1f}" cy="{}" r="5"><title>{}</title></circle>').format(
                min(max(value, 5.0), _WIDTH - 5.0), top + 26, told
            ),
        ]
    bottom = len(known) * _ROW + 12
    drawn.append(Markup('<text class="soft" y="{}">0%</text>').format(bottom))
    drawn.append(
        Markup('<text class="soft" x="{}" y="{}" text-anchor="end">{}</text>').format(_WIDTH, bottom, percent(most))
    )
    return _svg(drawn, bottom + 4, about)


def percent(share: float | None) -> str:
    """A share as people read it."""
    return "" if share is None else f"{100 * share:.1f}%"


def _words(series: str) -> str:
    return series.replace("_", " ")


def _heading(name: str, figure: str, top: int) -> Markup:
    short = name if len(name) <= _NAME else name[: _NAME - 1] + "…"
    return Markup('<text y="{0}">{1}</text><text class="n" x="{2}" y="{0}" text-anchor="end">{3}</text>').format(
        top + 14, short, _WIDTH, figure
    )


def _part(series: str, told: str, box: tuple[float, float, float, float]) -> Markup:
    left, top, width, height = box
    drawn = '<rect class="{}" x="{:.1f}" y="{:.1f}" width="{:.1f}" height="{:.1f}"><title>{}</title></rect>'
    return Markup(drawn).format(series, left, top, width, height, told)  # noqa: S704  (format escapes)


def _svg(drawn: Sequence[Markup], height: int, about: str) -> Markup:
    begin = Markup('<svg role="img" aria-label="{}" viewBox="0 0 {} {}">').format(escape(about), _WIDTH, max(height, 1))
    return begin + Markup("").join(drawn) + Markup("</svg>")
