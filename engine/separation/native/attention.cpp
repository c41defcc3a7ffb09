// softmax(query * key / sqrt(channels)) * value of several heads, without the scores in memory (Dao et al.,
// "FlashAttention", 2022). Two blocks of queries take turns: while the tiles multiply for one, the vector units bring
// the other's scores to their softmax ("FlashAttention-3", 2024). Scores are as exact as single precision: an error in
// one is an error in the power of two that it stands for.

#include <cmath>

#include "tiles.h"

struct Attention {  // rows of heads * channels, of pitches in numbers
  const float *query, *key, *value;
  int64_t queries, keys, heads, channels, query_pitch, key_pitch;
  float* out;
  int64_t out_pitch;
};

namespace {

const int64_t kQueries = 64;  // of a block
const int64_t kPanels = 8;    // of keys at once
const int64_t kMostChannels = 128;
const float kLowest = -3e38f;
const float kAllowed = 10;  // how far scores may lie above what counts as one

// Keys, which are rows, as the columns of a packed matrix.
void pack_keys(const float* x, int64_t pitch, int64_t keys, int64_t channels, Half* to) {
  const int64_t steps = steps_of(channels);
  alignas(64) uint32_t pairs[3][16][kMostChannels / 2];
  const Halves<3> rows(pairs, 16, kMostChannels);
  for (int64_t first = 0; first < ceiling(keys, kColumns) * kColumns; first += 16) {
    const int64_t some = keys > first ? least(keys - first, 16) : 0;
    if (some < 16) memset(pairs, 0, sizeof pairs);
    split_rows(x + first * pitch, pitch, some, channels, rows);
    for (int64_t s = 0; s < steps; s++)
      for (int plane = 0; plane < 3; plane++) {
        uint32_t* tile =
            (uint32_t*)(to + (first / kColumns * steps + s) * 3 * kPlane + plane * kPlane + first / 16 % 2 * kTile);
        for (int i = 0; i < 16; i++)
          for (int j = 0; j < 16; j++) tile[16 * i + j] = pairs[plane][j][16 * s + i];
      }
  }
}

// Values, which are rows, as the rows of a packed matrix.
void pack_values(const float* x, int64_t pitch, int64_t keys, int64_t channels, Half* to) {
  const int64_t panels = steps_of(channels), steps = steps_of(keys);
  alignas(64) Half halves[2][kStep][kMostChannels];
  const Halves<2> rows(halves, kStep, kMostChannels);
  for (int64_t s = 0; s < steps; s++) {
    const int64_t some = least(keys - kStep * s, kStep);
    if (some < kStep) memset(halves, 0, sizeof halves);
    split_rows(x + kStep * s * pitch, pitch, some, channels, rows);
    for (int64_t p = 0; p < panels; p++)
      for (int plane = 0; plane < 2; plane++)
        for (int t = 0; t < 2; t++) {
          Half* tile = to + (p * steps + s) * 2 * kPlane + plane * kPlane + t * kTile;
          for (int i = 0; i < 16; i++)
            for (int j = 0; j < 16; j++)
              for (int k = 0; k < 2; k++)
                tile[32 * i + 2 * j + k] = halves[plane][2 * i + k][kColumns * p + 16 * t + j];
        }
  }
}

struct Head {
  const Half *keys, *values;  // packed
  int64_t count, panels, steps;
};

// A block of queries on its way through the keys. The scores are powers of two.
class Block {
 public:
  static size_t bytes(int64_t channels) {
    return kQueries * (kPanels + steps_of(channels)) * kColumns * sizeof(float) +
           Halves<3>::bytes(kQueries, pitch_of(channels)) + Halves<2>::bytes(kQueries, kDeepPitch);
  }

  Block(void* memory, int64_t channels)
      : steps_(steps_of(channels)),
        scores_((float*)memory),
        sums_(scores_ + kQueries * kPanels * kColumns),
        queries_(sums_ + kQueries * steps_ * kColumns, kQueries, pitch_of(channels)),
        shares_(queries_.at + 3 * queries_.apart, kQueries, kDeepPitch) {}

  void begin(const Attention& o, int64_t head, int64_t first) {
    first_ = first;
    rows_ = first < o.queries ? least(o.queries - first, kQueries) : 0;
    const float scale = kLog2OfE / std::sqrt((float)o.channels);
    for (int64_t r = 0; r < rows_; r++) {
      const float* from = o.query + (first + r) * o.query_pitch + head * o.channels;
      float scaled[kMostChannels];
      for (int64_t i = 0; i < o.channels; i++) scaled[i] = from[i] * scale;
      split_rows(scaled, 0, 1, o.channels, queries_.from(r, 0));
    }
    softened_ = rows_;
  }

