// The time of the server, found by asking for it several times: the answer with the shortest round trip is the least wrong.

const SAMPLES = 6;

export class ServerClock {
  #offset = null;

  /** `ask`: resolves to the server's time in seconds. */
  constructor(ask) {
    this.ask = ask;
  }

  /** Compare the clocks. If no request succeeds, the last offset stays. */
  async align() {
    let shortest = Infinity;
    for (let sample = 0; sample < SAMPLES; sample++) {
      const sent = seconds();
      const told = await this.ask().catch(() => null);
      const trip = seconds() - sent;
      if (told === null || trip >= shortest) continue;
      shortest = trip;
      this.#offset = told - (sent + trip / 2);
    }
  }

  get isAligned() {
    return this.#offset !== null;
  }

  /** The server's time in seconds; NaN before `align`. */
  now() {
    return seconds() + (this.#offset ?? NaN);
  }
}

const seconds = () => performance.now() / 1000;
