// What the page asks the server for, and how errors come back.

let token = new URLSearchParams(location.hash.slice(1)).get("token") ?? sessionToken();

if (location.hash) history.replaceState(null, "", location.pathname); // the token is not for onlookers
if (token) keepToken(token);

export class ServerError extends Error {
  constructor(message, code, status) {
    super(message);
    this.code = code;
    this.status = status;
  }
}

export function keepToken(given) {
  token = given;
  try {
    sessionStorage.setItem("tunesmith.token", given);
  } catch {
    // then it is asked for again
  }
}

function sessionToken() {
  try {
    return sessionStorage.getItem("tunesmith.token");
  } catch {
    return null;
  }
}

async function ask(path, body, signal) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = body === undefined ? {} : { method: "POST", body: JSON.stringify(body) };
  if (body !== undefined) headers["Content-Type"] = "application/json";
  let response;
  try {
    response = await fetch(path, { ...options, headers, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw new ServerError(error.message, "unreachable");
  }
  if (!response.ok) throw await refusal(response);
  return response;
}

async function refusal(response) {
  try {
    const { error } = await response.json();
    return new ServerError(error.message, error.code, response.status);
  } catch {
    return new ServerError(response.statusText, null, response.status);
  }
}

export async function listModels() {
  return (await (await ask("/v1/models")).json()).data;
}

export async function findCopies(model, text) {
  return (await (await ask("/v1/overlap", { model, text })).json()).matches;
}

// The parts of a stream of completions as they come. [{index, text, logprobs, finish_reason, seed}, ...]
export async function* complete(request, signal) {
  const response = await ask("/v1/completions", { ...request, stream: true }, signal);
  const reader = response.body.pipeThrough(new TextDecoderStream()).getReader();
  let unread = "";
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) throw new ServerError("the stream ended too early", "broken");
      const messages = (unread + value).split("\n\n");
      unread = messages.pop();
      for (const message of messages) {
        if (message === "data: [DONE]") return;
        if (!message.startsWith("data: ")) continue;
        const { choices, error } = JSON.parse(message.slice("data: ".length));
        if (error) throw new ServerError(error.message, error.code);
        yield* choices;
      }
    }
  } catch (error) {
    if (error instanceof ServerError || error.name === "AbortError") throw error;
    throw new ServerError(error.message, "broken");
  } finally {
    reader.cancel().catch(() => {});
  }
}
