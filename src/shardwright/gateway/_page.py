"""The page about the node: one self-contained document that asks for ``/_shardwright/status`` every second."""

from __future__ import annotations

from base64 import b64encode
from hashlib import sha256

__all__ = ["PAGE", "PAGE_HEADERS"]

_STYLE = """
:root{color-scheme:light dark;--line:#8886;--soft:light-dark(#595959,#b0b0b0);--bad:light-dark(#a40000,#ff9b9b)}
*{box-sizing:border-box}
html{background:light-dark(#fff,#161616);color:light-dark(#1a1a1a,#ececec)}
body{font:15px/1.45 system-ui,sans-serif;margin:0 auto;max-width:76rem;padding:1rem}
h1{font-size:1.3rem;margin:0 0 .2rem;overflow-wrap:anywhere}
h2{font-size:1rem;margin:1.6rem 0 .4rem}
p{margin:.2rem 0}
button,input{font:inherit;padding:.3rem .8rem}
input{min-width:0;width:22rem;max-width:100%}
.soft{color:var(--soft)}
#trouble{color:var(--bad)}
.wide{overflow-x:auto;border-top:1px solid var(--line)}
table{border-collapse:collapse;width:100%;font-variant-numeric:tabular-nums}
th,td{text-align:left;vertical-align:top;padding:.3rem 1.2rem .3rem 0;border-bottom:1px solid var(--line);white-space:nowrap}
th{font-weight:600}
td.long{white-space:normal;min-width:18rem;overflow-wrap:anywhere}
[hidden]{display:none}
@media (max-width:40rem){
table,tr,td{display:block}
tr{border-bottom:1px solid var(--line);padding:.4rem 0}
tr:has(th){position:absolute;clip-path:inset(50%);width:1px;height:1px;overflow:hidden}
td,td.long{display:grid;grid-template-columns:minmax(5.5rem,1fr) 3fr;gap:.6rem;border:0;padding:.1rem 0;white-space:normal;
min-width:0;overflow-wrap:anywhere}
td[data-name]::before{content:attr(data-name);color:var(--soft)}
td:empty{display:none}
}
"""

