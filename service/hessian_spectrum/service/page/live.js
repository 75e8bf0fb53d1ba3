// Requests that follow sliders: one at a time, the next one with the newest settings.

import { json } from "./api.js";

export class Live {
  // show: receives each answer; fail: receives each error.
  constructor(path, { show, fail, signal }) {
    Object.assign(this, { path, show, fail, signal, next: null, isBusy: false });
  }

  async ask(body) {
    this.next = body;
    if (this.isBusy) return;
    this.isBusy = true;
    while (this.next && !this.signal.aborted) {
      const current = this.next;
      this.next = null;
      try {
        this.show(await json(this.path, { method: "POST", body: current, signal: this.signal }));
      } catch (error) {
        if (error.name !== "AbortError") this.fail(error);
      }
    }
    this.isBusy = false;
  }
}
