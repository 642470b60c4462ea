// From pointers to gestures. A gesture is {move(here), end(), cancel(), still}: `here` is {x, y} in the image and {screen} in
// the pane; while a `still` gesture runs the slice on screen does not change. The keyboard cursor makes the same gestures.

import { distance, panBy, toImage, toScreen, transform, zoomAt } from "./geometry.js";
import { flood, paintLine, paintPolygon } from "./masks.js";
import { reader } from "./raster.js";
import { DRAWING_TOOLS, dragWindow, withWindow } from "./state.js";

const HANDLE = { mouse: 9, pen: 12, touch: 20 };
const WHEEL_NOTCH = 60;
const SCROLL_DRAG = 14;
const SMALLEST = 4;

function pan(viewer, start) {
  let last = start.screen;
  return {
    move({ screen }) {
      viewer.change({ view: panBy(viewer.state.view, screen.x - last.x, screen.y - last.y, start.pane, viewer.image) });
      last = screen;
    },
  };
}

function windowing(viewer, start) {
  const scale = viewer.image.scale,
    from = viewer.state.windows[scale];
  return {
    move({ screen }) {
      viewer.change(
        withWindow(viewer.state, scale, dragWindow(from, screen.x - start.screen.x, screen.y - start.screen.y, scale)),
      );
    },
    cancel: () => viewer.change(withWindow(viewer.state, scale, from)),
  };
}

function scroll(viewer, start) {
  const from = viewer.state.slice;
  return { move: ({ screen }) => viewer.go(from + Math.round((screen.y - start.screen.y) / SCROLL_DRAG)) };
}

/** A new ruler or ellipse, or an end of one that is there already. */
function measure(viewer, start, kind) {
  const slice = viewer.shown,
    at = transform(viewer.state.view, start.pane, viewer.image);
  const near = (point) => {
    const there = toScreen(at, point);
    return Math.hypot(there.x - start.screen.x, there.y - start.screen.y) <= HANDLE[start.pointer];
  };
  const before = viewer.state.measures;
  let held = before.find((one) => one.slice === slice && (near(one.a) || near(one.b)));
  const fixed = held ? (near(held.b) ? held.a : held.b) : { x: start.x, y: start.y };
  if (!held) held = { slice, kind, a: fixed, b: fixed };
  const others = before.filter((one) => one !== held);
  const put = (b) => viewer.change({ measures: [...others, (held = { ...held, a: fixed, b })] });
  return {
    still: true,
    move: ({ x, y }) => put({ x, y }),
    end() {
      const long = distance(toScreen(at, held.a), toScreen(at, held.b)).value;
      if (long < SMALLEST) viewer.change({ measures: others });
      else viewer.announce(viewer.words.measure(held).join(", "));
    },
    cancel: () => viewer.change({ measures: before }),
  };
}

function drawing(viewer, start, tool) {
  const { state, image, drawing: drawn } = viewer,
    { columns, rows } = image;
  const mask = state.finding && drawn.begin(viewer.shown, state.finding);
  if (!mask) {
    viewer.announce("The drawing of this slice is still on its way. Try again in a moment.");
    return null;
  }
  const value = tool === "eraser" || start.erase ? 0 : 1;
  const changed = () => viewer.drawingChanged();
  const done = { still: true, end: () => viewer.commitDrawing(), cancel: () => (drawn.cancel(), changed()) };
  if (tool === "flood") {
    const read = reader(image.scale),
      pixels = viewer.loader.get(viewer.shown),
      [low, high] = state.range[image.scale];
    const area = new Uint8Array(mask.length);
    const reach = image.spacing ? state.reach / Math.sqrt(image.spacing[0] * image.spacing[1]) : state.reach;
    const inside = (index) => {
      const here = read(pixels[index] - 32768);
      return here !== null && here >= low && here <= high;
    };
    const count = flood(area, columns, rows, start, inside, reach);
    area.forEach((hit, index) => hit && (mask[index] = value));
    viewer.announce(count ? `${count} pixels` : "Nothing grown: this pixel is outside the range.");
    changed();
    return { ...done, move() {} };
  }
  if (tool === "polygon") {
    const points = (viewer.polygon = [{ x: start.x, y: start.y }]);
    const finish = () => (viewer.polygon = null);
    return {
      still: true,
      move({ x, y }) {
        points.push({ x, y });
        viewer.schedule();
      },
      end() {
        paintPolygon(mask, columns, rows, points, value);
        finish();
        done.end();
      },
      cancel() {
        finish();
        done.cancel();
      },
    };
  }
  let last = start;
  const stroke = (here) => {
    paintLine(mask, columns, rows, last, here, state.brush / 2, value);
    last = here;
    changed();
  };
  stroke(start);
  return { ...done, move: stroke };
}

/** The gesture of the active tool. */
export function begin(viewer, start) {
  const { tool } = viewer.state;
  if (viewer.shown === null) return null;
  if (tool === "window") return windowing(viewer, start);
  if (tool === "ruler" || tool === "ellipse") return measure(viewer, start, tool);
  if (DRAWING_TOOLS.has(tool)) return drawing(viewer, start, tool);
  return start.pointer === "touch" && viewer.state.view.zoom === 1 && viewer.count > 1
    ? scroll(viewer, start)
    : pan(viewer, start);
}

