// One text while it is written and afterwards: its head, its tokens, what can be done with it.

import { append, longest, TokenText } from "./tokens.js";
import { copyText } from "./clipboard.js";
import { icon, make } from "./elements.js";
import { isKept, keep, letGo } from "./kept.js";
import { knows, label, number, percent, say, whenSpoken, write } from "./speech.js";
import { findCopies } from "./server.js";

export class Card {
  // asked: the request; onward: called with a beginning to write on from, and with the model for a branch.
  constructor(model, place, asked, onward) {
    this.model = model;
    this.asked = asked;
    this.endOfText = "<|endoftext|>";
    this.state = "waiting";
    this.#onward = onward;
    this.#begun = undefined;
    this.#build(place);
    whenSpoken(() => this.#say());
    this.#say();
  }

  #onward;
  #begun;
  #took;
  #copies;
  #share;
  #error;

  #build(place) {
    this.text = make("div", "text");
    this.text.tabIndex = 0;
    this.text.dir = "auto";
    this.text.setAttribute("role", "group");
    if (this.asked.prompt) {
      const given = make("span", "given");
      append(given, this.asked.prompt);
      this.text.append(given);
    }
    this.written = make("span", "written");
    this.text.append(this.written);
    this.tokens = new TokenText(this.written);
    this.seedLabel = make("span", "seed-of-text");
    this.tools = {
      keep: this.#tool("keep", () => this.toggleKept()),
      copy: this.#tool("copy", () => this.copy()),
      onward: this.#tool("onward", () => this.#onward(this.whole)),
    };
    this.tools.keep.setAttribute("aria-pressed", false);
    const name = make("span", "name-of-model", this.model.id);
    name.title = this.model.id;
    const head = make("header", "card-head", make("span", "dot"), name, this.seedLabel, make("span", "card-tools", ...Object.values(this.tools)));
    this.foot = make("footer", "card-foot");
    this.element = make("article", "card writing", head, this.text, this.foot);
    this.element.dataset.model = place % 4;
    this.element.card = this;
  }

  #tool(name, act) {
    const button = make("button", "tool", icon(name));
    button.type = "button";
    button.addEventListener("click", act);
    return button;
  }

  get whole() {
    return this.asked.prompt + this.tokens.text;
  }

  get seed() {
    return this.asked.seed;
  }

  take(choice) {
    this.#begun ??= performance.now();
    this.state = "writing";
    this.asked.seed = choice.seed;
    this.tokens.add(choice.text, choice.logprobs);
    if (choice.finish_reason) this.#end(choice.finish_reason === "stop" ? "ended_itself" : "ended_length");
    else this.#say();
  }

  // The reader has stopped it, or the connection has.
  stop() {
    if (this.isOpen) this.#end("ended_stopped");
  }

  get isOpen() {
    return this.state === "waiting" || this.state === "writing";
  }

  fail(error) {
    if (!this.isOpen) return;
    this.#error = error;
    this.state = "failed";
    this.element.classList.remove("writing");
    this.element.classList.add("failed");
    this.#say();
  }

  async #end(state) {
    this.state = state;
    this.#took = this.#begun ? (performance.now() - this.#begun) / 1000 : 0;
    this.element.classList.remove("writing");
    if (state === "ended_itself") {
      const sign = make("span", "end", "\u220e");
      sign.setAttribute("aria-hidden", "true");
      this.text.append(sign);
    }
    this.#say();
    if (!this.model.has_training_data || !this.tokens.text) return;
    try {
      this.#copies = await findCopies(this.model.id, this.tokens.text);
      this.#share = this.tokens.mark(this.#copies);
      this.#say();
    } catch {
      // without marks, then; the text is there
    }
  }

  #say() {
    this.seedLabel.textContent = this.seed === undefined ? "" : say("seed_of_text", { seed: this.seed });
    for (const [name, button] of Object.entries(this.tools)) label(button, say(name));
    this.text.setAttribute("aria-label", this.model.id);
    if (this.state === "failed") {
      const key = `error_${this.#error.code}`;
      this.written.textContent = knows(key) ? say(key) : this.#error.message;
      this.foot.replaceChildren();
      return;
    }
    const parts = [];
    if (this.state === "waiting") parts.push(say("waiting"));
    else if (this.#took) {
      parts.push(say("tokens_and_speed", { tokens: number(this.tokens.count), speed: number(this.tokens.count / this.#took) }));
    } else parts.push(say("tokens_only", { tokens: number(this.tokens.count) }));
    if (!this.isOpen) parts.push(say(this.state));
    this.foot.replaceChildren(...parts.map((part) => make("span", "", part)), ...this.#copiedLine());
  }

  #copiedLine() {
    if (!this.#copies) return [];
    const most = longest(this.#copies);
    if (!most) return [make("span", "copied-share none", say("copied_none"))];
    return [make("span", "copied-share", say("copied_share", { ...most, share: percent(this.#share) }))];
  }

  async copy() {
    await copyText(this.whole);
  }

  toggleKept() {
    if (isKept(this.whole, this.model.id)) letGo(this.whole, this.model.id);
    else keep({ text: this.whole, prompt: this.asked.prompt, model: this.model.id, seed: this.seed, temperature: this.asked.temperature, top_p: this.asked.top_p });
    this.showKept();
  }

  showKept() {
    this.tools.keep.setAttribute("aria-pressed", isKept(this.whole, this.model.id));
  }

  // Another token instead of this one, and on from there.
  branch(group, name) {
    this.#onward(this.asked.prompt + this.tokens.before(group) + name, this.model);
  }
}
