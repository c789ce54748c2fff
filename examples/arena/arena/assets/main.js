// The page: what the server says, what the player does, and what of both is shown.

import { drawThumb, isDark, playerColour, titleOf } from "./look.js";
import { Link } from "./link.js";
import { Motion } from "./motion.js";
import { Scene } from "./scene.js";
import { Wheel, isText } from "./wheel.js";

const $ = id => document.getElementById(id);
const STALLED_MS = 1500, MOST_LINES = 120, MOST_NAMES = 12;

const grounds = new Map();            // world -> its ground
let counts = {}, prices = {};
let wish = null;                      // {name, world}: what to enter, and to enter again after a loss
let me = null, world = null;          // who and where we are; null before entering
let items = {}, score = 0;
let opened = new Set();
const heard = new Set();              // lines of chat that are shown
let frameAt = 0, shownNames = "", entries = 0;

const scene = new Scene($("canvas"), $("minimap"));
const motion = new Motion();
const address = new URL("play", document.baseURI);
address.protocol = address.protocol.replace("http", "ws");
const link = new Link(address.href);
const wheel = new Wheel($("stage"), $("pad"), (dx, dy) => link.send({ t: "steer", dx, dy }), (x, y) => scene.toward(x, y));

// -- who plays here: a secret that this browser keeps makes the name ours

function secret() {
  let kept = read("arena-secret");
  if (!kept) {
    kept = Array.from(crypto.getRandomValues(new Uint8Array(18)), byte => byte.toString(16).padStart(2, "0")).join("");
    write("arena-secret", kept);
  }
  return kept;
}
function read(key) { try { return localStorage.getItem(key); } catch { return memory[key] ?? null; } }
function write(key, value) { try { localStorage.setItem(key, value); } catch { memory[key] = value; } }
const memory = {};

// -- from the server

const answers = {
  hello(message) {
    for (const ground of message.worlds) if (!grounds.has(ground.world)) grounds.set(ground.world, ground);
    prices = message.prices;
    if (!$("choices").children.length) buildDoor();
    if (!$("pack").children.length) buildPack();
    answers.counts({ worlds: message.counts });
    if (wish) enter();
  },
  counts(message) {
    counts = message.worlds;
    for (const place of document.querySelectorAll("[data-count-of]")) {
      const count = counts[place.dataset.countOf] ?? 0;
      place.dataset.count = count;
      place.textContent = place.closest("#choices") ? (count === 1 ? "1 player" : count ? `${count} players` : "empty") : count;
    }
    for (const button of $("worlds").querySelectorAll("button")) {
      const count = counts[button.dataset.world] ?? 0;
      button.setAttribute("aria-label", `${titleOf(button.dataset.world)}, ${count} ${count === 1 ? "player" : "players"}`);
    }
  },
  in(message) {
    const back = me !== null && world === message.world;
    entries++;
    me = scene.me = message.you;
    world = message.world;
    wish = { name: me, world };
    opened = new Set(message.opened);
    motion.clear();
    frameAt = performance.now();
    scene.show(grounds.get(world), opened);
    if (!back) {
      $("chat").replaceChildren();
      heard.clear();
    }
    hear(message.lines, true);
    openGame();
    if (!back) {
      whisper(`You are in ${titleOf(world)}.`);
      if (!$("chat").children.length) quietly("Nobody has said anything here yet.");
    }
    wheel.on = true;
    wheel.again();
  },
  frame(message) {
    if (message.w !== world) return;
    frameAt = performance.now();
    motion.add(message, frameAt);
    log.push({ n: message.n, bodies: message.b });
    if (log.length > 150) log.shift();
    listPlayers(message.b.map(body => body[0]));
  },
  you(message) {
    const now = performance.now(), here = scene.players.get(me) ?? { x: 0, y: 0 };
    for (const [item, count] of Object.entries(message.items)) if (count > (items[item] ?? 0)) flash(item);
    score = message.score;
    items = message.items;
    for (const [chest, item, count] of message.found) {
      opened.add(chest);
      scene.float(here.x, here.y, `+${count} ${item}`, now);
      toast(`A chest! You found ${count} ${item}${count > 1 && item !== "rope" ? "s" : ""}.`);
    }
    showPack();
  },
  chat(message) { if (message.w === world) hear(message.lines); },
  no(message) {
    if (message.why === "trouble" && !me && wish) { // the game is away; the link is not: try again soon
      problem(message.text);
      setTimeout(() => { if (wish && !me) enter(); }, 1500);
    } else if (!me || (message.why === "name" && !playing())) {
      wish = null;
      closeGame();
      problem(message.text);
      $("name").focus();
    } else if (message.why === "enter" && wish) enter();
    else toast(message.text);
  },
  out(message) {
    wish = null;
    closeGame();
    toast(`You left with a score of ${message.score}.`);
  },
  pong() { showLink(); },
};
link.addEventListener("message", event => answers[event.detail.t]?.(event.detail));
link.addEventListener("state", () => {
  if (link.state !== "open") wheel.on = false;
  if (link.state === "ended") wish = null;
  showLink();
});

