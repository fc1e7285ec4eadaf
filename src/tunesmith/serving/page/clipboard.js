// Text for other programs, also where a browser gives a page no clipboard.

import { make, toast } from "./dom.js";
import { say } from "./i18n.js";

export async function copyText(text) {
  try {
    await navigator.clipboard.writeText(text);
  } catch {
    const area = make("textarea");
    area.value = text;
    document.body.append(area);
    area.select();
    document.execCommand("copy");
    area.remove();
  }
  toast(say("copied_now"));
}
