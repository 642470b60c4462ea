// What stands around the panes: tools above, read-outs below, the help panel. It shows the state and asks for changes.

import { element, icon, mark, number, say } from "./dom.js";
import { KEYS, MOUSE } from "./keys.js";
import { DRAWING_TOOLS, TARGETS, TOOLS, layout, presets, withWindow } from "./state.js";

const SAVING = {
  saved: "Drawing saved",
  saving: "Saving\u2026",
  waiting: "Not saved, will retry",
  lost: "Not saved: the server no longer holds this scan",
  refused: "Not saved: too much drawn on one slice",
  closed: "Not kept: the case is locked, finished, or open in another tab",
};
const LAYERS = { heat: "Map", files: "From files", drawn: "Drawn", measures: "Measures", lungs: "Lungs" };
const LAYER_HINTS = {
  heat: "Heat map",
  files: "Annotations from files (dashed)",
  drawn: "What you drew (solid)",
  measures: "Lengths and regions",
  lungs: "Border of the lungs as the model's checks found them",
};

/** A button with a picture, a word that goes where there is no room, and a hint with its key. */
function button(id, name, hint, key, click) {
  const title = key ? `${hint} (${key})` : hint;
  return element(
    "button",
    { type: "button", "data-do": id, "aria-label": name, "aria-keyshortcuts": key ?? null, title, click },
    icon(id),
    element("span", {}, name),
  );
}

/** A toggle that is a word. */
const chip = (name, title, click, ...children) =>
  element("button", { type: "button", class: "chip", title, click }, ...children, name);

function slider(name, title, low, high, step, change) {
  const input = element("input", {
    type: "range",
    min: low,
    max: high,
    step,
    "aria-label": title,
    input: () => change(input.valueAsNumber),
  });
  const value = element("output");
  return { node: element("label", { title }, element("span", {}, name), input, value), input, value };
}

function field(title, low, high, change) {
  return element("input", {
    type: "number",
    min: low,
    max: high,
    "aria-label": title,
    title,
    change: (event) => change(event.target.valueAsNumber),
  });
}

const group = (label, ...children) => element("div", { class: "group", role: "group", "aria-label": label }, ...children);

