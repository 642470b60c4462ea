import assert from "node:assert/strict";
import { mock, test } from "node:test";
import { Drawing } from "../../ipfvision/ui/viewer/drawing.js";
import { Loader, Saver, outwards } from "../../ipfvision/ui/viewer/wire.js";

const settle = async () => {
  for (let turn = 0; turn < 50; turn++) await Promise.resolve();
};
const answer = (status, body) => ({
  status,
  ok: status < 300,
  json: async () => structuredClone(body),
  arrayBuffer: async () => body,
});

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
    fetch: async (path) => (asked.push(Number(path.split("/")[2])), answer(200, new Int16Array(4).buffer)),
  });
  all.want(3);
  await settle();
  assert.deepEqual(asked, [3, 4, 2, 5, 1, 6, 0]);
  assert.equal(all.get(3)[0], 32768);
  all.close();
});

test("the cache keeps its limit, and what it keeps is around the slice on screen", async () => {
  const few = loader(100, { limit: 10 * 8, fetch: async () => answer(200, new Int16Array(4).buffer) });
  for (const current of [0, 50, 99, 20]) {
    few.want(current);
    await settle();
    await settle();
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
