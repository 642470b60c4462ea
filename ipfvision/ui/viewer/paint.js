// The pictures of a slice and the lines over them, with everything in them that is worth keeping between two drawings.

import { decodeRuns } from "./masks.js";
import { Pen, borderPath } from "./panes.js";
import { agreementLayer, applyTable, blend, emptyLayer, heatLayer, litRule, pasteCells, windowTable } from "./raster.js";

const INK = "#f4f7fa";
/** No finding has these colors: the heat map's contour, and the reader's own instruments. */
const CONTOUR = "#ff9a3c";
const INSTRUMENT = "#8fd0ff";
const LUNGS = "#9aa7b4";
/** Share of the map's own peak from which the agreement pane counts a pixel as lit: the same as on the scorecard. */
export const AGREEMENT_SHARE = 0.5;
const PASTED = 24;
const PATHS = 64;

export class Painter {
  constructor(viewer) {
    this.viewer = viewer;
    /** Maps on the slice's pixels. */
    this.pasted = new Map();
    /** Borders as paths. */
    this.paths = new Map();
    this.pictures = {};
    this.table = new Uint32Array(65536);
  }

  clear() {
    this.pasted.clear();
    this.paths.clear();
    this.pictures = {};
  }

  /** The heat map of a slice on its pixels, or null: {values, peak, fullScale, unit, at, cell, key}. */
  heat(index) {
    const answer = this.viewer.maps.get(index),
      { target, ownPeak } = this.viewer.state,
      map = answer?.maps?.[target];
    if (!map) return null;
    const { rows, columns, spacing } = this.viewer.data.stack.slices[index],
      key = `${index} ${target} ${this.viewer.data.method}`;
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
      if (this.paths.size > PATHS) this.paths.delete(this.paths.keys().next().value);
    }
    return path;
  }

  /** The colors of a kind of picture: made anew when `key` changes, in the same room. */
  #layer(picture, key, make) {
    const size = this.viewer.image.rows * this.viewer.image.columns;
    if (picture.layer?.at.length !== size) picture.layer = emptyLayer(size);
    else if (picture.layerKey === key) return picture.layer;
    picture.layerKey = key;
    return make(picture.layer);
  }

  /** Everything that outlines something on a slice: {color, dashed, text, key} and a mask, a point or a box. */
  outlines(index) {
    const { layers } = this.viewer.state,
      { rows, columns } = this.viewer.data.stack.slices[index],
      list = [];
    const look = Object.fromEntries(this.viewer.data.findings.map((finding) => [finding.id, finding]));
    if (layers.files) {
      (this.viewer.annotations.get(index) ?? []).forEach((one, nth) => {
        const { color, name } = look[one.finding] ?? { color: INK, name: one.finding };
        if (one.kind === "mask") one.mask ??= decodeRuns(one.runs, rows * columns);
        list.push({ ...one, color, dashed: true, text: name, key: `file ${index} ${nth} ${this.viewer.annotationVersion}` });
      });
    }
    if (layers.drawn) {
      for (const { id, color, name } of this.viewer.data.findings) {
        const open = this.viewer.drawing.open?.index === index && this.viewer.drawing.open.finding === id;
        if (!open && !this.viewer.drawing.findings(index).includes(id)) continue;
        list.push({
          kind: "mask",
          finding: id,
          mask: this.viewer.drawing.mask(index, id),
          color,
          dashed: false,
          text: name,
          key: `drawn ${index} ${id} ${this.viewer.version}`,
          own: true,
        });
      }
    }
    return list;
  }

  /** The picture of a kind at the slice's own size: {canvas, key, image}. */
  picture(kind, heat, outlines) {
    const { shown, state, image } = this.viewer,
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
    } else if (kind === "agreement" && outlines.some((one) => one.mask)) {
      // Without an annotation there is nothing to agree with: a map alone is not "map only".
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
    applyTable(this.viewer.loader.get(shown), this.table, picture.pixels);
    if (layer) blend(picture.pixels, this.#layer(picture, ...layer));
    picture.context.putImageData(picture.image, 0, 0);
    picture.key = key;
    return picture;
  }

  /** The lines over a pane: outlines, marks of the map, measurements, the cursor. */
  lines(pane, heat, outlines, covered) {
    const { state, shown, image, cursor } = this.viewer,
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
      const lungs = state.layers.lungs && this.viewer.maps.get(shown)?.lungs;
      if (lungs && pane.kind !== "ct") {
        const path = this.#path(`lungs ${shown} ${this.viewer.data.method}`, () => {
          const mask = decodeRuns(lungs, rows * columns);
          return borderPath((i) => mask[i], columns, rows);
        });
        pen.outline(path, LUNGS, { width: 1.2, rim: false });
      }
      // The CT pane stays bare but for what the reader draws.
      for (const one of outlines) if (one.own || pane.kind !== "ct") this.#outline(pen, one);
      if (state.layers.measures) for (const one of state.measures) if (one.slice === shown) this.#measure(pen, one);
    }
    if (this.viewer.polygon) pen.polyline(this.viewer.polygon, INK);
    this.#cursorMark(pen, pane, cursor);
  }

  #outline(pen, one) {
    const { rows, columns } = this.viewer.image;
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
    const words = this.viewer.words.measure(one);
    if (words.length) pen.words({ x: Math.max(one.a.x, one.b.x), y: Math.max(one.a.y, one.b.y) }, words);
  }

  #cursorMark(pen, pane, cursor) {
    if (!cursor) return;
    const { tool, brush } = this.viewer.state,
      here = cursor.pane === pane;
    if (tool === "brush" || tool === "eraser") {
      const radius = brush / 2,
        round = [
          { x: cursor.x - radius, y: cursor.y - radius },
          { x: cursor.x + radius, y: cursor.y + radius },
        ];
      pen.ellipse(
        ...round,
        tool === "eraser" ? INK : (this.viewer.data.findings.find(({ id }) => id === this.viewer.state.finding)?.color ?? INK),
        { width: 1.2 },
      );
    }
    if (!here || this.viewer.cursorByKeys) pen.cross(cursor, INSTRUMENT);
  }
}
