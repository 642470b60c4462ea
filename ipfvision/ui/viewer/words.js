// What the viewer says: corners and legends of the panes, the read-out, what is announced.

import { side } from "./bar.js";
import { number } from "./dom.js";
import { distance, ellipseStatistics, scaleBar, transform } from "./geometry.js";
import { AGREEMENT_SHARE } from "./paint.js";
import { heatColor, reader } from "./raster.js";
import { TARGETS } from "./state.js";

const MOST_NAMES = 6;
const NAMING = ["annotation", "map", "agreement", "ct"];
const DECISIONS = { ipf: "IPF-like", normal: "normal-like", uncertain: "uncertain" };

/** A probability for people, that never claims certainty: as `core.findings.in_two_digits`. */
export function inTwoDigits(probability) {
  if (probability < 0.01) return "under 0.01";
  return probability > 0.99 ? "over 0.99" : probability.toFixed(2);
}

export class Words {
  constructor(viewer) {
    this.viewer = viewer;
    this.statistics = new WeakMap();
  }

  /** A slice in a sentence: number, position, answer. */
  slice(index) {
    const { position_mm: position } = this.viewer.data.stack.slices[index];
    const words = [`Slice ${index + 1} of ${this.viewer.count}`];
    if (position !== null && position !== undefined) words.push(`${number(position, 1)} mm`);
    if (!this.viewer.data.blinded) words.push(this.answer(index) || "not read yet");
    return words.join(", ");
  }

  /** The model's answer for a slice; empty before it was read. */
  answer(index) {
    const probability = this.viewer.data.probability[index];
    if (probability === null || probability === undefined) return this.viewer.data.refused[index] ? "no answer" : "";
    const decision = this.viewer.maps.get(index)?.decision ?? side(probability, this.viewer.data.uncertain_band);
    return decision in DECISIONS ? `${DECISIONS[decision]}, ${inTwoDigits(probability)}` : "no answer";
  }

  #value(value) {
    const { scale } = this.viewer.image,
      here = reader(scale)(value);
    if (here === null) return "no data";
    return scale === "hounsfield" ? `${number(here)} HU` : `grey ${number(here, 1)} %`;
  }

  /** What is under the cursor. */
  readout() {
    const { cursor, shown, image } = this.viewer;
    const place =
      image.position_mm === null || image.position_mm === undefined ? "" : `   slice at ${number(image.position_mm, 1)} mm`;
    if (!cursor || shown === null) return place.trim();
    const x = Math.floor(cursor.x),
      y = Math.floor(cursor.y);
    if (x < 0 || y < 0 || x >= image.columns || y >= image.rows) return place.trim();
    const index = y * image.columns + x,
      heat = this.viewer.painter.heat(shown);
    const evidence = heat ? `   map ${number(heat.values[index], 2)} ${heat.unit}` : "";
    return `x ${x}  y ${y}   ${this.#value(this.viewer.loader.get(shown)[index] - 32768)}${place}${evidence}`;
  }

  /** The lines beside a ruler or an ellipse. */
  measure(one) {
    const image = this.viewer.data.stack.slices[one.slice],
      { spacing } = image;
    if (one.kind === "ruler") {
      const { value, unit } = distance(one.a, one.b, spacing);
      return [`${number(value, 1)} ${unit}`];
    }
    let found = this.statistics.get(one);
    if (!found) {
      const pixels = this.viewer.loader.get(one.slice),
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

  /** What stands at a pane's edges and in its corners. */
  labels(pane, heat, outlines, covered) {
    const { state, shown, image, data } = this.viewer,
      window = state.windows[image.scale],
      at = shown ?? state.slice;
    const waiting = shown !== state.slice && !this.viewer.loader.get(state.slice);
    // One pane names the outlines: the words would cover the same place of each.
    const names = NAMING.find((kind) => state.panes.includes(kind)) === pane.kind;
    const failed = this.viewer.loader.failed(state.slice) ? `Slice ${state.slice + 1} cannot be shown` : "";
    let message = this.viewer.loader.gone
      ? this.viewer.loader.trouble
      : failed || (waiting ? `Loading slice ${state.slice + 1}` : "");
    if (!message && !covered && state.layers.heat && pane.kind === "map") message = this.#mapMessage(at);
    const percent = image.scale === "hounsfield" ? "" : " %";
    return {
      slice: this.viewer.count > 1 ? `${at + 1} / ${this.viewer.count}` : "",
      answer: pane.kind === "map" ? this.answer(at) : "",
      letters: image.letters,
      window: `C ${number(window.center)}${percent}  W ${number(window.width)}${percent}${state.inverted ? "  inverted" : ""}`,
      zoom: state.view.zoom,
      bar: shown === null ? null : scaleBar(transform(state.view, pane, image), image.spacing, Math.min(130, pane.width / 4)),
      legend: covered || shown === null ? null : this.#legend(pane.kind, heat, outlines),
      notes: names ? outlineNames(outlines) : [],
      message,
    };
  }

  #mapMessage(index) {
    if (this.viewer.data.blinded) return "Shown after you have locked your opinion";
    const answer = this.viewer.maps.get(index);
    if (answer) return answer.maps?.[this.viewer.state.target] ? "" : "No map: this slice was not read";
    return this.viewer.loader.settled.has(`maps/${index}`) ? "The model has not read this slice yet" : "";
  }

  #legend(kind, heat, outlines) {
    const { state } = this.viewer;
    if (kind === "agreement") {
      if (!outlines.some((one) => one.mask)) return { words: ["No annotation on this slice"] };
      if (!heat || heat.peak <= 0) return { agreement: true, words: ["No positive evidence in the map"] };
      return {
        agreement: true,
        words: [`map: at least half of its own peak, ${number(heat.peak * AGREEMENT_SHARE, 2)} ${heat.unit}`],
      };
    }
    if (kind !== "map" || !heat) return null;
    const words = [`evidence for ${TARGETS[state.target]}`, this.viewer.data.method_words],
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
}

/** One line for each name, the first few of them: they stand over the image. */
export function outlineNames(outlines, most = MOST_NAMES) {
  const lines = new Map();
  for (const { color, text, dashed, label, finding } of outlines) {
    const words = !label ? text : finding === "other" ? label : `${text}: ${label}`;
    const line = lines.get(`${words} ${color} ${dashed}`);
    if (line) line.count++;
    else lines.set(`${words} ${color} ${dashed}`, { color, dashed, words, count: 1 });
  }
  const every = [...lines.values()].map(({ color, dashed, words, count }) => ({
    color,
    dashed,
    text: count > 1 ? `${count} \u00d7 ${words}` : words,
  }));
  if (every.length <= most) return every;
  return [...every.slice(0, most - 1), { color: "transparent", dashed: false, text: `and ${every.length - most + 1} more` }];
}
