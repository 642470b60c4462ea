// The viewer: holds the parts together and draws. Streamlit calls `mount` at each rerun with the same parent element.

import { Bar } from "./bar.js";
import { Chrome } from "./chrome.js";
import { Drawing } from "./drawing.js";
import { element } from "./dom.js";
import { FIT, toScreen, transform } from "./geometry.js";
import { listenToKeys } from "./keys.js";
import { Painter } from "./paint.js";
import { Panes, drawPicture, labelPane } from "./panes.js";
import { initialState, patch } from "./state.js";
import { Pointers, begin } from "./tools.js";
import { Loader, Saver } from "./wire.js";
import { Words } from "./words.js";

const SLICE_REST_MS = 150;
const SAY_REST_MS = 450;
const SMALLEST_HEIGHT = 420;
const STEADY = 40;
const REMEMBERED = 4;

/** What outlives a change of page: how the reader had set things, and drawings that the server does not have yet. */
const remembered = new Map();
const unsaved = new Map();

class Viewer {
  constructor(component) {
    this.#take(component);
    const { data } = component,
      { slices } = data.stack;
    this.count = slices.length;
    this.abort = new AbortController();
    this.state = remembered.get(data.stack.id) ?? initialState(data);
    this.state = patch(this.state, { slice: data.slice ?? 0, hidden: false, measures: this.state.measures }, this.count);
    this.command = data.slice_command;
    this.panesAsked = String(data.panes);
    this.method = data.method;
    this.mapVersion = data.map_version;
    this.annotationVersion = data.annotation_version;
    this.shown = null;
    this.gesture = null;
    this.cursor = null;
    this.cursorByKeys = false;
    this.version = 0;
    this.draws = [];
    this.maps = new Map();
    this.annotations = new Map();
    this.painter = new Painter(this);
    this.words = new Words(this);
    this.#openDrawing(data.stack.id);
    const known = (flags, index) => flags?.[index] ?? true;
    this.loader = new Loader({
      base: this.base,
      sizes: slices.map(({ rows, columns }) => rows * columns),
      kinds: {
        maps: {
          path: (index) => `${index}/maps?method=${encodeURIComponent(this.data.method)}`,
          wanted: (index) => this.data.probability[index] !== null || index === this.state.slice,
          take: (index, value) => this.maps.set(index, value),
        },
        annotations: {
          path: (index) => `${index}/annotations`,
          wanted: (index) => known(this.data.annotated, index),
          take: (index, value) => this.annotations.set(index, value),
        },
        drawing: {
          path: (index) => `${index}/drawing`,
          wanted: (index) => known(this.data.drawn, index) && !this.drawing.known(index),
          take: (index, { revision, findings }) => this.drawing.load(index, revision, findings),
        },
      },
      changed: (kind, index) => this.#arrived(kind, index),
    });
    this.#knownEmpty();

    this.panes = new Panes({
      choose: (index, kind) => this.change({ panes: this.state.panes.with(index, kind) }),
      resized: () => this.schedule(),
    });
    this.bar = new Bar({ go: (index) => this.go(index) });
    this.root = element("div", { class: "ipf-viewer", role: "region", "aria-label": "CT viewer" });
    this.chrome = new Chrome(this);
    this.stage = element(
      "div",
      { class: "stage", tabindex: "0", role: "application", "aria-label": "CT images. Press question mark for the keys" },
      this.panes.node,
      this.bar.node,
    );
    this.root.append(this.chrome.bar, this.chrome.options, this.stage, this.chrome.status, this.chrome.live);
    component.parentElement.append(this.root);
    Object.defineProperty(this.root, "ipfViewer", { value: this.#handle() });
    const { signal } = this.abort;
    new Pointers(this, this.panes.node, signal);
    listenToKeys(this, this.root, signal);
    globalThis.addEventListener("resize", () => this.#size(), { signal });
    globalThis.addEventListener("online", () => (this.loader.retry(), this.saver.flush()), { signal });
    globalThis.addEventListener("pagehide", () => this.saver.flush(true), { signal });
    globalThis.addEventListener("beforeunload", (event) => this.saver.dirty.size && event.preventDefault(), { signal });
    this.#size();
    // What stands above comes and goes without a word to the viewer: the sizes of all that holds it tell.
    const around = new ResizeObserver(() => this.#size(STEADY));
    for (let node = this.root.getRootNode().host ?? this.root.parentElement; node; node = node.parentElement) around.observe(node);
    signal.addEventListener("abort", () => around.disconnect());
    this.panes.arrange(this.state.panes, this.image);
    this.loader.want(this.state.slice);
    this.schedule();
  }

  #take(component) {
    this.data = component.data;
    this.setStateValue = component.setStateValue;
    this.setTriggerValue = component.setTriggerValue;
    this.base = new URL(`${this.data.wire}/${this.data.token}/${this.data.stack.id}`, document.baseURI).href;
  }

  /** The drawing of this stack: a new one, or the one that an earlier mount could not send yet. */
  #openDrawing(id) {
    const left = unsaved.get(id),
      { slices } = this.data.stack;
    unsaved.delete(id);
    this.drawing = left?.drawing ?? new Drawing((index) => slices[index].rows * slices[index].columns);
    this.saver = left ?? new Saver({ drawing: this.drawing });
    this.everDrawn = Boolean(left);
    Object.assign(this.saver, {
      url: (index) => `${this.base}/${index}/drawing`,
      told: (index, revision) => this.setTriggerValue("drawn", { slice: index, revision }),
      merged: () => {
        this.announce("Another tab drew here too. Both were kept.");
        this.drawingChanged();
      },
      changed: () => this.schedule(),
    });
    if (this.saver.dirty.size) this.saver.flush();
  }

  #knownEmpty() {
    this.data.drawn?.forEach((drawn, index) => drawn || this.drawing.load(index, 0, {}));
  }

  /** New data of the same stack, after a rerun of the script. */
  update(component) {
    this.#take(component);
    const { data } = this;
    this.loader.base = this.base;
    this.#knownEmpty();
    const again = (version, seen) => version !== undefined && version !== seen;
    if (data.method !== this.method || again(data.map_version, this.mapVersion)) {
      if (data.method !== this.method) {
        this.maps.clear();
        this.painter.pasted.clear();
      }
      this.loader.forget("maps", (index) => !this.maps.get(index));
    }
    if (again(data.annotation_version, this.annotationVersion)) {
      this.annotations.clear();
      this.loader.forget("annotations");
    }
    this.mapVersion = data.map_version;
    this.annotationVersion = data.annotation_version;
    this.method = data.method;
    if (data.slice_command !== this.command) {
      this.command = data.slice_command;
      this.go(data.slice);
    }
    if (String(data.panes) !== this.panesAsked) {
      this.panesAsked = String(data.panes);
      this.change({ panes: [...data.panes] });
    }
    this.version++;
    this.loader.look();
    // What stands above may have got another line: images that change their size under the reader's hand are worse than a gap.
    this.#size(STEADY);
    this.schedule();
  }

  close() {
    this.stop();
    this.abort.abort();
    this.loader.close();
    this.panes.close();
    this.bar.close();
    clearTimeout(this.resting);
    clearTimeout(this.saying);
    cancelAnimationFrame(this.frame);
    remembered.delete(this.data.stack.id);
    remembered.set(this.data.stack.id, this.state);
    if (remembered.size > REMEMBERED) remembered.delete(remembered.keys().next().value);
    if (this.saver.dirty.size) {
      const { saver } = this,
        { id } = this.data.stack;
      unsaved.set(id, saver);
      // The saver outlives this viewer until the server has everything; it must not hold on to the viewer meanwhile.
      const base = this.base;
      Object.assign(saver, {
        url: (index) => `${base}/${index}/drawing`,
        told() {},
        merged() {},
        changed: () => saver.status === "saved" && unsaved.delete(id),
      });
      saver.flush(true);
    }
    this.maps.clear();
    this.annotations.clear();
    this.painter.clear();
    this.root.remove();
  }

  // What the parts call.

  /** The slice whose pixels are on screen; before the first has come, the one that is awaited. */
  get image() {
    return this.data.stack.slices[this.shown ?? this.state.slice];
  }

  change(changes) {
    const before = this.state;
    this.state = patch(before, changes, this.count);
    if (this.state === before) return;
    if (this.state.panes !== before.panes) this.panes.arrange(this.state.panes, this.image);
    if (this.state.tool !== before.tool) this.stop();
    if (this.state.slice !== before.slice) {
      this.loader.want(this.state.slice);
      clearTimeout(this.resting);
      this.resting = setTimeout(() => this.setStateValue("slice", this.state.slice), SLICE_REST_MS);
      clearTimeout(this.saying);
      this.saying = setTimeout(() => this.announce(this.words.slice(this.state.slice)), SAY_REST_MS);
    }
    this.schedule();
  }

  go(slice) {
    if (!this.gesture?.still) this.change({ slice });
  }

  goToHighest() {
    const shares = this.data.probability.map((value) => value ?? -1),
      highest = shares.indexOf(Math.max(...shares));
    if (shares[highest] >= 0) this.go(highest);
  }

  fit() {
    this.change({ view: { ...FIT } });
  }

  layers(names) {
    const on = !this.state.layers[names[0]];
    this.change({ layers: { ...this.state.layers, ...Object.fromEntries(names.map((name) => [name, on])) } });
  }

  fullScreen() {
    if (document.fullscreenElement) document.exitFullscreen();
    else this.root.requestFullscreen?.().catch(() => this.announce("This browser does not allow full screen here."));
  }

  help() {
    this.chrome.help(this.root);
  }

  announce(words) {
    this.chrome.announce(words);
  }

  start(gesture) {
    this.gesture = gesture;
  }

  finish() {
    const { gesture } = this;
    this.gesture = null;
    gesture?.end?.();
    this.schedule();
  }

  stop() {
    const { gesture } = this;
    this.gesture = null;
    gesture?.cancel?.();
  }

  /** The pointer is here; null when it leaves. */
  point(here) {
    if (this.cursorByKeys) return;
    this.cursor = here;
    this.schedule();
  }

  keyboardCursor() {
    this.cursorByKeys = !this.cursorByKeys;
    const pane = this.panes.list[0],
      { x, y } = this.state.view;
    this.cursor = this.cursorByKeys
      ? { pane, x: Math.floor(x ?? this.image.columns / 2) + 0.5, y: Math.floor(y ?? this.image.rows / 2) + 0.5 }
      : null;
    this.announce(this.cursorByKeys ? "Cursor by keyboard: arrows move it, Enter presses the tool" : "Arrows scroll the stack");
    this.schedule();
  }

  moveCursor(dx, dy) {
    const inside = (value, size) => Math.min(size - 0.5, Math.max(0.5, value));
    const { columns, rows } = this.image;
    this.cursor = { ...this.cursor, x: inside(this.cursor.x + dx, columns), y: inside(this.cursor.y + dy, rows) };
    this.gesture?.move(this.#cursorHere());
    this.schedule();
    clearTimeout(this.saying);
    this.saying = setTimeout(() => this.announce(this.words.readout()), SAY_REST_MS);
  }

  pressCursor() {
    if (!this.cursorByKeys) return;
    if (this.gesture) this.finish();
    else this.start(begin(this, { ...this.#cursorHere(), pointer: "mouse", erase: false }));
    this.schedule();
  }

  #cursorHere() {
    const { pane, x, y } = this.cursor;
    return { pane, x, y, screen: toScreen(transform(this.state.view, pane, this.image), { x, y }) };
  }

  escape() {
    if (this.gesture) this.stop();
    else if (this.cursorByKeys) this.keyboardCursor();
    else this.change({ tool: "move" });
    this.schedule();
  }

  drawingChanged() {
    this.version++;
    this.schedule();
  }

  commitDrawing() {
    const { index } = this.drawing.open ?? {};
    if (this.drawing.commit()) this.#touch(index);
    this.drawingChanged();
  }

  #touch(index) {
    this.everDrawn = true;
    this.saver.touch(index);
    this.drawingChanged();
  }

  undo() {
    this.#stepped(this.drawing.undo(), "Nothing to undo");
  }

  redo() {
    this.#stepped(this.drawing.redo(), "Nothing to redo");
  }

  #stepped(index, otherwise) {
    this.stop();
    if (index === null) this.announce(otherwise);
    else {
      this.#touch(index);
      this.go(index);
    }
  }

  /** Add this slice's mask of the chosen finding to the next slice, and go there. */
  copyOn() {
    const from = this.shown,
      to = from + 1,
      { finding } = this.state;
    if (from === null || to >= this.count || !this.drawing.findings(from).includes(finding)) return;
    const source = this.drawing.mask(from, finding),
      target = this.drawing.begin(to, finding);
    if (target?.length !== source.length) {
      this.drawing.cancel();
      this.announce("The next slice cannot take a copy.");
      return;
    }
    source.forEach((value, index) => value && (target[index] = 1));
    this.commitDrawing();
    this.go(to);
  }

  removeMeasure() {
    const own = this.state.measures.filter(({ slice }) => slice === this.shown);
    this.change({ measures: this.state.measures.filter((one) => one !== own.at(-1)) });
  }

  #arrived(kind, index) {
    if (kind === "annotations" || kind === "drawing") this.version++;
    if (kind === "drawing" && this.drawing.findings(index).length) this.everDrawn = true;
    // Neighbors that come in ahead of time change nothing on screen, but the first one ends a message.
    if (index === this.state.slice || index === this.shown || this.loader.trouble !== this.trouble) this.schedule();
    this.trouble = this.loader.trouble;
  }

  /** Draw before the next frame, once, however often it is asked for. */
  schedule() {
    this.frame ??= requestAnimationFrame(() => {
      this.frame = undefined;
      if (!this.abort.signal.aborted) this.draw();
    });
  }

  draw() {
    const begun = performance.now(),
      { state, loader } = this;
    if (loader.get(state.slice) && !this.gesture?.still && this.shown !== state.slice) {
      const before = this.image;
      this.shown = state.slice;
      if (this.image.rows !== before.rows || this.image.columns !== before.columns) this.panes.arrange(state.panes, this.image);
    }
    const { shown, image } = this,
      covered = state.hidden;
    const heat = shown === null || covered || !state.layers.heat ? null : this.painter.heat(shown);
    const outlines = shown === null || covered ? [] : this.painter.outlines(shown);
    let painted = 0;
    for (const pane of this.panes.list) {
      const kind = covered ? "plain" : pane.kind === "map" ? "map" : pane.kind === "agreement" ? "agreement" : "plain";
      const picture = shown === null ? null : this.painter.picture(kind, heat, outlines);
      pane.source = picture;
      if (drawPicture(pane, picture?.canvas, picture?.key, state.view, image)) painted++;
      this.painter.lines(pane, heat, outlines, covered);
      labelPane(pane, this.words.labels(pane, heat, outlines, covered));
    }
    this.chrome.update();
    this.chrome.readout.textContent = this.words.readout();
    this.bar.draw(this.data, state.slice, this.words.slice(state.slice), (index) => this.#marked(index), this.version);
    this.stage.dataset.tool = state.tool;
    const ms = performance.now() - begun;
    this.lastDraw = { ms, panes: painted, slice: shown };
    this.draws.push(ms);
    if (this.draws.length > 200) this.draws.shift();
  }

  #marked(index) {
    return Boolean(
      this.data.annotated?.[index] || (this.annotations.get(index) ?? []).length || this.drawing.findings(index).length,
    );
  }

  /** As high as the window allows below the place where the viewer starts, however far the page is scrolled. */
  #size(least = 0) {
    let top = this.root.getBoundingClientRect().top;
    for (let node = this.root; node; node = node.parentNode ?? node.host) top += node.scrollTop ?? 0;
    const height = Math.max(SMALLEST_HEIGHT, globalThis.innerHeight - Math.max(0, top) - (this.data.below_px ?? 0) - 8);
    if (Math.abs(height - (this.height ?? 0)) <= least) return;
    this.height = height;
    this.root.style.height = `${height}px`;
  }

