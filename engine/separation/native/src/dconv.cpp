// Add a branch of Demucs' DConv to every row of (rows, frames, channels): narrow convolution over the frames, norm,
// GELU, convolution of width one, norm, gate and scale. The norms are per row.
//
// The wide result is not normalised separately: its mean and variance follow from those of the hidden values, which
// have at most an eighth of the channels, so norm and scale are part of the product (see `ops/dconv.py`).

#include <cmath>

#include "multiply.h"

struct DConv {
  float* x;  // overwritten
  int64_t rows, frames, channels, taps, dilation, hidden;
  int64_t parts;                             // of a number: 1 or 3
  const void* narrow;                        // packed: the channels of every tap in whole steps
  const float *narrow_bias, *gain, *offset;  // per hidden channel, padded with zeros to whole vectors
  double narrow_eps, wide_eps;
  const void* wide;       // packed, gated: hidden channels and three more, see `wide_matrix`
  const double* gram;     // of the wide weights: (hidden, hidden)
  const double* centred;  // the same of weights and bias less their means: (hidden + 1, hidden + 1)
  const double* means;    // of weights and bias over the channels: (hidden + 1)
};

namespace {

template <int N>
const int64_t kBlock = N == 1 ? 240 : 256;  // frames: a multiple of `kRows`
const int64_t kMostVectors = 8;
const int64_t kChains = 8;  // independent sums, for the latency of an addition

thread_local Scratch row_scratch;

template <int N>
struct Row {
  const DConv& o;
  float* x;
  int64_t vectors, pitch, blocks;  // vectors and pitch of the hidden channels; blocks of frames
  double *parts, *given;           // a sum per block; the mean of every hidden channel, and a one
  float *hidden, *sums, *means, *products;
  ThreadMemory block_memory;

  static int64_t pitch_of_hidden(const DConv& o) { return ceiling(o.hidden, 16) * 16; }
  static int64_t blocks_of(const DConv& o) { return ceiling(o.frames, kBlock<N>); }

  static size_t bytes(const DConv& o) {
    const int64_t pitch = pitch_of_hidden(o), blocks = blocks_of(o);
    return ThreadMemory::rounded((blocks + o.hidden + 1) * sizeof(double)) +
           (o.frames + blocks + 1 + blocks * o.hidden) * pitch * sizeof(float);
  }

  static size_t bytes_of_block(const DConv& o) {
    const int64_t held = held_by_block(o), wide = pitch_of<N>(32 * ceiling(o.hidden + 3, 32));
    const size_t narrow = kRows<N> * kColumns * sizeof(float) + Numbers<N>::bytes(held, pitch_of<N>(o.channels)),
                 widen = kBlock<N> * kColumns * sizeof(float) + Numbers<N>::bytes(kBlock<N>, wide);
    return narrow > widen ? narrow : widen;
  }

  // Rows that the narrow convolution of a block reads.
  static int64_t held_by_block(const DConv& o) { return kBlock<N> + 2 * (o.taps / 2 * o.dilation) + kRows<N>; }

  Row(const DConv& task, int64_t row, char* memory, const ThreadMemory& of_blocks)
      : o(task),
        x(task.x + row * task.frames * task.channels),
        vectors(ceiling(task.hidden, 16)),
        pitch(pitch_of_hidden(task)),
        blocks(blocks_of(task)),
        parts((double*)memory),
        given(parts + blocks),
        hidden((float*)(memory + ThreadMemory::rounded((blocks + task.hidden + 1) * sizeof(double)))),
        sums(hidden + task.frames * pitch),
        means(sums + blocks * pitch),
        products(means + pitch),
        block_memory(of_blocks) {}

  int64_t frames_of(int64_t block) const { return least(o.frames - block * kBlock<N>, kBlock<N>); }
  float* hidden_of(int64_t block) const { return hidden + block * kBlock<N> * pitch; }

