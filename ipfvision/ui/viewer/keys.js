// The keyboard. One table makes both the keys and the help panel, so that the help cannot be wrong.

import { panBy, zoomAt } from "./geometry.js";
import { TOOLS, dragWindow, layout, presets, withWindow } from "./state.js";

const middle = (pane) => ({ x: pane.width / 2, y: pane.height / 2 });
const zoom = (factor) => (viewer) => {
  const pane = viewer.panes.list[0];
  viewer.change({ view: zoomAt(viewer.state.view, factor, middle(pane), pane, viewer.image) });
};
const shift = (dx, dy) => (viewer) =>
  viewer.change({ view: panBy(viewer.state.view, dx, dy, viewer.panes.list[0], viewer.image) });
const turn = (dx, dy) => (viewer) => {
  const { scale } = viewer.image;
  viewer.change(withWindow(viewer.state, scale, dragWindow(viewer.state.windows[scale], dx, dy, scale)));
};
const step = (slices) => (viewer) => viewer.go(viewer.state.slice + slices);
const preset = (number) => (viewer) => {
  const chosen = presets(viewer.data, viewer.state.slice)[number];
  if (!chosen) return;
  viewer.change(withWindow(viewer.state, viewer.image.scale, chosen));
  viewer.announce(`Window ${chosen.name}`);
};
const numbers = (prefix, make) =>
  Object.fromEntries([1, 2, 3, 4, 5, 6, 7, 8, 9].map((digit) => [`${prefix}${digit}`, make(digit - 1)]));
const finding = (number) => (viewer) => {
  const chosen = viewer.data.findings[number];
  if (!chosen) return;
  viewer.change({ finding: chosen.id });
  viewer.announce(`Drawing ${chosen.name}`);
};

/** [group, keys in words, what they do, {key: action}] */
export const KEYS = [
  ["Stack", "↑ ↓", "previous, next slice", { ArrowUp: step(-1), ArrowDown: step(1) }],
  ["Stack", "Page Up, Page Down", "ten slices", { PageUp: step(-10), PageDown: step(10) }],
  ["Stack", "Home, End", "first, last slice", { Home: (v) => v.go(0), End: (v) => v.go(v.count - 1) }],
  ["Stack", "J", "slice that looks most like IPF", { j: (v) => v.goToHighest() }],
  ["Picture", "1 to 9", "window presets", numbers("", preset)],
  ["Picture", ", .", "window center down, up", { ",": turn(0, -10), ".": turn(0, 10) }],
  ["Picture", "< >", "window narrower, wider", { "<": turn(-10, 0), ">": turn(10, 0) }],
  ["Picture", "I", "invert", { i: (v) => v.change({ inverted: !v.state.inverted }) }],
  ["Picture", "+ −", "zoom", { "+": zoom(1.25), "=": zoom(1.25), "-": zoom(0.8) }],
  [
    "Picture",
    "Shift + arrows",
    "move the zoomed image",
    {
      "Shift+ArrowLeft": shift(60, 0),
      "Shift+ArrowRight": shift(-60, 0),
      "Shift+ArrowUp": shift(0, 60),
      "Shift+ArrowDown": shift(0, -60),
    },
  ],
  ["Picture", "0, double click", "fit", { 0: (v) => v.fit() }],
  [
    "Picture",
    "D",
    "one, two, three, four panes",
    { d: (v) => v.change({ panes: layout(v.state.panes, (v.state.panes.length % 4) + 1) }) },
  ],
  ["Picture", "F", "full screen", { f: (v) => v.fullScreen() }],
  [
    "Heat map",
    "H or Space, held",
    "hide everything over the CT",
    { h: (v) => v.change({ hidden: true }), " ": (v) => v.change({ hidden: true }) },
  ],
  [
    "Heat map",
    "T",
    "evidence for IPF, for normal lung",
    { t: (v) => v.data.targets || v.change({ target: v.state.target === "ipf" ? "normal" : "ipf" }) },
  ],
  ["Heat map", "C", "fill, contour", { c: (v) => v.change({ style: v.state.style === "fill" ? "contour" : "fill" }) }],
  ["Heat map", "A", "annotations on, off", { a: (v) => v.layers(["files", "drawn"]) }],
  ...TOOLS.map(({ id, key, name }) => ["Tools", key.toUpperCase(), name, { [key]: (v) => v.change({ tool: id }) }]),
  ["Drawing", "Shift + 1 to 9", "finding to draw", numbers("Shift+", finding)],
  [
    "Drawing",
    "[ ]",
    "brush smaller, larger",
    { "[": (v) => v.change({ brush: v.state.brush - 2 }), "]": (v) => v.change({ brush: v.state.brush + 2 }) },
  ],
  [
    "Drawing",
    "Z, Shift + Z",
    "undo, redo",
    { z: (v) => v.undo(), "Ctrl+z": (v) => v.undo(), Z: (v) => v.redo(), "Ctrl+Z": (v) => v.redo(), "Ctrl+y": (v) => v.redo() },
  ],
  ["Drawing", "N", "copy the finding to the next slice and go there", { n: (v) => v.copyOn() }],
  [
    "Drawing",
    "Delete",
    "remove the last measurement of the slice",
    { Delete: (v) => v.removeMeasure(), Backspace: (v) => v.removeMeasure() },
  ],
  ["Pointer", "K", "cursor by keyboard: arrows move it, with Shift by ten", { k: (v) => v.keyboardCursor() }],
  ["Pointer", "Enter", "with K: press the tool's button; again: let go", { Enter: (v) => v.pressCursor() }],
  ["Pointer", "Esc", "give up what is being drawn; close the help", { Escape: (v) => v.escape() }],
  ["Pointer", "?", "this panel", { "?": (v) => v.help() }],
];

