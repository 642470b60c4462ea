// What goes over the network: pixels, maps and annotations in, drawings out. docs/viewer-wire.md is the contract.

import { asIndex } from "./raster.js";

const CACHE_BYTES = 192 * 2 ** 20;
const CONNECTIONS = 5;
const NEAR = 8;
const RETRY_MS = [500, 1000, 2000, 4000, 8000, 15000];
const TRIES = 4;
/** A request that outlives its page may carry at most 64 KiB. */
const KEEPALIVE_BYTES = 60000;

const later = (attempt) => RETRY_MS[Math.min(attempt, RETRY_MS.length - 1)];

/** Numbers from near to far around `current` inside [low, high]. */
export function* outwards(current, low, high) {
  yield current;
  for (let step = 1; current - step >= low || current + step <= high; step++) {
    if (current + step <= high) yield current + step;
    if (current - step >= low) yield current - step;
  }
}

/**
 * Everything of a stack that is read from the server, around the slice on screen, in a bounded cache.
 *
 * `kinds` maps a kind to {path(index), wanted(index), take(index, answer), missing}: whether it is worth asking, and what to do
 * with the JSON. Pixels are always wanted.
 */
export class Loader {
  constructor({ base, sizes, kinds, changed, limit = CACHE_BYTES, fetch = (...args) => globalThis.fetch(...args) }) {
    Object.assign(this, { base, sizes, kinds, changed, fetch, limit });
    this.current = 0;
    this.pixels = new Map();
    this.bytes = 0;
    this.settled = new Set();
    this.failures = new Map();
    this.running = new Set();
    this.abort = new AbortController();
    /** "" while all is well, else a sentence for the reader. */
    this.trouble = "";
    this.attempt = 0;
    this.capacity = Math.max(3, Math.floor(limit / (2 * Math.max(...sizes))));
  }

  /** The slice that should be on screen: its data first, then its neighbors'. */
  want(index) {
    this.current = index;
    this.#pump();
  }

  /** The stored values plus 32768, or undefined while they are not here. */
  get(index) {
    return this.pixels.get(index);
  }

  failed(index) {
    return (this.failures.get(`pixels/${index}`) ?? 0) >= TRIES;
  }

  /** Ask again for what was answered before, of one kind, where `which(index)` says so. */
  forget(kind, which = () => true) {
    this.sizes.forEach((_, index) => which(index) && this.settled.delete(`${kind}/${index}`));
    this.look();
  }

  /** Look for something to ask for: what is wanted may have changed. */
  look() {
    this.idle = false;
    this.#pump();
  }

  close() {
    this.abort.abort();
    clearTimeout(this.timer);
    this.pixels.clear();
    this.bytes = 0;
  }

