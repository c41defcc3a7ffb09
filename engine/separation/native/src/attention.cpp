// softmax(query * key / sqrt(channels)) * value of several heads, without storing all scores (Dao et al.,
// "FlashAttention", 2022). Two blocks of queries alternate: while the tiles multiply for one, the vector units compute
// the softmax of the other ("FlashAttention-3", 2024). Scores need single precision, because they are exponents.

#include <cmath>

#include "multiply.h"

struct Attention {  // rows of heads * channels; pitches in floats
  const float *query, *key, *value;
  int64_t queries, keys, heads, channels, query_pitch, key_pitch;
  int64_t parts;  // per number: 1 or 3
  float* out;
  int64_t out_pitch;
};

namespace {

template <int N>
const int64_t kQueries = N == 1 ? 48 : 64;  // of a block
const int64_t kPanels = 8;                  // of keys at once
const int64_t kMostChannels = 128;
const float kLowest = -3e38f;
const float kAllowed = 10;  // how far scores may exceed `zero` before a rescale

thread_local Scratch packed_scratch;  // of every head, for all threads

// Pack keys (rows) as the columns of a matrix.
void pack_keys(const float* x, int64_t pitch, int64_t keys, int64_t channels, Half* to) {
  const int64_t steps = steps_of<3>(channels);
  alignas(64) uint32_t pairs[3][16][kMostChannels / 2];
  const Numbers<3> rows(pairs, 16, kMostChannels);
  for (int64_t first = 0; first < ceiling(keys, kColumns) * kColumns; first += 16) {
    const int64_t some = keys > first ? least(keys - first, 16) : 0;
    if (some < 16) memset(pairs, 0, sizeof pairs);
    split_rows(x + first * pitch, pitch, some, channels, rows);
    for (int64_t s = 0; s < steps; s++)
      for (int plane = 0; plane < 3; plane++) {
        uint32_t* tile =
            (uint32_t*)(to + ((first / kColumns * steps + s) * 3 + plane) * kPlane<3> + first / 16 % 2 * kTile);
        for (int i = 0; i < 16; i++)
          for (int j = 0; j < 16; j++) tile[16 * i + j] = pairs[plane][j][16 * s + i];
      }
  }
}

void pack_keys(const float* x, int64_t pitch, int64_t keys, int64_t channels, float* to) {
  const int64_t depth = steps_of<1>(channels) * kStep<1>;
  for (int64_t first = 0; first < keys; first += kColumns, to += depth * kColumns) {
    const int64_t some = least(keys - first, kColumns);
    memset(to, 0, depth * kColumns * sizeof(float));
    for (int64_t j = 0; j < some; j++)
      for (int64_t i = 0; i < channels; i++) to[i * kColumns + j] = x[(first + j) * pitch + i];
  }
}

// Pack values (rows) as the rows of a matrix.
void pack_values(const float* x, int64_t pitch, int64_t keys, int64_t channels, Half* to) {
  const int64_t panels = ceiling(channels, kColumns), steps = steps_of<2>(keys);
  alignas(64) Half halves[2][kStep<2>][kMostChannels];
  const Numbers<2> rows(halves, kStep<2>, kMostChannels);
  for (int64_t s = 0; s < steps; s++) {
    const int64_t some = least(keys - kStep<2> * s, kStep<2>);
    if (some < kStep<2>) memset(halves, 0, sizeof halves);
    split_rows(x + kStep<2> * s * pitch, pitch, some, channels, rows);
    for (int64_t p = 0; p < panels; p++)
      for (int plane = 0; plane < 2; plane++)
        for (int t = 0; t < 2; t++) {
          Half* tile = to + ((p * steps + s) * 2 + plane) * kPlane<2> + t * kTile;
          for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++)
              for (int k = 0; k < 2; k++)
                tile[32 * i + 2 * j + k] = halves[plane][2 * i + k][kColumns * p + 16 * t + j];
        }
  }
}

void pack_values(const float* x, int64_t pitch, int64_t keys, int64_t channels, float* to) {
  const int64_t depth = ceiling(keys, kColumns) * kColumns;
  for (int64_t first = 0; first < channels; first += kColumns, to += depth * kColumns)
    for (int64_t k = 0; k < depth; k++) {
      const int64_t some = k < keys ? least(channels - first, kColumns) : 0;
      memcpy(to + k * kColumns, x + k * pitch + first, some * sizeof(float));
      memset(to + k * kColumns + some, 0, (kColumns - some) * sizeof(float));
    }
}