_SCRIPT = """
"use strict";
const $ = id => document.getElementById(id);
const UNITS = ["B", "KiB", "MiB", "GiB", "TiB"];
function bytes(value) {
  let unit = 0;
  while (value >= 1024 && unit < UNITS.length - 1) { value /= 1024; unit += 1; }
  return (Number.isInteger(value) ? value : value.toPrecision(3)) + " " + UNITS[unit];
}
const cores = value => String(Math.round(value * 100) / 100);
function span(s) {
  if (s < 120) return Math.floor(s) + " s";
  if (s < 7200) return Math.floor(s / 60) + " min";
  return s < 172800 ? Math.floor(s / 3600) + " h" : Math.floor(s / 86400) + " d";
}
const clock = wall_s => new Date(wall_s * 1000).toLocaleTimeString();
function amounts(row, key, unit) {
  const [used, low, high] = ["usage", "guarantee", "ceiling"].map(kind => (row[kind] || {})[key]);
  const bounds = [low === undefined ? "" : "from " + unit(low), high === undefined ? "" : "to " + unit(high)];
  const stated = bounds.filter(Boolean).join(" ");
  return (used === undefined ? "not known" : unit(used)) + (stated ? " (" + stated + ")" : "");
}
const others = row => {
  const stated = [];
  for (const kind of ["guarantee", "ceiling"])
    for (const [key, value] of Object.entries(row[kind] || {}))
      if (key !== "cpu" && key !== "memory_bytes") stated.push(kind + " " + key.replaceAll("_", " ") + " " + value);
  return stated.join(", ");
};
const list = values => (values || []).join(", ");
const COLUMNS = {
  shards: [
    ["shard", row => row.shard], ["status", row => row.status],
    ["cores", row => amounts(row, "cpu", cores)], ["memory", row => amounts(row, "memory_bytes", bytes)],
    ["other limits", others], ["key", row => row.key], ["sessions", row => list(row.sessions)],
    ["age", row => row.age_s === undefined ? "" : span(row.age_s)],
  ],
  sessions: [
    ["session", row => row.session], ["since", row => row.begun_s ? clock(row.begun_s) : ""],
    ["shards", row => list(row.shards)],
  ],
  decisions: [
    ["time", row => clock(row.wall_s)], ["kind", row => row.kind], ["shard", row => row.shard || row.component],
    ["session", row => row.session], ["reason", row => row.reason],
  ],
};
function fill(id, rows, count) {
  const told = rows.map(row => COLUMNS[id].map(([, text]) => text(typeof row === "object" ? row : {session: row})));
  const kept = COLUMNS[id].map((_, at) => at === 0 || told.some(line => line[at]));
  const head = document.createElement("tr"), lines = [head];
  COLUMNS[id].forEach(([name], at) => {
    if (!kept[at]) return;
    const th = document.createElement("th");
    th.scope = "col";
    th.role = "columnheader";
    th.textContent = name;
    head.append(th);
  });
  for (const texts of told) {
    const tr = document.createElement("tr");
    texts.forEach((text, at) => {
      if (!kept[at]) return;
      const td = document.createElement("td");
      td.textContent = text === undefined || text === null ? "" : text;
      if (td.textContent.length > 40) td.className = "long";
      td.role = "cell";
      td.dataset.name = COLUMNS[id][at][0];
      tr.append(td);
    });
    lines.push(tr);
  }
  if (!rows.length) {
    const td = document.createElement("td");
    td.textContent = "none";
    td.role = "cell";
    lines.splice(0, 1, document.createElement("tr"));
    lines[0].append(td);
  }
  for (const line of lines) line.role = "row";  // a narrow window shows them as blocks, which takes their meaning away
  $(id).replaceChildren(...lines);
  $(id + "-count").textContent = count === undefined ? rows.length : count;
}
function say(trouble) {
  if ($("trouble").textContent !== trouble) $("trouble").textContent = trouble;
}
let paused = false, timer = 0;
async function refresh() {
  clearTimeout(timer);
  try {
    const token = sessionStorage.getItem("token");
    const headers = token ? {authorization: "Bearer " + token} : {};
    const answer = await fetch("/_shardwright/status", {cache: "no-store", headers});
    $("door").hidden = answer.status !== 401;
    if (answer.status === 401) {
      say(token ? "That is not the token." : "The token of the gateway is asked for.");
      sessionStorage.removeItem("token");
      return;
    }
    if (!answer.ok) throw new Error(answer.status);
    const status = await answer.json(), counts = status.counts || {};
    document.title = status.app + " on shardwright";
    $("app").textContent = status.app;
    for (const id of Object.keys(COLUMNS)) fill(id, status[id] || [], counts[id]);
    $("tables").hidden = false;
    $("state").textContent = "As of " + new Date().toLocaleTimeString();
    say((status.reasons || []).join(". "));
  } catch (error) {
    say("The node does not answer (" + error.message + "); trying again.");
  }
  if (!paused) timer = setTimeout(refresh, document.hidden ? 10000 : 1000);
}
$("pause").addEventListener("click", () => {
  paused = !paused;
  $("pause").setAttribute("aria-pressed", String(paused));
  if (paused) clearTimeout(timer); else refresh();
});
$("door").addEventListener("submit", event => {
  event.preventDefault();
  sessionStorage.setItem("token", $("token").value.trim());
  $("token").value = "";
  refresh();
});
refresh();
"""


def _section(name: str, title: str) -> str:
    return (
        f'<h2>{title} (<span id="{name}-count">0</span>)</h2>\n'
        f'<div class="wide" tabindex="0" role="region" aria-label="{title}"><table id="{name}" role="table"></table></div>\n'
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
<p id="state" class="soft">Asking the node.</p>
<p id="trouble" role="status"></p>
<form id="door" hidden>
<p><label for="token">Token</label></p>
<p><input id="token" type="password" autocomplete="off" required> <button>Open</button></p>
</form>
<div id="tables" hidden>
<p><button id="pause" type="button" aria-pressed="false">Pause</button></p>
{_section("shards", "Shards")}{_section("sessions", "Sessions")}{_section("decisions", "Last decisions")}</div>
</main>
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
