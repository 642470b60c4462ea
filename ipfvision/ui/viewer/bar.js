// The scroll bar: a stack from its first slice (top) to its last, with the model's answer for each slice as a bar.

import { element, mark } from "./dom.js";

const COLORS = { ipf: "#ffb05c", normal: "#7fd3c4", uncertain: "#cfc8f0", refused: "#8b96a1" };

/** Which side of the uncertain band a probability is on; colors of the page's answers. */
export function side(probability, band) {
  if (!band) return "uncertain";
  return probability > band[1] ? "ipf" : probability < band[0] ? "normal" : "uncertain";
}

export class Bar {
  constructor({ go }) {
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.node = element(
      "div",
      { class: "bar", role: "slider", tabindex: "0", "aria-label": "Slice", "aria-orientation": "vertical", "aria-valuemin": "1", title: "Drag, or use the wheel and the arrow keys. Bars: how much each slice looks like IPF" },
      this.canvas,
    );
    const to = (event) => {
      const box = this.node.getBoundingClientRect();
      go(Math.floor(((event.clientY - box.top) / box.height) * this.count));
    };
    this.node.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      this.node.setPointerCapture(event.pointerId);
      this.dragging = true;
      to(event);
    });
    this.node.addEventListener("pointermove", (event) => this.dragging && to(event));
    for (const name of ["pointerup", "pointercancel"]) this.node.addEventListener(name, () => (this.dragging = false));
    this.observer = new ResizeObserver(() => {
      this.key = null;
      this.last && this.draw(...this.last);
    });
    this.observer.observe(this.node);
  }

  close() {
    this.observer.disconnect();
  }

  draw(data, current, words, marked, version) {
    this.last = [data, current, words, marked, version];
    this.count = data.stack.slices.length;
    this.node.hidden = this.count < 2;
    mark(this.node, "aria-valuemax", this.count);
    mark(this.node, "aria-valuenow", current + 1);
    mark(this.node, "aria-valuetext", words);
    const ratio = globalThis.devicePixelRatio || 1, { clientWidth: width, clientHeight: height } = this.node;
    const key = `${current} ${version} ${width} ${height} ${ratio}`;
    if (this.key === key || !width) return;
    this.key = key;
    this.canvas.width = Math.round(width * ratio);
    this.canvas.height = Math.round(height * ratio);
    const context = this.canvas.getContext("2d"), step = height / this.count, from = 7, long = width - from - 3;
    context.scale(ratio, ratio);
    const band = data.uncertain_band;
    if (band) {
      context.fillStyle = "rgba(207, 200, 240, 0.16)";
      context.fillRect(from + band[0] * long, 0, (band[1] - band[0]) * long, height);
    }
    data.probability.forEach((probability, index) => {
      const y = index * step, thick = Math.max(1 / ratio, step - (step > 4 ? 1 : 0));
      if (probability !== null) {
        context.fillStyle = COLORS[side(probability, band)];
        context.fillRect(from, y, Math.max(1.5, probability * long), thick);
      } else if (data.refused[index]) {
        context.fillStyle = COLORS.refused;
        context.fillRect(from, y + step / 2 - 0.5, long, 1);
      }
      if (marked(index)) {
        context.fillStyle = "#48dbfb";
        context.fillRect(1, y, 3.5, Math.max(2, thick));
      }
    });
    const middle = (current + 0.5) * step, thumb = Math.max(step, 7);
    context.fillStyle = "rgba(255, 255, 255, 0.18)";
    context.fillRect(0, middle - thumb / 2, width, thumb);
    context.lineWidth = 2;
    context.strokeStyle = "#ffffff";
    context.strokeRect(1, Math.max(1, Math.min(height - thumb - 1, middle - thumb / 2)), width - 2, thumb);
  }
}