function enter() { link.send({ t: "enter", name: wish.name, world: wish.world, secret: secret() }); }
const playing = () => document.body.dataset.view === "game";

// -- the door

function buildDoor() {
  const last = read("arena-world");
  for (const ground of grounds.values()) {
    const id = ground.world, label = make("label", { className: "choice" });
    const radio = make("input", { type: "radio", name: "world", value: id, checked: id === (grounds.has(last) ? last : "w1") });
    const thumb = make("canvas", { ariaHidden: "true" }), count = make("span", { className: "count" });
    count.dataset.countOf = id;
    label.append(radio, thumb, make("span", { className: "title", textContent: titleOf(id) }), count);
    radio.addEventListener("change", () => scene.show(ground));
    $("choices").append(label);

    const button = make("button", { type: "button" }), picture = make("canvas", { ariaHidden: "true" }), badge = make("span", { className: "count", ariaHidden: "true" });
    button.dataset.world = badge.dataset.countOf = id;
    button.append(picture, make("span", { textContent: titleOf(id), ariaHidden: "true" }), badge);
    button.addEventListener("click", () => { if (id !== world) link.send({ t: "travel", world: id }); });
    const item = make("li");
    item.append(button);
    $("worlds").append(item);
  }
  scene.show(grounds.get($("enter").elements.world.value));
  drawThumbs();
}

function drawThumbs() {
  for (const [holder, key] of [[$("choices"), "input"], [$("worlds"), "button"]]) for (const canvas of holder.querySelectorAll("canvas")) {
    const owner = canvas.parentElement.matches("button") ? canvas.parentElement.dataset.world : canvas.parentElement.querySelector(key).value;
    drawThumb(canvas, grounds.get(owner), isDark());
  }
}

$("name").value = read("arena-name") ?? "";
$("enter").addEventListener("submit", event => {
  event.preventDefault();
  const name = $("name").value.trim().replace(/\s+/g, " ");
  if (!name) {
    problem("Tell us a name first.");
    $("name").focus();
    return;
  }
  problem("");
  wish = { name, world: $("enter").elements.world.value };
  write("arena-name", name);
  if (link.state === "open") enter();
});
$("name").addEventListener("input", () => problem(""));

function problem(text) {
  $("name-problem").textContent = text;
  if (text) $("name").setAttribute("aria-invalid", "true"); else $("name").removeAttribute("aria-invalid");
}

function openGame() {
  write("arena-world", world);
  const fresh = !playing();
  document.body.dataset.view = "game";
  for (const id of ["side", "place", "score-line", "leave", "pad"]) $(id).hidden = false;
  $("place").textContent = titleOf(world);
  document.title = `${titleOf(world)} · Arena`;
  for (const button of $("worlds").querySelectorAll("button")) button.setAttribute("aria-pressed", button.dataset.world === world);
  showPack();
  showLink();
  drawThumbs();
  $("stage").tabIndex = 0;
  if (fresh) $("stage").focus({ preventScroll: true });
}

function closeGame() {
  if (!playing()) return;
  wheel.on = false;
  me = world = scene.me = null;
  motion.clear();
  document.body.dataset.view = "door";
  for (const id of ["side", "place", "score-line", "leave", "pad"]) $(id).hidden = true;
  document.title = "Arena";
  $("stage").tabIndex = -1;
  scene.show(grounds.get($("enter").elements.world.value));
  drawThumbs();
  showLink();
  $("go").focus();
}

$("leave").addEventListener("click", () => {
  if (link.send({ t: "leave" })) return;
  wish = null;
  closeGame();
});

// -- the link, said plainly

