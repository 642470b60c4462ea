// Masks on the slice's own pixel grid: Uint8Array of rows x columns, 0 or 1. Pure functions.

/** Run lengths in row-major order; the first run counts zeros and may be 0. */
export function encodeRuns(mask) {
  const runs = [];
  let value = 0,
    start = 0;
  for (let i = 0; i < mask.length; i++) {
    if (mask[i] !== value) {
      runs.push(i - start);
      start = i;
      value = mask[i];
    }
  }
  runs.push(mask.length - start);
  return runs;
}

/** The mask of run lengths. Throws a RangeError where they do not fill `size` pixels exactly. */
export function decodeRuns(runs, size) {
  const mask = new Uint8Array(size);
  let at = 0;
  runs.forEach((length, index) => {
    if (!(length >= 0) || at + length > size) throw new RangeError("run lengths do not fit the slice");
    if (index % 2) mask.fill(1, at, at + length);
    at += length;
  });
  if (at !== size) throw new RangeError("run lengths do not fit the slice");
  return mask;
}

/** Does this list of runs hold any pixel? */
export const anyRun = (runs) => runs.some((length, index) => index % 2 === 1 && length > 0);

export const sameRuns = (a, b) => a.length === b.length && a.every((length, index) => length === b[index]);

/** Set the pixels whose centers are within `radius` pixels of the segment a-b; the pixel under a itself always. */
export function paintLine(mask, columns, rows, a, b, radius, value) {
  const dx = b.x - a.x,
    dy = b.y - a.y,
    length2 = dx * dx + dy * dy;
  const top = Math.max(0, Math.floor(Math.min(a.y, b.y) - radius)),
    bottom = Math.min(rows, Math.ceil(Math.max(a.y, b.y) + radius));
  const left = Math.max(0, Math.floor(Math.min(a.x, b.x) - radius)),
    right = Math.min(columns, Math.ceil(Math.max(a.x, b.x) + radius));
  for (let y = top; y < bottom; y++) {
    for (let x = left; x < right; x++) {
      const px = x + 0.5 - a.x,
        py = y + 0.5 - a.y;
      const share = length2 ? Math.min(1, Math.max(0, (px * dx + py * dy) / length2)) : 0;
      if ((px - share * dx) ** 2 + (py - share * dy) ** 2 <= radius * radius) mask[y * columns + x] = value;
    }
  }
  const x = Math.floor(a.x),
    y = Math.floor(a.y);
  if (x >= 0 && x < columns && y >= 0 && y < rows) mask[y * columns + x] = value;
}

/** Set the pixels whose centers lie inside a closed polygon, by the even-odd rule. */
export function paintPolygon(mask, columns, rows, points, value) {
  if (points.length < 3) return;
  const top = Math.max(0, Math.floor(Math.min(...points.map((p) => p.y))));
  const bottom = Math.min(rows, Math.ceil(Math.max(...points.map((p) => p.y))));
  for (let y = top; y < bottom; y++) {
    const line = y + 0.5,
      crossings = [];
    points.forEach((p, index) => {
      const q = points[(index + 1) % points.length];
      if (p.y <= line !== q.y <= line) crossings.push(p.x + ((line - p.y) / (q.y - p.y)) * (q.x - p.x));
    });
    crossings.sort((a, b) => a - b);
    for (let pair = 0; pair + 1 < crossings.length; pair += 2) {
      const first = Math.max(0, Math.ceil(crossings[pair] - 0.5)),
        last = Math.min(columns, Math.ceil(crossings[pair + 1] - 0.5));
      if (last > first) mask.fill(value, y * columns + first, y * columns + last);
    }
  }
}

/**
 * Set what hangs together with the seed (4 neighbors) while `inside(index)` holds and the pixel is within `reach` pixels.
 * Returns how many pixels were flooded; 0 where the seed itself is not inside.
 */
export function flood(mask, columns, rows, seed, inside, reach = Infinity) {
  const startX = Math.floor(seed.x),
    startY = Math.floor(seed.y);
  if (startX < 0 || startY < 0 || startX >= columns || startY >= rows) return 0;
  const near = (x, y) => (x - startX) ** 2 + (y - startY) ** 2 <= reach * reach;
  const seen = new Uint8Array(columns * rows),
    stack = [];
  let count = 0;
  const visit = (x, y) => {
    const index = y * columns + x;
    if (x < 0 || y < 0 || x >= columns || y >= rows || seen[index]) return;
    seen[index] = 1;
    if (near(x, y) && inside(index)) stack.push(index);
  };
  visit(startX, startY);
  while (stack.length) {
    const index = stack.pop(),
      x = index % columns,
      y = (index - x) / columns;
    mask[index] = 1;
    count++;
    visit(x - 1, y);
    visit(x + 1, y);
    visit(x, y - 1);
    visit(x, y + 1);
  }
  return count;
}

/**
 * The border of `inside(index)` along the pixels' edges, as closed loops of corner points [x, y, x, y, ...] without points in
 * the middle of a straight line. The inside is to the right of the way, so that holes run the other way round.
 */
export function boundary(inside, columns, rows) {
  const wide = columns + 1;
  // Each corner has at most two edges that leave it: bits 1 right, 2 down, 4 left, 8 up.
  const leaving = new Map();
  const edge = (x, y, bit) => leaving.set(y * wide + x, (leaving.get(y * wide + x) ?? 0) | bit);
  let above = new Uint8Array(columns),
    here = new Uint8Array(columns);
  for (let y = 0; y <= rows; y++) {
    let before = 0;
    for (let x = 0; x < columns; x++) {
      const now = y < rows && inside(y * columns + x) ? 1 : 0;
      here[x] = now;
      if (now !== above[x]) now ? edge(x, y, 1) : edge(x + 1, y, 4);
      if (now !== before) now ? edge(x, y + 1, 8) : edge(x, y, 2);
      before = now;
    }
    if (before) edge(columns, y, 2);
    [above, here] = [here, above];
  }
  const STEP = { 1: [1, 0], 2: [0, 1], 4: [-1, 0], 8: [0, -1] };
  const loops = [];
  for (const [start, first] of leaving) {
    let bits = first;
    while (bits) {
      const loop = [];
      let corner = start,
        way = 0;
      do {
        const open = leaving.get(corner);
        // Where two loops touch at a corner, turn right: diagonal neighbors stay two areas, as with 4 neighbors elsewhere.
        const right = way === 0 ? 0 : way === 8 ? 1 : way * 2;
        const next = right && open & right ? right : open & -open;
        if (next !== way) loop.push(corner % wide, Math.floor(corner / wide));
        leaving.set(corner, open & ~next);
        way = next;
        corner += STEP[next][0] + STEP[next][1] * wide;
      } while (corner !== start || (leaving.get(corner) && way !== 0 && leaving.get(corner) & (way === 8 ? 1 : way * 2)));
      loops.push(loop);
      bits = leaving.get(start);
    }
  }
  return loops;
}
