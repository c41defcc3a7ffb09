// Decode one FLAC frame (RFC 9639).

const CRC8 = table(8, 0x07);
const CRC16 = table(16, 0x8005);

function table(width, polynomial) {
  const [top, mask] = [1 << (width - 1), 2 ** width - 1];
  return Uint16Array.from({ length: 256 }, (_, byte) => {
    let crc = byte << (width - 8);
    for (let bit = 0; bit < 8; bit++) crc = crc & top ? ((crc << 1) ^ polynomial) & mask : (crc << 1) & mask;
    return crc;
  });
}

function crc8(bytes, start, end) {
  let crc = 0;
  for (let at = start; at < end; at++) crc = CRC8[crc ^ bytes[at]];
  return crc;
}

function crc16(bytes, start, end) {
  let crc = 0;
  for (let at = start; at < end; at++) crc = ((crc << 8) & 0xffff) ^ CRC16[(crc >> 8) ^ bytes[at]];
  return crc;
}

/** Parse the header at `at`: {start, samples, assignment, bits, end}, or null. `start` is the frame's first sample. */
export function frameHeader(bytes, at, stream) {
  if (at + 16 > bytes.length || bytes[at] !== 0xff || (bytes[at + 1] & 0xfe) !== 0xf8) return null;
  const variable = bytes[at + 1] & 1;
  const [sizeCode, rateCode] = [bytes[at + 2] >> 4, bytes[at + 2] & 15];
  const [assignment, bitsCode] = [bytes[at + 3] >> 4, (bytes[at + 3] >> 1) & 7];
  if (!sizeCode || rateCode === 15 || assignment > 10 || bytes[at + 3] & 1) return null;
  let end = at + 4;
  // A number of up to 36 bits, coded like UTF-8.
  const extra = Math.clz32(~(bytes[end] << 24)) - 1;
  if (extra === 0 || extra > 6) return null;
  let number = extra < 0 ? bytes[end] : bytes[end] & (0x3f >> extra);
  end++;
  for (let i = 0; i < extra; i++) number = number * 64 + (bytes[end++] & 0x3f);
  let samples = sizeCode === 1 ? 192 : sizeCode < 6 ? 576 << (sizeCode - 2) : 256 << (sizeCode - 8);
  if (sizeCode === 6) samples = bytes[end++] + 1;
  if (sizeCode === 7) samples = ((bytes[end++] << 8) | bytes[end++]) + 1;
  end += rateCode === 12 ? 1 : rateCode > 12 ? 2 : 0;
  if (end >= bytes.length || crc8(bytes, at, end) !== bytes[end]) return null;
  const bits = [stream.bits, 8, 12, 0, 16, 20, 24, 32][bitsCode];
  return { at, start: variable ? number : number * stream.blockSamples, samples, assignment, bits, end: end + 1 };
}

/** Decode the frame of a header: {channels: [Int32Array, …], end}, or null if it is incomplete. `bytes` has at least
 * 8 bytes of padding after `length`. */
export function decodeFrame(bytes, length, header) {
  const bits = new Bits(bytes, header.end, length);
  const count = header.assignment < 8 ? header.assignment + 1 : 2;
  const channels = [];
  for (let channel = 0; channel < count; channel++) {
    const isSide = header.assignment > 7 && channel === (header.assignment === 9 ? 0 : 1);
    channels.push(subframe(bits, header.samples, header.bits + (isSide ? 1 : 0)));
    if (bits.isBeyond) return null;
  }
  const end = Math.ceil(bits.at / 8);
  if (end + 2 > length || crc16(bytes, header.at, end) !== ((bytes[end] << 8) | bytes[end + 1])) return null;
  separate(channels, header.assignment);
  return { channels, end: end + 2 };
}

