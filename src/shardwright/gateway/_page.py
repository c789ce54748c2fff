"""The page about the node: one self-contained document that asks for ``/_shardwright/status`` every second."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

__all__ = ["PAGE", "PAGE_HEADERS"]

_STYLE = """
:root{color-scheme:light dark;--line:#8884;--soft:#767676}
*{box-sizing:border-box}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:70rem;padding:1rem}
h1{font-size:1.3rem;margin:0 0 .2rem}
h2{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.2rem 0}
.wide{overflow-x:auto}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;padding:.25rem .6rem .25rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}
td.long{white-space:normal;min-width:16rem}
"""

_SCRIPT = """
"use strict";
const $ = id => document.getElementById(id);
const shown = value => value === null || value === undefined ? "" :
  Array.isArray(value) ? value.map(shown).join(", ") :
  typeof value === "object" ? Object.entries(value).filter(([, v]) => v !== null && v !== undefined)
    .map(([k, v]) => k + " " + shown(v)).join(", ") :
  typeof value === "number" && !Number.isInteger(value) ? value.toPrecision(3) : String(value);
function fill(id, rows) {
  const table = $(id), keys = [];
  for (const row of rows) for (const key of Object.keys(row)) if (!keys.includes(key)) keys.push(key);
  const head = document.createElement("tr");
  for (const key of keys) {
    const th = document.createElement("th");
    th.scope = "col";
    th.textContent = key.replaceAll("_", " ");
    head.append(th);
  }
  const lines = rows.map(row => {
    const tr = document.createElement("tr");
    for (const key of keys) {
      const td = document.createElement("td");
      td.textContent = shown(row[key]);
      if (td.textContent.length > 40) td.className = "long";
      tr.append(td);
    }
    return tr;
  });
  table.replaceChildren(head, ...lines);
  $(id + "-count").textContent = rows.length;
}
async function refresh() {
  try {
    const answer = await fetch("/_shardwright/status", {cache: "no-store"});
    if (!answer.ok) throw new Error(answer.status);
    const status = await answer.json();
    document.title = status.app + " on shardwright";
    $("app").textContent = status.app;
    for (const id of ["shards", "sessions", "decisions"])
      fill(id, (status[id] || []).map(row => typeof row === "object" ? row : {name: row}));
    $("state").textContent = "As of " + new Date().toLocaleTimeString();
  } catch (error) {
    $("state").textContent = "The node does not answer (" + error.message + "); trying again.";
  }
  setTimeout(refresh, 1000);
}
refresh();
"""


def _section(name: str, title: str) -> str:
    return (
        f'<h2>{title} (<span id="{name}-count">0</span>)</h2>\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table id="{name}"></table></div>\n'
    )


PAGE = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>shardwright</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<main>
<h1 id="app">shardwright</h1>
<p id="state">Asking the node.</p>
{_section("shards", "Shards")}{_section("sessions", "Sessions")}{_section("decisions", "Last decisions")}</main>
<script>{_SCRIPT}</script>
</body>
</html>
""".encode()


def _hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


PAGE_HEADERS = [
    (
        b"content-security-policy",
        f"default-src 'none'; style-src {_hash(_STYLE)}; script-src {_hash(_SCRIPT)}; connect-src 'self'; "
        "img-src data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'".encode(),
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
]
