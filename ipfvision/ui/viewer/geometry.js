// Where things are: between the image's pixels, millimeters and the screen. Pure functions.
//
// Image coordinates are continuous, as in ipfvision/core/geometry.py: pixel (column x, row y) covers [x, x + 1) x [y, y + 1).
// A view is {zoom, x, y}: the image point at the middle of each pane, and how much larger than "fits the pane" it is drawn.
// It knows no pane size, so that panes of any size stay linked.

export const FIT = { zoom: 1, x: null, y: null };
export const MAX_ZOOM = 40;

/** CSS pixels per image pixel, [x, y], when the whole image fits. Pixels that are not square on the patient are not on screen. */
export function fitScale(pane, image) {
  const [rowMm, columnMm] = image.spacing ?? [1, 1];
  const unit = Math.min(rowMm, columnMm);
  const wide = columnMm / unit,
    high = rowMm / unit;
  const fit = Math.min(pane.width / (image.columns * wide), pane.height / (image.rows * high));
  return [fit * wide, fit * high];
}

/** {scaleX, scaleY, left, top}: screen = left + scaleX * x. */
export function transform(view, pane, image) {
  const [fitX, fitY] = fitScale(pane, image);
  const scaleX = fitX * view.zoom,
    scaleY = fitY * view.zoom;
  const x = view.x ?? image.columns / 2,
    y = view.y ?? image.rows / 2;
  return { scaleX, scaleY, left: pane.width / 2 - x * scaleX, top: pane.height / 2 - y * scaleY };
}

export function toImage(at, point) {
  return { x: (point.x - at.left) / at.scaleX, y: (point.y - at.top) / at.scaleY };
}

export function toScreen(at, point) {
  return { x: at.left + at.scaleX * point.x, y: at.top + at.scaleY * point.y };
}

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

function within(view, image) {
  if (view.zoom <= 1.0001) return { ...FIT };
  return { zoom: view.zoom, x: clamp(view.x, 0, image.columns), y: clamp(view.y, 0, image.rows) };
}

/** Zoom so that the image point under `point` stays under it. */
export function zoomAt(view, factor, point, pane, image) {
  const zoom = clamp(view.zoom * factor, 1, MAX_ZOOM);
  const before = transform(view, pane, image);
  const still = toImage(before, point);
  const [fitX, fitY] = fitScale(pane, image);
  return within(
    { zoom, x: still.x - (point.x - pane.width / 2) / (fitX * zoom), y: still.y - (point.y - pane.height / 2) / (fitY * zoom) },
    image,
  );
}

/** Move the image by (dx, dy) CSS pixels. */
export function panBy(view, dx, dy, pane, image) {
  const at = transform(view, pane, image);
  return within(
    { zoom: view.zoom, x: (view.x ?? image.columns / 2) - dx / at.scaleX, y: (view.y ?? image.rows / 2) - dy / at.scaleY },
    image,
  );
}

/** Length between two image points: {value, unit}, "mm" with a spacing and "px" without. */
export function distance(a, b, spacing) {
  const [rowMm, columnMm] = spacing ?? [1, 1];
  return { value: Math.hypot((b.x - a.x) * columnMm, (b.y - a.y) * rowMm), unit: spacing ? "mm" : "px" };
}

/**
 * What lies in the ellipse that fills the box between two image points: pixels whose centers are inside.
 *
 * `read(value)` turns a stored value into a number, or null where nothing was measured: such pixels count for nothing.
 * The standard deviation is that of these pixels (divided by n). mean and sd are null where no pixel counts.
 */
export function ellipseStatistics(pixels, columns, rows, a, b, spacing, read) {
  const centerX = (a.x + b.x) / 2,
    centerY = (a.y + b.y) / 2;
  const radiusX = Math.abs(b.x - a.x) / 2,
    radiusY = Math.abs(b.y - a.y) / 2;
  let count = 0,
    sum = 0,
    squares = 0,
    lowest = Infinity,
    highest = -Infinity;
  for (let y = Math.max(0, Math.floor(centerY - radiusY)); y < Math.min(rows, centerY + radiusY); y++) {
    for (let x = Math.max(0, Math.floor(centerX - radiusX)); x < Math.min(columns, centerX + radiusX); x++) {
      const u = (x + 0.5 - centerX) / radiusX,
        v = (y + 0.5 - centerY) / radiusY;
      if (!(u * u + v * v <= 1)) continue;
      const value = read(pixels[y * columns + x]);
      if (value === null) continue;
      count++;
      sum += value;
      squares += value * value;
      lowest = Math.min(lowest, value);
      highest = Math.max(highest, value);
    }
  }
  const [rowMm, columnMm] = spacing ?? [1, 1];
  const mean = count ? sum / count : null;
  return {
    count,
    mean,
    sd: count ? Math.sqrt(Math.max(0, squares / count - mean * mean)) : null,
    lowest: count ? lowest : null,
    highest: count ? highest : null,
    area: Math.PI * radiusX * columnMm * radiusY * rowMm,
    unit: spacing ? "mm²" : "px²",
  };
}

/** A round length (1, 2 or 5 times a power of ten) that is drawn at most `longest` CSS pixels long: {value, unit, pixels}. */
export function scaleBar(at, spacing, longest) {
  const perUnit = at.scaleX / (spacing ? spacing[1] : 1);
  const most = longest / perUnit;
  const power = 10 ** Math.floor(Math.log10(most));
  const value = [5, 2, 1].map((step) => step * power).find((length) => length <= most) ?? power;
  return { value, unit: spacing ? "mm" : "px", pixels: value * perUnit };
}

/** Columns of a grid in which `count` panes of the image's shape get largest. */
export function gridColumns(count, width, height, image) {
  let best = 1,
    largest = 0;
  for (let columns = 1; columns <= count; columns++) {
    const pane = { width: width / columns, height: height / Math.ceil(count / columns) };
    const [scale] = fitScale(pane, image);
    if (scale > largest * 1.001) [best, largest] = [columns, scale];
  }
  return best;
}
