import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Drawing } from "../../ipfvision/ui/viewer/drawing.js";
import { Loader, Saver, outwards, slicesOf } from "../../ipfvision/ui/viewer/wire.js";

const settle = async () => {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
};
const answer = (status, body) => ({
  status,
  ok: status < 300,
  json: async () => structuredClone(body),
  arrayBuffer: async () => body,
});
const streamed = (...parts) => ({ status: 200, ok: true, body: new Blob(parts).stream() });
/** The first slice and how many a path asks for: "/w/3/pixels?count=2" is [3, 2]. */
const asksFor = (path) => [Number(path.split("/")[2]), Number(path.split("=")[1] ?? 1)];
/** Answers as the server does: slice i of four pixels is full of i. */
const numbered = (path) => {
  const [first, count] = asksFor(path);
  const values = new Int16Array(4 * count).map((_, place) => first + (place >> 2));
  return count === 1 ? answer(200, values.buffer) : streamed(values);
};
const arrived = async (all, slices) => {
  for (let turn = 0; turn < 200 && all.pixels.size < slices; turn++) await new Promise(setImmediate);
};

function loader(slices, { limit, fetch, kinds = {} }) {
  return new Loader({ base: "/w", sizes: new Array(slices).fill(4), kinds, changed() {}, limit, fetch });
}

test("slices are asked for from near to far", () => {
  assert.deepEqual([...outwards(2, 0, 6)], [2, 3, 1, 4, 0, 5, 6]);
  assert.deepEqual([...outwards(0, 0, 2)], [0, 1, 2]);
});

test("the slice on screen comes first, then its neighbors, and each once", async () => {
  const asked = [];
  const all = loader(7, {
    limit: 1e6,
    fetch: async (path) => (asked.push(asksFor(path)), numbered(path)),
  });
  all.want(3);
  await arrived(all, 7);
  assert.deepEqual(asked, [
    [3, 1],
    [4, 1],
    [2, 1],
    [5, 2],
    [0, 2],
  ]);
  for (let slice = 0; slice < 7; slice++) assert.deepEqual([...all.get(slice)], new Array(4).fill(32768 + slice));
  all.close();
});

test("a slice comes out of a stream as soon as it is complete, wherever the stream is cut", async () => {
  const bytes = new Uint8Array(24).map((_, place) => place),
    sizes = [4, 2, 6];
  for (const cut of [1, 3, 8, 23]) {
    const got = [];
    const stream = new ReadableStream({
      start(to) {
        for (let from = 0; from < 24; from += cut) to.enqueue(bytes.slice(from, from + cut));
        to.close();
      },
    });
    for await (const one of slicesOf(stream, sizes)) got.push([...new Uint8Array(one)]);
    assert.deepEqual(got, [[...bytes.slice(0, 8)], [...bytes.slice(8, 12)], [...bytes.slice(12)]]);
  }
});

test("a stream that is too short or too long is an error, and what was complete is not lost", async () => {
  for (const [length, complete] of [
    [23, 2],
    [26, 3],
  ]) {
    let got = 0;
    await assert.rejects(async () => {
      for await (const one of slicesOf(new Blob([new Uint8Array(length)]).stream(), [4, 2, 6])) got += Boolean(one);
    }, /slices than were asked for/);
    assert.equal(got, complete);
  }
});

