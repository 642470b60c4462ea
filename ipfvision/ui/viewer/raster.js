// From stored values to colors: windowing, heat map, agreement. Pure functions on typed arrays.
//
// Everything here does in single precision what ipfvision/core/window.py and overlay.py do with NumPy, in the same order, so that
// the picture on screen is the picture in the download.

/** The stored value that says: the scanner measured nothing here. */
export const PADDING = -32768;
/** What 1.0 is stored as where a slice has grey values and no Hounsfield units. */
const GREY_STEPS = 32767;

/** A stored value as a number in the slice's own scale (HU, or percent of grey); null where nothing was measured. */
export function reader(scale) {
  if (scale === "hounsfield") return (value) => (value === PADDING ? null : value);
  return (value) => (value === PADDING ? null : (value * 100) / GREY_STEPS);
}

const round = Math.fround;

/** Round half to even, as np.rint does; for values from 0 up to 2^31. */
function rint(value) {
  const up = (value + 0.5) | 0;
  return up - value === 0.5 && up & 1 ? up - 1 : up;
}

const little = new Uint8Array(new Uint32Array([1]).buffer)[0] === 1;
const opaque = little
  ? (r, g, b) => (255 << 24) | (b << 16) | (g << 8) | r
  : (r, g, b) => (r << 24) | (g << 16) | (b << 8) | 255;
const SHIFT = little ? [0, 8, 16] : [24, 16, 8];

/**
 * RGBA of each stored value, indexed by value + 32768.
 *
 * Hounsfield units: DICOM LINEAR (PS3.3 C.11.2.1.2.1). Grey: brightness and contrast in percent of the grey range.
 * Padding stays black when the picture is inverted.
 */
export function windowTable(window, scale, inverted, table = new Uint32Array(65536)) {
  const hounsfield = scale === "hounsfield";
  const lowest = hounsfield ? window.center - 0.5 - (window.width - 1) / 2 : (window.center - window.width / 2) / 100;
  const range = hounsfield ? window.width - 1 : window.width / 100;
  const low = round(lowest),
    wide = round(range),
    steps = round(GREY_STEPS);
  for (let index = 0; index < 65536; index++) {
    const stored = index - 32768;
    const value = hounsfield ? stored : round(stored / steps);
    let grey = range === 0 ? (value > lowest ? 1 : 0) : round(round(value - low) / wide);
    grey = grey < 0 ? 0 : grey > 1 ? 1 : grey;
    if (inverted) grey = round(1 - grey);
    const level = rint(round(grey * 255));
    table[index] = opaque(level, level, level);
  }
  table[0] = opaque(0, 0, 0);
  return table;
}

/** Look each pixel up. `pixels` holds the stored values plus 32768 (`asIndex`). */
export function applyTable(pixels, table, out) {
  for (let i = 0; i < pixels.length; i++) out[i] = table[pixels[i]];
}

/** Stored int16 values as unsigned indices of a window table, in place. */
export function asIndex(buffer) {
  const index = new Uint16Array(buffer);
  for (let i = 0; i < index.length; i++) index[i] ^= 0x8000;
  return index;
}

/** OpenCV's inferno without its dark quarter (overlay.DARKEST), entries 64 to 255: RGB in hexadecimal. */
const INFERNO =
  "57106e59106e5a116e5c126e5d126e5f136e61136e62146e64156e65156e67166e69166e6a176e6c186e6d186e6f196e71196e721a6e741a6e751b6e" +
  "771c6d781c6d7a1d6d7c1d6d7d1e6d7f1e6c801f6c82206c84206b85216b87216b88226a8a226a8c23698d23698f2469902568922568932667952667" +
  "9727669827669a28659b29649d29649f2a63a02a63a22b62a32c61a52c60a62d60a82e5fa92e5eab2f5ead305dae305cb0315bb1325ab3325ab43359" +
  "b63458b73557b93556ba3655bc3754bd3853bf3952c03a51c13a50c33b4fc43c4ec63d4dc73e4cc83f4bca404acb4149cc4248ce4347cf4446d04545" +
  "d24644d34743d44842d54a41d74b3fd84c3ed94d3dda4e3cdb503bdd513ade5238df5337e05536e15635e25734e35933e45a31e55c30e65d2fe75e2e" +
  "e8602de9612bea632aeb6429eb6628ec6726ed6925ee6a24ef6c23ef6e21f06f20f1711ff1731df2741cf3761bf37819f47918f57b17f57d15f67e14" +
  "f68013f78212f78410f8850ff8870ef8890cf98b0bf98c0af98e09fa9008fa9207fa9407fb9606fb9706fb9906fb9b06fb9d07fc9f07fca108fca309" +
  "fca50afca60cfca80dfcaa0ffcac11fcae12fcb014fcb216fcb418fbb61afbb81dfbba1ffbbc21fbbe23fac026fac228fac42afac62df9c72ff9c932" +
  "f9cb35f8cd37f8cf3af7d13df7d340f6d543f6d746f5d949f5db4cf4dd4ff4df53f4e156f3e35af3e55df2e661f2e865f2ea69f1ec6df1ed71f1ef75" +
  "f1f179f2f27df2f482f3f586f3f68af4f88ef5f992f6fa96f8fb9af9fc9dfafda1fcffa4";
const FIRST = 64;
const DARKEST = 0.25;

const COLORS = Uint8Array.from(INFERNO.match(/../g), (pair) => parseInt(pair, 16));