let bannerText = "";
function showLink() {
  const { state } = link;
  document.body.dataset.link = state === "ended" ? "lost" : state;
  const stalled = state === "open" && playing() && performance.now() - frameAt > STALLED_MS;
  $("link-text").textContent = { connecting: "Connecting", open: "Connected", lost: "Not connected", ended: "Not connected" }[state];
  $("link-time").textContent = state === "open" && link.pingMs !== null ? `${Math.max(1, Math.round(link.pingMs))} ms` : "";
  $("go").disabled = state !== "open" && state !== "lost";
  let text = "", count = "";
  if (state === "ended") text = link.why;
  else if (state === "lost" || (state === "connecting" && link.attempt > 0)) {
    text = "The connection is gone.";
    const seconds = Math.ceil((link.retryAt - performance.now()) / 1000);
    count = state === "connecting" ? "Trying again now…" : `Trying again in ${Math.max(1, seconds)} s.`;
  } else if (stalled) text = `${titleOf(world)} does not answer just now. It will be back in a moment.`;
  if (text !== bannerText) $("banner-text").textContent = bannerText = text;
  $("banner-count").textContent = count;
  $("banner").hidden = !text;
  $("retry").hidden = state !== "lost" && state !== "ended";
  $("retry").textContent = state === "ended" ? "Play here" : "Try now";
}
$("retry").addEventListener("click", () => { if (link.state === "ended") location.reload(); else link.retry(); });
setInterval(showLink, 500);

// -- who is here, what one has

function listPlayers(names) {
  const text = names.join("\n");
  if (text === shownNames) return;
  const before = new Set(shownNames.split("\n"));
  if (shownNames && motion.frames.length > 1) {
    const came = names.filter(name => !before.has(name) && name !== me);
    if (came.length && came.length < 4) quietly(`${came.join(", ")} came in.`);
    const went = [...before].filter(name => !names.includes(name) && name !== me);
    if (went.length && went.length < 4) quietly(`${went.join(", ")} went away.`);
  }
  shownNames = text;
  $("here-count").textContent = `· ${names.length}`;
  const shown = names.slice(0, MOST_NAMES);
  if (me && names.includes(me) && !shown.includes(me)) shown[MOST_NAMES - 1] = me;
  $("here").replaceChildren(...shown.map(name => {
    const item = make("li"), dot = make("i", { ariaHidden: "true" });
    dot.style.background = playerColour(name);
    item.dataset.player = name;
    if (name === me) item.dataset.me = "";
    item.append(dot, make("span", { className: "who", textContent: name === me ? `${name} (you)` : name }));
    return item;
  }));
  if (names.length > shown.length) $("here").append(make("li", { className: "more", textContent: `and ${names.length - shown.length} more` }));
}

function buildPack() {
  for (const [item, price] of Object.entries(prices)) {
    const line = make("li"), icon = document.createElementNS("http://www.w3.org/2000/svg", "svg"), use = document.createElementNS("http://www.w3.org/2000/svg", "use");
    line.dataset.item = item;
    use.setAttribute("href", `#icon-${item}`);
    icon.setAttribute("aria-hidden", "true");
    icon.append(use);
    const count = make("output", { textContent: "0", ariaLabel: `${item}s you have` });
    const button = make("button", { type: "button", textContent: `Buy · ${price}`, ariaLabel: `Buy 1 ${item} for ${price}` });
    button.addEventListener("click", () => link.send({ t: "buy", item }));
    line.append(icon, count, button);
    $("pack").append(line);
  }
}

function showPack() {
  $("score").textContent = score;
  for (const line of $("pack").children) {
    line.querySelector("output").textContent = items[line.dataset.item] ?? 0;
    line.querySelector("button").disabled = prices[line.dataset.item] > score;
  }
}

function flash(item) {
  const line = $("pack").querySelector(`[data-item="${CSS.escape(item)}"]`);
  if (!line) return;
  line.removeAttribute("data-flash");
  requestAnimationFrame(() => line.setAttribute("data-flash", ""));
}

// -- talk

function hear(lines, old = false) {
  for (const [number, player, text] of lines) {
    const key = `${number} ${player} ${text}`;
    if (heard.has(key)) continue;
    heard.add(key);
    const line = make("p"), who = make("b", { textContent: player });
    line.append(who, ` ${text}`);
    addLine(line);
    if (!old) scene.say(player, text, performance.now());
  }
}

function quietly(text) { addLine(make("p", { className: "quietly", textContent: text })); }

function addLine(line) {
  const list = $("chat"), atEnd = list.scrollHeight - list.scrollTop - list.clientHeight < 40;
  list.append(line);
  while (list.children.length > MOST_LINES) list.firstElementChild.remove();
  if (atEnd) list.scrollTop = list.scrollHeight;
}

