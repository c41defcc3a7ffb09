// The style of the comparison, loaded with its first module.

import { el } from "../dom.js";

export function useStyle() {
  const href = new URL("./compare.css", import.meta.url).pathname;
  if (document.querySelector(`link[href="${href}"]`)) return;
  document.head.append(el("link", { rel: "stylesheet", href }));
}
