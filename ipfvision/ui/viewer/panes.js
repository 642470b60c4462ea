// The panes: each a canvas with the picture, a canvas with lines over it, and words in its corners.

import { element, mark, number, say } from "./dom.js";
import { gridColumns, toScreen, transform } from "./geometry.js";
import { boundary } from "./masks.js";
import { AGREEMENT } from "./raster.js";
import { PANES } from "./state.js";

const INK = "#f4f7fa";
const UNDER = "rgba(0, 0, 0, 0.7)";
/** Device pixels per image pixel from which single pixels are shown as squares, as for painting them. */
const SQUARES = 10;
/** CSS pixels at the foot of a pane that are kept free for its own words. */
const FOOT = 50;
const CORNERS = ["upper-left", "upper-right", "lower-left", "lower-right"];
const SIDES = ["left", "right", "top", "bottom"];

/** An area's border as one path in image coordinates. */
export function borderPath(inside, columns, rows) {
  const path = new Path2D();
  for (const loop of boundary(inside, columns, rows)) {
    path.moveTo(loop[0], loop[1]);
    for (let i = 2; i < loop.length; i += 2) path.lineTo(loop[i], loop[i + 1]);
    path.closePath();
  }
  return path;
}

class Pane {
  constructor(choose) {
    this.picture = element("canvas", { class: "picture", "aria-hidden": "true" });
    this.lines = element("canvas", { class: "lines", "aria-hidden": "true" });
    this.corners = Object.fromEntries(CORNERS.map((name) => [name, element("div", { class: `corner ${name}` })]));
    this.letters = Object.fromEntries(
      SIDES.map((side) => [side, element("div", { class: `letter ${side}`, "aria-hidden": "true" })]),
    );
    this.choice = element(
      "select",
      { "aria-label": "What this pane shows", change: () => choose(this, this.choice.value) },
      ...Object.entries(PANES).map(([kind, name]) => element("option", { value: kind }, name)),
    );
    this.where = element("span", { class: "where" });
    this.answer = element("div", { class: "answer" });
    this.corners["upper-left"].append(this.choice, this.where, this.answer);
    this.legend = element("div", { class: "legend" });
    this.corners["upper-right"].append(this.legend);
    this.scale = element("div", { class: "length" });
    this.view = element("div");
    this.corners["lower-right"].append(this.scale, this.view);
    this.message = element("div", { class: "message" });
    this.node = element(
      "div",
      { class: "pane" },
      this.picture,
      this.lines,
      ...Object.values(this.corners),
      ...Object.values(this.letters),
      this.message,
    );
    this.width = this.height = 1;
    this.drawn = "";
  }

  resize(width, height, ratio) {
    Object.assign(this, { width, height, ratio });
    for (const canvas of [this.picture, this.lines]) {
      canvas.width = Math.max(1, Math.round(width * ratio));
      canvas.height = Math.max(1, Math.round(height * ratio));
    }
    this.drawn = "";
  }
}

export class Panes {
  constructor({ choose, resized }) {
    this.node = element("div", { class: "panes" });
    this.list = [];
    this.choose = choose;
    this.resized = resized;
    this.observer = new ResizeObserver(() => this.#measure());
    this.observer.observe(this.node);
  }

  close() {
    this.observer.disconnect();
  }

  /** The panes of these kinds, in this order. */
  arrange(kinds, image) {
    while (this.list.length > kinds.length) this.list.pop().node.remove();
    while (this.list.length < kinds.length) {
      const pane = new Pane((changed, kind) => this.choose(this.list.indexOf(changed), kind));
      this.list.push(pane);
      this.node.append(pane.node);
    }
    this.list.forEach((pane, index) => {
      pane.kind = kinds[index];
      pane.choice.value = kinds[index];
      mark(pane.node, "data-pane", kinds[index]);
    });
    this.image = image;
    this.#measure();
  }

  at(target) {
    return this.list.find((pane) => pane.node.contains(target));
  }

  #measure() {
    const { clientWidth: width, clientHeight: height } = this.node,
      ratio = globalThis.devicePixelRatio || 1;
    if (!this.list.length || !width || !height) return;
    const columns = gridColumns(this.list.length, width, height, this.image);
    this.node.style.gridTemplateColumns = `repeat(${columns}, 1fr)`;
    this.node.style.gridAutoRows = "1fr";
    let changed = false;
    for (const pane of this.list) {
      const { clientWidth, clientHeight } = pane.node;
      if (clientWidth === pane.width && clientHeight === pane.height && ratio === pane.ratio) continue;
      pane.resize(clientWidth, clientHeight, ratio);
      changed = true;
    }
    if (changed) this.resized();
  }
}