/** What the mouse and fingers do, for the help panel. */
export const MOUSE = [
  ["Left drag", "the active tool"],
  ["Right drag", "window: across width, up and down center"],
  ["Middle drag, Shift + drag", "move the image"],
  ["Wheel", "scroll the stack"],
  ["Ctrl + wheel, pinch", "zoom at the cursor"],
  ["One finger", "the active tool; with Move, scrolls the stack"],
  ["Two fingers", "zoom and move"],
];

const ACTIONS = new Map(KEYS.flatMap(([, , , actions]) => Object.entries(actions)));
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/** The name of a key press in the table. */
export function keyName(event) {
  if (event.shiftKey && /^Digit[1-9]$/.test(event.code)) return `Shift+${event.code.slice(5)}`;
  const modified = event.ctrlKey || event.metaKey ? "Ctrl+" : "";
  const shifted = event.shiftKey && event.key.startsWith("Arrow") ? "Shift+" : "";
  // With Caps Lock on, "z" arrives as "Z".
  const letter = /^[a-z]$/i.test(event.key) ? (event.shiftKey ? event.key.toUpperCase() : event.key.toLowerCase()) : event.key;
  return modified + shifted + (letter !== "Z" && /^[A-Z]$/.test(letter) ? letter.toLowerCase() : letter);
}

/** Does the focused control need this key for itself? */
function belongsToControl(event, target) {
  if (target.matches("input:not([type=range]), textarea")) return event.key !== "Escape";
  if (target.matches("select")) return !["Escape"].includes(event.key) && !event.ctrlKey;
  if (target.matches("input[type=range]"))
    return event.key.startsWith("Arrow") || ["Home", "End", "PageUp", "PageDown"].includes(event.key);
  return target.matches("button") && (event.key === " " || event.key === "Enter");
}

export function listenToKeys(viewer, root, signal) {
  root.addEventListener(
    "keydown",
    (event) => {
      const target = event.composedPath()[0];
      if (event.altKey || event.isComposing || belongsToControl(event, target)) return;
      if (viewer.chrome.dialog && event.key !== "?") return;
      const arrow = ARROWS[event.key];
      const handled =
        arrow && viewer.cursorByKeys && !event.ctrlKey
          ? () => viewer.moveCursor(arrow[0] * (event.shiftKey ? 10 : 1), arrow[1] * (event.shiftKey ? 10 : 1))
          : ACTIONS.get(keyName(event));
      if (!handled) return;
      event.preventDefault();
      // Streamlit listens for letters on the page as well ("r" runs the script again).
      event.stopPropagation();
      handled(viewer);
    },
    { signal },
  );
  const show = (event) =>
    (event.type === "blur" || event.key === " " || event.key.toLowerCase() === "h") && viewer.change({ hidden: false });
  root.addEventListener("keyup", show, { signal });
  globalThis.addEventListener("blur", show, { signal });
}
