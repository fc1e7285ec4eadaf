// Follows a run: asks how far it is, and puts only what is new into the page, so that nothing moves under the reader.

const EVERY_MS = 1000;
const MOST_SHARE = 5; // a report that took long to make is asked for the less often
const bar = document.getElementById("bar");
const content = document.getElementById("content");
const trouble = document.getElementById("trouble");
const drawn = new WeakMap(); // plots, as the server drew them

let token = takeToken();
let words = { lost: "", over: "", token: "", only: null };
let shown = { name: undefined, version: undefined };
let restUntil = 0;
let isRunning = true;
let wake = () => {};

function takeToken() {
  const given = new URLSearchParams(location.hash.slice(1)).get("token");
  if (given) {
    history.replaceState(null, "", location.pathname); // the token is not for onlookers
    sessionStorage.setItem("tunesmith.token", given);
  }
  return given ?? sessionStorage.getItem("tunesmith.token");
}

async function ask(path, method = "GET") {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const answer = await fetch(path, { method, headers });
  if (answer.status === 401) throw new Error(words.token || (await answer.json()).error.message);
  if (!answer.ok) throw new Error((await answer.json()).error.message);
  return answer;
}

const chosen = () => new URLSearchParams(location.hash.slice(1)).get("run") ?? words.only;
const query = (name) => `?name=${encodeURIComponent(name)}`;

async function follow() {
  const name = chosen();
  if (name !== shown.name) {
    shown = { name, version: undefined };
    restUntil = 0;
    bar.replaceChildren();
    content.setAttribute("aria-busy", "true");
  }
  if (name === null) {
    await draw(content, "/runs");
    document.title = "tunesmith";
    return;
  }
  const state = await (await ask(`/run/state${query(name)}`)).json();
  isRunning = state.is_running;
  morphInto(bar, state.bar);
  document.title = `${name} · tunesmith`;
  if (state.version === shown.version || (state.is_running && performance.now() < restUntil)) return;
  const began = performance.now();
  await draw(content, `/run/report${query(name)}`);
  restUntil = performance.now() + MOST_SHARE * (performance.now() - began);
  if (name === chosen()) shown.version = state.version;
}

async function draw(place, path) {
  const html = await (await ask(path)).text();
  morphInto(place, html);
  place.setAttribute("aria-busy", "false");
  for (const plot of place.querySelectorAll(".plot")) {
    if (drawn.has(plot)) continue;
    drawn.set(plot, plot.outerHTML);
    globalThis.watchPointer(plot);
  }
}

function morphInto(place, html) {
  const fresh = place.cloneNode(false);
  fresh.innerHTML = html;
  morphChildren(place, fresh);
}

// Make the old node like the fresh one, and leave alone what is the same: open details, scroll, focus and selection stay.
function morph(old, fresh) {
  if (old.isEqualNode(fresh)) return;
  const isOther = old.nodeName !== fresh.nodeName || old.id !== fresh.id;
  if (isOther) return old.replaceWith(fresh);
  if (old.nodeType !== Node.ELEMENT_NODE) {
    old.data = fresh.data;
    return;
  }
  if (old.matches(".plot")) {
    if (drawn.get(old) !== fresh.outerHTML && !old.querySelector(".tip")) old.replaceWith(fresh);
    return;
  }
  const keeps = ["DETAILS", "DIALOG"].includes(old.nodeName) ? ["open"] : [];
  for (const { name } of [...old.attributes]) if (!fresh.hasAttribute(name) && !keeps.includes(name)) old.removeAttribute(name);
  for (const { name, value } of fresh.attributes) if (old.getAttribute(name) !== value) old.setAttribute(name, value);
  morphChildren(old, fresh);
}

function morphChildren(old, fresh) {
  const before = [...old.childNodes];
  const after = [...fresh.childNodes];
  after.forEach((child, place) => (place < before.length ? morph(before[place], child) : old.append(child)));
  before.slice(after.length).forEach((child) => child.remove());
}

async function requestAction(wanted) {
  await ask(`/run/actions/${wanted}${query(shown.name)}`, "POST");
  wake();
}

function say(text) {
  trouble.textContent = text;
  trouble.hidden = !text;
}

document.addEventListener("click", (event) => {
  const button = event.target.closest("button");
  if (button?.dataset.opens) document.getElementById(button.dataset.opens).showModal();
  if (button?.dataset.action) {
    button.disabled = button.closest("dialog") === null;
    requestAction(button.dataset.action).catch((error) => say(error.message));
  }
});
addEventListener("hashchange", () => wake());

async function begin() {
  for (;;) {
    try {
      if (!words.lost) words = await (await ask("/strings")).json();
      await follow();
      say("");
    } catch (error) {
      const isUnreachable = error instanceof TypeError; // fetch itself failed
      say(isUnreachable ? (isRunning ? words.lost : words.over) : error.message);
      if (isUnreachable && !isRunning) return;
    }
    await new Promise((done) => {
      wake = done;
      setTimeout(done, EVERY_MS);
    });
  }
}

begin();
