"""A report as one HTML page that needs nothing else: no network, no other file."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from scanseg.evaluation.comparison import Comparison
from scanseg.evaluation.report import TITLES, Report
from scanseg.evaluation.report_sections import (
    Section,
    Table,
    comparison_section,
    facts,
    interval,
    number,
    sections,
)

_BAR = 260  # width of a class's bar in CSS pixels

_STYLE = """
:root{--ink:#1d2228;--soft:#5b6670;--line:#d9dee3;--paper:#fff;--card:#f5f7f9;--a:#2563a8;
--b:#9cc3ea;--warn:#b4541a}
@media (prefers-color-scheme:dark){:root{--ink:#e6e9ec;--soft:#9aa5af;--line:#39424b;
--paper:#15191d;--card:#1e242a;--a:#6ea8e6;--b:#2f527a;--warn:#e59a62}}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);background:var(--paper);
max-width:1080px;margin:0 auto;padding:32px 20px 80px}
h1{font-size:26px;line-height:1.25;margin:0 0 12px}
h2{font-size:19px;margin:44px 0 10px;padding-top:14px;border-top:1px solid var(--line)}
p{max-width:75ch;margin:8px 0}
.facts{color:var(--soft);display:grid;grid-template-columns:max-content 1fr;gap:2px 16px;margin:0}
.facts dt{font-weight:600}.facts dd{margin:0;overflow-wrap:anywhere}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(215px,1fr));gap:12px;margin:22px 0}
.tile{background:var(--card);border-radius:8px;padding:12px 16px}
.tile b{display:block;font-size:29px;line-height:1.2;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px;display:block}
.note{border-left:3px solid var(--warn);padding-left:10px}
.wide{overflow-x:auto}
table{border-collapse:collapse;font-variant-numeric:tabular-nums;margin:10px 0}
th,td{padding:3px 12px 3px 0;text-align:right;border-bottom:1px solid var(--line);
vertical-align:middle}
th{color:var(--soft);font-size:13px;font-weight:600;white-space:nowrap}
th:first-child,td:first-child,td.text,th.text{text-align:left}
tr.ours td{font-weight:700}
th button{all:unset;cursor:pointer}th button:focus-visible{outline:2px solid var(--a)}
.track{fill:var(--card)}.guided{fill:var(--b)}.plain{fill:var(--a)}
.chip{display:inline-block;margin:0 14px 4px 0;font-size:13px}
.chip i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:5px;
vertical-align:-1px}
figure{margin:22px 0}figcaption{margin-bottom:6px}
.panels{display:grid;grid-template-columns:repeat(auto-fit,minmax(220px,1fr));gap:8px}
.panels img{width:100%;height:auto;border-radius:4px;display:block}
.panels small{color:var(--soft)}
"""

_SORT = """
for(const table of document.querySelectorAll('table.sortable')){
 table.querySelectorAll('th').forEach((th,i)=>{
  const button=document.createElement('button');button.textContent=th.textContent;
  th.replaceChildren(button);let up=false;
  button.onclick=()=>{up=!up;const body=table.tBodies[0];
   const value=r=>{const t=r.cells[i].dataset.v??r.cells[i].textContent;
    const n=parseFloat(t.replace(/,/g,''));return isNaN(n)?t:n};
   [...body.rows].sort((p,q)=>{const a=value(p),b=value(q);
    const c=typeof a===typeof b?(a<b?-1:a>b?1:0):typeof a==='number'?-1:1;
    return up?c:-c}).forEach(r=>body.append(r))}})}
