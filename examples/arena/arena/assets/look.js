// Colours and names of the worlds, and of players.

const WORLDS = {
  w1: { title: "Courtyard", hue: 28, top: 34 },
  w2: { title: "Orchard", hue: 104, top: 30 },
  w3: { title: "Harbour", hue: 204, top: 34 },
  w4: { title: "Quarry", hue: 262, top: 20 },
  w5: { title: "Bazaar", hue: 342, top: 32 },
};

export const titleOf = world => WORLDS[world]?.title ?? world;

export function palette(world, dark) {
  const { hue, top } = WORLDS[world] ?? { hue: hash(world) % 360, top: 28 };
  const c = (s, l, a = 1) => `hsl(${hue} ${s}% ${l}% / ${a})`;
  return dark ? {
    void: c(20, 8), floor: c(16, 19), floor2: c(16, 17.2), speck: c(18, 24),
    top: c(top * .7, 37), edge: c(top * .8, 50), front: c(top * .8, 22), front2: c(top * .8, 18), shade: "rgb(0 0 0 / .42)",
  } : {
    void: c(22, 66), floor: c(44, 90), floor2: c(42, 87.4), speck: c(34, 80),
    top: c(top, 62), edge: c(top + 8, 76), front: c(top + 2, 44), front2: c(top + 2, 39), shade: `hsl(${hue} 40% 20% / .2)`,
  };
}

export function playerHue(name) {
  return hash(name) * 137.508 % 360;
}

export const playerColour = name => `hsl(${playerHue(name)} 68% 56%)`;

export function hash(text) {
  let sum = 2166136261;
  for (const letter of text) sum = Math.imul(sum ^ letter.codePointAt(0), 16777619);
  sum ^= sum >>> 15; sum = Math.imul(sum, 2246822519); sum ^= sum >>> 13;
  return sum >>> 0;
}

export function isDark() {
  const chosen = document.documentElement.dataset.theme;
  return chosen ? chosen === "dark" : matchMedia("(prefers-color-scheme: dark)").matches;
}

// A whole world on a small square canvas; the dots of players and the window of the view are drawn by the caller.
export function drawThumb(canvas, ground, dark, opened) {
  const size = ground.rows.length, pixels = Math.round((canvas.clientWidth || 44) * Math.min(2, devicePixelRatio || 1));
  if (canvas.width !== pixels) canvas.width = canvas.height = pixels;
  const pen = canvas.getContext("2d"), colours = palette(ground.world, dark), cell = pixels / size;
  pen.fillStyle = colours.floor;
  pen.fillRect(0, 0, pixels, pixels);
  pen.fillStyle = dark ? colours.edge : colours.front;
  ground.rows.forEach((row, y) => [...row].forEach((c, x) => {
    if (c === "#") pen.fillRect(Math.floor(x * cell), Math.floor(y * cell), Math.ceil(cell), Math.ceil(cell));
  }));
  if (opened) for (const [name, x, y] of ground.chests) {
    if (opened.has(name)) continue;
    pen.fillStyle = "#e3a72f";
    pen.strokeStyle = "#5b3a05";
    pen.lineWidth = Math.max(1, pixels / 160);
    pen.beginPath();
    pen.roundRect(x * cell - cell * .55, y * cell - cell * .45, cell * 1.1, cell * .9, cell * .2);
    pen.fill(); pen.stroke();
  }
  return { pen, cell, pixels };
}