$("say").addEventListener("submit", event => {
  event.preventDefault();
  const text = $("words").value.trim();
  if (text && link.send({ t: "say", text })) $("words").value = "";
  else if (text) toast("Not connected: your words are still here.");
});

addEventListener("keydown", event => {
  if (!playing()) return;
  if (event.target === $("words") && event.key === "Escape") $("stage").focus();
  if (isText(event.target) || event.ctrlKey || event.metaKey || event.altKey) return;
  if (event.key === "Enter" && event.target === $("stage")) { event.preventDefault(); $("words").focus(); }
  if (event.code === "KeyL") lookAround();
});

// What the picture shows, in words.
function lookAround() {
  const here = motion.last?.bodies.get(me), ground = grounds.get(world);
  if (!here) return;
  const [x, y] = here, words = [];
  const way = (tx, ty) => [[Math.round(tx - x), "right", "left"], [Math.round(ty - y), "down", "up"]]
    .filter(([far]) => far).map(([far, more, less]) => `${Math.abs(far)} ${far > 0 ? more : less}`).join(" and ") || "here";
  const walls = [[0, -1, "above"], [0, 1, "below"], [-1, 0, "left"], [1, 0, "right"]]
    .filter(([dx, dy]) => ground.rows[Math.floor(y) + dy]?.[Math.floor(x) + dx] !== ".").map(([, , name]) => name);
  if (walls.length) words.push(`Walls: ${walls.join(", ")}.`);
  const near = (a, b) => Math.hypot(a[1] - x, a[2] - y) - Math.hypot(b[1] - x, b[2] - y);
  const chest = ground.chests.filter(([name]) => !opened.has(name)).sort(near)[0];
  words.push(chest ? `Nearest chest: ${way(chest[1], chest[2])}.` : "All chests are open.");
  for (const [name, at] of motion.last.bodies) if (name !== me) words.push(`${name}: ${way(at[0], at[1])}.`);
  whisper(words.slice(0, 8).join(" "));
}

function whisper(text) { $("whispers").textContent = text; }

let toastTimer = 0;
function toast(text) {
  $("toast").textContent = text;
  $("toast").toggleAttribute("data-on", true);
  clearTimeout(toastTimer);
  toastTimer = setTimeout(() => { $("toast").removeAttribute("data-on"); }, 3200);
}

// -- light and dark

const THEMES = ["", "light", "dark"];
function showTheme() {
  const theme = document.documentElement.dataset.theme ?? "";
  $("theme-name").textContent = { "": "Auto", light: "Light", dark: "Dark" }[theme];
  $("theme").setAttribute("aria-label", `Colours: ${{ "": "as the system", light: "light", dark: "dark" }[theme]}. Change`);
}
function setTheme(theme) {
  if (theme) document.documentElement.dataset.theme = theme; else delete document.documentElement.dataset.theme;
  write("arena-theme", theme);
  showTheme();
  if (grounds.size) drawThumbs();
}
$("theme").addEventListener("click", () => setTheme(THEMES[(THEMES.indexOf(document.documentElement.dataset.theme ?? "") + 1) % 3]));
setTheme(THEMES.includes(read("arena-theme")) ? read("arena-theme") : "");
for (const query of ["(prefers-color-scheme: dark)"]) matchMedia(query).addEventListener("change", () => { if (grounds.size) drawThumbs(); });
addEventListener("resize", () => { if (grounds.size) drawThumbs(); });

function make(tag, properties = {}) { return Object.assign(document.createElement(tag), properties); }

// -- sixty times a second

let before = performance.now();
function paint(now) {
  const elapsed = Math.min(100, now - before);
  before = now;
  wheel.refresh();
  scene.draw(motion.at(performance.now(), me, elapsed), performance.now(), elapsed, wheel.drag);
  requestAnimationFrame(paint);
}
requestAnimationFrame(paint);

// What the page knows, for the curious and for tests.
const log = [];
globalThis.arena = {
  get state() { return { link: link.state, attempt: link.attempt, me, world, score, items, opened: opened.size, entries, frame: motion.last?.n ?? null, view: document.body.dataset.view }; },
  get players() { return Object.fromEntries([...motion.last?.bodies ?? []].map(([name, [x, y]]) => [name, { x, y }])); },
  get drawn() { return Object.fromEntries([...scene.players].map(([name, { x, y }]) => [name, { x, y }])); },
  get frames() { return log; },
};
