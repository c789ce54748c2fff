// The picture of a world: ground, walls that stand, chests, players, what they say.

import { drawThumb, hash, isDark, palette, playerHue } from "./look.js";

const RADIUS = .35, RISE = .22, SAY_MS = 5200, FLOAT_MS = 1700;
const FONT = '"Avenir Next", "Segoe UI Variable Text", "Segoe UI", Cantarell, Roboto, "Helvetica Neue", Arial, sans-serif';
const calm = matchMedia("(prefers-reduced-motion: reduce)");

export class Scene {
  ground = null;
  opened = new Set();
  me = null;
  players = new Map();    // as drawn last
  #camera = null;
  #said = new Map();      // player -> {lines, until}
  #floats = [];           // {x, y, text, from}
  #face = new Map();      // player -> direction it looks, and how far it has walked

  constructor(canvas, minimap) {
    this.canvas = canvas;
    this.minimap = minimap;
    this.pen = canvas.getContext("2d");
  }

  show(ground, opened = new Set()) {
    if (this.ground !== ground) { this.#said.clear(); this.#floats = []; this.#face.clear(); this.#camera = null; }
    this.ground = ground;
    this.opened = opened;
  }

  say(player, text, now) {
    this.#said.set(player, { lines: wrap(text, 24, 3), from: now, until: now + SAY_MS });
  }

  float(x, y, text, now) { this.#floats.push({ x, y, text, from: now }); }

  // From a point of the page to a direction from oneself, at most 1 long; slower when it is near.
  toward(clientX, clientY) {
    const me = this.players.get(this.me), box = this.canvas.getBoundingClientRect();
    if (!me || !this.#view) return [0, 0];
    const { left, top, cell } = this.#view;
    const dx = left + (clientX - box.left) / cell - me.x, dy = top + (clientY - box.top) / cell - me.y;
    const length = Math.hypot(dx, dy);
    if (length < .3) return [0, 0];
    const pace = Math.min(1, length / 1.2);
    return [dx / length * pace, dy / length * pace];
  }
  #view = null;

  draw(players, now, elapsedMs, drag) {
    const { canvas, pen, ground } = this;
    const ratio = Math.min(2, devicePixelRatio || 1), width = canvas.clientWidth, height = canvas.clientHeight;
    const w = Math.round(width * ratio), h = Math.round(height * ratio);
    if (canvas.width !== w || canvas.height !== h) { canvas.width = w; canvas.height = h; }
    if (!ground || !w || !h) return;
    this.players = players;
    const dark = isDark(), colours = palette(ground.world, dark), size = ground.rows.length;
    const cell = Math.max(30, Math.min(66, Math.min(width, height) / 9.5));
    const me = players.get(this.me);
    const wanted = me ? [me.x, me.y] : [size / 2, size / 2];
    if (!this.#camera || calm.matches || Math.hypot(this.#camera[0] - wanted[0], this.#camera[1] - wanted[1]) > 6) this.#camera = wanted;
    else this.#camera = this.#camera.map((at, k) => at + (wanted[k] - at) * (1 - Math.exp(-elapsedMs / 140)));
    const left = edge(this.#camera[0], width / cell, size), top = edge(this.#camera[1], height / cell, size);
    this.#view = { left, top, cell, width, height };

    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    pen.fillStyle = colours.void;
    pen.fillRect(0, 0, width, height);
    pen.setTransform(ratio * cell, 0, 0, ratio * cell, Math.round(-left * cell * ratio), Math.round(-top * cell * ratio));
    const x1 = Math.max(0, Math.floor(left) - 1), x2 = Math.min(size - 1, Math.ceil(left + width / cell));
    const y1 = Math.max(0, Math.floor(top) - 1), y2 = Math.min(size - 1, Math.ceil(top + height / cell) + 1);
    this.#floor(colours, x1, x2, y1, y2);
    if (drag && me) this.#aim(dark, drag, me);
    // from the back to the front, so that who walks behind a wall is hidden by it
    const rows = Array.from({ length: size + 1 }, () => []);
    for (const [name, body] of players) rows[clamp(Math.floor(body.y), 0, size)].push([name, body]);
    for (let y = y1; y <= y2; y++) {
      for (const chest of ground.chests) if (Math.floor(chest[2]) === y) this.#chest(chest, now);
      for (const [name, body] of rows[y].sort((a, b) => a[1].y - b[1].y)) this.#player(name, body, elapsedMs, now);
      for (let x = x1; x <= x2; x++) if (ground.rows[y][x] === "#") this.#wall(colours, x, y);
    }
    if (dark && me) this.#lamp(me, left, top, width / cell, height / cell);
    pen.setTransform(ratio, 0, 0, ratio, 0, 0);
    const place = body => [(body.x - left) * cell, (body.y - top) * cell];
    const seen = [...players].map(([name, body]) => [name, ...place(body)])
      .filter(([, x, y]) => x > -cell / 2 && y > -cell / 2 && x < width + cell / 2 && y < height + cell / 2);
    for (const [name, x, y] of seen) this.#label(name, x, y, cell, dark);
    for (const [name, x, y] of seen) this.#bubble(name, x, y, cell, dark, now);
    this.#floats = this.#floats.filter(one => now - one.from < FLOAT_MS);
    for (const one of this.#floats) {
      const age = (now - one.from) / FLOAT_MS, [x, y] = place(one);
      this.#pill(one.text, x, y - cell * .7 - (calm.matches ? 0 : age * cell * .8), 15, "#5b3a05", "#ffe9a8", Math.min(1, 2 * (1 - age)));
    }
    this.#small(dark, players);
  }

  // -- the ground

  #floor(colours, x1, x2, y1, y2) {
    const { pen, ground } = this;
    for (let y = y1; y <= y2; y++) for (let x = x1; x <= x2; x++) {
      if (ground.rows[y][x] === "#") continue;
      pen.fillStyle = (x + y) % 2 ? colours.floor : colours.floor2;
      pen.fillRect(x, y, 1.01, 1.01);
      const chance = hash(`${ground.world}${x},${y}`);
      if (chance % 5 < 2) {
        pen.fillStyle = colours.speck;
        for (let k = 0; k < 1 + chance % 3; k++) {
          const bits = chance >>> (3 + k * 6);
          pen.beginPath();
          pen.ellipse(x + .15 + (bits & 7) / 10, y + .15 + (bits >> 3 & 7) / 10, .05 + (bits & 3) * .012, .035, bits, 0, 7);
          pen.fill();
        }
      }
    }
    // what stands throws a shadow
    pen.fillStyle = colours.shade;
    for (let y = y1; y <= y2; y++) for (let x = x1; x <= x2; x++) {
      if (this.#free(x, y) && !this.#free(x, y - 1)) pen.fillRect(x, y, 1, .17);
      if (this.#free(x, y) && !this.#free(x - 1, y)) pen.fillRect(x, y - RISE * .5, .13, 1);
    }
  }

  #free(x, y) { return this.ground.rows[y]?.[x] === "."; }

  #wall(colours, x, y) {
    const { pen } = this, north = this.#free(x, y - 1), south = this.#free(x, y + 1), west = this.#free(x - 1, y), east = this.#free(x + 1, y);
    const r = .24, corner = (a, b) => a && b ? r : 0, o = .006;
    const chance = hash(`wall${this.ground.world}${x},${y}`);
    if (south) {
      pen.fillStyle = colours.front;
      pen.beginPath();
      pen.roundRect(x - o, y + .5 - RISE, 1 + 2 * o, .5 + RISE, [0, 0, corner(south, east) * .6, corner(south, west) * .6]);
      pen.fill();
      pen.fillStyle = colours.front2;
      pen.fillRect(x + (west ? .06 : 0), y + 1.06 - RISE, 1 - (west ? .06 : 0) - (east ? .06 : 0), .04);
      pen.fillRect(x + .2 + chance % 5 * .12, y + 1.06 - RISE, .04, RISE - .08);
    }
    pen.fillStyle = colours.top;
    pen.beginPath();
    pen.roundRect(x - o, y - RISE - o, 1 + 2 * o, 1 + 2 * o, [corner(north, west), corner(north, east), corner(south, east), corner(south, west)]);
    pen.fill();
    pen.fillStyle = colours.edge;
    if (chance % 4 === 0) {
      for (let k = 0; k < 3; k++) {
        const bits = chance >>> (4 + k * 6);
        pen.globalAlpha = .5;
        pen.beginPath();
        pen.ellipse(x + .2 + (bits & 7) * .08, y - RISE + .2 + (bits >> 3 & 7) * .08, .09, .06, bits, 0, 7);
        pen.fill();
        pen.globalAlpha = 1;
      }
    }
    pen.strokeStyle = colours.edge;
    pen.lineWidth = .05;
    pen.lineCap = "butt";
    pen.beginPath();
    const t = y - RISE + .025, nw = corner(north, west), ne = corner(north, east), sw = corner(south, west);
    if (north) { pen.moveTo(x + nw, t); pen.lineTo(x + 1 - ne, t); }
    if (nw) { pen.moveTo(x + .025, t + nw); pen.quadraticCurveTo(x + .025, t, x + nw, t); }
    if (ne) { pen.moveTo(x + 1 - ne, t); pen.quadraticCurveTo(x + .975, t, x + .975, t + ne); }
    if (west) { pen.moveTo(x + .025, t + nw); pen.lineTo(x + .025, t + 1 - sw); }
    pen.stroke();
  }

  #chest([name, x, y], now) {
    const { pen } = this, open = this.opened.has(name);
    pen.fillStyle = "rgb(0 0 0 / .22)";
    pen.beginPath(); pen.ellipse(x, y + .26, .36, .12, 0, 0, 7); pen.fill();
    pen.globalAlpha = open ? .62 : 1;
    pen.lineWidth = .045;
    pen.strokeStyle = "#4a2a10";
    pen.fillStyle = "#9a5b26";
    pen.beginPath(); pen.roundRect(x - .31, y - .06, .62, .34, .05); pen.fill(); pen.stroke();
    if (open) {
      pen.fillStyle = "#24140a";
      pen.beginPath(); pen.roundRect(x - .31, y - .16, .62, .14, .03); pen.fill(); pen.stroke();
      pen.fillStyle = "#7c4a20";
      pen.beginPath(); pen.roundRect(x - .31, y - .37, .62, .19, [.12, .12, .02, .02]); pen.fill(); pen.stroke();
    } else {
      pen.fillStyle = "#b97433";
      pen.beginPath(); pen.roundRect(x - .31, y - .26, .62, .24, [.15, .15, .02, .02]); pen.fill(); pen.stroke();
      pen.fillStyle = "#f2c45a";
      pen.fillRect(x - .22, y - .25, .06, .52); pen.fillRect(x + .16, y - .25, .06, .52);
      pen.beginPath(); pen.roundRect(x - .08, y - .1, .16, .18, .04); pen.fill(); pen.stroke();
      const beat = calm.matches ? .6 : (Math.sin(now / 480 + x * 9) + 1) / 2;
      this.#star(x + .27, y - .34, .06 + .09 * beat, `rgb(255 233 150 / ${.35 + .6 * beat})`);
    }
    pen.globalAlpha = 1;
  }

  #star(x, y, r, colour) {
    const { pen } = this;
    pen.fillStyle = colour;
    pen.beginPath();
    for (let k = 0; k < 8; k++) {
      const far = k % 2 ? r * .3 : r, turn = k * Math.PI / 4;
      pen.lineTo(x + Math.cos(turn) * far, y + Math.sin(turn) * far);
    }
    pen.fill();
  }

  #aim(dark, drag, me) {
    const { pen } = this, box = this.canvas.getBoundingClientRect(), { left, top, cell } = this.#view;
    const x = left + (drag.x - box.left) / cell, y = top + (drag.y - box.top) / cell;
    pen.strokeStyle = dark ? "rgb(255 255 255 / .35)" : "rgb(60 30 10 / .4)";
    pen.lineWidth = .05;
    pen.setLineDash([.12, .14]);
    pen.beginPath(); pen.moveTo(me.x, me.y + .2); pen.lineTo(x, y); pen.stroke();
    pen.setLineDash([]);
    pen.beginPath(); pen.arc(x, y, .2, 0, 7); pen.stroke();
  }

  // -- players

  #player(name, { x, y }, elapsedMs, now) {
    const { pen } = this, hue = playerHue(name), mine = name === this.me;
    // which way it looks and how fast it goes is what one sees of it: one who pushes against a wall stands
    const face = this.#face.get(name) ?? { x, y, vx: 0, vy: 0, dx: 0, dy: 1, walked: 0 };
    this.#face.set(name, face);
    const blend = 1 - Math.exp(-elapsedMs / 70), seconds = Math.max(4, elapsedMs) / 1000;
    face.vx += ((x - face.x) / seconds - face.vx) * blend;
    face.vy += ((y - face.y) / seconds - face.vy) * blend;
    face.x = x;
    face.y = y;
    const speed = Math.hypot(face.vx, face.vy);
    if (speed > .6) {
      const turn = calm.matches ? 1 : 1 - Math.exp(-elapsedMs / 90);
      face.dx += (face.vx / speed - face.dx) * turn;
      face.dy += (face.vy / speed - face.dy) * turn;
      face.walked += speed * elapsedMs / 1000;
    }
    const hop = calm.matches || speed < .6 ? 0 : Math.abs(Math.sin(face.walked * 3.4)) * .07;
    pen.fillStyle = "rgb(0 0 0 / .26)";
    pen.beginPath(); pen.ellipse(x, y + .22, RADIUS * .95, RADIUS * .42, 0, 0, 7); pen.fill();
    if (mine) {
      pen.strokeStyle = "#fff";
      pen.lineWidth = .075;
      pen.beginPath(); pen.ellipse(x, y + .2, RADIUS * 1.36, RADIUS * .76, 0, 0, 7); pen.stroke();
      pen.strokeStyle = `hsl(${hue} 78% 42%)`;
      pen.lineWidth = .04;
      pen.beginPath(); pen.ellipse(x, y + .2, RADIUS * 1.48, RADIUS * .86, 0, 0, 7); pen.stroke();
    }
    const cy = y - .2 - hop, body = pen.createRadialGradient(x - .12, cy - .16, .04, x, cy, RADIUS * 1.25);
    body.addColorStop(0, `hsl(${hue} 82% 74%)`);
    body.addColorStop(.55, `hsl(${hue} 68% 56%)`);
    body.addColorStop(1, `hsl(${hue} 66% 38%)`);
    pen.fillStyle = body;
    pen.strokeStyle = `hsl(${hue} 60% 22%)`;
    pen.lineWidth = .05;
    pen.beginPath();
    pen.moveTo(x - RADIUS, cy);
    pen.arc(x, cy, RADIUS, Math.PI, 0);
    pen.bezierCurveTo(x + RADIUS * 1.02, cy + .34, x + RADIUS * .7, cy + .42, x, cy + .42);
    pen.bezierCurveTo(x - RADIUS * .7, cy + .42, x - RADIUS * 1.02, cy + .34, x - RADIUS, cy);
    pen.closePath(); pen.fill(); pen.stroke();
    // eyes, unless it looks away
    const away = face.dy < -.55, blink = !calm.matches && (now / 1000 + hue) % 4.7 < .11;
    if (!away) for (const side of [-1, 1]) {
      const ex = x + side * .125 + face.dx * .13, ey = cy - .02 + face.dy * .06;
      pen.fillStyle = "#fff";
      pen.beginPath(); pen.ellipse(ex, ey, .085, blink ? .015 : .105, 0, 0, 7); pen.fill();
      if (blink) continue;
      pen.fillStyle = "#1d1712";
      pen.beginPath(); pen.arc(ex + face.dx * .035, ey + face.dy * .04 + .01, .05, 0, 7); pen.fill();
    }
  }

  #lamp(me, left, top, wide, high) {
    const { pen } = this, far = Math.hypot(wide, high) * .62;
    const light = pen.createRadialGradient(me.x, me.y, 1.2, me.x, me.y, far);
    light.addColorStop(0, "rgb(255 196 120 / .10)");
    light.addColorStop(.35, "rgb(10 8 18 / .12)");
    light.addColorStop(1, "rgb(6 6 14 / .62)");
    pen.fillStyle = light;
    pen.fillRect(left, top, wide, high);
  }

