// What goes over the network: pixels, maps and annotations in, drawings out. docs/viewer-wire.md is the contract.

import { asIndex } from "./raster.js";

const CACHE_BYTES = 192 * 2 ** 20;
const CONNECTIONS = 5;
/** For what is not on screen; the others stay free for the slice that the reader jumps to. */
const AHEAD = 3;
const NEAR = 8;
/** A browser spends more on a request than on the bytes of a slice: many come with one, */
const MOST_SLICES = 16;
/** but no more than come in this time. On a slow line a long run would stand before what the reader wants to see. */
const RUN_MS = 400;
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

/** The slices of `sizes` pixels out of a stream of bytes, each as soon as it is complete. */
export async function* slicesOf(stream, sizes) {
  const reader = stream.getReader();
  let nth = 0,
    filled = 0,
    bytes = new Uint8Array(2 * sizes[0]);
  for (;;) {
    const { done, value } = await reader.read();
    if (done) break;
    for (let from = 0; from < value.length; ) {
      if (nth === sizes.length) throw new Error("more slices than were asked for");
      const part = value.subarray(from, from + bytes.length - filled);
      bytes.set(part, filled);
      filled += part.length;
      from += part.length;
      if (filled < bytes.length) continue;
      yield bytes.buffer;
      nth++;
      filled = 0;
      bytes = new Uint8Array(2 * (sizes[nth] ?? 0));
    }
  }
  if (nth < sizes.length) throw new Error("fewer slices than were asked for");
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
    /** What is asked for and not here yet, and with how many requests. */
    this.running = new Set();
    this.requests = 0;
    /** Milliseconds that a slice took lately; undefined before the first. */
    this.pace = undefined;
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
    while (this.requests < CONNECTIONS && !this.abort.signal.aborted && !this.timer && !this.gone) {
      const next = this.#next();
      if (!next) return;
      const [kind, index] = next;
      if (index !== this.current && this.requests >= AHEAD) return;
      this.#ask(kind, ...(kind === "pixels" ? this.#run(index) : [index, 1]));
    }
  }

  /** The slices to ask for together with `index`, away from the slice on screen: [first, count]. */
  #run(index) {
    const fresh = (one) => this.#open("pixels", one) && !this.failures.has(`pixels/${one}`);
    // What failed before is asked for alone, so that it takes nothing else along.
    if (index === this.current || this.pace === undefined || !fresh(index)) return [index, 1];
    const [low, high] = this.#range(),
      most = Math.min(MOST_SLICES, RUN_MS / this.pace),
      step = index > this.current ? 1 : -1;
    let count = 1;
    for (let one = index + step; count + 1 <= most && one >= low && one <= high && fresh(one); one += step) count++;
    return [step > 0 ? index : index - count + 1, count];
  }

  async #ask(kind, first, count) {
    const keys = Array.from({ length: count }, (_, nth) => `${kind}/${first + nth}`),
      begun = performance.now();
    keys.forEach((key) => this.running.add(key));
    this.requests++;
    try {
      const pixels = count === 1 ? `${first}/pixels` : `${first}/pixels?count=${count}`;
      const path = kind === "pixels" ? pixels : this.kinds[kind].path(first);
      const answer = await this.fetch(`${this.base}/${path}`, { signal: this.abort.signal, cache: "no-store" });
      if (answer.status === 404) this.gone = true;
      else if (!answer.ok) throw new Error(String(answer.status));
      else if (kind === "pixels") {
        await this.#take(first, count, answer);
        const each = Math.max(1, (performance.now() - begun) / count);
        this.pace = this.pace === undefined ? each : (this.pace + each) / 2;
      } else {
        const value = answer.status === 204 ? null : await answer.json();
        this.settled.add(keys[0]);
        this.kinds[kind].take(first, value);
      }
      this.attempt = 0;
      this.#say(this.gone ? "The server no longer holds this scan. Open it again." : "");
    } catch (error) {
      if (this.abort.signal.aborted) return;
      // An answer that is wrong each time must not keep the others waiting; a lost connection is tried for ever.
      if (!(error instanceof TypeError))
        for (const key of keys) if (this.running.has(key)) this.failures.set(key, (this.failures.get(key) ?? 0) + 1);
      if (!this.timer) {
        this.#say("Connection lost. Trying again.");
        this.timer = setTimeout(() => this.retry(), later(this.attempt++));
      }
    } finally {
      keys.forEach((key) => this.running.delete(key));
      this.requests--;
    }
    this.changed(kind, first);
    this.#pump();
  }

  async #take(first, count, answer) {
    if (count === 1) {
      this.#keep(first, asIndex(await answer.arrayBuffer()));
      return;
    }
    let index = first;
    for await (const bytes of slicesOf(answer.body, this.sizes.slice(first, first + count))) {
      this.#keep(index, asIndex(bytes));
      this.running.delete(`pixels/${index}`);
      this.changed("pixels", index++);
    }
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
    /** "saved", "saving", "waiting" (not saved, will retry), "lost" (the scan is no longer held), "refused" (too much drawn),
     *  "closed" (the case was locked or finished, or has gone on in another tab). */
    this.status = "saved";
  }

  touch(index) {
    this.dirty.add(index);
    if (["saved", "refused", "closed"].includes(this.status)) this.#say("saving");
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
    if (["lost", "refused", "closed"].includes(this.status)) return;
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
      const over = { 404: "lost", 400: "refused", 413: "refused", 423: "closed" }[answer.status];
      if (over) {
        this.#say(over);
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
