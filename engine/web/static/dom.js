// Create DOM elements. Text from outside is inserted as text, never as markup.

const SVG = "http://www.w3.org/2000/svg";

/** Create an element with properties (`class`, `on…` listeners, `aria-…` and other attributes) and children. */
export function el(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === undefined || value === null || value === false) continue;
    if (name.startsWith("on")) element.addEventListener(name.slice(2), value);
    else if (name === "class") element.className = value;
    else element.setAttribute(name, value === true ? "" : value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

export const byId = (id) => document.getElementById(id);

export function show(element, isShown) {
  element.hidden = !isShown;
}

/** Change a text only if it differs, so that nothing is painted or read out again. */
export function write(id, text) {
  if (byId(id).textContent !== text) byId(id).textContent = text;
}

/** Enable or disable a button, which keeps the focus, unlike one with the attribute `disabled`. */
export function enable(button, isEnabled) {
  button.setAttribute("aria-disabled", !isEnabled);
}

/** Focus an element if the focused one has disappeared. */
export function keepFocus(element) {
  const { activeElement, body } = document;
  if (activeElement && activeElement !== body && activeElement.getClientRects().length) return;
  if (element.tabIndex < 0) element.tabIndex = -1; // so that it can have the focus
  element.focus({ preventScroll: true });
}

const ICONS = {
  play: ["M8 5.2v13.6a1 1 0 0 0 1.5.86l11-6.8a1 1 0 0 0 0-1.72l-11-6.8A1 1 0 0 0 8 5.2z"],
  pause: ["M7 4.5h3.2v15H7zM13.8 4.5H17v15h-3.2z"],
  start: ["M6 5h2.4v14H6zM19 5.8v12.4a.8.8 0 0 1-1.24.66L9 12.66a.8.8 0 0 1 0-1.32l8.76-6.2A.8.8 0 0 1 19 5.8z"],
  loop: [
    "M17 2.5 21 6l-4 3.5V7H8a4 4 0 0 0-4 4v1H2v-1a6 6 0 0 1 6-6h9zM7 21.5 3 18l4-3.5V17h9a4 4 0 0 0 4-4v-1h2v1a6 6 0 0 1-6 6H7z",
  ],
  download: ["M11 3h2v9.2l3.3-3.3 1.4 1.4L12 16l-5.7-5.7 1.4-1.4 3.3 3.3zM4 18h16v2.2H4z"],
  volume: ["M4 9v6h3.5L13 19.5v-15L7.5 9zM15.5 8.2a5 5 0 0 1 0 7.6l1.3 1.5a7 7 0 0 0 0-10.6z"],
  close: ["M6.4 5 12 10.6 17.6 5 19 6.4 13.4 12l5.6 5.6-1.4 1.4-5.6-5.6L6.4 19 5 17.6l5.6-5.6L5 6.4z"],
  check: ["M9.5 17.2 4.3 12l1.5-1.5 3.7 3.7 8.7-8.7L19.7 7z"],
  alert: ["M12 3 1.8 20.5h20.4zM11 10h2v5h-2zm0 6.3h2v2h-2z"],
};

export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 24 24");
  svg.setAttribute("aria-hidden", "true");
  svg.classList.add("icon");
  for (const shape of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", shape);
    path.setAttribute("fill-rule", "evenodd");
    svg.append(path);
  }
  return svg;
}

/** Open a confirmation dialog. Resolves to whether the user confirmed. */
export function confirmed(dialog) {
  return new Promise((resolve) => {
    dialog.returnValue = "";
    dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true });
    dialog.showModal();
  });
}