  #label(name, x, y, cell, dark) {
    const mine = name === this.me;
    this.#pill(name, x, y - cell * .82, mine ? 13 : 12, mine ? "#fff8f0" : dark ? "#f3eee4" : "#241d14",
      mine ? "#a83f1b" : dark ? "rgb(20 22 28 / .82)" : "rgb(255 253 248 / .86)");
  }

  #pill(text, x, y, size, ink, paper, alpha = 1) {
    const { pen } = this;
    pen.globalAlpha = alpha;
    pen.font = `600 ${size}px ${FONT}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const half = pen.measureText(text).width / 2 + 7;
    x = clamp(x, half + 4, Math.max(half + 4, this.#view.width - half - 4));
    pen.fillStyle = paper;
    pen.beginPath(); pen.roundRect(x - half, y - size * .8, half * 2, size * 1.6, size * .8); pen.fill();
    pen.fillStyle = ink;
    pen.fillText(text, x, y + .5);
    pen.globalAlpha = 1;
  }

  #bubble(name, x, y, cell, dark, now) {
    const said = this.#said.get(name), { pen } = this;
    if (!said) return;
    if (now > said.until) { this.#said.delete(name); return; }
    pen.globalAlpha = Math.min(1, (said.until - now) / 500);
    pen.font = `500 14px ${FONT}`;
    pen.textAlign = "center";
    pen.textBaseline = "middle";
    const half = Math.max(...said.lines.map(line => pen.measureText(line).width)) / 2 + 12, high = said.lines.length * 19 + 14;
    const bottom = y - cell * .82 - 17, middle = clamp(x, half + 6, Math.max(half + 6, this.#view.width - half - 6)), top = Math.max(6, bottom - high);
    pen.fillStyle = dark ? "#f6efe2" : "#fffefb";
    pen.strokeStyle = "rgb(60 45 25 / .35)";
    pen.lineWidth = 1;
    pen.beginPath(); pen.roundRect(middle - half, top, half * 2, high, 12); pen.fill(); pen.stroke();
    const tail = clamp(x, middle - half + 14, middle + half - 14);
    pen.beginPath(); pen.moveTo(tail - 6, top + high - .5); pen.lineTo(tail, top + high + 7); pen.lineTo(tail + 6, top + high - .5); pen.fill();
    pen.fillStyle = "#241d14";
    said.lines.forEach((line, k) => pen.fillText(line, middle, top + 17 + k * 19));
    pen.globalAlpha = 1;
  }

  // -- the minimap

  #small(dark, players) {
    if (!this.minimap.clientWidth) return;
    const { pen, cell, pixels } = drawThumb(this.minimap, this.ground, dark, this.opened);
    const { left, top, width, height, cell: big } = this.#view;
    pen.strokeStyle = dark ? "rgb(255 255 255 / .55)" : "rgb(40 25 10 / .5)";
    pen.lineWidth = Math.max(1, pixels / 130);
    pen.beginPath(); pen.roundRect(left * cell, top * cell, width / big * cell, height / big * cell, cell * .5); pen.stroke();
    for (const [name, body] of players) {
      const mine = name === this.me;
      pen.fillStyle = `hsl(${playerHue(name)} 72% 48%)`;
      pen.strokeStyle = "#fff";
      pen.lineWidth = Math.max(1, pixels / (mine ? 70 : 130));
      pen.beginPath(); pen.arc(body.x * cell, body.y * cell, cell * (mine ? .85 : .6), 0, 7); pen.fill(); pen.stroke();
    }
  }
}

const clamp = (value, low, high) => Math.max(low, Math.min(high, value));

// Where the picture begins, so that it shows no more of the outside than it must.
function edge(middle, seen, size) {
  const rim = .6;
  if (seen >= size + 2 * rim) return (size - seen) / 2;
  return clamp(middle - seen / 2, -rim, size + rim - seen);
}

function wrap(text, width, most) {
  const lines = [""];
  for (const word of text.split(/\s+/)) {
    for (let rest = word; rest; rest = rest.slice(width)) {
      const part = rest.slice(0, width), last = lines.at(-1);
      if (!last) lines[lines.length - 1] = part;
      else if (last.length + 1 + part.length <= width) lines[lines.length - 1] = `${last} ${part}`;
      else lines.push(part);
    }
  }
  return lines.length > most ? [...lines.slice(0, most - 1), `${lines[most - 1].slice(0, width - 1)}…`] : lines;
}
