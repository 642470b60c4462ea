// What the reader drew: masks per slice and finding, with undo and redo. It knows neither the screen nor the network.

import { anyRun, decodeRuns, encodeRuns, sameRuns } from "./masks.js";

const HISTORY = 200;
const DECODED = 12;

/** Apply the change from one mask to another onto a third: pixels that did not change keep what they are in `onto`. */
function carry(from, to, onto) {
  return onto.map((value, index) => (from[index] === to[index] ? value : to[index]));
}

export class Drawing {
  /** @param sizeOf (slice index) => pixels of that slice */
  constructor(sizeOf) {
    this.sizeOf = sizeOf;
    /** index -> {revision, acknowledged, findings}: run lengths by finding, as the server has them and as they are now. */
    this.slices = new Map();
    this.decoded = new Map();
    this.past = [];
    this.future = [];
    this.open = null;
  }

  /** Is it known what the server holds for this slice? Before that nothing can be drawn there. */
  known(index) {
    return this.slices.has(index);
  }

  /** Take what the server holds. What was drawn here meanwhile stays. */
  load(index, revision, findings) {
    if (!this.known(index)) this.slices.set(index, { revision, acknowledged: findings, findings: { ...findings } });
  }

  findings(index) {
    const runs = this.slices.get(index)?.findings ?? {};
    return Object.keys(runs).filter((finding) => anyRun(runs[finding]));
  }

  /** Slices with something drawn on them. */
  drawn() {
    return [...this.slices.keys()].filter((index) => this.findings(index).length);
  }

  /** The mask as it is now, not to be changed. */
  mask(index, finding) {
    if (this.open?.index === index && this.open.finding === finding) return this.open.mask;
    const key = `${index}/${finding}`;
    let mask = this.decoded.get(key);
    if (!mask) {
      const runs = this.slices.get(index)?.findings[finding];
      mask = runs ? decodeRuns(runs, this.sizeOf(index)) : new Uint8Array(this.sizeOf(index));
      this.decoded.set(key, mask);
      if (this.decoded.size > DECODED) this.decoded.delete(this.decoded.keys().next().value);
    }
    return mask;
  }

  /** Start a change; the returned mask may be changed until `commit` or `cancel`. Null where the slice is not known yet. */
  begin(index, finding) {
    if (!this.known(index)) return null;
    this.cancel();
    this.open = { index, finding, mask: this.mask(index, finding).slice() };
    return this.open.mask;
  }

  cancel() {
    this.open = null;
  }

  /** End a change. Returns whether anything changed. */
  commit() {
    if (!this.open) return false;
    const { index, finding, mask } = this.open;
    this.open = null;
    const before = encodeRuns(this.mask(index, finding)),
      after = encodeRuns(mask);
    if (sameRuns(before, after)) return false;
    this.past.push({ index, finding, before, after });
    if (this.past.length > HISTORY) this.past.shift();
    this.future = [];
    this.#set(index, finding, after);
    return true;
  }

  /** Take the last change back. Returns its slice, or null where there is none. */
  undo() {
    return this.#step(this.past, this.future, "after", "before");
  }

  redo() {
    return this.#step(this.future, this.past, "before", "after");
  }

  /** What to send: {revision, findings}. */
  outgoing(index) {
    const { revision, findings } = this.slices.get(index);
    return { revision, findings: Object.fromEntries(Object.entries(findings).filter(([, runs]) => anyRun(runs))) };
  }

  /** The server has taken what was sent. Returns whether there is more to send. */
  acknowledge(index, revision, sent) {
    const slice = this.slices.get(index);
    slice.revision = revision;
    slice.acknowledged = sent;
    const now = this.outgoing(index).findings,
      names = Object.keys(now);
    return !(names.length === Object.keys(sent).length && names.every((name) => sent[name] && sameRuns(now[name], sent[name])));
  }

  /** Another tab was faster: carry what was changed here since the last acknowledged state onto the server's drawing. */
  merge(index, revision, theirs) {
    const slice = this.slices.get(index),
      size = this.sizeOf(index),
      empty = [size];
    const names = new Set([...Object.keys(slice.findings), ...Object.keys(theirs), ...Object.keys(slice.acknowledged)]);
    const base = slice.acknowledged;
    slice.revision = revision;
    slice.acknowledged = theirs;
    for (const name of names) {
      const [from, to, onto] = [base, slice.findings, theirs].map((all) => decodeRuns(all[name] ?? empty, size));
      this.#set(index, name, encodeRuns(carry(from, to, onto)));
    }
  }

  #set(index, finding, runs) {
    this.slices.get(index).findings[finding] = runs;
    this.decoded.delete(`${index}/${finding}`);
  }

  #step(source, target, from, to) {
    const entry = source.pop();
    if (!entry) return null;
    this.cancel();
    target.push(entry);
    const { index, finding } = entry,
      size = this.sizeOf(index);
    // Not simply the old mask: another tab's pixels that came in since then stay.
    const mask = carry(decodeRuns(entry[from], size), decodeRuns(entry[to], size), this.mask(index, finding));
    this.#set(index, finding, encodeRuns(mask));
    return index;
  }
}
