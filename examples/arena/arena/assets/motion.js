// From frames that come some fifteen times a second to positions sixty times a second.

const BEHIND_MS = 120;    // others are shown as they were so long ago, between two frames that are known
const AHEAD_MS = 110;     // oneself is carried on along one's speed, at most so far
const KEPT = 40;

export class Motion {
  frames = [];            // {n, at (our clock), bodies: Map(name -> [x, y, vx, vy])}
  #offset = null;         // our clock minus the server's, where the way was shortest
  #me = null;

  clear() {
    this.frames = [];
    this.#me = null;
  }

  add(message, now) {
    const gap = now - message.at;
    if (this.#offset === null || gap < this.#offset || gap > this.#offset + 1500) this.#offset = gap;
    else this.#offset += (gap - this.#offset) * .01; // clocks drift
    const bodies = new Map(message.b.map(([name, ...rest]) => [name, rest]));
    const at = message.at + this.#offset;
    if (this.frames.length && this.frames.at(-1).at >= at) this.frames = [];
    this.frames.push({ n: message.n, at, heard: now, bodies });
    if (this.frames.length > KEPT) this.frames.shift();
  }

  get last() { return this.frames.at(-1); }

  // Everybody at this moment: Map(name -> {x, y, vx, vy}).
  at(now, me, elapsedMs) {
    const last = this.last, shown = new Map();
    if (!last) return shown;
    const when = now - BEHIND_MS;
    let k = this.frames.length - 1;
    while (k > 0 && this.frames[k].at > when) k--;
    const one = this.frames[k], two = this.frames[k + 1] ?? one;
    const share = two === one ? 0 : Math.max(0, Math.min(1, (when - one.at) / (two.at - one.at)));
    for (const [name, there] of two.bodies) {
      const [x, y, vx, vy] = one.bodies.get(name) ?? there;
      const far = Math.hypot(there[0] - x, there[1] - y) > 3; // came back at the gate: no flight across the map
      const s = far ? 1 : share;
      shown.set(name, { x: x + (there[0] - x) * s, y: y + (there[1] - y) * s, vx: vx + (there[2] - vx) * s, vy: vy + (there[3] - vy) * s });
    }
    const own = last.bodies.get(me);
    if (own) {
      // by the way that was really made, which a wall may have stopped
      const before = this.frames.at(-2), there = before?.bodies.get(me) ?? own, took = before ? last.at - before.at : 1;
      const ahead = Math.max(0, Math.min(AHEAD_MS, now - last.heard)) / Math.max(30, took);
      const x = own[0] + (own[0] - there[0]) * ahead, y = own[1] + (own[1] - there[1]) * ahead;
      if (!this.#me || Math.hypot(this.#me.x - x, this.#me.y - y) > 3) this.#me = { x, y };
      const pull = 1 - Math.exp(-elapsedMs / 55);
      this.#me.x += (x - this.#me.x) * pull;
      this.#me.y += (y - this.#me.y) * pull;
      shown.set(me, { ...this.#me, vx: own[2], vy: own[3] });
    } else this.#me = null;
    return shown;
  }
}
