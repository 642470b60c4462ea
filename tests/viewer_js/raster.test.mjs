import assert from "node:assert/strict";
import { test } from "node:test";
import * as raster from "../../ipfvision/ui/viewer/raster.js";

const level = (table, value) => table[value + 32768] & 255;
const stored = (...values) => raster.asIndex(Int16Array.from(values).buffer);

test("windowing is DICOM's LINEAR function (PS3.3 C.11.2.1.2.1)", () => {
  for (const [c, w] of [
    [-600, 1500],
    [40, 400],
    [-123.5, 2],
    [0, 4096],
    [10, 1],
  ]) {
    const table = raster.windowTable({ center: c, width: w }, "hounsfield", false);
    for (let x = -3000; x <= 3100; x++) {
      // As the standard writes it, with y from 0 to 255.
      const y = x <= c - 0.5 - (w - 1) / 2 ? 0 : x > c - 0.5 + (w - 1) / 2 ? 255 : ((x - (c - 0.5)) / (w - 1) + 0.5) * 255;
      assert.ok(Math.abs(level(table, x) - y) <= 0.501, `center ${c}, width ${w}, ${x} HU: ${level(table, x)} is not ${y}`);
    }
  }
});

test("an inverted picture is the negative, but for padding, which stays black", () => {
  const window = { center: -600, width: 1500 };
  const plain = raster.windowTable(window, "hounsfield", false),
    inverted = raster.windowTable(window, "hounsfield", true);
  for (const value of [-1350, -900, -600, 0, 200]) assert.ok(Math.abs(level(plain, value) + level(inverted, value) - 255) <= 1);
  assert.equal(level(inverted, raster.PADDING), 0);
  assert.equal(level(plain, raster.PADDING), 0);
});

test("grey as it came is not changed, and never read as Hounsfield units", () => {
  const table = raster.windowTable({ center: 50, width: 100 }, "grey", false);
  for (let grey = 0; grey < 256; grey++) assert.equal(level(table, Math.round((grey / 255) * 32767)), grey);
  assert.ok(Math.abs(raster.reader("grey")(16384) - 50) < 0.01);
  assert.equal(raster.reader("grey")(raster.PADDING), null);
  assert.equal(raster.reader("hounsfield")(-812), -812);
  assert.equal(raster.reader("hounsfield")(raster.PADDING), null);
});

test("a map's value stands at its cell's center, is bilinear between, constant beyond, and 0 outside the crop", () => {
  const map = { shape: [2, 2], crop: [2, 4, 8, 8], values: [1, 2, 3, 5] },
    columns = 14,
    rows = 14;
  const pasted = raster.pasteCells(map, columns, rows),
    at = (x, y) => pasted[y * columns + x];
  // Cell centers lie at 4 and 8 across, 6 and 10 down: pixel x covers [x, x + 1), so 4 is between pixels 3 and 4.
  const expected = (x, y) => {
    if (x < 2 || x >= 10 || y < 4 || y >= 12) return 0;
    const u = Math.min(1, Math.max(0, (x + 0.5 - 4) / 4)),
      v = Math.min(1, Math.max(0, (y + 0.5 - 6) / 4));
    return 1 * (1 - u) * (1 - v) + 2 * u * (1 - v) + 3 * (1 - u) * v + 5 * u * v;
  };
  for (let y = 0; y < rows; y++)
    for (let x = 0; x < columns; x++) assert.ok(Math.abs(at(x, y) - expected(x, y)) < 1e-6, `${x}, ${y}`);
});

test("a crop that reaches beyond the slice, and room that was used before, change nothing", () => {
  const map = { shape: [3, 2], crop: [-5, -3, 30, 12], values: [0, 1, 2, 3, 4, 5] };
  const fresh = raster.pasteCells(map, 9, 20);
  assert.deepEqual(raster.pasteCells(map, 9, 20, new Float32Array(180).fill(7)), fresh);
  assert.ok(fresh.subarray(9 * 9).every((value) => value === 0));
});

test("where the map is zero or below the threshold the CT is untouched, byte for byte", () => {
  const pixels = stored(...Array.from({ length: 400 }, (_, i) => i * 5 - 1400));
  const out = new Uint32Array(400);
  raster.applyTable(pixels, raster.windowTable({ center: -600, width: 1500 }, "hounsfield", false), out);
  const before = out.slice(),
    values = Float32Array.from({ length: 400 }, (_, i) => (i % 4 === 0 ? 0 : (i % 40) / 10));
  const layer = raster.heatLayer(values, 3, 1, 0.5);
  raster.blend(out, layer);
  values.forEach((value, i) => (value < 1.5 ? assert.equal(out[i], before[i]) : assert.notEqual(out[i], before[i])));
});

test("an opaque map at full scale is the brightest color, and its opacity follows the root of the map", () => {
  const out = Uint32Array.of(0xff646464, 0xff646464),
    [r, g, b] = raster.heatColor(1);
  assert.deepEqual([r, g, b], [252, 255, 164], "the bright end of inferno");
  raster.blend(out, raster.heatLayer(Float32Array.of(9, 0.75), 3, 1, 0));
  assert.equal(out[0] & 255, r);
  assert.equal((out[0] >> 8) & 255, g);
  const quarter = raster.heatColor(0.25);
  assert.equal(out[1] & 255, Math.round(0.5 * 100 + 0.5 * quarter[0]));
});

test("the agreement picture tells both, map only and annotation only apart, and leaves the rest", () => {
  const out = new Uint32Array(4).fill(0xff000000),
    hot = [1, 1, 0, 0],
    marked = [1, 0, 1, 0];
  raster.blend(
    out,
    raster.agreementLayer(
      4,
      (i) => hot[i],
      (i) => marked[i],
    ),
  );
  const half = (color) => color.map((value) => Math.round(value / 2));
  const rgb = (value) => [value & 255, (value >> 8) & 255, (value >> 16) & 255];
  assert.deepEqual([...out].map(rgb), [
    ...["both", "map", "annotation"].map((kind) => half(raster.AGREEMENT[kind])),
    [0, 0, 0],
  ]);
});
