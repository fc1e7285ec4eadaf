// The popover of a token: how likely it was, what else could have stood there, where it was copied from.

import { visible } from "./invisible-chars.js";
import { byId, make } from "./dom.js";
import { percent, say, write } from "./i18n.js";

const GAP = 8;

let held; // {card, group}
let picked = -1;
let hiding;

export function look(card, group) {
  clearTimeout(hiding);
  if (held?.group === group) return;
  drop();
  held = { card, group };
  picked = -1;
  group.element.classList.add("held");
  const popover = byId("popover");
  popover.replaceChildren(...group.parts.map((part) => partOf(part, card, group)));
  const choosable = choices().length > 0;
  popover.append(write(make("p", "hint"), choosable ? "of_the_model_choose" : "of_the_model"));
  if (group.copy) popover.append(write(make("p", "from"), "copied_from", group.copy));
  popover.hidden = false;
  place(popover, group.element);
}

export function drop() {
  clearTimeout(hiding);
  held?.group.element.classList.remove("held");
  held = undefined;
  byId("popover").hidden = true;
}

// A moment later, so that the pointer can travel from the token to the popover.
export function dropSoon() {
  clearTimeout(hiding);
  hiding = setTimeout(drop, 180);
}

export function stay() {
  clearTimeout(hiding);
}

export const looking = () => held;

// By key: the next or last of the choices.
export function pick(step) {
  const all = choices();
  if (!all.length) return;
  picked = (picked + step + all.length + (picked < 0 && step < 0 ? 1 : 0)) % all.length;
  all.forEach((choice, place) => choice.classList.toggle("picked", place === picked));
}

export function takePicked() {
  choices()[picked]?.click();
}

const choices = () => [...byId("popover").querySelectorAll("button.choice")];

function partOf(part, card, group) {
  const taken = [part.name, part.logprob];
  const others = part.likeliest.filter(([name]) => name !== part.name);
  const all = [...others, taken].sort((one, other) => other[1] - one[1]);
  const list = make("div", "likely", ...all.map(([name, logprob]) => choiceOf(name, logprob, name === part.name, card, group)));
  return make("div", "part", list);
}

function choiceOf(name, logprob, taken, card, group) {
  const usable = !taken && group.parts.length === 1 && !isPart(name) && name !== card.endOfText;
  const choice = make(usable ? "button" : "div", `choice${taken ? " taken" : ""}`, nameOf(name), make("span", "share", percent(Math.exp(logprob))));
  choice.style.setProperty("--share", Math.exp(logprob));
  if (usable) {
    choice.type = "button";
    choice.addEventListener("click", () => card.branch(group, name));
  }
  return choice;
}

const isPart = (name) => /^bytes:(\\x[0-9a-f]{2})+$/.test(name);

function nameOf(name) {
  if (name === "<|endoftext|>" || name === "</s>") return write(make("span", "token-name"), "end_of_text");
  if (isPart(name)) {
    const bytes = make("span", "token-name", name.slice("bytes:".length).replaceAll("\\x", " ").trim());
    bytes.title = say("part_of_character");
    return bytes;
  }
  return make("span", "token-name", visible(name));
}

function place(popover, token) {
  const box = token.getClientRects()[0] ?? token.getBoundingClientRect();
  const { offsetWidth: width, offsetHeight: height } = popover;
  const left = Math.min(Math.max(box.left - 12, GAP), document.documentElement.clientWidth - width - GAP);
  const below = box.bottom + GAP;
  const top = below + height > window.innerHeight && box.top - GAP - height > 0 ? box.top - GAP - height : below;
  popover.style.setProperty("left", `${left + window.scrollX}px`);
  popover.style.setProperty("top", `${top + window.scrollY}px`);
}
