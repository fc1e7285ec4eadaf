// Puts the page together: the desk writes runs, keys and pointers look at their tokens.

import { byId } from "./elements.js";
import { chosenModels, setUpDesk, whatIsAsked } from "./desk.js";
import { drop, dropSoon, look, looking, pick, stay, takePicked } from "./glass.js";
import { isWriting, run, stop } from "./runs.js";
import { setUpKept } from "./kept.js";
import { keepToken, listModels, ServerError } from "./server.js";
import { remember, remembered } from "./memory.js";
import { chooseLanguage, knows, label, say, speakRemembered, whenSpoken } from "./speech.js";
import { toast } from "./elements.js";

const THEMES = ["auto", "light", "dark"];

let models = [];

async function begin() {
  setUpTheme();
  setUpViews();
  setUpKept(() => cards().forEach((card) => card.showKept()));
  setUpDialogs();
  for (const button of document.querySelectorAll("[data-language]")) button.addEventListener("click", () => chooseLanguage(button.dataset.language));
  speakRemembered();
  models = await knownModels();
  setUpDesk(models);
  document.title = models.length === 1 ? `${models[0].id} · tunesmith` : "tunesmith";
  byId("show-copies").hidden = !models.some((model) => model.has_training_data);
  byId("desk").addEventListener("submit", (event) => {
    event.preventDefault();
    writeAsAsked();
  });
  byId("stop-writing").addEventListener("click", stop);
  addEventListener("keydown", onKey);
  setUpPointer();
  document.body.dataset.ready = "yes";
}

async function knownModels() {
  for (;;) {
    try {
      return await listModels();
    } catch (error) {
      if (error.status === 401) await askForToken();
      else {
        byId("blank").querySelector("[data-text=blank_title]").textContent = messageOf(error);
        await new Promise((done) => setTimeout(done, 2000));
        byId("blank").querySelector("[data-text=blank_title]").textContent = say("blank_title");
      }
    }
  }
}

function askForToken() {
  const dialog = byId("token-dialog");
  dialog.showModal();
  return new Promise((done) => {
    byId("token-form").addEventListener(
      "submit",
      () => {
        keepToken(byId("token").value);
        done();
      },
      { once: true },
    );
    dialog.addEventListener("cancel", (event) => event.preventDefault(), { once: true });
  });
}

const messageOf = (error) => (knows(`error_${error.code}`) ? say(`error_${error.code}`) : error.message);

async function writeAsAsked() {
  const chosen = models.length === 1 ? models : models.filter((model) => chosenModels().includes(model.id));
  if (!chosen.length) {
    toast(say("no_model"));
    return;
  }
  await writing(chosen, whatIsAsked());
}

// From a text that is there, with all models; or, after another token was chosen, with the one that wrote it.
async function onward(beginning, model) {
  drop();
  byId("prompt").value = beginning;
  if (model) await writing([model], { ...whatIsAsked(), n: 1 });
  else await writeAsAsked();
}

async function writing(chosen, asked) {
  drop();
  showWriting(true);
  const ending = run(chosen, chosen.map((model) => models.indexOf(model)), asked, onward);
  byId("runs").firstChild.scrollIntoView({ block: "nearest", behavior: "instant" });
  if (matchMedia("(max-width: 860px)").matches) byId("runs").firstChild.scrollIntoView({ block: "start", behavior: "smooth" });
  try {
    await ending;
  } catch (error) {
    if (!(error instanceof ServerError)) throw error;
  } finally {
    if (!isWriting()) showWriting(false);
  }
}

function showWriting(now) {
  byId("write").hidden = now;
  byId("stop-writing").hidden = !now;
}

function setUpTheme() {
  const button = byId("theme-switch");
  let theme = THEMES.includes(remembered("theme")) ? remembered("theme") : "auto";
  const show = () => {
    document.documentElement.dataset.theme = theme;
    label(button, say("theme", { theme: say(`theme_${theme}`) }));
  };
  button.addEventListener("click", () => {
    theme = THEMES[(THEMES.indexOf(theme) + 1) % THEMES.length];
    remember("theme", theme);
    show();
    toast(say("theme", { theme: say(`theme_${theme}`) }));
  });
  whenSpoken(show);
  document.documentElement.dataset.theme = theme;
}

