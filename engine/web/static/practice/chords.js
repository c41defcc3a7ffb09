// The chords above the waves, in the key that is heard.

import { byId, el } from "../dom.js";

const SHARPS = ["C", "C#", "D", "D#", "E", "F", "F#", "G", "G#", "A", "A#", "B"];
const FLATS = ["C", "Db", "D", "Eb", "E", "F", "Gb", "G", "Ab", "A", "Bb", "B"];
const MAJOR_KEYS_WITH_FLATS = ["Db", "Eb", "F", "Ab", "Bb"];
const MINOR_THIRD = 3; // semitones

/** A chord or key, "Bbm" or "F# minor", some semitones higher. */
export function transposed(name, semitones, notes = SHARPS) {
  const [, note, rest] = /^([A-G][#b]?)(.*)$/.exec(name) ?? [];
  if (!note) return name;
  return notes[pitch(note, semitones)] + rest;
}

function pitch(note, semitones = 0) {
  const found = SHARPS.indexOf(note);
  return (((found < 0 ? FLATS.indexOf(note) : found) + semitones) % 12 + 12) % 12;
}

/** The names of the notes in a key: "A minor" is spelled like C major. */
export function notesIn(key) {
  const [, note, mode] = /^([A-G][#b]?) (major|minor)$/.exec(key ?? "") ?? [];
  if (!note) return SHARPS;
  return MAJOR_KEYS_WITH_FLATS.includes(FLATS[pitch(note, mode === "minor" ? MINOR_THIRD : 0)]) ? FLATS : SHARPS;
}

/** The chord that is heard when the song is some semitones higher; `key`: of the song, or null. */
export function heardChord(chord, key, semitones) {
  return semitones ? transposed(chord, semitones, notesIn(key && transposed(key, semitones))) : chord;
}

export class ChordLane {
  /** `chords`: [{start, end, chord}] in seconds; `key`: of the song, or null. */
  constructor(player, view, chords, key) {
    Object.assign(this, { player, view, chords, key });
    view.addEventListener("change", () => this.#draw());
    player.addEventListener("version", () => this.#draw());
    this.#draw();
    new ResizeObserver(() => this.#hideCutNames()).observe(byId("chords"));
  }

  #draw() {
    const semitones = this.player.version?.key ?? 0;
    const { from, to } = this.view;
    byId("chords").replaceChildren(
      ...this.chords.filter(({ start, end }) => end > from && start < to).map(({ start, end, chord }) => {
        const name = heardChord(chord, this.key, semitones);
        const box = el("span", { title: name }, name);
        const first = Math.max(0, this.view.shareAt(start));
        box.style.left = `${first * 100}%`;
        box.style.width = `${(Math.min(1, this.view.shareAt(end)) - first) * 100}%`;
        return box;
      }),
    );
    this.#hideCutNames();
  }

  #hideCutNames() {
    const boxes = [...byId("chords").children];
    const isCut = boxes.map((box) => box.scrollWidth > box.clientWidth);
    boxes.forEach((box, index) => box.classList.toggle("cut", isCut[index]));
  }
}
