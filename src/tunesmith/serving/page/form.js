// The form: what is to be written, and how. Its values are remembered.

import { byId, make } from "./dom.js";
import { remember, remembered } from "./storage.js";
import { label, number, say, whenSpoken } from "./i18n.js";

const NUMBERS = ["temperature", "top_p", "max_tokens", "n", "seed", "top_k", "min_p", "repetition_penalty"];
const TEXTS = ["prompt", "stop"];
const SEEDS = 2 ** 31;

let held = false;

export function setUpForm(models) {
  const before = remembered("form") ?? {};
  for (const name of [...NUMBERS, ...TEXTS]) if (before[name] !== undefined) byId(name).value = before[name];
  hold(before.held ?? false);
  showModels(models, before.models);
  for (const name of ["temperature", "top_p"]) {
    byId(name).addEventListener("input", () => showSlider(name));
    showSlider(name);
  }
  byId("roll").addEventListener("click", roll);
  byId("hold").addEventListener("click", () => hold(!held));
  byId("seed").addEventListener("input", () => hold(true));
  byId("form").addEventListener("change", keep);
  whenSpoken(() => ["temperature", "top_p"].forEach(showSlider));
}

function showModels(models, chosen) {
  const known = models.filter((model) => chosen?.includes(model.id));
  models.forEach((model, place) => {
    const box = make("input");
    box.type = "checkbox";
    box.value = model.id;
    box.checked = known.length ? known.includes(model) : place < 2;
    const chip = make("label", "chip", box, make("span", "dot"), make("span", "name-of-model", model.id));
    chip.dataset.model = place % 4;
    byId("models").append(chip);
  });
  byId("models-field").hidden = models.length < 2;
}

function showSlider(name) {
  const slider = byId(name);
  const filled = (slider.value - slider.min) / (slider.max - slider.min);
  slider.style.setProperty("--filled", `${filled * 100}%`);
  byId(`${name}-value`).textContent = number(Number(slider.value), 2);
}

function roll() {
  byId("seed").value = Math.floor(Math.random() * SEEDS);
  keep();
}

function hold(wanted) {
  held = wanted;
  byId("hold").setAttribute("aria-pressed", held);
  label(byId("hold"), say("hold"));
  keep();
}

function keep() {
  const values = Object.fromEntries([...NUMBERS, ...TEXTS].map((name) => [name, byId(name).value]));
  remember("form", { ...values, held, models: chosenModels() });
}

export function chosenModels() {
  return [...document.querySelectorAll("#models input:checked")].map((box) => box.value);
}

// A request for completions without its model; each has a new seed unless the reader holds one.
export function whatIsAsked() {
  if (!held) roll();
  const asked = Object.fromEntries(NUMBERS.map((name) => [name, valueOf(byId(name))]));
  const stop = byId("stop").value.split("\n").filter(Boolean).map((line) => line.replaceAll("\\n", "\n"));
  keep();
  return { ...asked, prompt: byId("prompt").value, stop };
}

// What stands in a field, or the nearest that it may hold.
function valueOf(field) {
  const value = Number.isNaN(field.valueAsNumber) ? Number(field.defaultValue) : field.valueAsNumber;
  const least = Math.max(value, Number(field.min));
  const within = field.max === "" ? least : Math.min(least, Number(field.max));
  const whole = ["temperature", "top_p", "min_p", "repetition_penalty"].includes(field.id) ? within : Math.round(within);
  if (whole !== field.valueAsNumber) field.value = whole;
  return whole;
}