/** Restore left and right from left/side, side/right or mid/side. */
function separate([left, right], assignment) {
  if (assignment < 8) return;
  for (let i = 0; i < left.length; i++) {
    const [a, b] = [left[i], right[i]];
    if (assignment === 8) right[i] = a - b;
    else if (assignment === 9) left[i] = a + b;
    else {
      left[i] = a + ((b + (b & 1)) >> 1);
      right[i] = left[i] - b;
    }
  }
}

function subframe(bits, samples, width) {
  const head = bits.read(8);
  const type = (head >> 1) & 0x3f;
  const wasted = head & 1 ? bits.unary() + 1 : 0;
  width -= wasted;
  const out = new Int32Array(samples);
  if (type === 0) out.fill(bits.signed(width));
  else if (type === 1) { for (let i = 0; i < samples; i++) out[i] = bits.signed(width); }
  else if (type >= 8 && type <= 12) fixed(bits, out, type - 8, width);
  else if (type >= 32) linear(bits, out, type - 31, width);
  if (wasted) { for (let i = 0; i < samples; i++) out[i] <<= wasted; }
  return out;
}

function fixed(bits, out, order, width) {
  for (let i = 0; i < order; i++) out[i] = bits.signed(width);
  residual(bits, out, order);
  const weights = [[], [1], [2, -1], [3, -3, 1], [4, -6, 4, -1]][order];
  predict(out, weights, 0);
}

function linear(bits, out, order, width) {
  for (let i = 0; i < order; i++) out[i] = bits.signed(width);
  const precision = bits.read(4) + 1;
  const shift = bits.signed(5);
  const weights = Array.from({ length: order }, () => bits.signed(precision));
  residual(bits, out, order);
  predict(out, weights, shift);
}

/** Turn residuals into samples. The sums need up to 45 bits; floats are exact up to 53. */
function predict(out, weights, shift) {
  const [order, divisor] = [weights.length, 2 ** shift];
  const float = Float64Array.from(weights);
  for (let i = order; i < out.length; i++) {
    let sum = 0;
    for (let j = 0; j < order; j++) sum += float[j] * out[i - 1 - j];
    out[i] += Math.floor(sum / divisor);
  }
}

function residual(bits, out, order) {
  const wide = bits.read(2) === 1;
  const partitions = 1 << bits.read(4);
  const each = out.length / partitions;
  for (let partition = 0, i = order; partition < partitions; partition++) {
    const end = (partition + 1) * each;
    const rice = bits.read(wide ? 5 : 4);
    if (rice === (wide ? 31 : 15)) {
      const width = bits.read(5);
      for (; i < end; i++) out[i] = width ? bits.signed(width) : 0;
    } else {
      for (; i < end; i++) {
        const value = bits.unary() * 2 ** rice + (rice ? bits.read(rice) : 0);
        out[i] = value % 2 ? -(value + 1) / 2 : value / 2;
      }
    }
    if (bits.isBeyond) return;
  }
}

class Bits {
  constructor(bytes, at, length) {
    this.bytes = bytes;
    this.at = at * 8;
    this.end = length * 8;
  }

  get isBeyond() {
    return this.at > this.end;
  }

  #next32() {
    const [bytes, byte, shift] = [this.bytes, this.at >>> 3, this.at & 7];
    const word = (bytes[byte] << 24) | (bytes[byte + 1] << 16) | (bytes[byte + 2] << 8) | bytes[byte + 3];
    return shift ? (word << shift) | (bytes[byte + 4] >> (8 - shift)) : word;
  }

  /** Read 1 to 32 bits as an unsigned number. */
  read(count) {
    if (this.at > this.end) return 0;
    const value = this.#next32() >>> (32 - count);
    this.at += count;
    return value;
  }

  signed(count) {
    if (this.at > this.end) return 0;
    const value = this.#next32() >> (32 - count);
    this.at += count;
    return value;
  }

  /** Count the zeros before the next one bit, and consume it. */
  unary() {
    let zeros = 0;
    while (this.at <= this.end) {
      const here = Math.clz32(this.#next32());
      zeros += here;
      this.at += here;
      if (here < 32) break;
    }
    this.at++;
    return zeros;
  }
}
