// Building the page: elements and icons.

/** An element. `attributes` with a function value are listeners ("click"), others attributes; null leaves one out. */
export function element(tag, attributes = {}, ...children) {
  const node = document.createElement(tag);
  for (const [name, value] of Object.entries(attributes)) {
    if (typeof value === "function") node.addEventListener(name, value);
    else if (value !== null && value !== undefined) node.setAttribute(name, value);
  }
  node.append(...children.filter((child) => child !== null && child !== undefined));
  return node;
}

/** Set text only where it changes: the page is laid out again for each change. */
export function say(node, text) {
  if (node.textContent !== text) node.textContent = text;
}

/** Set an attribute only where it changes. */
export function mark(node, name, value) {
  const text = String(value);
  if (node.getAttribute(name) !== text) node.setAttribute(name, text);
}

const PATHS = {
  move: "M12 3v18M3 12h18M12 3l-2.5 2.5M12 3l2.5 2.5M12 21l-2.5-2.5M12 21l2.5-2.5M3 12l2.5-2.5M3 12l2.5 2.5M21 12l-2.5-2.5M21 12l-2.5 2.5",
  window: "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18zM12 3v18M12 7.5a4.5 4.5 0 0 1 0 9M12 10h4M12 14h4",
  ruler: "M3 17L17 3l4 4L7 21zM7 13l2 2M10 10l2.5 2.5M13 7l2 2",
  ellipse: "M12 5c5 0 9 3.1 9 7s-4 7-9 7s-9-3.1-9-7s4-7 9-7zM9 12h6M12 9.5v5",
  brush: "M20 4c-5 2-9 6-11 9l2 2c3-2 7-6 9-11zM8.5 14c-2.5 0-3.5 2-3.5 3.500c0 1.500-1 2.500-2 2.500c4 1.200 8 0 8-3.500z",
  eraser: "M4 15l9-10l7 6.500l-7.500 8.500h-4.500zM8.500 10l7 6.500M8 20h12",
  polygon: "M5 8c2-4 8-5 11-3s5 7 2 11s-9 4-12 1s-3-6-1-9zM5 8h.01",
  flood:
    "M12 3v4M12 17v4M3 12h4M17 12h4M12 9a3 3 0 1 0 0 6a3 3 0 1 0 0-6zM6 6l2.200 2.200M15.800 15.800L18 18M18 6l-2.200 2.200M8.200 15.800L6 18",
  undo: "M8 5L4 9l4 4M4 9h10a5.500 5.500 0 0 1 0 11H9",
  redo: "M16 5l4 4l-4 4M20 9H10a5.500 5.500 0 0 0 0 11h5",
  copy: "M4 4h11v11H4zM9 19h11V8M12 22l-3-3l3-3",
  fit: "M4 9V4h5M20 9V4h-5M4 15v5h5M20 15v5h-5M9 9h6v6H9z",
  invert: "M12 3a9 9 0 1 0 0 18zM12 3a9 9 0 0 1 0 18",
  clear: "M5 7h14M10 7V4h4v3M7 7l1 13h8l1-13M10 11v5M14 11v5",
  full: "M4 10V4h6M14 4h6v6M20 14v6h-6M10 20H4v-6",
  help: "M12 3a9 9 0 1 0 0 18a9 9 0 1 0 0-18zM9.500 9.500a2.500 2.500 0 1 1 3.500 2.300c-.7.4-1 .9-1 1.700M12 16.800v.2",
  close: "M6 6l12 12M18 6L6 18",
};

export function icon(name) {
  const svg = document.createElementNS("http://www.w3.org/2000/svg", "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  const path = document.createElementNS(svg.namespaceURI, "path");
  path.setAttribute("d", PATHS[name]);
  if (name === "invert") path.setAttribute("class", "half");
  svg.append(path);
  return svg;
}

/** A number with a real minus sign. */
export const number = (value, digits = 0) =>
  value
    .toFixed(digits)
    .replace(/^-(?=.*[1-9])/, "\u2212")
    .replace(/^-/, "");