"""


@dataclass(frozen=True)
class Panel:
    """A picture of an example: its title and a ``data:`` address."""

    title: str
    address: str


@dataclass(frozen=True)
class Example:
    """An image of the set, side by side.

    Attributes:
        title: which image and how well it went.
        panels: photo, ground truth, prediction and what differs.
        legend: class name and CSS colour of the classes that occur.
    """

    title: str
    panels: tuple[Panel, ...]
    legend: tuple[tuple[str, str], ...]


def to_html(report: Report, examples: Sequence[Example] = ()) -> str:
    """The page of a report."""
    return _page(report.title, _body(report, examples))


def comparison_to_html(comparison: Comparison) -> str:
    """The page of two systems: the paired test, then both reports."""
    section = comparison_section(comparison)
    parts = [_section(section, "h1"), *(_body(report, ()) for report in comparison.reports)]
    return _page(section.title, "\n".join(parts))


def _page(title: str, body: str) -> str:
    return (
        '<!doctype html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)}</title><style>{_STYLE}</style></head>\n<body>\n{body}\n"
        f"<script>{_SORT}</script></body></html>\n"
    )


def _body(report: Report, examples: Sequence[Example]) -> str:
    items = "".join(f"<dt>{escape(k)}</dt><dd>{escape(v)}</dd>" for k, v in facts(report).items())
    parts = [f"<h1>{escape(report.title)}</h1>", f'<dl class="facts">{items}</dl>', _tiles(report)]
    parts += [f'<p class="note">{escape(note)}</p>' for note in report.notes]
    parts += [_section(section, "h2") for section in sections(report)]
    parts += [_examples(examples), _classes(report)]
    return "\n".join(filter(None, parts))


def _section(section: Section, level: str) -> str:
    drawn = [f"<p>{escape(p)}</p>" if isinstance(p, str) else _table(p) for p in section.parts]
    return f"<{level}>{escape(section.title)}</{level}>" + "".join(drawn)


def _table(table: Table) -> str:
    def cell(tag: str, column: int, content: str) -> str:
        kind = ' class="text"' if column in table.text else ""
        return f"<{tag}{kind}>{escape(content)}</{tag}>"

    rows = [
        f"<tr{' class=ours' if i == table.ours else ''}>"
        + "".join(cell("td", c, content) for c, content in enumerate(row))
        + "</tr>"
        for i, row in enumerate(table.rows)
    ]
    head = "".join(cell("th", c, title) for c, title in enumerate(table.head))
    return (
        f'<div class="wide"><table><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>"
    )


def _tiles(report: Report) -> str:
    tiles = [
        f'<div class="tile"><b>{number(report.headline[name], 1)}</b>'
        f"<span>{escape(TITLES[name])}</span><span>{interval(report, name, 1)}</span></div>"
        for name in ("miou_union", "miou_present", "sg_iou_released", "sg_iou_eq6")
    ]
    return f'<div class="tiles">{"".join(tiles)}</div>'


def _classes(report: Report) -> str:
    shown = [row for row in report.per_class if row.truth_pixels or row.predicted_pixels]
    shown.sort(key=lambda row: (-(row.iou or 0), row.index))
    rows = []
    for row in shown:
        numbers = (row.iou, row.sg_iou_eq6, row.sg_iou_released, row.accuracy, row.precision)
        cells = [
            f"<td>{escape(row.name)}</td>",
            f'<td class="text" data-v="{row.iou or 0}">{_bar(row.iou, row.sg_iou_eq6)}</td>',
            *(f"<td>{number(value, 1)}</td>" for value in numbers),
            f"<td>{row.truth_images}</td><td>{row.truth_pixels:,}</td>",
        ]
        rows.append("<tr>" + "".join(cells) + "</tr>")
    titles = ("class", "", "IoU", "SG eq. 6", "SG released", "accuracy", "precision")
    head = "".join(f"<th>{title}</th>" for title in (*titles, "images", "pixels"))
    absent = len(report.per_class) - len(shown)
    text = "<p>{} classes are neither in the ground truth nor in the predictions.</p>"
    return (
        '<h2>Classes</h2><p><span class="chip"><i style="background:var(--a)"></i>IoU</span>'
        '<span class="chip"><i style="background:var(--b)"></i>what SG-IoU (eq. 6) adds</span></p>'
        f'<div class="wide"><table class="sortable"><thead><tr>{head}</tr></thead>'
        f"<tbody>{''.join(rows)}</tbody></table></div>" + (text.format(absent) if absent else "")
    )


def _bar(iou: float | None, guided: float | None) -> str:
    """A bar of the IoU, lengthened by what SG-IoU adds."""
    plain, more = iou or 0.0, guided or 0.0
    track = f'<rect class="track" width="{_BAR}" height="14" rx="3"/>'
    bars = "".join(
        f'<rect class="{kind}" width="{value / 100 * _BAR:.1f}" height="14" rx="3"/>'
        for kind, value in (("guided", more), ("plain", plain))
    )
    label = f"IoU {plain:.1f}, SG-IoU {more:.1f}"
    return f'<svg width="{_BAR}" height="14" role="img" aria-label="{label}">{track}{bars}</svg>'


def _examples(examples: Sequence[Example]) -> str:
    if not examples:
        return ""
    figures = []
    for example in examples:
        panels = "".join(
            f'<div><img src="{panel.address}" alt="{escape(panel.title)}">'
            f"<small>{escape(panel.title)}</small></div>"
            for panel in example.panels
        )
        chips = "".join(
            f'<span class="chip"><i style="background:{colour}"></i>{escape(name)}</span>'
            for name, colour in example.legend
        )
        figures.append(
            f"<figure><figcaption>{escape(example.title)}</figcaption>"
            f'<div class="panels">{panels}</div><div>{chips}</div></figure>'
        )
    return "<h2>Examples</h2>" + "".join(figures)
