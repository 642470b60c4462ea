import assert from "node:assert/strict";
import { test } from "node:test";
import * as geometry from "../../ipfvision/ui/viewer/geometry.js";

const IMAGE = { rows: 300, columns: 500, spacing: [0.8, 0.5] };
const PANE = { width: 640, height: 480 };
const near = (actual, expected, message) =>
  assert.ok(Math.abs(actual - expected) < 1e-9, `${message}: ${actual} is not ${expected}`);

test("an image that fits is drawn in the patient's proportions and touches the pane on one side", () => {
  const [x, y] = geometry.fitScale(PANE, IMAGE);
  near(y / x, 0.8 / 0.5, "proportion of the pixels");
  near(Math.max((x * 500) / 640, (y * 300) / 480), 1, "the tighter side");
});

test("the way to the screen and back returns the point", () => {
  const at = geometry.transform({ zoom: 3.7, x: 120, y: 80 }, PANE, IMAGE);
  const back = geometry.toImage(at, geometry.toScreen(at, { x: 33.25, y: 211.5 }));
  near(back.x, 33.25, "x");
  near(back.y, 211.5, "y");
});

test("zooming keeps the image point under the cursor where it is", () => {
  let view = { ...geometry.FIT };
  for (const [factor, point] of [
    [1.5, { x: 200, y: 150 }],
    [2, { x: 400, y: 300 }],
    [0.8, { x: 250, y: 222 }],
    [1.9, { x: 11, y: 240 }],
  ]) {
    const before = geometry.toImage(geometry.transform(view, PANE, IMAGE), point);
    view = geometry.zoomAt(view, factor, point, PANE, IMAGE);
    const after = geometry.toImage(geometry.transform(view, PANE, IMAGE), point);
    near(after.x, before.x, "x");
    near(after.y, before.y, "y");
  }
});

test("zooming out ends at the image that fits, and zooming in ends somewhere", () => {
  const point = { x: 100, y: 100 };
  assert.deepEqual(geometry.zoomAt({ zoom: 2, x: 10, y: 10 }, 0.01, point, PANE, IMAGE), geometry.FIT);
  assert.equal(geometry.zoomAt({ zoom: 2, x: 10, y: 10 }, 1e9, point, PANE, IMAGE).zoom, geometry.MAX_ZOOM);
});

test("panning moves the image with the hand", () => {
  const view = { zoom: 4, x: 250, y: 150 },
    before = geometry.transform(view, PANE, IMAGE);
  const after = geometry.transform(geometry.panBy(view, 30, -12, PANE, IMAGE), PANE, IMAGE);
  near(after.left - before.left, 30, "right");
  near(after.top - before.top, -12, "up");
});

test("a length uses the spacing of its own direction, and is in pixels without one", () => {
  assert.deepEqual(geometry.distance({ x: 1, y: 2 }, { x: 11, y: 2 }, [0.8, 0.5]), { value: 5, unit: "mm" });
  assert.deepEqual(geometry.distance({ x: 1, y: 2 }, { x: 1, y: 12 }, [0.8, 0.5]), { value: 8, unit: "mm" });
  assert.deepEqual(geometry.distance({ x: 0, y: 0 }, { x: 3, y: 4 }, null), { value: 5, unit: "px" });
});

test("ellipse statistics are those of the pixels whose centers are inside, without padding", () => {
  const columns = 20,
    rows = 15,
    pixels = Int16Array.from({ length: 300 }, (_, i) => ((i * 7919) % 2003) - 1000);
  pixels[7 * 20 + 9] = -32768;
  const a = { x: 14.2, y: 3.1 },
    b = { x: 4.6, y: 12.7 },
    read = (value) => (value === -32768 ? null : value);
  const inside = [];
  for (let i = 0; i < 300; i++) {
    const u = ((i % 20) + 0.5 - 9.4) / 4.8,
      v = (Math.floor(i / 20) + 0.5 - 7.9) / 4.8;
    if (Math.sqrt(u * u + v * v) <= 1 && pixels[i] !== -32768) inside.push(pixels[i]);
  }
  const mean = inside.reduce((sum, value) => sum + value, 0) / inside.length;
  const sd = Math.sqrt(inside.reduce((sum, value) => sum + (value - mean) ** 2, 0) / inside.length);
  const found = geometry.ellipseStatistics(pixels, columns, rows, a, b, [0.8, 0.5], read);
  assert.equal(found.count, inside.length);
  near(found.mean, mean, "mean");
  assert.ok(Math.abs(found.sd - sd) < 1e-6);
  assert.deepEqual([found.lowest, found.highest], [Math.min(...inside), Math.max(...inside)]);
  near(found.area, Math.PI * 4.8 * 0.5 * 4.8 * 0.8, "area in mm²");
  assert.equal(found.unit, "mm²");
});

test("an ellipse outside the image, or of no size, has no mean", () => {
  const pixels = new Int16Array(100),
    read = (value) => value;
  assert.equal(geometry.ellipseStatistics(pixels, 10, 10, { x: 20, y: 20 }, { x: 30, y: 30 }, null, read).mean, null);
  assert.equal(geometry.ellipseStatistics(pixels, 10, 10, { x: 5, y: 5 }, { x: 5, y: 5 }, null, read).mean, null);
});

test("the scale bar is a round length that is not longer than asked", () => {
  for (const scaleX of [0.3, 1, 2.7, 19, 80]) {
    const bar = geometry.scaleBar({ scaleX }, [0.7, 0.7], 130);
    assert.ok(bar.pixels <= 130 && bar.pixels > 130 / 2.51, `${bar.pixels} px`);
    near((bar.value * scaleX) / 0.7, bar.pixels, "length on screen");
    assert.match(bar.value.toExponential(0), /^[125]e/);
  }
});

test("panes are laid side by side where that makes them larger", () => {
  const image = { rows: 512, columns: 512, spacing: null };
  assert.equal(geometry.gridColumns(2, 1000, 500, image), 2);
  assert.equal(geometry.gridColumns(2, 500, 1000, image), 1);
  assert.equal(geometry.gridColumns(4, 1000, 1000, image), 2);
  assert.equal(geometry.gridColumns(4, 2400, 600, image), 4);
});