function setUpViews() {
  for (const [id, name, usual] of [
    ["show-probabilities", "probabilities", false],
    ["show-copies", "copies", true],
  ]) {
    const show = (on) => {
      byId(id).setAttribute("aria-pressed", on);
      byId("runs").classList.toggle(name, on);
    };
    byId(id).addEventListener("click", () => {
      const on = byId(id).getAttribute("aria-pressed") !== "true";
      remember(name, on);
      show(on);
    });
    show(remembered(name) ?? usual);
  }
}

function setUpDialogs() {
  byId("open-help").addEventListener("click", () => byId("help").showModal());
  for (const button of document.querySelectorAll("[data-close]")) button.addEventListener("click", () => button.closest("dialog").close());
  for (const dialog of [byId("kept"), byId("help")]) {
    dialog.addEventListener("click", (event) => event.target === dialog && dialog.close());
  }
}

function setUpPointer() {
  const runs = byId("runs");
  const tokenOf = (event) => event.target.closest?.(".token");
  runs.addEventListener("pointerover", (event) => {
    if (event.pointerType === "touch") return;
    const token = tokenOf(event);
    if (token) lookAt(token);
    else dropSoon();
  });
  runs.addEventListener("pointerleave", dropSoon);
  runs.addEventListener("click", (event) => {
    const token = tokenOf(event);
    if (token) lookAt(token);
    else if (!event.target.closest(".glass")) drop();
  });
  runs.addEventListener("focusout", dropSoon);
  byId("glass").addEventListener("pointerenter", stay);
  byId("glass").addEventListener("pointerleave", dropSoon);
  byId("glass").addEventListener("focusin", stay);
}

function lookAt(token) {
  const card = token.closest(".card").card;
  look(card, card.tokens.groups[token.dataset.place]);
}

const cards = () => [...document.querySelectorAll("#runs .card")].map((element) => element.card);

function onKey(event) {
  if (event.isComposing || event.keyCode === 229) return; // Enter that ends a conversion is not ours
  if (event.key === "Enter" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    if (!document.querySelector("dialog[open]")) byId("desk").requestSubmit();
    return;
  }
  if (event.ctrlKey || event.metaKey || event.altKey || document.querySelector("dialog[open]")) return;
  if (event.key === "Escape") {
    if (looking()) drop();
    else if (isWriting()) stop();
    else document.activeElement?.blur();
    return;
  }
  if (event.target.matches("input, textarea, select")) return;
  const act = KEYS[event.key.length === 1 ? event.key.toLowerCase() : event.key];
  if (act && act(event.target.closest?.(".card")?.card) !== false) event.preventDefault();
}

const KEYS = {
  "/": () => byId("prompt").focus(),
  "?": () => byId("help").showModal(),
  p: () => byId("show-probabilities").click(),
  m: () => byId("show-copies").click(),
  j: (card) => goToText(card, 1),
  k: (card) => goToText(card, -1),
  s: (card) => (card ? card.toggleKept() : false),
  c: (card) => (card ? void card.copy() : false),
  ArrowRight: (card) => goToToken(card, 1),
  ArrowLeft: (card) => goToToken(card, -1),
  ArrowDown: () => (looking() ? pick(1) : false),
  ArrowUp: () => (looking() ? pick(-1) : false),
  Enter: (card) => (card && looking() && document.activeElement === card.text ? takePicked() : false),
};

function goToText(card, step) {
  const all = cards();
  const place = card ? all.indexOf(card) + step : step > 0 ? 0 : all.length - 1;
  const next = all[Math.min(Math.max(place, 0), all.length - 1)];
  next?.text.focus({ preventScroll: true });
  next?.element.scrollIntoView({ block: "nearest" });
}

function goToToken(card, step) {
  if (!card || document.activeElement !== card.text) return false;
  const groups = card.tokens.groups;
  const here = looking()?.card === card ? groups.indexOf(looking().group) : step > 0 ? -1 : groups.length;
  const group = groups[here + step];
  if (!group) return true;
  group.element.scrollIntoView({ block: "nearest" });
  look(card, group);
  return true;
}

begin();