test("a run is as long as the line is fast, and the slice on screen never waits for one", async () => {
  for (const [pace, longest] of [
    [1, 16],
    [100, 4],
    [1000, 1],
  ]) {
    const asked = [];
    const all = loader(100, { limit: 1e6, fetch: async (path) => (asked.push(asksFor(path)), numbered(path)) });
    all.pace = pace;
    all.want(50);
    assert.deepEqual(asked, [
      [50, 1],
      [51, longest],
      [50 - longest, longest],
    ]);
    await arrived(all, 100);
    assert.equal(
      asked.reduce((sum, [, count]) => sum + count, 0),
      100,
      "each slice once",
    );
    all.close();
  }
  const waiting = [],
    open = [];
  const busy = loader(100, {
    limit: 1e6,
    fetch: (path) => {
      open.push(asksFor(path));
      return open.length === 1 ? Promise.resolve(numbered(path)) : new Promise((done) => waiting.push(done));
    },
  });
  busy.want(0);
  await arrived(busy, 1);
  await settle();
  assert.equal(waiting.length, 3);
  busy.want(90);
  assert.deepEqual(open.at(-1), [90, 1]);
  busy.close();
});

test("a run that breaks off keeps what came, and asks for the rest alone", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const asked = [];
  const all = loader(20, {
    limit: 1e6,
    fetch: async (path) => {
      const [first, count] = asksFor(path);
      asked.push([first, count]);
      return count > 1 ? streamed(new Int16Array(4 * count - 1)) : numbered(path);
    },
  });
  all.want(0);
  for (let second = 0; second < 60; second++) {
    await arrived(all, 20);
    mock.timers.tick(1000);
  }
  assert.equal(all.pixels.size, 20);
  const runs = asked.filter(([, count]) => count > 1);
  assert.ok(runs.length >= 1);
  for (const [first, count] of runs) assert.ok(asked.some(([one, alone]) => alone === 1 && one === first + count - 1));
  all.close();
  mock.timers.reset();
});

test("the cache keeps its limit, and what it keeps is around the slice on screen", async () => {
  const few = loader(100, { limit: 10 * 8, fetch: async (path) => numbered(path) });
  for (const current of [0, 50, 99, 20]) {
    few.want(current);
    for (let turn = 0; turn < 100; turn++) await new Promise(setImmediate);
    assert.ok(few.get(current), `slice ${current}`);
    assert.ok(few.bytes <= 80, `${few.bytes} bytes`);
    assert.equal(few.pixels.size * 8, few.bytes);
  }
  assert.ok([...few.pixels.keys()].every((index) => Math.abs(index - 20) <= 10));
  few.close();
});

test("a map that was not ready is asked for again when readings have changed, and not before", async () => {
  const taken = [];
  let ready = false;
  const maps = { path: (index) => `${index}/maps`, wanted: () => true, take: (index, value) => taken.push(value) };
  const one = loader(1, {
    limit: 1e6,
    kinds: { maps },
    fetch: async (path) =>
      path.endsWith("maps") ? answer(ready ? 200 : 204, { a: 1 }) : answer(200, new Int16Array(4).buffer),
  });
  one.want(0);
  await settle();
  one.want(0);
  await settle();
  assert.deepEqual(taken, [null]);
  ready = true;
  one.forget("maps");
  await settle();
  assert.deepEqual(taken, [null, { a: 1 }]);
  one.close();
});

test("a request that fails each time is given up, and the rest goes on", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let asked = 0;
  const three = loader(3, {
    limit: 1e6,
    fetch: async (path) => {
      if (!path.startsWith("/w/1/")) return answer(200, new Int16Array(4).buffer);
      asked++;
      return answer(500);
    },
  });
  three.want(0);
  for (let second = 0; second < 30; second++) {
    await settle();
    mock.timers.tick(1000);
  }
  assert.equal(asked, 4);
  assert.ok(three.failed(1) && three.get(0) && three.get(2));
  assert.equal(three.trouble, "");
  three.close();
  mock.timers.reset();
});

test("a lost connection is said and tried again; a scan that is gone is not", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let online = false;
  const one = loader(1, {
    limit: 1e6,
    fetch: async () => {
      if (!online) throw new TypeError("Failed to fetch");
      return answer(200, new Int16Array(4).buffer);
    },
  });
  one.want(0);
  await settle();
  assert.match(one.trouble, /Trying again/);
  online = true;
  mock.timers.tick(600);
  await settle();
  assert.equal(one.trouble, "");
  assert.ok(one.get(0));
  one.close();
  const gone = loader(3, { limit: 1e6, fetch: async () => answer(404) });
  gone.want(0);
  await settle();
  assert.match(gone.trouble, /no longer holds/);
  mock.timers.reset();
});

