// What the voice channel plays now, computed from the last event of the server. Events: "change", "song", "state".

export class Follower extends EventTarget {
  heard = null; // the last event, see engine/web/stage.py
  isGoing = false; // whether there is a session

  constructor(clock) {
    super();
    this.clock = clock;
  }

  show(heard) {
    const isOther = this.heard?.song !== heard.song;
    this.heard = heard;
    this.#setGoing(true);
    this.dispatchEvent(new Event("change"));
    if (isOther) this.dispatchEvent(new Event("song"));
  }

  end() {
    this.#setGoing(false);
  }

  #setGoing(isGoing) {
    if (isGoing === this.isGoing) return;
    this.isGoing = isGoing;
    this.dispatchEvent(new Event("state"));
  }

  /** The position in the song at its own tempo, in seconds. */
  get position() {
    if (!this.heard) return 0;
    const { atS, positionS, isPaused, tempo, loopS, durationS } = this.heard;
    let position = positionS + (isPaused ? 0 : Math.max(0, this.clock.now() - atS) * tempo);
    if (loopS && positionS < loopS[1] && position >= loopS[1]) {
      position = loopS[0] + ((position - loopS[0]) % (loopS[1] - loopS[0]));
    }
    return Math.min(position, durationS);
  }
}
