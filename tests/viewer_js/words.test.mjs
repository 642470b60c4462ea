import assert from "node:assert/strict";
import { test } from "node:test";

import { inTwoDigits, outlineNames } from "../../ipfvision/ui/viewer/words.js";

const outline = (label, finding = "other", text = "Other") => ({ color: "#fff", dashed: true, text, label, finding });

test("equal names are one line with a count, and what is no finding goes by its own label", () => {
  const names = outlineNames([outline("arrowhead"), outline("arrowhead"), outline("left", "honeycombing", "Honeycombing"), outline("")]);
  assert.deepEqual(
    names.map((one) => one.text),
    ["2 \u00d7 arrowhead", "Honeycombing: left", "Other"],
  );
});

test("many names do not cover the image", () => {
  const names = outlineNames(Array.from({ length: 29 }, (_, index) => outline(`rib ${index}`)));
  assert.equal(names.length, 6);
  assert.equal(names.at(-1).text, "and 24 more");
});

test("as many names as there is room for are all named", () => {
  const names = outlineNames(Array.from({ length: 6 }, (_, index) => outline(`rib ${index}`)));
  assert.equal(names.at(-1).text, "rib 5");
});

test("a probability never claims certainty", () => {
  assert.deepEqual([0.004, 0.01, 0.936, 0.99, 0.997].map(inTwoDigits), ["under 0.01", "0.01", "0.94", "0.99", "over 0.99"]);
});