/** Where the color of a share of the full scale in [0, 1] starts in COLORS. */
const colorAt = (share) => (rint(round(round(DARKEST + round((1 - DARKEST) * share)) * 255)) - FIRST) * 3;

/** RGB of a share of the full scale in [0, 1]. */
export const heatColor = (share) => [...COLORS.subarray(colorAt(share), colorAt(share) + 3)];

/**
 * A coarse map on the slice's pixels, exactly as core.geometry.Crop.paste_cells does: each value at its cell's center, bilinear
 * between centers, constant beyond the outermost, 0 outside the crop. `out` may be the array of another slice of this size.
 */
export function pasteCells(map, columns, rows, out = new Float32Array(rows * columns)) {
  const [height, width] = map.shape,
    [left, top, cropWidth, cropHeight] = map.crop;
  out.fill(0);
  const across = cellsOf(columns, left, cropWidth, width),
    down = cellsOf(rows, top, cropHeight, height);
  const line = new Float64Array(width);
  for (let y = down.first; y < down.end; y++) {
    const upper = down.low[y] * width,
      lower = down.high[y] * width,
      weight = down.weight[y];
    for (let x = 0; x < width; x++) line[x] = map.values[upper + x] + (map.values[lower + x] - map.values[upper + x]) * weight;
    for (let x = across.first, at = y * columns + x; x < across.end; x++, at++) {
      const value = line[across.low[x]];
      out[at] = value + (line[across.high[x]] - value) * across.weight[x];
    }
  }
  return out;
}

/** For each pixel from `first` to before `end`, those inside the crop: the two cells it lies between and the weight of the second. */
function cellsOf(count, start, length, cells) {
  const found = { low: new Int32Array(count), high: new Int32Array(count), weight: new Float64Array(count) };
  found.first = Math.min(count, Math.max(0, start));
  found.end = Math.min(count, Math.max(0, start + length));
  for (let pixel = found.first; pixel < found.end; pixel++) {
    const at = Math.min(cells - 1, Math.max(0, round(((pixel + 0.5 - start) / length) * cells - 0.5)));
    found.low[pixel] = Math.floor(at);
    found.high[pixel] = Math.min(found.low[pixel] + 1, cells - 1);
    found.weight[pixel] = at - found.low[pixel];
  }
  return found;
}

/** Is the map drawn at this value? The rule of core.overlay.overlay: above zero, and not below the threshold. */
export function litRule(fullScale, threshold) {
  const scale = round(fullScale),
    limit = round(threshold);
  return (value) => value > 0 && round(value / scale) >= limit;
}

/**
 * Which pixels a heat map colors, how much, and with what: {count, at, keep, red, green, blue}, so that a pixel becomes
 * keep * grey + color. Where the map is zero or below the threshold there is no entry, and the CT stays as it is.
 */
export function heatLayer(values, fullScale, opacity, threshold, layer = emptyLayer(values.length)) {
  const lit = litRule(fullScale, threshold),
    scale = round(fullScale),
    strength = round(opacity);
  const { at, keep, red, green, blue } = layer;
  let count = 0;
  for (let i = 0; i < values.length; i++) {
    if (!lit(values[i])) continue;
    const share = Math.min(1, round(values[i] / scale)),
      color = colorAt(share);
    const alpha = round(strength * round(Math.sqrt(share)));
    at[count] = i;
    keep[count] = 1 - alpha;
    red[count] = COLORS[color] * alpha;
    green[count] = COLORS[color + 1] * alpha;
    blue[count] = COLORS[color + 2] * alpha;
    count++;
  }
  layer.count = count;
  return layer;
}

/** Room for a layer. Fresh memory costs more than what is written into it, so it is used again for the next slice. */
export function emptyLayer(size) {
  const channel = () => new Float32Array(size);
  return { count: 0, at: new Uint32Array(size), keep: channel(), red: channel(), green: channel(), blue: channel() };
}

/** Colors of the agreement pane: told apart by color-blind readers, and named in words beside the pane. */
export const AGREEMENT = { both: [53, 196, 168], map: [255, 159, 69], annotation: [96, 165, 255] };
const AGREEMENT_OPACITY = 0.5;

/** Where map and annotation agree and where not: `hot(index)` and `marked(index)` say which pixel is in which. */
export function agreementLayer(size, hot, marked, layer = emptyLayer(size)) {
  const parts = [null, AGREEMENT.map, AGREEMENT.annotation, AGREEMENT.both];
  let count = 0;
  for (let i = 0; i < size; i++) {
    const part = parts[(hot(i) ? 1 : 0) + (marked(i) ? 2 : 0)];
    if (part === null) continue;
    layer.at[count] = i;
    layer.keep[count] = 1 - AGREEMENT_OPACITY;
    layer.red[count] = part[0] * AGREEMENT_OPACITY;
    layer.green[count] = part[1] * AGREEMENT_OPACITY;
    layer.blue[count] = part[2] * AGREEMENT_OPACITY;
    count++;
  }
  layer.count = count;
  return layer;
}

/** Lay a layer over grey RGBA pixels, in place. */
export function blend(out, layer) {
  const { count, at, keep, red, green, blue } = layer;
  for (let n = 0; n < count; n++) {
    const i = at[n],
      grey = (out[i] >>> SHIFT[0]) & 255,
      kept = grey * keep[n];
    out[i] = opaque((kept + red[n] + 0.5) | 0, (kept + green[n] + 0.5) | 0, (kept + blue[n] + 0.5) | 0);
  }
}