export class Chrome {
  constructor(viewer) {
    this.viewer = viewer;
    const change = (changes) => viewer.change(changes);
    this.tools = TOOLS.map(({ id, key, name, hint }) => button(id, name, hint, key.toUpperCase(), () => change({ tool: id })));
    this.undo = button("undo", "Undo", "Undo drawing", "Z", () => viewer.undo());
    this.redo = button("redo", "Redo", "Redo drawing", "Shift+Z", () => viewer.redo());
    this.copy = button("copy", "Copy on", "Copy the finding to the next slice and go there", "N", () => viewer.copyOn());
    this.preset = element("select", {
      "aria-label": "Window",
      title: "Window: what you see, not what the model sees (1 to 9)",
      change: () => this.#preset(),
    });
    this.invert = button("invert", "Invert", "Invert", "I", () => change({ inverted: !viewer.state.inverted }));
    this.layouts = [1, 2, 3, 4].map((count) =>
      element(
        "button",
        {
          type: "button",
          class: "chip",
          "aria-label": `${count} pane${count > 1 ? "s" : ""}`,
          title: "Panes (D)",
          click: () => change({ panes: layout(viewer.state.panes, count) }),
        },
        String(count),
      ),
    );
    const half = this.tools.length / 2;
    this.bar = element(
      "div",
      { class: "tools" },
      group("Tools", ...this.tools.slice(0, half)),
      group("Drawing", ...this.tools.slice(half), this.undo, this.redo, this.copy),
      group("Window", this.preset, this.invert),
      group("Panes", ...this.layouts),
      group(
        "View",
        button("fit", "Fit", "Fit the image", "0", () => viewer.fit()),
        button("full", "Full", "Full screen", "F", () => viewer.fullScreen()),
        button("help", "Keys", "Keys and mouse", "?", () => viewer.help()),
      ),
    );

    this.targets = Object.entries(TARGETS).map(([id, name]) => [
      id,
      chip(name, "Whose evidence the map shows (T)", () => change({ target: id })),
    ]);
    this.contour = chip("Contour", "Draw the map as a line at the threshold instead of colors (C)", () =>
      change({ style: viewer.state.style === "fill" ? "contour" : "fill" }),
    );
    this.opacity = slider("Opacity", "Opacity of the map", 0, 1, 0.05, (value) => change({ opacity: value }));
    this.threshold = slider("From", "Share of the full scale below which nothing is drawn", 0, 0.95, 0.05, (value) =>
      change({ threshold: value }),
    );
    this.peak = chip(
      "Own peak",
      "Full color at this slice's own peak. It hides magnitude: a faint map looks as strong as disease",
      () => change({ ownPeak: !viewer.state.ownPeak }),
    );
    this.mapOptions = group(
      "Heat map",
      element("span", {}, "Evidence for"),
      ...this.targets.map(([, node]) => node),
      this.contour,
      this.opacity.node,
      this.threshold.node,
      this.peak,
    );

    this.findings = viewer.data.findings.map(({ id, name, color }, index) => [
      id,
      chip(
        name,
        `Draw ${name} (Shift+${index + 1})`,
        () => change({ finding: id }),
        element("i", { style: `--color: ${color}`, class: "area" }),
      ),
    ]);
    this.brush = slider("Size", "Diameter of the brush in pixels", 1, 99, 2, (value) => change({ brush: value }));
    const range = (side) => (value) => {
      const { scale } = viewer.image,
        [low, high] = viewer.state.range[scale];
      if (Number.isFinite(value)) change({ range: { ...viewer.state.range, [scale]: side ? [low, value] : [value, high] } });
    };
    this.low = field("Grow from this value", -1024, 4000, range(0));
    this.high = field("Grow up to this value", -1024, 4000, range(1));
    this.reach = field("Grow no farther than this from the click", 1, 200, (value) => change({ reach: value }));
    this.unit = element("span");
    this.reachUnit = element("span");
    this.growth = element(
      "label",
      { title: "Fills what hangs together with the click inside this range" },
      this.low,
      element("span", {}, "to"),
      this.high,
      this.unit,
      element("span", {}, "within"),
      this.reach,
      this.reachUnit,
    );
    this.drawOptions = group("Finding to draw", ...this.findings.map(([, node]) => node), this.brush.node, this.growth);

    this.layers = Object.entries(LAYERS).map(([id, name]) => [id, chip(name, LAYER_HINTS[id], () => viewer.layers([id]))]);
    const shown = group("Shown", ...this.layers.map(([, node]) => node));
    shown.classList.add("shown");
    this.options = element("div", { class: "options" }, this.mapOptions, this.drawOptions, shown);

    this.readout = element("span", { class: "readout" });
    this.trouble = element("span", { class: "trouble", role: "alert" });
    this.saving = element("span", { class: "saving", role: "status" });
    this.status = element("div", { class: "status" }, this.readout, this.trouble, this.saving);
    this.live = element("div", { class: "live", "aria-live": "polite" });
  }