function drawn(pixels = [1]) {
  const drawing = new Drawing(() => 6);
  drawing.load(0, 0, {});
  const mask = drawing.begin(0, "cyst");
  pixels.forEach((pixel) => (mask[pixel] = 1));
  drawing.commit();
  return drawing;
}

test("strokes are sent together, a moment after the last one", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const sent = [],
    told = [];
  const saver = new Saver({
    drawing: drawn(),
    url: (index) => `/${index}`,
    told: (...all) => told.push(all),
    merged() {},
    fetch: async (url, options) => (sent.push(JSON.parse(options.body)), answer(200, { revision: 1 })),
  });
  saver.touch(0);
  mock.timers.tick(150);
  saver.touch(0);
  mock.timers.tick(150);
  await settle();
  assert.deepEqual(sent, []);
  assert.equal(saver.status, "saving");
  mock.timers.tick(60);
  await settle();
  assert.deepEqual(sent, [{ revision: 0, findings: { cyst: [1, 1, 4] } }]);
  assert.deepEqual(told, [[0, 1]]);
  assert.equal(saver.status, "saved");
  mock.timers.reset();
});

test("without a connection the drawing waits, says so, and is sent when it is back", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  let online = false,
    sent = 0;
  const saver = new Saver({
    drawing: drawn(),
    url: () => "/0",
    told() {},
    merged() {},
    fetch: async () => {
      if (!online) throw new TypeError("Failed to fetch");
      sent++;
      return answer(200, { revision: 1 });
    },
  });
  saver.touch(0);
  mock.timers.tick(200);
  await settle();
  assert.equal(saver.status, "waiting");
  online = true;
  mock.timers.tick(600);
  await settle();
  assert.deepEqual([saver.status, sent, saver.dirty.size], ["saved", 1, 0]);
  mock.timers.reset();
});

test("where another tab was faster, both drawings are kept and sent with the new revision", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  const sent = [];
  let merged = 0;
  const saver = new Saver({
    drawing: drawn([1]),
    url: () => "/0",
    told() {},
    merged: () => merged++,
    fetch: async (url, options) => {
      sent.push(JSON.parse(options.body));
      return sent.length === 1 ? answer(409, { revision: 4, findings: { cyst: [4, 2] } }) : answer(200, { revision: 5 });
    },
  });
  saver.touch(0);
  mock.timers.tick(200);
  await settle();
  mock.timers.tick(200);
  await settle();
  assert.equal(merged, 1);
  assert.deepEqual(sent[1], { revision: 4, findings: { cyst: [1, 1, 2, 2] } });
  assert.equal(saver.status, "saved");
  mock.timers.reset();
});

test("a drawing that the server refuses is not said to be saved", async () => {
  mock.timers.enable({ apis: ["setTimeout"] });
  for (const [status, word] of [
    [404, "lost"],
    [413, "refused"],
    [423, "closed"],
  ]) {
    const saver = new Saver({ drawing: drawn(), url: () => "/0", told() {}, merged() {}, fetch: async () => answer(status) });
    saver.touch(0);
    mock.timers.tick(200);
    await settle();
    assert.equal(saver.status, word);
  }
  mock.timers.reset();
});

test("what is small enough outlives the page", async () => {
  let keepalive;
  const saver = new Saver({
    drawing: drawn(),
    url: () => "/0",
    told() {},
    merged() {},
    fetch: async (url, options) => ((keepalive = options.keepalive), answer(200, { revision: 1 })),
  });
  saver.touch(0);
  await saver.flush(true);
  assert.equal(keepalive, true);
  assert.equal(saver.status, "saved");
});
