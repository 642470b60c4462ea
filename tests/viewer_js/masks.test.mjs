import assert from "node:assert/strict";
import { test } from "node:test";
import { boundary, decodeRuns, encodeRuns, flood, paintLine, paintPolygon } from "../../ipfvision/ui/viewer/masks.js";

/** Numbers in [0, 1), the same in each run (Park and Miller's generator). */
function numbers(seed) {
  return () => (seed = (seed * 48271) % 2147483647) / 2147483647;
}

function randomMask(size, share, seed) {
  const next = numbers(seed);
  return Uint8Array.from({ length: size }, () => (next() < share ? 1 : 0));
}

test("run lengths give the same mask again", () => {
  for (const share of [0, 0.01, 0.5, 0.99, 1]) {
    for (const size of [1, 2, 77, 4096]) {
      const mask = randomMask(size, share, size + 1);
      assert.deepEqual(decodeRuns(encodeRuns(mask), size), mask);
    }
  }
});

test("the first run counts zeros, and no other run is empty", () => {
  assert.deepEqual(encodeRuns(Uint8Array.of(0, 0, 1, 1, 1, 0)), [2, 3, 1]);
  assert.deepEqual(encodeRuns(Uint8Array.of(1, 1, 0, 1)), [0, 2, 1, 1]);
  assert.deepEqual(encodeRuns(new Uint8Array(9)), [9]);
  assert.ok(
    encodeRuns(randomMask(999, 0.5, 5))
      .slice(1)
      .every((length) => length > 0),
  );
});

test("run lengths that do not fill the slice are refused", () => {
  for (const runs of [[3], [3, 8], [], [5, -1, 6], [4, 6.5]]) assert.throws(() => decodeRuns(runs, 10), RangeError);
});

test("a brush stroke sets the pixels whose centers are within its radius of the way, and no other", () => {
  const columns = 40,
    rows = 30,
    a = { x: 7.3, y: 21.8 },
    b = { x: 31.6, y: 6.2 },
    radius = 3.4,
    mask = new Uint8Array(columns * rows);
  paintLine(mask, columns, rows, a, b, radius, 1);
  for (let y = 0; y < rows; y++) {
    for (let x = 0; x < columns; x++) {
      let nearest = Infinity;
      for (let step = 0; step <= 4000; step++) {
        const share = step / 4000;
        nearest = Math.min(nearest, Math.hypot(x + 0.5 - a.x - share * (b.x - a.x), y + 0.5 - a.y - share * (b.y - a.y)));
      }
      if (Math.abs(nearest - radius) > 0.01) assert.equal(mask[y * columns + x], nearest < radius ? 1 : 0, `${x}, ${y}`);
    }
  }
});

test("the smallest brush paints the pixel under it, and nothing outside the slice", () => {
  const mask = new Uint8Array(100);
  paintLine(mask, 10, 10, { x: 4.9, y: 2.1 }, { x: 4.9, y: 2.1 }, 0.5, 1);
  assert.deepEqual(
    [...mask.keys()].filter((i) => mask[i]),
    [24],
  );
  paintLine(mask, 10, 10, { x: -8, y: -8 }, { x: -2, y: 14 }, 0.5, 1);
  assert.equal(
    mask.reduce((sum, value) => sum + value),
    1,
  );
});

test("an outline fills the pixels whose centers it goes around, by the even-odd rule", () => {
  const columns = 30,
    rows = 30,
    next = numbers(11);
  for (let round = 0; round < 20; round++) {
    const points = Array.from({ length: 9 }, () => ({ x: next() * 36 - 3, y: next() * 36 - 3 })),
      mask = new Uint8Array(900);
    paintPolygon(mask, columns, rows, points, 1);
    for (let i = 0; i < 900; i++) {
      // Another way to ask: count the edges to the left, by the sign of a cross product.
      const px = (i % columns) + 0.5,
        py = Math.floor(i / columns) + 0.5;
      let inside = false;
      points.forEach((p, index) => {
        const q = points[(index + 1) % points.length],
          [low, high] = p.y < q.y ? [p, q] : [q, p];
        if (low.y <= py && py < high.y && (high.x - low.x) * (py - low.y) - (px - low.x) * (high.y - low.y) <= 0)
          inside = !inside;
      });
      assert.equal(mask[i], inside ? 1 : 0, `pixel ${i} of outline ${round}`);
    }
  }
});

test("a flood takes what hangs together by edges, stays within reach and in the slice", () => {
  const picture = ["#..##", "#.###", "##..#", ".#.#.", "###.."].join("");
  const inside = (index) => picture[index] === ".",
    area = (seed, reach) => {
      const mask = new Uint8Array(25);
      const count = flood(mask, 5, 5, seed, inside, reach);
      const on = [...mask.keys()].filter((i) => mask[i]);
      assert.equal(count, on.length);
      return on;
    };
  assert.deepEqual(area({ x: 1.5, y: 0.5 }), [1, 2, 6]);
  assert.deepEqual(area({ x: 2.5, y: 2.5 }), [12, 13, 17], "the diagonal neighbor at (1, 1) is another area");
  assert.deepEqual(area({ x: 4.2, y: 3.9 }), [19, 23, 24]);
  assert.deepEqual(area({ x: 4.2, y: 3.9 }, 1), [19, 24]);
  assert.deepEqual(area({ x: 0.5, y: 0.5 }), []);
  assert.deepEqual(area({ x: -1, y: 2 }), []);
});

test("filling a mask's border gives the mask again, with its holes and its areas that touch at corners", () => {
  for (const share of [0.1, 0.4, 0.6, 0.9, 1]) {
    const columns = 17,
      rows = 13,
      mask = randomMask(columns * rows, share, Math.round(share * 100));
    const loops = boundary((i) => mask[i], columns, rows);
    const crossings = new Uint8Array(columns * rows);
    let edges = 0;
    for (const loop of loops) {
      for (let i = 0; i < loop.length; i += 2) {
        const [x, y] = [loop[i], loop[i + 1]],
          [u, v] = [loop[(i + 2) % loop.length], loop[(i + 3) % loop.length]];
        assert.ok((x === u) !== (y === v), "each edge is straight and has a length");
        edges += Math.abs(x - u) + Math.abs(y - v);
        if (x !== u) continue;
        for (let row = Math.min(y, v); row < Math.max(y, v); row++)
          for (let column = x; column < columns; column++) crossings[row * columns + column] ^= 1;
      }
    }
    assert.deepEqual(crossings, mask);
    let expected = 0;
    const at = (x, y) => (x < 0 || y < 0 || x >= columns || y >= rows ? 0 : mask[y * columns + x]);
    for (let y = 0; y <= rows; y++)
      for (let x = 0; x <= columns; x++) expected += (at(x, y) !== at(x - 1, y)) + (at(x, y) !== at(x, y - 1));
    assert.equal(edges, expected, "each edge is walked once");
  }
});