/** Listens to mouse, pen, fingers and wheel on the panes. */
export class Pointers {
  constructor(viewer, node, signal) {
    this.viewer = viewer;
    this.node = node;
    this.down = new Map();
    this.wheel = 0;
    const listen = (name, handle, options = {}) => node.addEventListener(name, handle.bind(this), { signal, ...options });
    listen("pointerdown", this.#down);
    listen("pointermove", this.#move);
    listen("pointerup", this.#up);
    listen("pointercancel", this.#cancel);
    listen("pointerleave", () => viewer.point(null));
    listen("wheel", this.#wheel, { passive: false });
    listen("dblclick", this.#double);
    listen("contextmenu", (event) => event.preventDefault());
  }

  #here(event, pane) {
    const box = pane.node.getBoundingClientRect(),
      screen = { x: event.clientX - box.left, y: event.clientY - box.top };
    return { pane, screen, ...toImage(transform(this.viewer.state.view, pane, this.viewer.image), screen) };
  }

  #down(event) {
    const pane = this.viewer.panes.at(event.target),
      { viewer } = this;
    if (!pane || event.target.closest("select, button")) return;
    this.node.setPointerCapture(event.pointerId);
    this.down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (event.pointerType === "touch" && this.down.size === 2) {
      viewer.stop();
      this.pinch = this.#fingers(pane);
      return;
    }
    if (this.down.size > 1 || viewer.gesture) return;
    const start = { ...this.#here(event, pane), pointer: event.pointerType || "mouse", erase: event.altKey };
    this.pane = pane;
    if (event.button === 2) viewer.start(windowing(viewer, start));
    else if (event.button === 1 || event.shiftKey) viewer.start(pan(viewer, start));
    else if (event.button === 0) viewer.start(begin(viewer, start));
    if (event.button === 1) event.preventDefault();
  }

  #move(event) {
    const { viewer } = this;
    if (this.down.has(event.pointerId)) this.down.set(event.pointerId, { x: event.clientX, y: event.clientY });
    if (this.pinch) {
      if (this.down.size !== 2) return;
      const now = this.#fingers(this.pinch.pane),
        { pane } = now;
      const view = panBy(viewer.state.view, now.x - this.pinch.x, now.y - this.pinch.y, pane, viewer.image);
      viewer.change({ view: zoomAt(view, now.apart / this.pinch.apart, now, pane, viewer.image) });
      this.pinch = now;
      return;
    }
    const pane = this.down.size ? this.pane : viewer.panes.at(event.target);
    if (!pane) return;
    // A brush must not cut corners: the browser hands over the points between two frames as well.
    const events = viewer.gesture?.still && event.getCoalescedEvents ? event.getCoalescedEvents() : [];
    for (const one of events.length ? events : [event]) {
      const here = this.#here(one, pane);
      viewer.gesture?.move(here);
      viewer.point(here);
    }
  }

  #up(event) {
    this.down.delete(event.pointerId);
    if (this.pinch) {
      if (!this.down.size) this.pinch = null;
      return;
    }
    if (!this.down.size) this.viewer.finish();
  }

  #cancel(event) {
    this.down.delete(event.pointerId);
    this.pinch = null;
    this.viewer.stop();
  }

  #fingers(pane) {
    const [a, b] = [...this.down.values()],
      box = pane.node.getBoundingClientRect();
    return {
      pane,
      x: (a.x + b.x) / 2 - box.left,
      y: (a.y + b.y) / 2 - box.top,
      apart: Math.max(10, Math.hypot(a.x - b.x, a.y - b.y)),
    };
  }

  #wheel(event) {
    const { viewer } = this,
      pane = viewer.panes.at(event.target);
    if (!pane) return;
    const lines = event.deltaMode === 1 ? 20 : 1,
      delta = event.deltaY * lines;
    if (event.ctrlKey || event.metaKey) {
      event.preventDefault();
      const { screen } = this.#here(event, pane);
      viewer.change({
        view: zoomAt(viewer.state.view, Math.exp(-Math.max(-60, Math.min(60, delta)) / 250), screen, pane, viewer.image),
      });
    } else if (viewer.count > 1) {
      event.preventDefault();
      // One step per notch of a wheel (100 to 120 in Chromium), and an even speed under a trackpad's many small steps.
      this.wheel = Math.sign(this.wheel) === Math.sign(delta) ? this.wheel : 0;
      this.wheel +=
        Math.abs(delta) >= WHEEL_NOTCH
          ? Math.sign(delta) * WHEEL_NOTCH * Math.max(1, Math.round(Math.abs(delta) / 120))
          : delta;
      const steps = Math.trunc(this.wheel / WHEEL_NOTCH);
      this.wheel -= steps * WHEEL_NOTCH;
      if (steps) viewer.go(viewer.state.slice + steps);
    }
    viewer.point(this.#here(event, pane));
  }

  #double(event) {
    // The captured pointer sends a double click to what holds the panes.
    const inside = event.target === this.node || this.viewer.panes.at(event.target);
    if (inside && ["move", "window"].includes(this.viewer.state.tool)) this.viewer.fit();
  }
}