  // Apply the narrow convolution; return the sum of its results.
  double narrow(int64_t block) const {
    Units<N> units;
    const int64_t reach = o.taps / 2 * o.dilation, frames = frames_of(block), steps = steps_of<N>(o.channels),
                  wide = pitch_of<N>(o.channels);
    const int64_t held = held_by_block(o);
    const Part<N>* weight = (const Part<N>*)o.narrow;
    float* c = (float*)block_memory.own();
    const Numbers<N> rows(c + kRows<N> * kColumns, held, wide);
    const int64_t begin = block * kBlock<N> - reach, end = begin + frames + 2 * reach;  // zeros outside the song
    const int64_t first = begin < 0 ? 0 : begin, last = least(end, o.frames);
    for (int64_t f = begin; f < first; f++) rows.from(f - begin, 0).clear(steps * kStep<N>);
    for (int64_t f = last; f < end; f++) rows.from(f - begin, 0).clear(steps * kStep<N>);
    split_rows(x + first * o.channels, o.channels, last - first, o.channels, rows.from(first - begin, 0));
    float* to = hidden_of(block);
    Vector sum{};
    for (int64_t f = 0; f < frames; f += kRows<N>)
      for (int64_t p = 0; p < ceiling(o.hidden, kColumns); p++) {
        for (int64_t t = 0; t < o.taps; t++) {
          const Numbers<N> tapped = rows.from(f + t * o.dilation, 0);
          const Part<N>* panel = weight + (p * o.taps + t) * steps * N * kPlane<N>;
          if constexpr (N == 1)
            multiply_floats(tapped, kRows<1>, panel, steps, c, t > 0, least(vectors - 2 * p, 2), panel);
          else
            multiply_tiles(tapped, panel, steps, c, t > 0, Ahead{}, [] {});
        }
        for (int64_t v = 2 * p; v < least(2 * p + 2, vectors); v++) {
          const Vector bias = load(o.narrow_bias + 16 * v);
          for (int64_t r = 0; r < least(frames - f, kRows<N>); r++) {
            const Vector made = load(c + r * kColumns + 16 * (v - 2 * p)) + bias;
            store(to + (f + r) * pitch + 16 * v, made);
            sum += made;
          }
        }
      }
    return sum_of(sum);
  }

  double deviation(int64_t block, double mean) const {
    Vector sums[kChains]{};
    for (int64_t v = 0; v < vectors; v++) {
      const Vector less = within(v, (float)mean);
      const float* from = hidden_of(block) + 16 * v;
      const int64_t frames = frames_of(block), even = frames / kChains * kChains;
      for (int64_t f = 0; f < even; f += kChains, from += kChains * pitch)
        for (int64_t i = 0; i < kChains; i++) {
          const Vector apart = load(from + i * pitch) - less;
          sums[i] += apart * apart;
        }
      for (int64_t f = even; f < frames; f++, from += pitch) {
        const Vector apart = load(from) - less;
        sums[0] += apart * apart;
      }
    }
    Vector sum{};
    for (const Vector part : sums) sum += part;
    return sum_of(sum);
  }

  // Apply norm and GELU; store the sum of each channel.
  void activate(int64_t block, double mean, double factor, float* sums) const {
    for (int64_t v = 0; v < vectors; v++) {
      const Vector gain = load(o.gain + 16 * v) * (float)factor, offset = load(o.offset + 16 * v) - gain * (float)mean;
      float* at = hidden_of(block) + 16 * v;
      Vector sum{};
      for (int64_t f = 0; f < frames_of(block); f++, at += pitch) {
        const Vector made = gelu(load(at) * gain + offset);
        store(at, made);
        sum += made;
      }
      store(sums + 16 * v, sum);
    }
  }

  // Store the unscaled covariance matrix: (hidden, hidden padded).
  void covary(int64_t block, const float* means, float* sums) const {
    for (int64_t v = 0; v < vectors; v++)
      for (int64_t i = 0; i < pitch; i += kChains) {
        Vector sum[kChains]{};
        const Vector less = load(means + 16 * v);
        const float* from = hidden_of(block);
        for (int64_t f = 0; f < frames_of(block); f++, from += pitch) {
          const Vector apart = load(from + 16 * v) - less;
          for (int64_t j = 0; j < kChains; j++) sum[j] += (from[i + j] - means[i + j]) * apart;
        }
        for (int64_t j = 0; j < kChains && i + j < o.hidden; j++) store(sums + (i + j) * pitch + 16 * v, sum[j]);
      }
  }

  // Add the gated wide product to the row.
  void widen(int64_t block, double mean, double factor) const {
    Units<N> units;
    const int64_t frames = frames_of(block), steps = steps_of<N>(o.hidden + 3);
    const int64_t pairs = ceiling(o.hidden + 3, 32), wide = pitch_of<N>(32 * pairs);  // of vectors
    float* c = (float*)block_memory.own();
    const Numbers<N> rows(c + kBlock<N> * kColumns, kBlock<N>, wide);
    const Part<N>* weight = (const Part<N>*)o.wide;
    alignas(64) float rest[16 * (kMostVectors + 2)] = {};
    rest[o.hidden] = (float)factor;
    rest[o.hidden + 1] = (float)(mean * factor);
    rest[o.hidden + 2] = 1;
    const float* from = hidden_of(block);
    for (int64_t f = 0; f < frames; f++, from += pitch)
      for (int64_t s = 0; s < pairs; s++) {
        Vector columns[2];
        for (int64_t i = 0; i < 2; i++) {
          const int64_t v = 2 * s + i;
          columns[i] = load(rest + 16 * v);
          if (v < vectors) columns[i] += load(from + 16 * v) * (float)factor;
        }
        split(columns[0], columns[1], rows.from(f, 32 * s));
      }
    for (int64_t p = 0; p < ceiling(o.channels, 16); p++) {
      multiply_rows(rows, frames, weight + p * steps * N * kPlane<N>, steps, c, [] {});
      float* to = x + block * kBlock<N> * o.channels + 16 * p;
      const int64_t width = o.channels - 16 * p;
      for (int64_t f = 0; f < frames; f++, to += o.channels) {
        const Vector made = load(c + f * kColumns) * sigmoid(load(c + f * kColumns + 16));
        store_some(to, load_some(to, width) + made, width);
      }
    }
  }

