// The language of the page: chosen by the reader, else the browser's.

import { LANGUAGES } from "./locales.js";
import { remember, remembered } from "./storage.js";

let spoken = "en";

export function say(key, values = {}) {
  return LANGUAGES[spoken][key].replace(/\{(\w+)\}/g, (_, name) => values[name]);
}

export function knows(key) {
  return Object.hasOwn(LANGUAGES[spoken], key);
}

export function number(value, digits = 0) {
  return value.toLocaleString(spoken, { maximumFractionDigits: digits });
}

export function percent(share) {
  const digits = share < 0.0995 ? (share < 0.00095 ? 3 : 1) : 0;
  return share.toLocaleString(spoken, { style: "percent", maximumFractionDigits: digits });
}

export function speakRemembered() {
  const wanted = remembered("language") ?? navigator.languages.map((tag) => tag.slice(0, 2)).find((tag) => tag in LANGUAGES);
  speak(wanted in LANGUAGES ? wanted : "en");
}

// Says every text of the page anew; what is made later by the program is said by `whenSpoken`.
export function speak(language) {
  spoken = language;
  document.documentElement.lang = language;
  for (const element of document.querySelectorAll("[data-text]")) element.textContent = say(element.dataset.text);
  for (const element of document.querySelectorAll("[data-placeholder]")) element.placeholder = say(element.dataset.placeholder);
  for (const element of document.querySelectorAll("[data-label]")) label(element, say(element.dataset.label, { theme: "" }));
  for (const button of document.querySelectorAll("[data-language]")) button.setAttribute("aria-pressed", button.dataset.language === language);
  for (const tell of listeners) tell();
}

export function chooseLanguage(language) {
  remember("language", language);
  speak(language);
}

const listeners = [];

export function whenSpoken(tell) {
  listeners.push(tell);
}

export function label(element, text) {
  element.setAttribute("aria-label", text);
  if (element.matches("button")) element.title = text;
}

// A text that follows the language: kept on the element itself, so that `speak` finds it.
export function write(element, key, values) {
  if (values) {
    delete element.dataset.text;
    element.textContent = say(key, values);
  } else {
    element.dataset.text = key;
    element.textContent = say(key);
  }
  return element;
}
