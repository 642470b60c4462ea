// The viewer: holds the parts together and draws. Streamlit calls `mount` at each rerun with the same parent element.

import { Bar, side } from "./bar.js";
import { Chrome } from "./chrome.js";
import { Drawing } from "./drawing.js";
import { element, number } from "./dom.js";
import { FIT, distance, ellipseStatistics, scaleBar, toScreen, transform } from "./geometry.js";
import { listenToKeys } from "./keys.js";
import { decodeRuns } from "./masks.js";
import { Panes, Pen, borderPath, drawPicture, labelPane } from "./panes.js";
import {
  agreementLayer,
  applyTable,
  blend,
  emptyLayer,
  heatColor,
  heatLayer,
  litRule,
  pasteCells,
  reader,
  windowTable,
} from "./raster.js";
import { TARGETS, initialState, patch } from "./state.js";
import { Pointers, begin } from "./tools.js";
import { Loader, Saver } from "./wire.js";

const INK = "#f4f7fa";
/** No finding has these colors: the heat map's contour, and the reader's own instruments. */
const CONTOUR = "#ff9a3c";
const INSTRUMENT = "#8fd0ff";
const LUNGS = "#9aa7b4";
const SLICE_REST_MS = 150;
const SAY_REST_MS = 450;
/** Share of the map's own peak from which the agreement pane counts a pixel as lit: the same as on the scorecard. */
const AGREEMENT_SHARE = 0.5;
const PASTED = 24;
const NAMING = ["annotation", "map", "agreement", "ct"];
const SMALLEST_HEIGHT = 420;
const STEADY = 40;
const REMEMBERED = 4;
const DECISIONS = { ipf: "IPF-like", normal: "normal-like", uncertain: "uncertain" };

/** What outlives a change of page: how the reader had set things, and drawings that the server does not have yet. */
const remembered = new Map();
const unsaved = new Map();

