// Texts that the reader wants to keep: in this browser, until they are removed.

import { append } from "./token-view.js";
import { byId, icon, make } from "./dom.js";
import { copyText } from "./clipboard.js";
import { remember, remembered } from "./storage.js";
import { label, say, whenSpoken } from "./i18n.js";

let texts = [];
let changed = () => {};

export function setUpKept(onChange) {
  texts = remembered("kept") ?? [];
  changed = onChange;
  byId("open-kept").addEventListener("click", () => byId("kept").showModal());
  byId("kept-copy").addEventListener("click", () => copyText(texts.map((one) => one.text).join("\n\n")));
  byId("kept-save").addEventListener("click", save);
  whenSpoken(show);
  show();
}

const isSame = (text, model) => (one) => one.text === text && one.model === model;

export const isKept = (text, model) => texts.some(isSame(text, model));

export function keep(text) {
  texts.unshift(text);
  show();
}

export function letGo(text, model) {
  texts = texts.filter((one) => !isSame(text, model)(one));
  show();
}

function show() {
  remember("kept", texts);
  byId("kept-count").textContent = texts.length;
  byId("kept-count").hidden = byId("kept-tools").hidden = texts.length === 0;
  byId("kept-empty").hidden = texts.length > 0;
  byId("kept-list").replaceChildren(...texts.map(entry));
  changed();
}

function entry(kept) {
  const text = make("div", "text");
  text.dir = "auto";
  append(text, kept.text);
  const copy = make("button", "tool", icon("copy"));
  const remove = make("button", "tool", icon("bin"));
  label(copy, say("copy"));
  label(remove, say("remove"));
  copy.addEventListener("click", () => copyText(kept.text));
  remove.addEventListener("click", () => letGo(kept.text, kept.model));
  const about = make("span", "seed-of-text", say("seed_of_text", { seed: kept.seed }));
  const name = make("span", "name-of-model", kept.model);
  return make("article", "kept-text", text, make("footer", "card-head", name, about, make("span", "card-tools", copy, remove)));
}

function save() {
  const lines = texts.map((kept) => `${JSON.stringify(kept)}\n`).join("");
  const link = make("a");
  link.href = URL.createObjectURL(new Blob([lines], { type: "application/jsonl" }));
  link.download = "tunesmith-texts.jsonl";
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 1000);
}