  #range() {
    const last = this.sizes.length - 1;
    const low = Math.max(0, Math.min(this.current - (this.capacity >> 1), last - this.capacity + 1));
    return [low, Math.min(last, low + this.capacity - 1)];
  }

  #open(kind, index) {
    const key = `${kind}/${index}`;
    if (this.running.has(key) || this.settled.has(key) || (this.failures.get(key) ?? 0) >= TRIES) return false;
    return kind === "pixels" ? !this.pixels.has(index) : this.kinds[kind].wanted(index);
  }

  /** The most useful request that is not made yet: [kind, index]. */
  #next() {
    const [low, high] = this.#range(),
      all = ["pixels", ...Object.keys(this.kinds)];
    const search = (kinds, from, to) => {
      for (const index of outwards(this.current, from, to))
        for (const kind of kinds) if (this.#open(kind, index)) return [kind, index];
      return null;
    };
    const here = search(all, this.current, this.current);
    // With everything here, scrolling must not look through the whole stack at each step.
    if (here || (this.idle && this.capacity >= this.sizes.length)) return here;
    const next =
      search(all, Math.max(low, this.current - NEAR), Math.min(high, this.current + NEAR)) ??
      search(["pixels"], low, high) ??
      search(all, low, high);
    this.idle = !next && !this.running.size;
    return next;
  }

  #pump() {
    while (this.running.size < CONNECTIONS && !this.abort.signal.aborted && !this.timer && !this.gone) {
      const next = this.#next();
      if (!next) return;
      this.#ask(...next);
    }
  }

  async #ask(kind, index) {
    const key = `${kind}/${index}`;
    this.running.add(key);
    try {
      const path = kind === "pixels" ? `${index}/pixels` : this.kinds[kind].path(index);
      const answer = await this.fetch(`${this.base}/${path}`, { signal: this.abort.signal, cache: "no-store" });
      if (answer.status === 404) this.gone = true;
      else if (!answer.ok) throw new Error(String(answer.status));
      else if (kind === "pixels") this.#keep(index, asIndex(await answer.arrayBuffer()));
      else {
        const value = answer.status === 204 ? null : await answer.json();
        this.settled.add(key);
        this.kinds[kind].take(index, value);
      }
      this.attempt = 0;
      this.#say(this.gone ? "The server no longer holds this scan. Open it again." : "");
    } catch (error) {
      if (this.abort.signal.aborted) return;
      // An answer that is wrong each time must not keep the others waiting; a lost connection is tried for ever.
      if (!(error instanceof TypeError)) this.failures.set(key, (this.failures.get(key) ?? 0) + 1);
      if (!this.timer) {
        this.#say("Connection lost. Trying again.");
        this.timer = setTimeout(() => this.retry(), later(this.attempt++));
      }
    } finally {
      this.running.delete(key);
    }
    this.changed(kind, index);
    this.#pump();
  }

  retry() {
    clearTimeout(this.timer);
    this.timer = undefined;
    this.look();
    // Nothing is left to try: what failed each time stays away, and the connection is not to blame.
    if (!this.running.size && !this.gone) this.#say("");
    this.changed("trouble", this.current);
  }

  #say(sentence) {
    this.trouble = sentence;
  }

  #keep(index, values) {
    if (values.length !== this.sizes[index]) throw new Error("a slice of another size");
    this.pixels.set(index, values);
    this.bytes += values.byteLength;
    const [low, high] = this.#range();
    for (const [old, held] of this.pixels) {
      if (this.bytes <= this.limit) break;
      if (old >= low && old <= high) continue;
      this.pixels.delete(old);
      this.bytes -= held.byteLength;
    }
  }
}

/** Sends what was drawn, slice by slice, until the server has it. */
export class Saver {
  constructor({ url, drawing, told, merged, delay = 200, fetch = (...args) => globalThis.fetch(...args) }) {
    Object.assign(this, { url, drawing, told, merged, delay, fetch });
    this.dirty = new Set();
    this.attempt = 0;
    /** "saved", "saving", "waiting" (not saved, will retry), "lost" (the scan is no longer held), "refused" (too much drawn). */
    this.status = "saved";
  }

  touch(index) {
    this.dirty.add(index);
    if (this.status === "saved" || this.status === "refused") this.#say("saving");
    this.#in(this.status === "waiting" ? 0 : this.delay);
  }

  /** Send now. `last` when the page goes away: the request then outlives it, if it is small enough. */
  async flush(last = false) {
    clearTimeout(this.timer);
    this.timer = undefined;
    if (this.sending && !last) return;
    this.sending = true;
    if (last) await Promise.all([...this.dirty].map((index) => this.#send(index, true)));
    else for (const index of [...this.dirty]) if (!(await this.#send(index, false))) break;
    this.sending = false;
    if (this.status === "lost" || this.status === "refused") return;
    if (this.dirty.size) this.#in(this.status === "waiting" ? later(this.attempt++) : this.delay);
    else this.#say("saved");
  }

  #in(ms) {
    clearTimeout(this.timer);
    this.timer = setTimeout(() => this.flush(), ms);
  }

  /** Returns whether to go on with the next slice. */
  async #send(index, last) {
    const outgoing = this.drawing.outgoing(index),
      body = JSON.stringify(outgoing);
    if (this.status !== "waiting") this.#say("saving");
    try {
      const answer = await this.fetch(this.url(index), {
        method: "PUT",
        body,
        headers: { "Content-Type": "application/json" },
        keepalive: last && body.length < KEEPALIVE_BYTES,
      });
      if (answer.status === 409) {
        const { revision, findings } = await answer.json();
        this.drawing.merge(index, revision, findings);
        this.merged(index);
        return true;
      }
      if (answer.status === 404 || answer.status === 400 || answer.status === 413) {
        this.#say(answer.status === 404 ? "lost" : "refused");
        return false;
      }
      if (!answer.ok) throw new Error(String(answer.status));
      const { revision } = await answer.json();
      if (!this.drawing.acknowledge(index, revision, outgoing.findings)) this.dirty.delete(index);
      this.attempt = 0;
      this.#say("saving");
      this.told(index, revision);
      return true;
    } catch {
      this.#say("waiting");
      return false;
    }
  }

  #say(status) {
    if (status === this.status) return;
    this.status = status;
    this.changed?.();
  }
}