// Queries and keys have S parts per number, shares and values V.
template <int S, int V>
struct Head {
  const Part<S>* keys;  // packed
  const Part<V>* values;
  int64_t count, panels;

  // Size of one panel.
  static int64_t of_keys(int64_t channels) { return steps_of<S>(channels) * S * kPlane<S>; }
  static int64_t of_values() { return kColumns / kStep<V> * V * kPlane<V>; }
};

// A block of queries and its progress through the keys. Scores are exponents of two.
template <int S, int V>
class Block {
 public:
  static size_t bytes(int64_t channels) {
    return kRowsAtOnce * (kPanels + ceiling(channels, kColumns)) * kColumns * sizeof(float) +
           Numbers<S>::bytes(kRowsAtOnce, pitch_of<S>(channels)) +
           Numbers<V>::bytes(kRowsAtOnce, pitch_of<V>(kPanels * kColumns));
  }

  Block(void* memory, int64_t channels)
      : channels_(channels),
        panels_(ceiling(channels, kColumns)),
        scores_((float*)memory),
        sums_(scores_ + kRowsAtOnce * kPanels * kColumns),
        queries_(sums_ + kRowsAtOnce * panels_ * kColumns, kRowsAtOnce, pitch_of<S>(channels)),
        shares_(queries_.end(), kRowsAtOnce, pitch_of<V>(kPanels * kColumns)) {}

  void begin(const Attention& o, int64_t head, int64_t first) {
    first_ = first;
    rows_ = first < o.queries ? least(o.queries - first, kRowsAtOnce) : 0;
    const float scale = kLog2OfE / std::sqrt((float)o.channels);
    for (int64_t r = 0; r < rows_; r++) {
      const float* from = o.query + (first + r) * o.query_pitch + head * o.channels;
      float scaled[kMostChannels];
      for (int64_t i = 0; i < o.channels; i++) scaled[i] = from[i] * scale;
      split_rows(scaled, 0, 1, o.channels, queries_.from(r, 0));
    }
    softened_ = rows_;
  }

  // Add the values of the last scores, then compute the scores of the keys from `panel` on.
  template <class VectorWork>
  void advance(const Head<S, V>& head, int64_t panel, VectorWork vector_work) {
    if (panel > 0) {
      const int64_t before = panel - kPanels, some = least(head.panels - before, kPanels);
      for (int64_t i = 0; i < panels_; i++)
        multiply_block(shares_, rows_, head.values + (i * head.panels + before) * head.of_values(),
                       some * kColumns / kStep<V>, sums_ + i * kRowsAtOnce * kColumns, before > 0, nullptr,
                       vector_work);
    }
    const int64_t some = least(head.panels - panel, kPanels);
    for (int64_t i = 0; i < some; i++)
      multiply_block(queries_, rows_, head.keys + (panel + i) * head.of_keys(channels_), steps_of<S>(channels_),
                     scores_ + i * kRowsAtOnce * kColumns, false, nullptr, vector_work);
    if (some > 0) {
      softened_ = 0;
      valid_ = least(head.count - panel * kColumns, some * kColumns);
      is_first_ = panel == 0;
    }
  }

  // Apply the running softmax to more rows of scores.
  void soften(int64_t rows) {
    for (; rows && softened_ < rows_; rows--) soften_row(softened_++);
  }

  void end(const Attention& o, int64_t head) const {
    for (int64_t r = 0; r < rows_; r++) {
      const float part = 1 / sum_of(totals_[r]);
      for (int64_t c = 0; c < o.channels; c += 16) {
        const Vector v = load(sums_ + (c / kColumns * kRowsAtOnce + r) * kColumns + c % kColumns) * part;
        store_some(o.out + (first_ + r) * o.out_pitch + head * o.channels + c, v, o.channels - c);
      }
    }
  }

 private:
  static const int64_t kRowsAtOnce = kQueries<S>;

