// What the reader has set: one plain object, changed only by `patch`. Pure functions, no page.

import { FIT } from "./geometry.js";

export const PANES = { ct: "CT", map: "Heat map", annotation: "Annotation", agreement: "Agreement" };
const PANE_ORDER = Object.keys(PANES);

export const TARGETS = { ipf: "IPF", normal: "normal lung" };

/** Tools of the left button: id, key, name, and what to do with it. */
export const TOOLS = [
  ["move", "v", "Move", "Drag moves the image; a finger scrolls the stack"],
  ["window", "w", "Window", "Drag: across width, up and down center. The right button does this with every tool"],
  ["ruler", "l", "Length", "Drag from end to end"],
  ["ellipse", "o", "Ellipse", "Drag a region: mean, standard deviation, area"],
  ["brush", "b", "Brush", "Paint the chosen finding; Alt erases"],
  ["eraser", "e", "Eraser", "Take away from the chosen finding"],
  ["polygon", "p", "Outline", "Draw around an area; it is filled when you let go; Alt takes away"],
  ["flood", "g", "Grow", "Click: fills what hangs together inside the range; Alt takes away"],
].map(([id, key, name, hint]) => ({ id, key, name, hint }));
export const DRAWING_TOOLS = new Set(["brush", "eraser", "polygon", "flood"]);

/** Brightness and contrast for images without Hounsfield units, in percent of the grey range. */
const GREY_PRESETS = [
  { name: "As it came", center: 50, width: 100 },
  { name: "More contrast", center: 50, width: 60 },
  { name: "Dark parts", center: 25, width: 50 },
];

export function presets(data, index) {
  const slice = data.stack.slices[index];
  if (slice.scale === "grey") return GREY_PRESETS;
  const own = slice.window ? [{ name: "As the file says", center: slice.window[0], width: slice.window[1] }] : [];
  return [...data.presets, ...own];
}

export function initialState(data) {
  const slice = data.slice ?? 0;
  const first = data.presets[0] ?? { center: -600, width: 1500 };
  return {
    slice,
    view: { ...FIT },
    windows: { hounsfield: { center: first.center, width: first.width }, grey: { center: 50, width: 100 } },
    inverted: false,
    tool: "move",
    panes: [...(data.panes ?? ["ct", "map"])],
    target: "ipf",
    style: "fill",
    opacity: 0.6,
    threshold: 0.1,
    ownPeak: false,
    finding: data.findings[0]?.id ?? null,
    brush: 9,
    range: { hounsfield: [-1024, -900], grey: [0, 20] },
    reach: 20,
    layers: { heat: true, files: true, drawn: true, measures: true, lungs: false },
    hidden: false,
    measures: [],
  };
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, Number.isFinite(value) ? value : low));
const LIMITS = { opacity: [0, 1], threshold: [0, 0.95], brush: [1, 99], reach: [1, 200] };

/** A state with these changes, each brought inside its limits; the same object where nothing changes. */
export function patch(state, changes, count) {
  const next = { ...state, ...changes };
  if ("slice" in changes) next.slice = clamp(Math.round(changes.slice), 0, count - 1);
  for (const [name, [low, high]] of Object.entries(LIMITS)) if (name in changes) next[name] = clamp(changes[name], low, high);
  return Object.keys(next).every((name) => Object.is(next[name], state[name])) ? state : next;
}

/** A window moved as by a drag of (dx, dy) CSS pixels: across the width, upwards a lower center (brighter). */
export function dragWindow(window, dx, dy, scale) {
  const step = scale === "grey" ? 0.25 : Math.max(1, window.width / 400);
  const [low, high, most] = scale === "grey" ? [-50, 150, 400] : [-2000, 4000, 6000];
  return {
    center: clamp(Math.round(window.center + dy * step), low, high),
    width: clamp(Math.round(window.width + dx * step), 1, most),
  };
}

export function withWindow(state, scale, window) {
  return { windows: { ...state.windows, [scale]: { center: window.center, width: window.width } } };
}

/** The panes of a layout of `count`: those on screen first, then the kinds that are missing. */
export function layout(panes, count) {
  return [...panes, ...PANE_ORDER.filter((kind) => !panes.includes(kind))].slice(0, count);
}
