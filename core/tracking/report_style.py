"""The page of `report.html`: its frame and its style, light and dark."""

from __future__ import annotations

__all__ = ["PAGE"]

PAGE = """<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy"
  content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<title>$title</title>
<style>
:root { --page: #f6f7f9; --card: #ffffff; --ink: #1f2933; --soft: #5b6770; --line: #d9dee4; --mark: #e3f1e9;
  --good: #00734f; --s0: #0072b2; --s1: #d55e00; --s2: #009e73; --s3: #cc79a7; --s4: #b37a00; --s5: #2c8fc4;
  --s6: #7a5195; --s7: #5b6770; }
@media (prefers-color-scheme: dark) {
  :root { --page: #12161b; --card: #1b2129; --ink: #e6eaee; --soft: #9aa7b3; --line: #323c47;
    --mark: #12382b; --good: #6fd3a8; --s0: #56b4e9; --s1: #f28e4b; --s2: #3cc79a; --s3: #e4a3c8;
    --s4: #e6b04a; --s5: #8fd0f2; --s6: #b694d6; --s7: #a9b4be; }
}
* { box-sizing: border-box; }
body { margin: 0; background: var(--page); color: var(--ink); font: 16px/1.5
  system-ui, -apple-system, "Segoe UI", Roboto, "DejaVu Sans", sans-serif; }
main { max-width: 1120px; margin: 0 auto; padding: 32px 20px 48px; }
h1 { font-size: 1.9rem; line-height: 1.2; margin: 0; overflow-wrap: anywhere; }
h2 { font-size: 1.2rem; margin: 36px 0 12px; }
h3 { font-size: .95rem; margin: 0; }
header p, .note, footer, figcaption span { color: var(--soft); }
header p { margin: 4px 0 0; overflow-wrap: anywhere; }
.facts { display: grid; grid-template-columns: repeat(auto-fit, minmax(130px, 1fr)); gap: 12px;
  margin-top: 20px; }
.facts div { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px
  14px; }
.facts b { display: block; font-size: 1.35rem; line-height: 1.3; font-variant-numeric: tabular-nums; }
.facts span { color: var(--soft); font-size: .85rem; }
.grid2 { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(420px, 100%), 1fr)); gap: 16px; }
.card, figure { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 14px
  16px; }
figure { margin: 0 0 16px; }
figure img { display: block; width: 100%; height: auto; border-radius: 6px; background: #fff; }
figcaption { margin-top: 8px; font-size: .9rem; }
.legend { display: flex; flex-wrap: wrap; gap: 2px 16px; min-height: 1.5em; font-size: .85rem;
  color: var(--soft); }
.legend b { color: var(--ink); font-variant-numeric: tabular-nums; }
.key { background: currentColor; display: inline-block; width: 14px; height: 3px; border-radius: 2px;
  margin-right: 6px; vertical-align: middle; }
svg { display: block; width: 100%; height: auto; }
.grid { stroke: var(--line); stroke-width: 1; }
.axis { stroke: var(--soft); stroke-width: 1; }
.tick { fill: var(--soft); font-size: 12px; font-variant-numeric: tabular-nums; }
.s0 { color: var(--s0); }
.s1 { color: var(--s1); }
.s2 { color: var(--s2); }
.s3 { color: var(--s3); }
.s4 { color: var(--s4); }
.s5 { color: var(--s5); }
.s6 { color: var(--s6); }
.s7 { color: var(--s7); }
.line { fill: none; stroke: currentColor; stroke-width: 2; stroke-linejoin: round; }
.band { fill: currentColor; fill-opacity: .18; }
.scroll { overflow-x: auto; background: var(--card); border: 1px solid var(--line); border-radius: 10px;
  margin-bottom: 16px; }
/* Long tables scroll in themselves below a head that stays. */
.tall { max-height: 520px; overflow-y: auto; }
.tall thead th { position: sticky; top: 0; background: var(--card); }
table { border-collapse: collapse; width: 100%; font-size: .92rem; font-variant-numeric: tabular-nums; }
table.narrow td:first-child { color: var(--soft); width: 40%; }
caption { text-align: left; padding: 10px 14px 4px; font-weight: 600; }
th, td { text-align: left; padding: 8px 14px; border-top: 1px solid var(--line); white-space: nowrap; }
thead th { border-top: 0; color: var(--soft); font-weight: 600; }
table.narrow tr:first-child td { border-top: 0; }
.num { text-align: right; }
.narrow .num { text-align: left; }
.best { font-weight: 700; color: var(--good); background: var(--mark); }
details { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 12px 16px; }
summary { cursor: pointer; color: var(--soft); }
pre { margin: 10px 0 0; overflow-x: auto;
  font: .84rem/1.5 ui-monospace, "SF Mono", Menlo, Consolas, "DejaVu Sans Mono", monospace; }
footer { margin-top: 32px; font-size: .85rem; }
.dot { fill: currentColor; }
@media print {
  body { background: #fff; }
  .card, figure, details { break-inside: avoid; }
}
</style>
</head>
<body>
<main>
<header><h1>$title</h1><p>$subtitle</p><div class="facts">$facts</div></header>
$sections
<footer>Written $time from the files of the run folder.</footer>
</main>
</body>
</html>
"""
