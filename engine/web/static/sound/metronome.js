// Clicks on the beats, and before playback begins. A click is a short tone, higher at the beginning of a bar.

const LENGTH_S = 0.03;
const DECAY_S = 0.006;
const LEVEL = 0.5;
const GLIDE_S = 0.003;
const STRONG_HZ = 1760;
const WEAK_HZ = 1175;

export class Metronome {
  beats = null; // of the song, see practice/beats.js; null: it is silent
  countsIn = false; // whether playback begins a bar later, with clicks
  #isOn = false;

  /** Make its sounds in a context. `output` is heard while it is on; count-ins are always heard. */
  attach(context, destination) {
    this.context = context;
    this.countInOutput = destination;
    this.output = context.createGain();
    this.output.gain.value = this.#isOn ? 1 : 0;
    this.output.connect(destination);
    this.tones = [WEAK_HZ, STRONG_HZ].map((frequency) => this.#tone(frequency));
  }

  get isOn() {
    return this.#isOn;
  }

  set isOn(isOn) {
    this.#isOn = isOn;
    this.output?.gain.setTargetAtTime(isOn ? 1 : 0, this.context.currentTime, GLIDE_S);
  }

  #tone(frequency) {
    const rate = this.context.sampleRate;
    const buffer = this.context.createBuffer(1, Math.ceil(LENGTH_S * rate), rate);
    const samples = buffer.getChannelData(0);
    for (let at = 0; at < samples.length; at++) {
      const seconds = at / rate;
      samples[at] = LEVEL * Math.cos(2 * Math.PI * frequency * seconds) * Math.exp(-seconds / DECAY_S);
    }
    return buffer;
  }

  /** Schedule a click at a time of the context; returns its source. */
  click(time, isStrong, output) {
    const source = this.context.createBufferSource();
    source.buffer = this.tones[Number(isStrong)];
    source.connect(output);
    source.start(time);
    return source;
  }
}
