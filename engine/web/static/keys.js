// Keyboard shortcuts of the player, their list, and the switch for those of one character.

import { byId } from "./dom.js";

const STORE = "stemify-keys";
const JUMP_S = 5;
const CONTROLS = "a, button, input, select, textarea, summary, [role=slider]";
const MOVES = /^(?:Arrow|Page|Home|End)/; // keys of a slider

export class Shortcuts {
  #more = {};

  constructor(mixer) {
    this.mixer = mixer;
    byId("use-keys").checked = isSwitchedOn();
    byId("use-keys").addEventListener("change", (event) => switchOn(event.target.checked));
    byId("show-keys").addEventListener("click", () => byId("keys").showModal());
    document.addEventListener("keydown", (event) => this.#press(event));
  }

  /** Add shortcuts: actions by code or character. */
  add(actions) {
    Object.assign(this.#more, actions);
  }

  #press(event) {
    const action = this.#belongsToPlayer(event) && this.#actionOf(event);
    if (!action) return;
    event.preventDefault();
    action();
  }

  /** Whether no other part of the page uses the key. */
  #belongsToPlayer({ target, key, altKey, ctrlKey, metaKey }) {
    if (altKey || ctrlKey || metaKey || document.querySelector("dialog[open]")) return false;
    const control = target.closest?.(CONTROLS);
    if (!control) return true;
    if (!byId("player").contains(control)) return false;
    if (control.matches("input[type=range]")) return !MOVES.test(key);
    if (control.matches("input, select, textarea")) return false;
    return key !== " " || control.matches("[role=slider]");
  }

  #actionOf({ code, key, shiftKey }) {
    const isCharacter = key.length === 1 && key !== " ";
    if (isCharacter && !byId("use-keys").checked) return null;
    const { mix, player, stems } = this.mixer;
    const stem = stems[/^(?:Digit|Numpad)([1-9])$/.exec(code)?.[1] - 1];
    if (stem) return () => (shiftKey ? mix.toggleSolo(stem.name) : mix.toggleMute(stem.name));
    const jump = shiftKey ? 1 : JUMP_S;
    const actions = {
      Space: () => this.mixer.toggle(),
      KeyK: () => this.mixer.toggle(),
      ArrowLeft: () => player.seek(player.position - jump),
      ArrowRight: () => player.seek(player.position + jump),
      KeyX: () => mix.toggleComparison(),
      Digit0: () => mix.apply(mix.presets[0]),
      "?": () => byId("keys").showModal(),
      ...this.#more,
    };
    return actions[code] ?? actions[key];
  }
}

function isSwitchedOn() {
  try {
    return localStorage.getItem(STORE) !== "off";
  } catch {
    return true; // storage may be forbidden
  }
}

function switchOn(isOn) {
  try {
    if (isOn) localStorage.removeItem(STORE);
    else localStorage.setItem(STORE, "off");
  } catch {
    // it is off until the page is left
  }
}
