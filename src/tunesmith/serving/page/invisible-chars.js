// Text as it may be shown: what would be invisible, or turn the line around, is shown as a sign.

const ODD = /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200e\u200f\u2028-\u202e\u2066-\u2069\ufeff]/;

// A sign for each character that has none of its own; the others as they are. [{text, odd}, ...]
export function shown(text) {
  const parts = [];
  for (const character of text) {
    const odd = ODD.test(character);
    const sign = odd ? signOf(character.codePointAt(0)) : character;
    const last = parts.at(-1);
    if (last && last.odd === odd) last.text += sign;
    else parts.push({ text: sign, odd });
  }
  return parts;
}

function signOf(code) {
  if (code < 0x20) return String.fromCodePoint(0x2400 + code);
  if (code === 0x7f) return "\u2421";
  return `[U+${code.toString(16).toUpperCase().padStart(4, "0")}]`;
}

// On one line, with blanks that can be seen: for the names of tokens.
export function visible(text) {
  return shown(text)
    .map((part) => part.text)
    .join("")
    .replaceAll(" ", "\u00b7")
    .replaceAll("\n", "\u21b5")
    .replaceAll("\t", "\u21e5");
}
