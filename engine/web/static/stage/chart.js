// One song on the stage: chord, bar and beat in large letters, and a few bars of waves and chords around the position.

import { byId, el, show, write } from "../dom.js";
import { Beats } from "../practice/beats.js";
import { ChordLane, heardChord } from "../practice/chords.js";
import { Ruler } from "../practice/ruler.js";
import { View } from "../practice/view.js";
import { tallest, Waveform } from "../waveform.js";
import { STEM_NAMES } from "../words.js";

const TURN_BARS = 4; // the view turns so often, and shows twice as many
const TURN_S = 8; // of a song without bars

export class Chart {
  #lanes = new Map();

  /** `song`: {peaks, beats, chords, key} of the server; `heard`: of the follower. */
  constructor(song, heard) {
    this.song = song;
    this.view = new View(heard.durationS);
    this.beats = song.beats?.beats.length > 1 ? new Beats(song.beats) : null;
    this.version = new EventTarget(); // what ChordLane reads of a player
    this.version.version = { key: heard.key };
    const ruler = new Ruler(this.view);
    if (this.beats) ruler.showBeats(this.beats);
    show(byId("chords"), Boolean(song.chords));
    if (song.chords) new ChordLane(this.version, this.view, song.chords, song.key);
    const order = Object.keys(STEM_NAMES);
    const stems = [...heard.stems].sort((one, other) => order.indexOf(one) - order.indexOf(other));
    byId("lanes").replaceChildren(...stems.map((stem) => this.#lane(stem)));
    this.view.addEventListener("change", () => this.#zoom());
    this.#showPeaks();
    this.update(heard);
  }

  #lane(stem) {
    const wave = new Waveform();
    const name = STEM_NAMES[stem] ?? stem;
    const state = el("span", { class: "off" }, "off");
    const element = el(
      "section",
      { class: "lane", "data-stem": stem, "aria-label": name },
      el("p", { class: "lane-name" }, `${name} `, state),
      wave.element,
    );
    this.#lanes.set(stem, { wave, element, state });
    return element;
  }

  #showPeaks() {
    const peaks = this.song.peaks ?? {};
    const loudest = tallest(Object.values(peaks));
    for (const [stem, { wave }] of this.#lanes) if (peaks[stem]) wave.show(peaks[stem], loudest);
  }

  #zoom() {
    const { from, to, duration } = this.view;
    for (const { wave } of this.#lanes.values()) wave.zoom(from / duration, to / duration);
  }

  /** Show which stems are heard, and the chords in the key that is heard. */
  update({ muted, key }) {
    for (const [stem, { element, state }] of this.#lanes) {
      element.classList.toggle("silent", muted.includes(stem));
      show(state, muted.includes(stem));
    }
    if (key === this.version.version.key) return;
    this.version.version = { key };
    this.version.dispatchEvent(new Event("version"));
  }

  /** Show a position; in `calm` steps only beat by beat. */
  draw(position, calm) {
    const beat = this.#beatAt(position);
    const shown = calm ? (beat?.seconds ?? Math.floor(position)) : position;
    this.#turn(position, beat?.bar);
    byId("stage-area").style.setProperty("--played", `${(this.view.shareAt(shown) * 100).toFixed(2)}%`);
    write("bar", beat?.bar ? `Bar ${beat.bar}` : "");
    this.#drawBeat(beat);
    this.#drawChords(position);
  }

  /** The last beat: {seconds, bar, number in its bar}; null before the first one. */
  #beatAt(position) {
    const times = this.beats?.times ?? [];
    const index = times.findLastIndex(({ seconds }) => seconds <= position + 0.01);
    if (index < 0) return null;
    const first = times.findLastIndex(({ bar }, each) => bar !== null && each <= index);
    return { seconds: times[index].seconds, bar: times[first]?.bar ?? null, number: first < 0 ? null : index - first };
  }

  #turn(position, bar) {
    const first = bar ? Math.floor((bar - 1) / TURN_BARS) * TURN_BARS + 1 : null;
    const page = first ?? -1 - Math.floor(position / TURN_S);
    if (page === this.page && this.view.has(position)) return;
    this.page = page;
    const start = first ? this.beats.barAt(first)?.start : undefined;
    const from = start ?? Math.floor(position / TURN_S) * TURN_S;
    const to = start === undefined ? from + 2 * TURN_S : (this.beats.barAt(first + 2 * TURN_BARS)?.start ?? this.view.duration);
    this.view.show(from, to);
  }

  #drawBeat(beat) {
    const text = beat?.number ?? "";
    if (byId("beats").dataset.number === String(text)) return;
    byId("beats").dataset.number = text;
    const dots = text === "" ? [] : [0, 1, 2, 3].map((each) => el("i", { class: each === text ? "on" : "" }));
    byId("beats").replaceChildren(...dots);
  }

  #drawChords(position) {
    const { chords } = this.song;
    if (!chords) return;
    const now = chords.find(({ start, end }) => position >= start && position < end);
    const next = chords.find(({ start, chord }) => start > position && chord !== now?.chord);
    write("chord", now ? this.#chordName(now.chord) : "–");
    write("next-chord", next ? `then ${this.#chordName(next.chord)}` : "");
  }

  #chordName(chord) {
    return heardChord(chord, this.song.key, this.version.version.key);
  }
}