/** Put a picture of the slice's own size on a pane's canvas. `key` says which picture it is. */
export function drawPicture(pane, source, key, view, image) {
  const at = transform(view, pane, image),
    wanted = `${key} ${at.left} ${at.top} ${at.scaleX}`;
  if (pane.drawn === wanted) return false;
  pane.drawn = wanted;
  const context = (pane.context ??= pane.picture.getContext("2d", { alpha: false }));
  const ratio = pane.ratio;
  context.setTransform(1, 0, 0, 1, 0, 0);
  context.fillStyle = "#000";
  context.fillRect(0, 0, pane.picture.width, pane.picture.height);
  if (!source) return true;
  context.imageSmoothingEnabled = at.scaleX * ratio < SQUARES && at.scaleX * ratio !== 1;
  context.imageSmoothingQuality = at.scaleX * ratio < 1 ? "medium" : "low";
  context.drawImage(source, at.left * ratio, at.top * ratio, image.columns * at.scaleX * ratio, image.rows * at.scaleY * ratio);
  return true;
}

/** Draws lines over a pane; everything is given in image coordinates and comes out at the same thickness at any zoom. */
export class Pen {
  constructor(pane, view, image) {
    this.at = transform(view, pane, image);
    this.pane = pane;
    this.ratio = pane.ratio;
    this.context = pane.lines.getContext("2d");
    this.context.setTransform(1, 0, 0, 1, 0, 0);
    this.context.clearRect(0, 0, pane.lines.width, pane.lines.height);
    this.context.lineJoin = "round";
    this.matrix = new DOMMatrix(
      [this.at.scaleX, 0, 0, this.at.scaleY, this.at.left, this.at.top].map((value) => value * this.ratio),
    );
  }

  /** A path in image coordinates, with a dark rim so that it is seen on any grey. */
  outline(path, color, { width = 1.6, dashed = false, rim = true } = {}) {
    const placed = new Path2D();
    placed.addPath(path, this.matrix);
    this.#stroke(placed, color, width, dashed, rim);
  }