  void soften_row(int64_t r) {
    const int64_t pitch = kRowsAtOnce * kColumns, panels = ceiling(valid_, kColumns);
    float* scores = scores_ + r * kColumns;
    for (int64_t i = valid_; i < panels * kColumns; i++) scores[i / kColumns * pitch + i % kColumns] = kLowest;
    Vector most = larger(load(scores), load(scores + 16));
    for (int64_t i = 1; i < panels; i++)
      most = larger(most, larger(load(scores + i * pitch), load(scores + i * pitch + 16)));
    if (is_first_) {
      zero_[r] = largest(most);
      totals_[r] = Vector{};
    } else if (any_above(most, zero_[r] + kAllowed)) {
      rescale(r, largest(most));
    }
    const float zero = zero_[r];
    Vector total = totals_[r];
    for (int64_t i = 0; i < panels; i++) {
      const Vector left = exp2_of(load(scores + i * pitch) - zero),
                   right = exp2_of(load(scores + i * pitch + 16) - zero);
      total += left + right;
      split(left, right, shares_.from(r, i * kColumns));
    }
    totals_[r] = total;
  }

  // Rescale the sums to a new `zero`.
  void rescale(int64_t r, float zero) {
    const float factor = exp2_of(all(zero_[r] - zero))[0];
    zero_[r] = zero;
    totals_[r] *= all(factor);
    for (int64_t i = 0; i < panels_; i++)
      for (int64_t c = 0; c < kColumns; c += 16) {
        float* sums = sums_ + (i * kRowsAtOnce + r) * kColumns + c;
        store(sums, load(sums) * factor);
      }
  }

  int64_t channels_, panels_, first_ = 0, rows_ = 0, softened_ = 0, valid_ = 0;
  bool is_first_ = true;
  float *scores_, *sums_;  // in panels
  Numbers<S> queries_;
  Numbers<V> shares_;
  float zero_[kRowsAtOnce];  // score with the share 1, near the largest so far
  Vector totals_[kRowsAtOnce];
};

template <int S, int V>
Result attend(const Attention& o) {
  const int64_t panels = ceiling(o.keys, kColumns), steps = steps_of<S>(o.channels), queries = kQueries<S>;
  const int64_t keys = panels * Head<S, V>::of_keys(o.channels),
                values = ceiling(o.channels, kColumns) * panels * Head<S, V>::of_values();
  const int64_t with_a_step = ceiling(queries, 2 * kPanels * steps), pairs = ceiling(o.queries, 2 * queries);
  Part<S>* all_keys = (Part<S>*)packed_scratch.bytes(o.heads * (keys * sizeof(Part<S>) + values * sizeof(Part<V>)));
  const size_t block = Block<S, V>::bytes(o.channels);
  const ThreadMemory blocks(2 * block);
  if (all_keys == nullptr || blocks.is_missing()) return kNoMemory;
  Part<V>* all_values = (Part<V>*)(all_keys + o.heads * keys);
#pragma omp parallel
  {
    Units<S> units;
    char* memory = blocks.own();
    Block<S, V> one(memory, o.channels), other(memory + block, o.channels);
#pragma omp for schedule(dynamic)
    for (int64_t h = 0; h < o.heads; h++) {
      pack_keys(o.key + h * o.channels, o.key_pitch, o.keys, o.channels, all_keys + h * keys);
      pack_values(o.value + h * o.channels, o.key_pitch, o.keys, o.channels, all_values + h * values);
    }
#pragma omp for collapse(2) schedule(dynamic)
    for (int64_t h = 0; h < o.heads; h++)
      for (int64_t pair = 0; pair < pairs; pair++) {
        const Head<S, V> head{all_keys + h * keys, all_values + h * values, o.keys, panels};
        one.begin(o, h, 2 * pair * queries);
        other.begin(o, h, (2 * pair + 1) * queries);
        for (int64_t panel = 0; panel < panels + kPanels; panel += kPanels) {
          one.advance(head, panel, [&] { other.soften(with_a_step); });
          other.soften(queries);
          other.advance(head, panel, [&] { one.soften(with_a_step); });
          one.soften(queries);
        }
        one.end(o, h);
        other.end(o, h);
      }
  }
  return kDone;
}

}  // namespace

extern "C" int stemify_attend(const Attention* o) { return o->parts == 1 ? attend<1, 1>(*o) : attend<3, 2>(*o); }