  // What the last scores give, and the scores of the keys from panel `panel` on.
  template <class Meanwhile>
  void advance(const Head& head, int64_t panel, Meanwhile meanwhile) {
    if (panel > 0) {
      const int64_t before = panel - kPanels, some = least(head.panels - before, kPanels);
      for (int64_t i = 0; i < steps_; i++)
        multiply_block(shares_, rows_, head.values + (i * head.panels + before) * 2 * kPlane, some,
                       sums_ + i * kQueries * kColumns, before > 0, nullptr, meanwhile);
    }
    const int64_t some = least(head.panels - panel, kPanels);
    for (int64_t i = 0; i < some; i++)
      multiply_block(queries_, rows_, head.keys + (panel + i) * head.steps * 3 * kPlane, head.steps,
                     scores_ + i * kQueries * kColumns, false, nullptr, meanwhile);
    if (some > 0) {
      softened_ = 0;
      valid_ = least(head.count - panel * kColumns, some * kColumns);
      is_first_ = panel == 0;
    }
  }

  // The scores of some more rows to their softmax so far.
  void soften(int64_t rows) {
    for (; rows && softened_ < rows_; rows--) soften_row(softened_++);
  }

  void end(const Attention& o, int64_t head) const {
    for (int64_t r = 0; r < rows_; r++) {
      const float part = 1 / sum_of(totals_[r]);
      for (int64_t c = 0; c < o.channels; c += 16) {
        const Vector v = load(sums_ + (c / kColumns * kQueries + r) * kColumns + c % kColumns) * part;
        store_some(o.out + (first_ + r) * o.out_pitch + head * o.channels + c, v, o.channels - c);
      }
    }
  }

 private:
  static const int64_t kDeepPitch = (kPanels | 1) * kStep;

  void soften_row(int64_t r) {
    const int64_t pitch = kQueries * kColumns, panels = ceiling(valid_, kColumns);
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

  // What was summed, to where `zero` stands for one.
  void rescale(int64_t r, float zero) {
    const float factor = exp2_of(all(zero_[r] - zero))[0];
    zero_[r] = zero;
    totals_[r] *= factor;
    for (int64_t i = 0; i < steps_; i++)
      for (int64_t c = 0; c < kColumns; c += 16) {
        float* sums = sums_ + (i * kQueries + r) * kColumns + c;
        store(sums, load(sums) * factor);
      }
  }

  int64_t steps_, first_ = 0, rows_ = 0, softened_ = 0, valid_ = 0;
  bool is_first_ = true;
  float *scores_, *sums_;  // panels of 64 rows
  Halves<3> queries_;
  Halves<2> shares_;
  float zero_[kQueries];  // the score that counts as one, near the largest so far
  Vector totals_[kQueries];
};

}  // namespace

extern "C" void stemify_attend(const Attention* given) {
  const Attention& o = *given;
  const int64_t steps = steps_of(o.channels), panels = ceiling(o.keys, kColumns), packed = panels * steps * kPlane;
  const int64_t with_a_step = ceiling(kQueries, 2 * kPanels * steps);
#pragma omp parallel
  {
    Tiles tiles;
    char* memory = (char*)scratch.bytes((3 + 2) * packed * sizeof(Half) + 2 * Block::bytes(o.channels));
    Half *keys = (Half*)memory, *values = keys + 3 * packed;
    char* rest = (char*)(values + 2 * packed);
    Block one(rest, o.channels), other(rest + Block::bytes(o.channels), o.channels);
    const Head head{keys, values, o.keys, panels, steps};
#pragma omp for schedule(static)
    for (int64_t h = 0; h < o.heads; h++) {
      pack_keys(o.key + h * o.channels, o.key_pitch, o.keys, o.channels, keys);
      pack_values(o.value + h * o.channels, o.key_pitch, o.keys, o.channels, values);
      for (int64_t first = 0; first < o.queries; first += 2 * kQueries) {
        one.begin(o, h, first);
        other.begin(o, h, first + kQueries);
        for (int64_t panel = 0; panel < panels + kPanels; panel += kPanels) {
          one.advance(head, panel, [&] { other.soften(with_a_step); });
          other.soften(kQueries);
          other.advance(head, panel, [&] { one.soften(with_a_step); });
          one.soften(kQueries);
        }
        one.end(o, h);
        other.end(o, h);
      }
    }
  }
}