  /** For tests: docs/viewer-wire.md. */
  #handle() {
    const viewer = this;
    return {
      get state() {
        return structuredClone({
          ...viewer.state,
          shown: viewer.shown,
          cursor: viewer.cursor && { x: viewer.cursor.x, y: viewer.cursor.y },
        });
      },
      get lastDraw() {
        return { ...viewer.lastDraw };
      },
      get draws() {
        return [...viewer.draws];
      },
      get cacheBytes() {
        return viewer.loader.bytes;
      },
      get cached() {
        return viewer.loader.pixels.size;
      },
      get saving() {
        return viewer.saver.status;
      },
      mask: (finding) => viewer.drawing.mask(viewer.shown, finding).slice(),
      pixels: (pane) => new Uint8ClampedArray(viewer.panes.list[pane].source.image.data),
      /** Where an image point is in the browser window: for pointing at it. */
      toWindow: (pane, x, y) => {
        const { node } = viewer.panes.list[pane],
          box = node.getBoundingClientRect();
        const screen = toScreen(transform(viewer.state.view, viewer.panes.list[pane], viewer.image), { x, y });
        return { x: box.left + screen.x, y: box.top + screen.y };
      },
    };
  }
}

const viewers = new WeakMap();

/** Mount the viewer in `component.parentElement`, or give the one that is there its new data. Returns the function that unmounts. */
export default function mount(component) {
  const parent = component.parentElement,
    { stack, token } = component.data;
  let viewer = viewers.get(parent);
  if (viewer && (viewer.data.stack.id !== stack.id || viewer.data.token !== token || viewer.count !== stack.slices.length)) {
    viewer.close();
    viewer = undefined;
  }
  if (viewer) viewer.update(component);
  else viewers.set(parent, new Viewer(component));
  return () => {
    viewers.get(parent)?.close();
    viewers.delete(parent);
  };
}
