// What the browser keeps for the reader. A browser that keeps nothing is no error.

export function remembered(name) {
  try {
    return JSON.parse(localStorage.getItem(`tunesmith.${name}`)) ?? undefined;
  } catch {
    return undefined;
  }
}

export function remember(name, value) {
  try {
    localStorage.setItem(`tunesmith.${name}`, JSON.stringify(value));
  } catch {
    // private windows and full disks: the page works without
  }
}
