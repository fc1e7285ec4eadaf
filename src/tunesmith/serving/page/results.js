// Runs: what one press of the button wrote, a row for every text and a column for every model.

import { visible } from "./invisible-chars.js";
import { Card } from "./result-card.js";
import { byId, make } from "./dom.js";
import { complete, ServerError } from "./api.js";
import { number, say, whenSpoken } from "./i18n.js";

const MOST_RUNS = 20;
const LIKELIEST = 5;

let stopping;

export const isWriting = () => stopping !== undefined;

export function stop() {
  stopping?.abort();
}

// Lets each model write; `continueFrom` is what cards call to write on.
export async function run(models, places, asked, continueFrom) {
  stop();
  const mine = (stopping = new AbortController());
  const { n, ...rest } = asked;
  const cards = models.map((model, column) =>
    Array.from({ length: n }, (_, row) => new Card(model, places[column], { ...rest, seed: asked.seed + row }, continueFrom)),
  );
  show(asked, cards);
  try {
    await Promise.all(models.map((model, column) => writeWith(model, asked, cards[column], mine.signal)));
  } finally {
    if (stopping === mine) stopping = undefined;
  }
}

async function writeWith(model, asked, cards, signal) {
  try {
    for await (const choice of complete({ ...asked, model: model.id, logprobs: LIKELIEST }, signal)) cards[choice.index].take(choice);
  } catch (error) {
    if (error.name === "AbortError") cards.forEach((card) => card.stop());
    else {
      cards.forEach((card) => card.fail(error));
      if (!(error instanceof ServerError)) throw error;
    }
  }
}

function show(asked, cards) {
  const begin = make("span", "begin");
  const settings = make("span");
  const sayHead = () => {
    begin.textContent = asked.prompt ? visible(asked.prompt).replaceAll("\u00b7", " ") : say("from_nothing");
    settings.textContent = say("run_settings", { temperature: number(asked.temperature, 2), top_p: number(asked.top_p, 2) });
  };
  sayHead();
  whenSpoken(sayHead);
  const rows = cards[0].map((_, row) => {
    const line = make("div", "row", ...cards.map((column) => column[row].element));
    line.style.setProperty("--columns", columnsFor(cards.length));
    return line;
  });
  byId("blank").hidden = true;
  byId("runs").prepend(make("section", "run", make("header", "run-head", begin, settings), ...rows));
  while (byId("runs").children.length > MOST_RUNS) byId("runs").lastChild.remove();
}

const columnsFor = (models) => Math.min(models, 3);