  #preset() {
    const { viewer } = this,
      chosen = presets(viewer.data, viewer.state.slice)[this.preset.selectedIndex];
    if (chosen) viewer.change(withWindow(viewer.state, viewer.image.scale, chosen));
  }

  update() {
    const { viewer } = this,
      { state, image, drawing } = viewer;
    const press = (pairs, on) => pairs.forEach(([id, node]) => mark(node, "aria-pressed", on(id)));
    press(
      this.tools.map((node, index) => [TOOLS[index].id, node]),
      (id) => id === state.tool,
    );
    press(this.targets, (id) => id === state.target);
    for (const [id, node] of this.targets) node.hidden = viewer.data.targets && !viewer.data.targets.includes(id);
    mark(this.contour, "aria-pressed", state.style === "contour");
    press(this.findings, (id) => id === state.finding);
    press(this.layers, (id) => state.layers[id]);
    press(
      this.layouts.map((node, index) => [index + 1, node]),
      (count) => count === state.panes.length,
    );
    mark(this.invert, "aria-pressed", state.inverted);
    mark(this.peak, "aria-pressed", state.ownPeak);
    this.undo.disabled = !drawing.past.length;
    this.redo.disabled = !drawing.future.length;
    this.copy.disabled =
      viewer.shown === null || !drawing.findings(viewer.shown).includes(state.finding) || viewer.shown === viewer.count - 1;
    this.#showPresets(state, image);
    const set = (control, value, words) => {
      if (control.input.valueAsNumber !== value) control.input.value = value;
      say(control.value, words);
    };
    set(this.opacity, state.opacity, `${Math.round(state.opacity * 100)} %`);
    set(this.threshold, state.threshold, `${Math.round(state.threshold * 100)} %`);
    const mm = image.spacing ? `, ${number(state.brush * Math.sqrt(image.spacing[0] * image.spacing[1]), 1)} mm` : "";
    set(this.brush, state.brush, `${state.brush} px${mm}`);
    const draws = DRAWING_TOOLS.has(state.tool),
      brushes = state.tool === "brush" || state.tool === "eraser";
    mark(this.options, "data-draws", draws);
    const blinded = Boolean(viewer.data.blinded);
    this.mapOptions.hidden = draws || blinded;
    for (const [id, node] of this.layers) node.hidden = blinded && id !== "drawn" && id !== "measures";
    this.drawOptions.hidden = !draws;
    this.brush.node.hidden = !brushes;
    this.growth.hidden = state.tool !== "flood";
    const [low, high] = state.range[image.scale],
      focused = viewer.root.getRootNode().activeElement;
    [
      [this.low, low],
      [this.high, high],
      [this.reach, state.reach],
    ].forEach(([node, value]) => node !== focused && (node.value = value));
    say(this.unit, image.scale === "hounsfield" ? "HU" : "% grey");
    say(this.reachUnit, image.spacing ? "mm" : "px");
    const status = viewer.saver.status;
    say(this.saving, viewer.everDrawn || status !== "saved" ? SAVING[status] : "");
    mark(this.saving, "data-status", status);
    say(this.trouble, viewer.loader.trouble);
  }

  #showPresets(state, image) {
    const all = presets(this.viewer.data, state.slice),
      window = state.windows[image.scale];
    const unit = image.scale === "hounsfield" ? "" : " %";
    const words = (name, { center, width }) => `${name} ${number(center)} / ${number(width)}${unit}`;
    const names = [...all.map((one) => words(one.name, one)), words("Own", window)];
    const key = names.join("|");
    if (key !== this.presetKey) {
      this.presetKey = key;
      this.preset.replaceChildren(...names.map((name) => element("option", {}, name)));
    }
    const same = all.findIndex((one) => one.center === window.center && one.width === window.width);
    const index = same < 0 ? all.length : same;
    if (this.preset.selectedIndex !== index) this.preset.selectedIndex = index;
  }

  announce(words) {
    say(this.live, words);
  }

  /** Open or close the help panel. */
  help(root) {
    if (this.dialog) {
      this.dialog.close();
      return;
    }
    const groups = new Map();
    for (const [name, keys, words] of KEYS) groups.set(name, [...(groups.get(name) ?? []), [keys, words]]);
    groups.set("Mouse and fingers", MOUSE);
    const list = ([name, rows]) =>
      element(
        "section",
        {},
        element("h3", {}, name),
        element("dl", {}, ...rows.flatMap(([keys, words]) => [element("dt", {}, keys), element("dd", {}, words)])),
      );
    const close = element("button", { type: "button", "aria-label": "Close", click: () => this.dialog.close() }, icon("close"));
    this.dialog = element(
      "dialog",
      { "aria-label": "Keys and mouse" },
      element("header", {}, element("h2", {}, "Keys and mouse"), close),
      element("div", { class: "columns" }, ...[...groups].map(list)),
    );
    this.dialog.addEventListener("close", () => {
      this.dialog.remove();
      this.dialog = null;
      root.querySelector(".stage").focus();
    });
    this.dialog.addEventListener("click", (event) => event.target === this.dialog && this.dialog.close());
    root.append(this.dialog);
    this.dialog.showModal();
  }
}
