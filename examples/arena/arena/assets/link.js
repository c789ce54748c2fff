// The WebSocket, and how it comes back: with a back-off that doubles, and at once when the browser says it is online.

const FIRST_MS = 400, LONGEST_MS = 8000, QUIET_MS = 9000, PING_MS = 2500, OPENING_MS = 8000;
const FINAL = { 4001: "You play in another window now." };

export class Link extends EventTarget {
  // state: "connecting", "open", "lost" (then retryAt says when it tries again), "ended" (then why says why)
  state = "connecting";
  attempt = 0;
  retryAt = 0;
  pingMs = null;
  why = "";

  constructor(url) {
    super();
    this.url = url;
    addEventListener("online", () => this.retry());
    document.addEventListener("visibilitychange", () => { if (!document.hidden) this.retry(); });
    setInterval(() => this.#watch(), 1000);
    this.#open();
  }

  send(message) {
    if (this.state !== "open") return false;
    this.socket.send(JSON.stringify(message));
    return true;
  }

  retry() {
    if (this.state !== "lost") return;
    clearTimeout(this.timer);
    this.#open();
  }

  #open() {
    this.#become("connecting");
    const socket = this.socket = new WebSocket(this.url);
    this.heardAt = performance.now();
    socket.onmessage = event => {
      if (socket !== this.socket) return;
      this.heardAt = performance.now();
      const message = JSON.parse(event.data);
      if (message.t === "hello") {
        this.attempt = 0;
        this.#become("open");
        this.#ping();
      } else if (message.t === "pong") {
        this.pingMs = performance.now() - message.at;
      }
      this.dispatchEvent(new CustomEvent("message", { detail: message }));
    };
    socket.onclose = event => { if (socket === this.socket) this.#closed(event.code); };
  }

  #closed(code) {
    this.socket = null;
    this.pingMs = null;
    if (FINAL[code]) {
      this.why = FINAL[code];
      this.#become("ended");
      return;
    }
    const wait = Math.min(LONGEST_MS, FIRST_MS * 2 ** this.attempt++) * (0.7 + 0.6 * Math.random());
    this.retryAt = performance.now() + wait;
    this.timer = setTimeout(() => this.#open(), wait);
    this.#become("lost");
  }

  #watch() {
    const quiet = performance.now() - this.heardAt;
    if (!this.socket || quiet < (this.state === "open" ? QUIET_MS : OPENING_MS)) {
      if (this.state === "open" && performance.now() - (this.pingedAt ?? 0) > PING_MS) this.#ping();
      return;
    }
    const socket = this.socket; // it says nothing and does not close: give it up
    this.#closed(0);
    socket.close();
  }

  #ping() {
    this.pingedAt = performance.now();
    this.send({ t: "ping", at: this.pingedAt });
  }

  #become(state) {
    this.state = state;
    this.dispatchEvent(new Event("state"));
  }
}
