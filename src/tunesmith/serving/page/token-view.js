// A text as tokens that can be looked at. Tokens that share a character stand in one element.

import { make } from "./dom.js";
import { shown } from "./invisible-chars.js";

const PLAIN_NATS = 0.7; // half: a coin's throw surprises nobody
const STRONGEST_NATS = 8;

export class TokenText {
  // Writes into an element; `looked` is called with the element of a token that is pointed at.
  constructor(element) {
    this.element = element;
    this.text = "";
    this.count = 0;
    this.groups = []; // {element, start, end, parts: [{name, logprob, likeliest}]}, in characters of the text
    this.length = 0;
  }

  // One part of a stream: more text, and the tokens that begin in it.
  add(text, logprobs) {
    const characters = [...text];
    const from = this.length;
    const starts = logprobs ? logprobs.text_offset.map((offset) => Math.max(offset - from, 0)) : [];
    this.#grow(characters.slice(0, starts.length ? starts[0] : characters.length));
    starts.forEach((start, place) => {
      const part = {
        name: logprobs.tokens[place],
        logprob: logprobs.token_logprobs[place],
        likeliest: Object.entries(logprobs.top_logprobs[place] ?? {}),
      };
      const end = place + 1 < starts.length ? starts[place + 1] : characters.length;
      const last = this.groups.at(-1);
      if (last && last.start === last.end && last.start === from + start) last.parts.push(part);
      else this.#begin(part);
      this.#grow(characters.slice(start, end));
      this.count += 1;
      this.#tint();
    });
    this.text += text;
  }

  #begin(part) {
    const element = make("span", "token");
    element.dataset.place = this.groups.length;
    this.groups.push({ element, start: this.length, end: this.length, parts: [part] });
    this.element.append(element);
  }

  #grow(characters) {
    if (!characters.length) return;
    const group = this.groups.at(-1);
    append(group ? group.element : this.element, characters.join(""));
    this.length += characters.length;
    if (group) group.end = this.length;
  }

  #tint() {
    const { element, parts } = this.groups.at(-1);
    const nats = -Math.min(...parts.map((part) => part.logprob));
    const surprise = Math.min(Math.max((nats - PLAIN_NATS) / (STRONGEST_NATS - PLAIN_NATS), 0), 1);
    element.style.setProperty("--surprise", surprise.toFixed(2));
  }

  // The text before a token.
  before(group) {
    return [...this.text].slice(0, group.start).join("");
  }

  // Marks what is copied; returns which share of the text that is.
  mark(copies) {
    let characters = 0;
    for (const group of this.groups) {
      const copy = longest(copies.filter((one) => one.start < group.end && group.start < one.end));
      group.copy = copy;
      group.element.classList.toggle("copied", Boolean(copy));
      if (copy) {
        group.element.dataset.copied = copy.tokens < 16 ? 1 : 2;
        characters += group.end - group.start;
      }
    }
    return this.length ? characters / this.length : 0;
  }
}

export function longest(copies) {
  return copies.reduce((most, copy) => (most && most.tokens >= copy.tokens ? most : copy), undefined);
}

export function append(element, text) {
  for (const part of shown(text)) {
    if (part.odd) element.append(make("span", "odd", part.text));
    else if (element.lastChild?.nodeType === Node.TEXT_NODE) element.lastChild.appendData(part.text);
    else element.append(part.text);
  }
}
