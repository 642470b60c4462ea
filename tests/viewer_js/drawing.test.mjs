import assert from "node:assert/strict";
import { test } from "node:test";
import { Drawing } from "../../ipfvision/ui/viewer/drawing.js";
import { decodeRuns, encodeRuns } from "../../ipfvision/ui/viewer/masks.js";

const SIZE = 12;
const mask = (...on) => Uint8Array.from({ length: SIZE }, (_, index) => (on.includes(index) ? 1 : 0));
const on = (drawing, index, finding = "cyst") =>
  [...drawing.mask(index, finding).keys()].filter((pixel) => drawing.mask(index, finding)[pixel]);

function fresh() {
  const drawing = new Drawing(() => SIZE);
  drawing.load(0, 0, {});
  drawing.load(1, 0, {});
  return drawing;
}

function paint(drawing, index, pixels, finding = "cyst", value = 1) {
  const open = drawing.begin(index, finding);
  for (const pixel of pixels) open[pixel] = value;
  return drawing.commit();
}

test("undo and redo step through changes on several slices, and a new change ends what could be redone", () => {
  const drawing = fresh();
  assert.equal(paint(drawing, 0, [1, 2]), true);
  assert.equal(paint(drawing, 1, [5]), true);
  assert.equal(paint(drawing, 0, [3]), true);
  assert.deepEqual(on(drawing, 0), [1, 2, 3]);
  assert.equal(drawing.undo(), 0);
  assert.deepEqual(on(drawing, 0), [1, 2]);
  assert.equal(drawing.undo(), 1);
  assert.deepEqual(on(drawing, 1), []);
  assert.equal(drawing.redo(), 1);
  assert.deepEqual(on(drawing, 1), [5]);
  paint(drawing, 1, [6]);
  assert.equal(drawing.redo(), null);
  assert.deepEqual([drawing.undo(), drawing.undo(), drawing.undo(), drawing.undo()], [1, 1, 0, null]);
});

test("a stroke that changes nothing is no change", () => {
  const drawing = fresh();
  paint(drawing, 0, [4]);
  assert.equal(paint(drawing, 0, [4]), false);
  assert.equal(drawing.past.length, 1);
});

test("a stroke that is given up leaves the mask as it was", () => {
  const drawing = fresh();
  paint(drawing, 0, [4]);
  drawing.begin(0, "cyst")[7] = 1;
  assert.deepEqual(on(drawing, 0), [4, 7]);
  drawing.cancel();
  assert.deepEqual(on(drawing, 0), [4]);
});

test("nothing is drawn on a slice before it is known what the server holds for it", () => {
  const drawing = new Drawing(() => SIZE);
  assert.equal(drawing.begin(0, "cyst"), null);
  drawing.load(0, 3, { cyst: encodeRuns(mask(2)) });
  assert.ok(drawing.begin(0, "cyst"));
  assert.equal(drawing.outgoing(0).revision, 3);
});

test("a drawing that is loaded late does not replace what was drawn meanwhile", () => {
  const drawing = fresh();
  paint(drawing, 0, [4]);
  drawing.load(0, 9, {});
  assert.deepEqual(on(drawing, 0), [4]);
});

test("an erased finding is not sent", () => {
  const drawing = fresh();
  paint(drawing, 0, [4]);
  paint(drawing, 0, [4], "cyst", 0);
  assert.deepEqual(drawing.outgoing(0).findings, {});
});

test("what two tabs drew and erased is kept from both", () => {
  const drawing = fresh();
  paint(drawing, 0, [1, 2, 3]);
  assert.equal(drawing.acknowledge(0, 1, drawing.outgoing(0).findings), false);
  paint(drawing, 0, [8]);
  paint(drawing, 0, [1], "cyst", 0);
  drawing.merge(0, 5, { cyst: encodeRuns(mask(1, 2, 10)), other: encodeRuns(mask(0)) });
  assert.deepEqual(on(drawing, 0), [2, 8, 10]);
  assert.deepEqual(on(drawing, 0, "other"), [0]);
  assert.equal(drawing.outgoing(0).revision, 5);
  drawing.undo();
  assert.deepEqual(on(drawing, 0), [1, 2, 8, 10], "undo takes back this tab's change only");
});

test("what was drawn while a save was on its way is still to be sent", () => {
  const drawing = fresh();
  paint(drawing, 0, [1]);
  const sent = drawing.outgoing(0).findings;
  paint(drawing, 0, [2]);
  assert.equal(drawing.acknowledge(0, 1, sent), true);
  assert.deepEqual(decodeRuns(drawing.outgoing(0).findings.cyst, SIZE), mask(1, 2));
});
