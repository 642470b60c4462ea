import assert from "node:assert/strict";
import { test } from "node:test";
import { KEYS, keyName } from "../../ipfvision/ui/viewer/keys.js";
import { TOOLS, dragWindow, initialState, layout, patch, presets } from "../../ipfvision/ui/viewer/state.js";

const slice = (more) => ({ rows: 4, columns: 4, scale: "hounsfield", window: null, ...more });
const DATA = {
  stack: { slices: [slice(), slice({ window: [-500, 1600] }), slice({ scale: "grey" })] },
  slice: 1,
  findings: [{ id: "honeycombing" }],
  presets: [{ name: "Lung", center: -600, width: 1500 }],
};

test("a change stays inside its limits, and no change gives the same state", () => {
  const state = initialState(DATA);
  assert.equal(patch(state, { slice: 99 }, 3).slice, 2);
  assert.equal(patch(state, { slice: -4 }, 3).slice, 0);
  assert.equal(patch(state, { opacity: 7, brush: -3 }, 3).opacity, 1);
  assert.equal(patch(state, { brush: NaN }, 3).brush, 1);
  assert.equal(patch(state, { slice: 1, tool: state.tool }, 3), state);
});

test("a window is never narrower than 1, which DICOM forbids", () => {
  assert.equal(dragWindow({ center: 0, width: 50 }, -9000, 0, "hounsfield").width, 1);
  assert.equal(dragWindow({ center: 50, width: 5 }, -9000, 0, "grey").width, 1);
  const moved = dragWindow({ center: -600, width: 1500 }, 10, -10, "hounsfield");
  assert.ok(moved.width > 1500 && moved.center < -600);
});

test("the window that a file brings is offered, and none in Hounsfield units where there are none", () => {
  assert.deepEqual(
    presets(DATA, 0).map(({ name }) => name),
    ["Lung"],
  );
  assert.deepEqual(presets(DATA, 1).at(-1), { name: "As the file says", center: -500, width: 1600 });
  assert.ok(presets(DATA, 2).every(({ center }) => center >= 0 && center <= 100));
});

test("another number of panes keeps those that are there", () => {
  assert.deepEqual(layout(["map", "ct"], 4), ["map", "ct", "annotation", "agreement"]);
  assert.deepEqual(layout(["map", "ct"], 1), ["map"]);
});

test("no key does two things, and each tool has one", () => {
  const all = KEYS.flatMap(([, , , actions]) => Object.keys(actions));
  assert.equal(new Set(all).size, all.length);
  for (const { key } of TOOLS) assert.ok(all.includes(key));
});

test("keys are known with and without Caps Lock", () => {
  const press = (key, more = {}) => keyName({ key, code: "", ctrlKey: false, metaKey: false, shiftKey: false, ...more });
  assert.equal(press("B"), "b");
  assert.equal(press("Z"), "z");
  assert.equal(press("z", { shiftKey: true }), "Z");
  assert.equal(press("z", { metaKey: true }), "Ctrl+z");
  assert.equal(press("!", { shiftKey: true, code: "Digit1" }), "Shift+1");
  assert.equal(press("ArrowUp", { shiftKey: true }), "Shift+ArrowUp");
  assert.equal(press("?", { shiftKey: true, code: "Slash" }), "?");
});
