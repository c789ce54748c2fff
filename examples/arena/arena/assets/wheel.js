// Where the player steers: keys, the pad's buttons, or a finger or mouse held on the ground.

const KEYS = {
  ArrowUp: [0, -1], ArrowDown: [0, 1], ArrowLeft: [-1, 0], ArrowRight: [1, 0],
  KeyW: [0, -1], KeyS: [0, 1], KeyA: [-1, 0], KeyD: [1, 0],
};
const OFTEN_MS = 60;

export class Wheel {
  #held = new Map();      // what is held -> [dx, dy]
  #drag = null;
  #sent = "0,0";
  #sentAt = 0;
  #timer = 0;

  // steer(dx, dy) is called when the direction changes; toward(clientX, clientY) gives the direction of a point from the player
  constructor(stage, pad, steer, toward) {
    this.steer = steer;
    addEventListener("keydown", event => {
      if (!KEYS[event.code] || event.ctrlKey || event.metaKey || event.altKey || isText(event.target) || !this.on) return;
      event.preventDefault();
      if (!event.repeat) this.#hold(event.code, KEYS[event.code]);
    });
    addEventListener("keyup", event => this.#hold(event.code, null));
    addEventListener("blur", () => this.release());
    document.addEventListener("visibilitychange", () => { if (document.hidden) this.release(); });

    stage.addEventListener("pointerdown", event => {
      if (event.button !== 0 || event.target.closest("button") || !this.on) return;
      stage.setPointerCapture(event.pointerId);
      this.#drag = { id: event.pointerId, x: event.clientX, y: event.clientY };
      this.#tell();
    });
    stage.addEventListener("pointermove", event => {
      if (this.#drag?.id !== event.pointerId) return;
      Object.assign(this.#drag, { x: event.clientX, y: event.clientY });
      this.#tell();
    });
    for (const end of ["pointerup", "pointercancel", "lostpointercapture"]) stage.addEventListener(end, event => {
      if (this.#drag?.id === event.pointerId) { this.#drag = null; this.#tell(); }
    });
    this.toward = toward;

    for (const button of pad.querySelectorAll("button")) {
      const way = [Number(button.dataset.dx), Number(button.dataset.dy)];
      const hold = on => { button.toggleAttribute("data-held", on); this.#hold(button, on ? way : null); };
      button.addEventListener("pointerdown", event => { button.setPointerCapture(event.pointerId); hold(true); });
      for (const end of ["pointerup", "pointercancel", "lostpointercapture", "blur"]) button.addEventListener(end, () => hold(false));
      button.addEventListener("keydown", event => {
        if (event.code === "Space" || event.code === "Enter") { event.preventDefault(); event.stopPropagation(); if (!event.repeat) hold(true); }
      });
      button.addEventListener("keyup", event => { if (event.code === "Space" || event.code === "Enter") { event.preventDefault(); hold(false); } });
      button.addEventListener("contextmenu", event => event.preventDefault());
    }
  }

  on = false;

  // Where the finger is, for the picture; null if there is none.
  get drag() { return this.#drag; }

  // The player moves below a finger that is held still.
  refresh() { if (this.#drag) this.#tell(); }

  // The same once more: after coming back, the game has to hear it again.
  again() { this.#sent = ""; this.#tell(); }

  release() {
    this.#held.clear();
    this.#drag = null;
    this.#tell();
  }

  #hold(what, way) {
    if (way) this.#held.set(what, way);
    else if (!this.#held.delete(what)) return;
    this.#tell();
  }

  #tell() {
    let dx = 0, dy = 0;
    if (this.#drag) [dx, dy] = this.toward(this.#drag.x, this.#drag.y);
    else for (const [x, y] of this.#held.values()) { dx += x; dy += y; }
    const length = Math.hypot(dx, dy);
    if (length > 1) { dx /= length; dy /= length; }
    const text = `${dx.toFixed(2)},${dy.toFixed(2)}`;
    if (text === this.#sent || !this.on) return;
    const wait = this.#sentAt + (this.#drag ? OFTEN_MS : 0) - performance.now();
    clearTimeout(this.#timer);
    if (wait > 0) { this.#timer = setTimeout(() => this.#tell(), wait); return; }
    this.#sent = text;
    this.#sentAt = performance.now();
    this.steer(Number(dx.toFixed(2)), Number(dy.toFixed(2)));
  }
}

export const isText = target => target instanceof Element && target.matches("input:not([type=radio]), textarea, [contenteditable]");