 private:
  // `number` for the hidden channels and zero for their padding.
  Vector within(int64_t vector, float number) const {
    Vector v{};
    for (int i = 0; i < 16; i++)
      if (16 * vector + i < o.hidden) v.set(i, number);
    return v;
  }
};

// `together`: all threads share the row.
template <int N>
void add(const Row<N>& row, bool together) {
  const DConv& o = row.o;
  const int64_t blocks = row.blocks, pitch = row.pitch, hidden = o.hidden;
  double *parts = row.parts, *given = row.given;
  float* means = row.means;
  const auto summed = [&] {
    double sum = 0;  // in a fixed order, for reproducible results
    for (int64_t b = 0; b < blocks; b++) sum += parts[b];
    return sum;
  };
#pragma omp parallel for schedule(dynamic) if (together)
  for (int64_t b = 0; b < blocks; b++) parts[b] = row.narrow(b);
  const double mean = summed() / (o.frames * hidden);
#pragma omp parallel for schedule(dynamic) if (together)
  for (int64_t b = 0; b < blocks; b++) parts[b] = row.deviation(b, mean);
  const double factor = 1 / std::sqrt(summed() / (o.frames * hidden) + o.narrow_eps);

  memset(means, 0, pitch * sizeof(float));
  given[hidden] = 1;
#pragma omp parallel for schedule(dynamic) if (together)
  for (int64_t b = 0; b < blocks; b++) row.activate(b, mean, factor, row.sums + b * pitch);
  for (int64_t i = 0; i < hidden; i++) {
    double sum = 0;
    for (int64_t b = 0; b < blocks; b++) sum += row.sums[b * pitch + i];
    given[i] = sum / o.frames;
    means[i] = (float)given[i];
  }
#pragma omp parallel for schedule(dynamic) if (together)
  for (int64_t b = 0; b < blocks; b++) row.covary(b, means, row.products + b * hidden * pitch);

  double within = 0, between = 0, wide_mean = 0;  // variance within the channels, and between their means
  for (int64_t i = 0; i < hidden; i++)
    for (int64_t j = 0; j < hidden; j++) {
      double sum = 0;
      for (int64_t b = 0; b < blocks; b++) sum += row.products[(b * hidden + i) * pitch + j];
      within += sum * o.gram[i * hidden + j];
    }
  for (int64_t i = 0; i <= hidden; i++) {
    wide_mean += o.means[i] * given[i];
    for (int64_t j = 0; j <= hidden; j++) between += given[i] * given[j] * o.centred[i * (hidden + 1) + j];
  }
  const double variance = (within / o.frames + between) / (2 * o.channels),
               wide_factor = 1 / std::sqrt(variance + o.wide_eps);
#pragma omp parallel for schedule(dynamic) if (together)
  for (int64_t b = 0; b < blocks; b++) row.widen(b, wide_mean, wide_factor);
}

template <int N>
Result add_dconv(const DConv& o) {
  // All threads share each of a few long rows; nested parallel loops would restart their threads.
  const bool together = o.rows < most_threads();
  const size_t of_row = ThreadMemory::rounded(Row<N>::bytes(o)), of_block = Row<N>::bytes_of_block(o);
  char* rows = row_scratch.bytes(together ? of_row : ThreadMemory::bytes_of_all(of_row));
  const ThreadMemory row_memory(rows, of_row), block_memory(of_block);
  if (row_memory.is_missing() || block_memory.is_missing()) return kNoMemory;
  if (together) {
    for (int64_t row = 0; row < o.rows; row++) add(Row<N>(o, row, rows, block_memory), true);
    return kDone;
  }
#pragma omp parallel for schedule(dynamic)
  for (int64_t row = 0; row < o.rows; row++)
    add(Row<N>(o, row, row_memory.own(), ThreadMemory(block_memory.own(), of_block)), false);
  return kDone;
}

}  // namespace

extern "C" int stemify_add_dconv(const DConv* o) { return o->parts == 1 ? add_dconv<1>(*o) : add_dconv<3>(*o); }
