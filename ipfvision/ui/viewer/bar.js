// The scroll bar: a stack from its first slice (top) to its last, with the model's answer for each slice as a bar.

import { element, mark, say } from "./dom.js";

const COLORS = { ipf: "#ffb05c", normal: "#7fd3c4", uncertain: "#cfc8f0", refused: "#8b96a1" };

/** Which side of the uncertain band a probability is on; colors of the page's answers. */
export function side(probability, band) {
  if (!band) return "uncertain";
  return probability > band[1] ? "ipf" : probability < band[0] ? "normal" : "uncertain";
}

export class Bar {
  constructor({ go }) {
    this.canvas = element("canvas", { "aria-hidden": "true" });
    this.answers = document.createElement("canvas");
    this.node = element(
      "div",
      {
        class: "bar",
        role: "slider",
        tabindex: "0",
        "aria-label": "Slice",
        "aria-orientation": "vertical",
        "aria-valuemin": "1",
        title: "Drag, or use the wheel and the arrow keys. Bars: how much each slice looks like IPF",
      },
      this.canvas,
      ...(this.ends = [element("span", { class: "end" }), element("span", { class: "end" })]),
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
    // The size is kept: asking for it while drawing would make the browser lay out the page at each step.
    this.width = this.height = 0;
    this.observer = new ResizeObserver(() => {
      ({ clientWidth: this.width, clientHeight: this.height } = this.node);
      this.key = this.answersKey = null;
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
    const first = data.stack.first_end,
      other = { feet: "head", head: "feet" }[first];
    [first, other].forEach((end, index) => say(this.ends[index], end ?? ""));
    mark(this.node, "aria-valuemax", this.count);
    mark(this.node, "aria-valuenow", current + 1);
    mark(this.node, "aria-valuetext", words);
    const ratio = globalThis.devicePixelRatio || 1,
      { width, height } = this;
    const key = `${current} ${version} ${width} ${height} ${ratio}`;
    if (this.key === key || !width) return;
    this.key = key;
    const context = this.canvas.getContext("2d"),
      step = height / this.count,
      answersKey = `${version} ${width} ${height} ${ratio}`;
    if (this.answersKey !== answersKey) {
      this.answersKey = answersKey;
      for (const canvas of [this.canvas, this.answers])
        Object.assign(canvas, { width: Math.round(width * ratio), height: Math.round(height * ratio) });
      this.#drawAnswers(data, marked, width, height, step, ratio);
    }
    context.setTransform(1, 0, 0, 1, 0, 0);
    context.clearRect(0, 0, this.canvas.width, this.canvas.height);
    context.drawImage(this.answers, 0, 0);
    context.scale(ratio, ratio);
    const middle = (current + 0.5) * step,
      thumb = Math.max(step, 7);
    context.fillStyle = "rgba(255, 255, 255, 0.18)";
    context.fillRect(0, middle - thumb / 2, width, thumb);
    context.lineWidth = 2;
    context.strokeStyle = "#ffffff";
    context.strokeRect(1, Math.max(1, Math.min(height - thumb - 1, middle - thumb / 2)), width - 2, thumb);
  }

  /** What does not move while scrolling, on a canvas of its own. */
  #drawAnswers(data, marked, width, height, step, ratio) {
    const context = this.answers.getContext("2d"),
      band = data.uncertain_band,
      from = 7,
      long = width - from - 3;
    context.scale(ratio, ratio);
    if (band) {
      context.fillStyle = "rgba(207, 200, 240, 0.16)";
      context.fillRect(from + band[0] * long, 0, (band[1] - band[0]) * long, height);
    }
    data.probability.forEach((probability, index) => {
      const y = index * step,
        thick = Math.max(1 / ratio, step - (step > 4 ? 1 : 0));
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
  }
}
