"""Bars with their spread, as an SVG that reads on light and on dark pages."""

from html import escape

WIDTH, LEFT, RIGHT, ROW, TOP = 960, 420, 150, 30, 44
STYLE = """
text { font: 13px system-ui, sans-serif; fill: #1f2328; }
.title { font-weight: 600; }
.bar { fill: #8c959f; }
.own { fill: #0969da; }
.spread { stroke: #1f2328; stroke-width: 1.5; }
@media (prefers-color-scheme: dark) {
  text { fill: #e6edf3; }
  .bar { fill: #6e7681; }
  .own { fill: #4493f8; }
  .spread { stroke: #e6edf3; }
}
"""


def figure(value: float) -> str:
    """Three digits, or all before the point."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def bars(title: str, unit: str, values: dict[str, tuple[float, float, float]], own: str) -> str:
    """A bar for each name: its median, and a line from the least to the most. Names that contain `own` stand out."""
    most = max(high for _, _, high in values.values()) or 1
    height = TOP + ROW * len(values) + 8

    def x(value: float) -> float:
        return LEFT + (WIDTH - LEFT - RIGHT) * value / most

    parts = [f'<text class="title" x="8" y="22">{escape(title)}</text>']
    for number, (name, (median, low, high)) in enumerate(values.items()):
        top = TOP + ROW * number
        middle = top + ROW / 2 - 4
        look = "own" if own in name else "bar"
        parts += [
            f'<text x="{LEFT - 10}" y="{middle + 5:.0f}" text-anchor="end">{escape(name)}</text>',
            f'<rect class="{look}" x="{LEFT}" y="{top}" width="{max(x(median) - LEFT, 1):.1f}" height="{ROW - 8}" rx="2"/>',
            f'<line class="spread" x1="{x(low):.1f}" x2="{x(high):.1f}" y1="{middle}" y2="{middle}"/>',
            f'<text x="{x(high) + 8:.1f}" y="{middle + 5:.0f}">{figure(median)} {escape(unit)}</text>',
        ]
    return f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" width="{WIDTH}" height="{height}"><style>{STYLE}</style>{"".join(parts)}</svg>\n'