/** Keep only the newest entries of a Map. */
function bound(map, most) {
  while (map.size > most) map.delete(map.keys().next().value);
}

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
    this.pasted = new Map();
    this.paths = new Map();
    this.pictures = {};
    this.table = new Uint32Array(65536);
    this.statistics = new WeakMap();
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
        this.pasted.clear();
      }
      this.loader.forget("maps");
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
    bound(remembered, REMEMBERED);
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
    for (const map of [this.maps, this.annotations, this.pasted, this.paths]) map.clear();
    this.pictures = {};
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
      this.saying = setTimeout(() => this.announce(this.sliceWords(this.state.slice)), SAY_REST_MS);
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
    this.saying = setTimeout(() => this.announce(this.#readout()), SAY_REST_MS);
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

  // Words.

  sliceWords(index) {
    const { position_mm: position } = this.data.stack.slices[index];
    const words = [`Slice ${index + 1} of ${this.count}`];
    if (position !== null && position !== undefined) words.push(`${number(position, 1)} mm`);
    words.push(this.#answerWords(index) || "not read yet");
    return words.join(", ");
  }

  #answerWords(index) {
    const probability = this.data.probability[index];
    if (probability === null || probability === undefined) return this.data.refused[index] ? "no answer" : "";
    const decision = this.maps.get(index)?.decision ?? side(probability, this.data.uncertain_band);
    return `IPF ${Math.round(probability * 100)} %, ${DECISIONS[decision] ?? "no answer"}`;
  }

  #value(value) {
    const { scale } = this.image,
      here = reader(scale)(value);
    if (here === null) return "no data";
    return scale === "hounsfield" ? `${number(here)} HU` : `grey ${number(here, 1)} %`;
  }

  #readout() {
    const { cursor, shown, image } = this;
    const place =
      image.position_mm === null || image.position_mm === undefined ? "" : `   slice at ${number(image.position_mm, 1)} mm`;
    if (!cursor || shown === null) return place.trim();
    const x = Math.floor(cursor.x),
      y = Math.floor(cursor.y);
    if (x < 0 || y < 0 || x >= image.columns || y >= image.rows) return place.trim();
    const index = y * image.columns + x,
      heat = this.#heat(shown);
    const evidence = heat ? `   map ${number(heat.values[index], 2)} ${heat.unit}` : "";
    return `x ${x}  y ${y}   ${this.#value(this.loader.get(shown)[index] - 32768)}${place}${evidence}`;
  }

  measureWords(one) {
    const image = this.data.stack.slices[one.slice],
      { spacing } = image;
    if (one.kind === "ruler") {
      const { value, unit } = distance(one.a, one.b, spacing);
      return [`${number(value, 1)} ${unit}`];
    }
    let found = this.statistics.get(one);
    if (!found) {
      const pixels = this.loader.get(one.slice),
        read = reader(image.scale);
      if (!pixels) return [];
      found = ellipseStatistics(pixels, image.columns, image.rows, one.a, one.b, spacing, (value) => read(value - 32768));
      this.statistics.set(one, found);
    }
    const unit = image.scale === "hounsfield" ? "HU" : "% grey";
    const values =
      found.mean === null ? ["no data"] : [`mean ${number(found.mean, 1)} ${unit}`, `SD ${number(found.sd, 1)} ${unit}`];
    return [...values, `area ${number(found.area, 1)} ${found.unit}`];
  }

  // Data that came, and what is made of it once.

  #arrived(kind, index) {
    if (kind === "annotations" || kind === "drawing") this.version++;
    if (kind === "drawing" && this.drawing.findings(index).length) this.everDrawn = true;
    // Neighbors that come in ahead of time change nothing on screen, but the first one ends a message.
    if (index === this.state.slice || index === this.shown || this.loader.trouble !== this.trouble) this.schedule();
    this.trouble = this.loader.trouble;
  }

  /** The heat map of a slice on its pixels, or null: {values, peak, fullScale, unit, at, cell, key}. */
  #heat(index) {
    const answer = this.maps.get(index),
      { target, ownPeak } = this.state,
      map = answer?.maps?.[target];
    if (!map) return null;
    const { rows, columns, spacing } = this.data.stack.slices[index],
      key = `${index} ${target} ${this.data.method}`;
    let values = this.pasted.get(key);
    if (!values) {
      const [oldest] = this.pasted.keys(),
        old = this.pasted.size >= PASTED ? this.pasted.get(oldest) : null;
      if (old) this.pasted.delete(oldest);
      values = pasteCells(map, columns, rows, old?.length === rows * columns ? old : undefined);
      this.pasted.set(key, values);
    }
    const peak = map.peak ?? Math.max(...map.values);
    const fullScale = (ownPeak && peak > 0 ? peak : (map.full_scale ?? answer.full_scale)) || 1;
    const [height, width] = map.shape,
      [, , wide, high] = map.crop;
    const cell = spacing ? [(wide / width) * spacing[1], (high / height) * spacing[0]] : null;
    return {
      values,
      peak,
      fullScale,
      unit: answer.unit === "logits" ? "logits" : "(no unit)",
      at: map.peak_xy,
      cell,
      key: `${key} ${fullScale}`,
    };
  }

  #path(key, make) {
    let path = this.paths.get(key);
    if (!path) {
      this.paths.set(key, (path = make()));
      bound(this.paths, 64);
    }
    return path;
  }

  /** The colors of a kind of picture: made anew when `key` changes, in the same room. */
  #layer(picture, key, make) {
    const size = this.image.rows * this.image.columns;
    if (picture.layer?.at.length !== size) picture.layer = emptyLayer(size);
    else if (picture.layerKey === key) return picture.layer;
    picture.layerKey = key;
    return make(picture.layer);
  }

  /** Everything that outlines something on a slice: {color, dashed, text, inside(index)} or a point or a box. */
  #outlines(index) {
    const { layers } = this.state,
      { rows, columns } = this.data.stack.slices[index],
      list = [];
    const look = Object.fromEntries(this.data.findings.map((finding) => [finding.id, finding]));
    if (layers.files) {
      (this.annotations.get(index) ?? []).forEach((one, number_) => {
        const { color, name } = look[one.finding] ?? { color: INK, name: one.finding };
        if (one.kind === "mask") one.mask ??= decodeRuns(one.runs, rows * columns);
        list.push({ ...one, color, dashed: true, text: name, key: `file ${index} ${number_} ${this.annotationVersion}` });
      });
    }
    if (layers.drawn) {
      for (const { id, color, name } of this.data.findings) {
        const open = this.drawing.open?.index === index && this.drawing.open.finding === id;
        if (!open && !this.drawing.findings(index).includes(id)) continue;
        list.push({
          kind: "mask",
          finding: id,
          mask: this.drawing.mask(index, id),
          color,
          dashed: false,
          text: name,
          key: `drawn ${index} ${id} ${this.version}`,
          own: true,
        });
      }
    }
    return list;
  }

  // Drawing.

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
    const heat = shown === null || covered || !state.layers.heat ? null : this.#heat(shown);
    const outlines = shown === null || covered ? [] : this.#outlines(shown);
    let painted = 0;
    for (const pane of this.panes.list) {
      const kind = covered ? "plain" : pane.kind === "map" ? "map" : pane.kind === "agreement" ? "agreement" : "plain";
      const picture = shown === null ? null : this.#picture(kind, heat, outlines);
      pane.source = picture;
      if (drawPicture(pane, picture?.canvas, picture?.key, state.view, image)) painted++;
      this.#lines(pane, heat, outlines, covered);
      labelPane(pane, this.#labels(pane, heat, outlines, covered));
    }
    this.chrome.update();
    this.chrome.readout.textContent = this.#readout();
    this.bar.draw(this.data, state.slice, this.sliceWords(state.slice), (index) => this.#marked(index), this.version);
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

  /** The picture of a kind at the slice's own size: {canvas, key, image}. */
  #picture(kind, heat, outlines) {
    const { shown, state, image } = this,
      { rows, columns, scale } = image,
      window = state.windows[scale];
    const inverted = state.inverted !== Boolean(image.inverted);
    const tableKey = `${scale} ${window.center} ${window.width} ${inverted}`;
    if (this.tableKey !== tableKey) {
      windowTable(window, scale, inverted, this.table);
      this.tableKey = tableKey;
    }
    const greyKey = `${shown} ${tableKey}`;
    let layer = null,
      key = `${kind} ${greyKey}`;
    if (kind === "map" && heat && state.style === "fill") {
      const layerKey = `${heat.key} ${state.opacity} ${state.threshold}`;
      key += ` ${layerKey}`;
      layer = [layerKey, (room) => heatLayer(heat.values, heat.fullScale, state.opacity, state.threshold, room)];
    } else if (kind === "agreement") {
      const marked = outlines.filter((one) => one.mask),
        limit = heat ? AGREEMENT_SHARE * heat.peak : 0;
      const layerKey = `${shown} ${heat?.key} ${marked.map((one) => one.key).join()}`,
        masks = marked.map(({ mask }) => mask);
      const hot = (i) => heat !== null && heat.values[i] > 0 && heat.values[i] >= limit;
      key += ` ${layerKey}`;
      layer = [layerKey, (room) => agreementLayer(rows * columns, hot, (i) => masks.some((mask) => mask[i]), room)];
    }
    const name = layer ? kind : "plain";
    if (!layer) key = `plain ${greyKey}`;
    const picture = (this.pictures[name] ??= { canvas: document.createElement("canvas") });
    if (picture.key === key) return picture;
    if (!picture.image || picture.canvas.width !== columns || picture.canvas.height !== rows) {
      Object.assign(picture.canvas, { width: columns, height: rows });
      picture.context = picture.canvas.getContext("2d", { alpha: false });
      picture.image = picture.context.createImageData(columns, rows);
      picture.pixels = new Uint32Array(picture.image.data.buffer);
    }
    applyTable(this.loader.get(shown), this.table, picture.pixels);
    if (layer) blend(picture.pixels, this.#layer(picture, ...layer));
    picture.context.putImageData(picture.image, 0, 0);
    picture.key = key;
    return picture;
  }

  #lines(pane, heat, outlines, covered) {
    const { state, shown, image, cursor } = this,
      { rows, columns } = image;
    const pen = new Pen(pane, state.view, image);
    if (shown === null) return;
    if (!covered) {
      if (pane.kind === "map" && heat) {
        if (state.style === "contour") {
          const lit = litRule(heat.fullScale, state.threshold),
            key = `contour ${heat.key} ${state.threshold}`;
          pen.outline(
            this.#path(key, () => borderPath((i) => lit(heat.values[i]), columns, rows)),
            CONTOUR,
          );
        }
        if (heat.at) pen.ring({ x: heat.at[0] + 0.5, y: heat.at[1] + 0.5 }, 8, INK);
      }
      const lungs = state.layers.lungs && this.maps.get(shown)?.lungs;
      if (lungs && pane.kind !== "ct") {
        const path = this.#path(`lungs ${shown} ${this.data.method}`, () => {
          const mask = decodeRuns(lungs, rows * columns);
          return borderPath((i) => mask[i], columns, rows);
        });
        pen.outline(path, LUNGS, { width: 1.2, rim: false });
      }
      // The CT pane stays bare but for what the reader draws.
      for (const one of outlines) if (one.own || pane.kind !== "ct") this.#outline(pen, one);
      if (state.layers.measures) for (const one of state.measures) if (one.slice === shown) this.#measure(pen, one);
    }
    if (this.polygon) pen.polyline(this.polygon, INK);
    this.#cursorMark(pen, pane, cursor);
  }

  #outline(pen, one) {
    const { rows, columns } = this.image;
    if (one.kind === "point") {
      pen.ring(one, 7, one.color, 1.8);
      pen.cross(one, one.color, { gap: 2, length: 6 });
    } else if (one.kind === "box") pen.box(...one.box, one.color, one);
    else
      pen.outline(
        this.#path(one.key, () => borderPath((i) => one.mask[i], columns, rows)),
        one.color,
        one,
      );
  }

  #measure(pen, one) {
    if (one.kind === "ruler") pen.line(one.a, one.b, INSTRUMENT);
    else pen.ellipse(one.a, one.b, INSTRUMENT);
    for (const end of [one.a, one.b]) pen.ring(end, 3.5, INSTRUMENT, 1.2);
    const words = this.measureWords(one);
    if (words.length) pen.words({ x: Math.max(one.a.x, one.b.x), y: Math.max(one.a.y, one.b.y) }, words);
  }

  #cursorMark(pen, pane, cursor) {
    if (!cursor) return;
    const { tool, brush } = this.state,
      here = cursor.pane === pane;
    if (tool === "brush" || tool === "eraser") {
      const radius = brush / 2,
        round = [
          { x: cursor.x - radius, y: cursor.y - radius },
          { x: cursor.x + radius, y: cursor.y + radius },
        ];
      pen.ellipse(
        ...round,
        tool === "eraser" ? INK : (this.data.findings.find(({ id }) => id === this.state.finding)?.color ?? INK),
        { width: 1.2 },
      );
    }
    if (!here || this.cursorByKeys) pen.cross(cursor, INSTRUMENT);
  }

  #labels(pane, heat, outlines, covered) {
    const { state, shown, image, data } = this,
      window = state.windows[image.scale],
      at = shown ?? state.slice;
    const waiting = shown !== state.slice && !this.loader.get(state.slice);
    // One pane names the outlines: the words would cover the same place of each.
    const names = NAMING.find((kind) => state.panes.includes(kind)) === pane.kind;
    const failed = this.loader.failed(state.slice) ? `Slice ${state.slice + 1} cannot be shown` : "";
    let message = this.loader.gone ? this.loader.trouble : failed || (waiting ? `Loading slice ${state.slice + 1}` : "");
    if (!message && !covered && state.layers.heat && pane.kind === "map") message = this.#mapMessage(at);
    const percent = image.scale === "hounsfield" ? "" : " %";
    return {
      slice: this.count > 1 ? `${at + 1} / ${this.count}` : "",
      answer: pane.kind === "map" ? this.#answerWords(at) : "",
      letters: image.letters,
      window: `C ${number(window.center)}${percent}  W ${number(window.width)}${percent}${state.inverted ? "  inverted" : ""}`,
      zoom: state.view.zoom,
      bar: shown === null ? null : scaleBar(transform(state.view, pane, image), image.spacing, Math.min(130, pane.width / 4)),
      legend: covered || shown === null ? null : this.#legend(pane.kind, heat, outlines),
      notes: names
        ? outlines.map(({ color, text, dashed, label }) => ({ color, dashed, text: label ? `${text}: ${label}` : text }))
        : [],
      message,
    };
  }

  #mapMessage(index) {
    const answer = this.maps.get(index);
    if (answer) return answer.maps?.[this.state.target] ? "" : "No map: this slice was not read";
    return this.loader.settled.has(`maps/${index}`) ? "The model has not read this slice yet" : "";
  }

  #legend(kind, heat, outlines) {
    const { state } = this;
    if (kind === "agreement") {
      if (!outlines.some((one) => one.mask)) return { words: ["No annotation on this slice"] };
      if (!heat || heat.peak <= 0) return { agreement: true, words: ["No positive evidence in the map"] };
      return {
        agreement: true,
        words: [`map: at least half of its own peak, ${number(heat.peak * AGREEMENT_SHARE, 2)} ${heat.unit}`],
      };
    }
    if (kind !== "map" || !heat) return null;
    const words = [`evidence for ${TARGETS[state.target]}`],
      drawnFrom = state.threshold * heat.fullScale;
    if (heat.peak <= 0) words.push("Empty: nothing here speaks for it");
    else words.push(`peak ${number(heat.peak, 2)} ${heat.unit}${heat.peak < drawnFrom ? ", too weak to draw" : ""}`);
    if (heat.cell) words.push(`one cell ${number(heat.cell[0])} × ${number(heat.cell[1])} mm`);
    if (state.ownPeak) words.push("Own peak: magnitude is hidden");
    const colors =
      state.style === "fill"
        ? `linear-gradient(90deg, ${[0, 0.25, 0.5, 0.75, 1].map((share) => `rgb(${heatColor(share).join(" ")})`).join(", ")})`
        : "";
    const from = state.style === "contour" ? [`line at ${number(drawnFrom, 2)} ${heat.unit}`] : [];
    return { colors, most: `${number(heat.fullScale, 2)}+ ${heat.unit}`, words: [...from, ...words] };
  }

  // The page.

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