  #stroke(path, color, width, dashed, rim = true) {
    const { context, ratio } = this;
    if (rim) {
      context.setLineDash([]);
      context.strokeStyle = UNDER;
      context.lineWidth = (width + 1.8) * ratio;
      context.stroke(path);
    }
    context.setLineDash(dashed ? [6 * ratio, 4 * ratio] : []);
    context.strokeStyle = color;
    context.lineWidth = width * ratio;
    context.stroke(path);
    context.setLineDash([]);
  }

  #point(point) {
    const { x, y } = toScreen(this.at, point);
    return [x * this.ratio, y * this.ratio];
  }

  line(a, b, color, options = {}) {
    const path = new Path2D();
    path.moveTo(...this.#point(a));
    path.lineTo(...this.#point(b));
    this.#stroke(path, color, options.width ?? 1.6, options.dashed);
  }

  polyline(points, color) {
    const path = new Path2D();
    points.forEach((point, index) => (index ? path.lineTo(...this.#point(point)) : path.moveTo(...this.#point(point))));
    this.#stroke(path, color, 1.6, false);
  }

  /** The ellipse in the box of two image points. */
  ellipse(a, b, color, options = {}) {
    const [x1, y1] = this.#point(a),
      [x2, y2] = this.#point(b),
      path = new Path2D();
    path.ellipse((x1 + x2) / 2, (y1 + y2) / 2, Math.abs(x2 - x1) / 2, Math.abs(y2 - y1) / 2, 0, 0, 2 * Math.PI);
    this.#stroke(path, color, options.width ?? 1.6, options.dashed);
  }

  box(left, top, right, bottom, color, options = {}) {
    const [x1, y1] = this.#point({ x: left, y: top }),
      [x2, y2] = this.#point({ x: right, y: bottom }),
      path = new Path2D();
    path.rect(x1, y1, x2 - x1, y2 - y1);
    this.#stroke(path, color, options.width ?? 1.6, options.dashed);
  }

  /** A ring of fixed size on screen, `radius` in CSS pixels. */
  ring(point, radius, color, width = 1.4) {
    const path = new Path2D();
    path.arc(...this.#point(point), radius * this.ratio, 0, 2 * Math.PI);
    this.#stroke(path, color, width, false);
  }

  /** The linked cursor: a cross that leaves its own middle free. */
  cross(point, color, { gap = 5, length = 14 } = {}) {
    const [x, y] = this.#point(point),
      path = new Path2D();
    for (const [dx, dy] of [
      [1, 0],
      [-1, 0],
      [0, 1],
      [0, -1],
    ]) {
      path.moveTo(x + dx * gap * this.ratio, y + dy * gap * this.ratio);
      path.lineTo(x + dx * length * this.ratio, y + dy * length * this.ratio);
    }
    this.#stroke(path, color, 1.4, false);
  }

  /** Words beside an image point, kept inside the pane. */
  words(point, lines, color = INK) {
    const { context, ratio } = this,
      size = 13 * ratio;
    context.font = `500 ${size}px system-ui, sans-serif`;
    const wide = Math.max(...lines.map((line) => context.measureText(line).width)) + 10 * ratio,
      high = lines.length * size * 1.3 + 6 * ratio;
    let [x, y] = this.#point(point);
    x = Math.max(2, Math.min(x + 10 * ratio, this.pane.lines.width - wide - 2));
    y = Math.max(2, Math.min(y + 8 * ratio, this.pane.lines.height - high - FOOT * ratio));
    context.fillStyle = "rgba(0, 0, 0, 0.72)";
    context.fillRect(x, y, wide, high);
    context.fillStyle = color;
    context.textBaseline = "top";
    lines.forEach((line, index) => context.fillText(line, x + 5 * ratio, y + 4 * ratio + index * size * 1.3));
  }
}

/** Words at the edges and corners that do not depend on the pointer. */
export function labelPane(pane, { slice, letters, window, answer, notes, legend, message, zoom, bar }) {
  say(pane.where, slice);
  say(pane.answer, answer);
  for (const side of SIDES) say(pane.letters[side], letters?.[side] ?? "");
  say(pane.view, `${window}${zoom > 1.005 ? `   ${number(zoom, 1)}×` : ""}`);
  say(pane.scale, bar ? `${number(bar.value, bar.value < 1 ? 1 : 0)} ${bar.unit}` : "");
  mark(pane.scale, "style", `width: ${bar?.pixels ?? 0}px`);
  say(pane.message, message);
  const key = JSON.stringify([legend, notes]);
  if (pane.labels === key) return;
  pane.labels = key;
  pane.legend.replaceChildren(...legendNodes(legend));
  pane.corners["lower-left"].replaceChildren(
    ...notes.map(({ color, text, dashed }) =>
      element("div", {}, element("i", { style: `--color: ${color}`, class: dashed ? "dashed" : "solid" }), text),
    ),
  );
}

function legendNodes(legend) {
  if (!legend) return [];
  const words = legend.words.map((line) => element("div", {}, line));
  if (legend.agreement) {
    const names = { both: "both", map: "map only", annotation: "annotation only" };
    const swatch = (kind) =>
      element("div", {}, element("i", { style: `--color: rgb(${AGREEMENT[kind].join(" ")})`, class: "area" }), names[kind]);
    return [...Object.keys(names).map(swatch), ...words];
  }
  const bar = legend.colors
    ? element("div", { class: "scale" }, "0", element("i", { style: `--colors: ${legend.colors}` }), legend.most)
    : null;
  return [...(bar ? [bar] : []), ...words];
}
