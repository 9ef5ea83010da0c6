// A loss over one positive and N negatives per row, forward and backward, in one pass over the gathered item rows.
//
//   s_j = score of e_j, e_j = a[id_j] + g; wrong contexts: e = a[target] + g~      x_j = s_j; BPR: s_j - s+
//   pointwise (BCE, gBCE, BPR)   loss = (beta softplus(-s+) + sum w_j softplus(x_j)) / norm,  u_j = w_j sigmoid(x_j)
//   PU                           prior softplus(-s+) + max(0, mean of w_j softplus(s_j) - prior softplus(s+)),  u_j as pointwise
//   margins (hinge, hard BPR)    the same mean of f(x_j),  u_j = w_j f'(x_j)
//   softmax                      l_j = s_j cold - c_j + ln w_j,  Z = sum exp l_j,  u_j = exp(l_j - max)
//   BPR-max, contrastive         u_j needs sums over the scores of the whole row: the items are read twice, and scored first
//   toward (R): the loss sees a s+ + (1 - a) s_j of a negative, ds_j is then (1 - a) times and ds+ gains a sum ds (dot only)
//   ds_j = u_j times one factor of the row, so that sum_j u_j e_j can run along while the scores come in: the softmax as the
//   online recurrence of attention. alpha = ds heat / (|p| |e|), beta = -ds s / |e|^2 (dot: ds, 0) as in src/ops/score.rs
//   dp = sum alpha e - (sum ds s / |p|^2) p      dg = sum beta e + (sum alpha) p      dg~ = alpha p + beta e
//
// Shapes   p, g, dp, dg (R,D)  a (V,D)  wrong, dwrong (R,W,D)  targets (R)  groups (R) or none  ids, log_q (G,N)  drop (R,N) bytes
//          weight (R,N)  row_weight, toward (R)  losses (R)
//          alpha, beta (R,1+N+W): slot 0 the positive, then negatives, then wrong contexts
// Defines  those of gathered.cuh; LOSS 0 BCE, 1 gBCE, 2 BPR, 3 softmax, 4 contrastive, 5 BPR-max, 6 hinge, 7 hard BPR;
//          8 PU; CORRECTION of the softmax 0 none, 1 classic, 2 revised
// Numbers  cold = 1 / temperature; c0, c1, c2 by loss: BCE and gBCE weight of the positive; contrastive tau_plus, beta, ln of the
//          least g; BPR-max lambda; hinge margin; hard BPR k, b, c; PU the prior
// Launch   a warp per row, four to a block
// Traffic  R (1+N) rows of a once (BPR-max, contrastive: twice); 8 R (1+N+W) bytes of records, written, read and written again
//   sampled_loss: reads at most 4 |p| + 4 |g| + 4 |a| + 4 |wrong| + 4 |targets| + 4 |groups| + 4 |ids| + 4 |log_q| + 4 |drop| + 4 |weight| + 4 |row_weight| + 4 |toward| + 4 |alpha| + 4 |beta|, writes 4 |dp| + 4 |dg| + 4 |dwrong| + 4 |losses| + 4 |alpha| + 4 |beta|
// Numerics f32 (HALF: of items rounded to bf16); exp and log to a few units in the last place
// Determinism  a list of a warp takes every LISTS-th slot in order, lists are added in a fixed tree
// Source   see src/loss/: Kang and McAuley 2018, Petrov and Macdonald 2023, Rendle et al. 2009, Khrylchenko et al. 2025,
//          Chuang et al. 2020, Robinson et al. 2021, Hidasi and Karatzoglou 2018, Yang et al. 2020, Shi et al. 2022,
//          Kiryo et al. 2017
#define ROOMY , 1
#include "gathered.cuh"
#include "reduce.cuh"

enum { BCE, GBCE, BPR, SOFTMAX, CONTRASTIVE, BPR_MAX, HINGE, HARD_BPR, PU };
enum { UNCORRECTED, CLASSIC, REVISED };
static constexpr bool WHOLE = LOSS == CONTRASTIVE || LOSS == BPR_MAX;                  // u needs sums over the whole row
static constexpr bool PAIRS = LOSS == BPR || LOSS == HINGE || LOSS == HARD_BPR;        // a function of s - s+

__device__ inline float sigmoid(float x) { return 1.0f / (1.0f + expf(-x)); }
__device__ inline float softplus(float x) { return fmaxf(x, 0.0f) + log1pf(expf(-fabsf(x))); }

// In every lane the largest of all 32; all of them must call it.
__device__ inline float warp_max(float x) {
  for (int step = 16; step > 0; step /= 2) x = fmaxf(x, __shfl_xor_sync(~0u, x, step));
  return x;
}

// exp(most) sum, and what share of it exp(l) is.
struct Total {
  float most, sum;
  __device__ float share(float l) const { return expf(l - most) / sum; }
};

// The sum over x < n of exp f(x); nothing leaves most at minus infinity. All lanes of the warp come along.
template <class F>
__device__ inline Total total_exp(u32 n, F f) {
  Total total{-INF, 0.0f};
  for (u32 x = threadIdx.x % 32; x < n; x += 32) total.most = fmaxf(total.most, f(x));
  total.most = warp_max(total.most);
  if (total.most == -INF) return total;
  for (u32 x = threadIdx.x % 32; x < n; x += 32) total.sum += expf(f(x) - total.most);
  total.sum = warp_sum(total.sum);
  return total;
}

// What a list has summed so far.
struct Sums {
  float most;                    // largest l
  float loss, weight, u;         // sums of w softplus, of w, of u
  float us, alpha;               // of u s, and without wrong contexts of u / |e|
  Part query, context;           // of u e / |e| and, without wrong contexts, of u s e / |e|^2

  __device__ void fade(float by) {
    u *= by, us *= by, alpha *= by;
    query.scale(by);
    if (COSINE && CONTEXT) context.scale(by);
  }
};

// A row's facts of one slot, and its share of the sums before the factor of the row.
struct Row {
  const float *log_q, *weight;   // of the row's slots, or null
  float positive, cold, log_drawn;
  float toward, stays;           // a and 1 - a
  float c0, c1, c2;
  // Contrastive: the sums of v exp((1 + beta) x) and of v exp(beta x); BPR-max: of exp s sigma(s+ - s) and of exp s.
  Total hard, tilted;
  float square;                  // BPR-max: sum w s^2
  float loss, factor, ds;        // of the row, of a loss that needs all its scores first; without scale

  // The score the loss sees.
  __device__ float seen(float s, bool wrong) const { return wrong ? s : fmaf(stays, s, toward * positive); }

  // ln of w and of the correction, added to s cold
  __device__ float logit(float s, u32 slot, bool wrong) const {
    float l = s * cold;
    if (CORRECTION != UNCORRECTED && !wrong) l -= log_q[slot] + log_drawn;
    if (weight && !wrong) l += logf(weight[slot]);
    return l;
  }
  __device__ float log_weight(u32 slot, bool wrong) const { return weight && !wrong ? logf(weight[slot]) : 0.0f; }
  // f of a negative x above the positive, and f'
  __device__ float pair(float x) const {
    if (LOSS == HINGE) return fmaxf(x + c0, 0.0f);
    if (LOSS == BPR) return softplus(x);
    float y = c1 - c2 * x, k = c0;
    return y >= k ? softplus(-y) - softplus(k - y) : softplus(y) - softplus(y - k) - k;
  }
  __device__ float slope(float x) const {
    if (LOSS == HINGE) return x + c0 > 0.0f ? 1.0f : 0.0f;
    if (LOSS == BPR) return sigmoid(x);
    float y = c1 - c2 * x, k = c0;
    return c2 * (sigmoid(-y) - sigmoid(k - y));
  }
  // What the loss needs to know of a row's scores: slots 0 to N, then wrong contexts; minus infinity where there is none.
  __device__ void look(const float* kept, u32 N, u32 W) {
    auto score = [&](u32 x) { return seen(kept[x], x >= N); };
    auto log_w = [&](u32 x) { return kept[x] == -INF ? -INF : log_weight(x, x >= N); };
    loss = factor = ds = 0.0f;
    if (LOSS == CONTRASTIVE) {
      float count = 0.0f;
      for (u32 x = threadIdx.x % 32; x < N + W; x += 32) count += expf(log_w(x));
      count = warp_sum(count);
      if (count <= 0.0f) return;
      hard = total_exp(N + W, [&](u32 x) {
        return log_w(x) == -INF ? -INF : fmaf(c1, score(x) * cold, score(x) * cold) + log_w(x);
      });
      tilted = total_exp(N + W, [&](u32 x) { return log_w(x) == -INF ? -INF : c1 * (score(x) * cold) + log_w(x); });
      float ratio = hard.sum / tilted.sum, shift = hard.most - tilted.most - positive * cold;
      float hidden = c0 > 0.0f ? c0 * expf(-shift) / ratio : 0.0f, least = c2 - positive * cold + logf(count);
      float free = hidden < 1.0f ? shift + logf(count * ratio * (1.0f - hidden) / (1.0f - c0)) : -INF;
      float excess = fmaxf(free, least);
      loss = softplus(excess);
      ds = -cold * sigmoid(excess) / (free < least ? 1.0f : 1.0f - hidden);
      factor = free < least ? 0.0f : -ds;
    } else {
      tilted = total_exp(N + W, [&](u32 x) { return log_w(x) == -INF ? -INF : score(x) + log_w(x); });
      if (tilted.most == -INF) return;
      hard = total_exp(N + W, [&](u32 x) {
        return log_w(x) == -INF ? -INF : score(x) + log_w(x) - softplus(score(x) - positive);
      });
      float squares = 0.0f, pull = 0.0f;
      for (u32 x = threadIdx.x % 32; x < N + W; x += 32) {
        if (log_w(x) == -INF) continue;
        float s = score(x), l = s + log_w(x);
        squares = fmaf(tilted.share(l), s * s, squares);
        pull = fmaf(hard.share(l - softplus(s - positive)), sigmoid(s - positive), pull);
      }
      square = warp_sum(squares);
      loss = fmaf(c0, square, fmaxf(tilted.most - hard.most + logf(tilted.sum / hard.sum), 0.0f));
      ds = -warp_sum(pull);
      factor = 1.0f;
    }
  }
  __device__ float unit(float s, u32 slot, bool wrong, float most) const {
    if (WHOLE) {
      float l = log_weight(slot, wrong);
      if (l == -INF || factor == 0.0f) return 0.0f;
      if (LOSS == CONTRASTIVE) {
        float x = s * cold;
        return (1.0f + c1) * hard.share(fmaf(c1, x, x) + l) - c1 * tilted.share(c1 * x + l);
      }
      float share = tilted.share(s + l) * (1.0f + c0 * (s * s - square + 2.0f * s));
      return share - hard.share(s + l - softplus(s - positive)) * sigmoid(positive - s);
    }
    if (LOSS == SOFTMAX) {
      float l = logit(s, slot, wrong);
      return l == -INF ? 0.0f : expf(l - most);
    }
    float w = weight && !wrong ? weight[slot] : 1.0f;
    return w * (PAIRS ? slope(s - positive) : sigmoid(s));
  }
  __device__ void add(Sums& sums, const Part& e, Scored scored, u32 slot, bool wrong) const {
    float s = seen(scored.score, wrong), w = weight && !wrong ? weight[slot] : 1.0f;
    if (LOSS == SOFTMAX) {
      float l = logit(s, slot, wrong);
      // The first number of a list finds the maximum at minus infinity and sums of zero.
      if (l > sums.most) {
        sums.fade(sums.most == -INF ? 0.0f : expf(sums.most - l));
        sums.most = l;
      }
    } else if (!WHOLE) {
      sums.loss = fmaf(w, PAIRS ? pair(s - positive) : softplus(s), sums.loss);
    }
    sums.weight += w;
    float u = unit(s, slot, wrong, sums.most), pull = u * s * scored.inverse * scored.inverse;
    sums.u += u;
    sums.us = fmaf(u, s, sums.us);
    sums.query.add((wrong ? u : u * stays) * scored.inverse, e);
    if (wrong) return;
    sums.alpha = fmaf(u, scored.inverse, sums.alpha);
    if (COSINE && CONTEXT) sums.context.add(pull, e);
  }
};

KERNEL(128, sampled_loss)(float* dp, float* dg, float* dwrong, float* losses, float* alpha, float* beta, const float* p,
                          const float* g, const Stored* a, const float* wrong, const u32* targets, const u32* groups,
                          const u32* ids, const float* log_q, const u8* drop, const float* weight, const float* row_weight,
                          const float* toward, u32 R, u32 N, u32 W, float heat, float scale, float cold, float c0, float c1,
                          float c2) {
  u32 r = blockIdx.x * 4 + threadIdx.x / 32;
  if (r >= R) return;  // whole warps
  float of_all = row_weight ? row_weight[r] : 1.0f;
  scale *= of_all;
  Query query(p, g, r, heat);
  int lane = threadIdx.x % 32;
  u64 at = (u64)r * (1 + N + W), first = (u64)(groups ? groups[r] : r) * N, of_row = (u64)r * N;
  const u32* slots = ids + first;
  const u8* dropped = drop ? drop + of_row : nullptr;
  auto keeps = [&](u32 j) { return slots[j] != NONE && !(dropped && dropped[j]); };

  Part target = Part::load(a + (u64)targets[r] * D, query.lane);
  Part own = query.encode(target);
  Scored positive = query.of_encoded(own);
  Row row{log_q ? log_q + first : nullptr, weight ? weight + of_row : nullptr, positive.score, cold, 0.0f, 0.0f, 1.0f, c0, c1,
          c2};
  if (toward) row.toward = toward[r], row.stays = 1.0f - row.toward;
  u32 kept = 0, drawn = 0;
  for (u32 j = lane; j < N; j += 32) kept += keeps(j), drawn += slots[j] != NONE;
  kept = __reduce_add_sync(~0u, kept);
  // What a row must not count was drawn all the same: its share of the draws is the share of the catalogue that is left out.
  if (CORRECTION != UNCORRECTED) row.log_drawn = logf((float)__reduce_add_sync(~0u, drawn));

  Sums sums{-INF, 0.0f, 0.0f, 0.0f, 0.0f, 0.0f, Part::zero(), Part::zero()};
  for (int turn = WHOLE ? 0 : 1; turn < 2; ++turn) {
    bool adds = turn == 1;
    // A row of items is under way while the one before it is scored.
    u32 j = query.list;
    bool keep = j < N && keeps(j);
    Part next = Part::load(keep ? a + (u64)slots[j] * D : nullptr, query.lane);
    for (u32 base = 0; base < N; base += LISTS) {
      Part e = query.encode(next);
      u32 slot = j;
      bool counts = keep;
      j += LISTS;
      keep = j < N && keeps(j);
      next = Part::load(keep ? a + (u64)slots[j] * D : nullptr, query.lane);
      Scored scored = query.of_encoded(e);
      if (counts && adds) row.add(sums, e, scored, slot, false);
      if (query.lane == 0 && slot < N) {
        // Kept until the factor of the row is known.
        alpha[at + 1 + slot] = counts ? scored.score : -INF;
        if (COSINE) beta[at + 1 + slot] = scored.inverse;
      }
    }
    for (u32 base = 0; base < W; base += LISTS) {
      u32 slot = base + query.list;
      Part e = Part::load(slot < W ? wrong + ((u64)r * W + slot) * D : nullptr, query.lane);
      e.add(1.0f, target);
      Scored scored = query.of_encoded(e);
      if (slot >= W) continue;  // a list has no next round
      if (adds) row.add(sums, e, scored, slot, true);
      if (query.lane == 0) {
        alpha[at + 1 + N + slot] = scored.score;
        if (COSINE) beta[at + 1 + N + slot] = scored.inverse;
      }
    }
    __syncwarp();
    if (!adds) row.look(alpha + at + 1, N, W);
    if (!adds) __syncwarp();  // the kept scores are written again
  }

  // The lists together.
  float most = sums.most;
  for (int step = LANES; step < 32; step *= 2) most = fmaxf(most, __shfl_xor_sync(~0u, most, step));
  if (LOSS == SOFTMAX) sums.fade(sums.most == -INF ? 0.0f : expf(sums.most - most));
  sums.query.sum_lists();
  if (COSINE && CONTEXT) sums.context.sum_lists();
  float loss = sum_lists(sums.loss), total = sum_lists(sums.weight), u = sum_lists(sums.u);
  float us = sum_lists(sums.us), u_alpha = sum_lists(sums.alpha);

  // ds_j = factor u_j, and the gradient of the positive's score
  float s = positive.score, factor, ds;
  if (WHOLE) {
    loss = row.loss, factor = scale * row.factor, ds = scale * row.ds;
  } else if (LOSS == SOFTMAX) {
    factor = ds = loss = 0.0f;
    if (kept + W > 0 && u > 0.0f) {
      float excess = most + logf(u) - s * cold, share = sigmoid(excess);
      loss = CORRECTION == REVISED ? share * excess : softplus(excess);
      factor = scale * share * cold / u;
      ds = -scale * share * cold;
    }
  } else {
    float norm = LOSS == GBCE ? 1.0f / (1.0f + total) : total > 0.0f ? 1.0f / total : 0.0f;
    factor = scale * norm;
    loss *= norm;
    ds = PAIRS ? -factor * u : -scale * c0 * (LOSS == GBCE ? norm : 1.0f) * sigmoid(-s);
    if (LOSS == PU) {
      // Risks are not negative: at zero neither the negatives nor what is hidden among them pulls.
      float free = fmaf(-c0, softplus(s), loss);
      if (free > 0.0f) ds = fmaf(-scale * c0, sigmoid(s), ds);
      if (!(free > 0.0f)) factor = 0.0f;
      loss = fmaxf(free, 0.0f);
    }
    if (!PAIRS) loss = fmaf(c0 * (LOSS == GBCE ? norm : 1.0f), softplus(-s), loss);
  }

  // Without wrong contexts, and with dot scores, u_alpha is the sum of u.
  ds = fmaf(row.toward * factor, u_alpha, ds);
  u_alpha *= row.stays;
  float of_score = query.factor, own_alpha = ds * of_score * positive.inverse;
  float own_beta = COSINE ? -ds * s * positive.inverse * positive.inverse : 0.0f;
  float gamma = COSINE ? -fmaf(factor, us, ds * s) * query.norm * query.norm : 0.0f;
  sums.query.scale(factor * of_score);
  sums.query.add(own_alpha, own);
  if (COSINE) sums.query.add(gamma, query.p);
  if (query.list == 0) sums.query.store(dp + (u64)r * D, query.lane);
  if (CONTEXT && dg) {
    Part out = Part::zero();
    if (COSINE) {
      out = sums.context;
      out.scale(-factor);
      out.add(own_beta, own);
    }
    out.add(fmaf(factor * of_score, u_alpha, own_alpha), query.p);
    if (query.list == 0) out.store(dg + (u64)r * D, query.lane);
  }
  if (lane == 0) {
    losses[r] = loss * of_all;
    alpha[at] = own_alpha;
    if (COSINE) beta[at] = own_beta;
  }
  for (u32 x = lane; x < N + W; x += 32) {
    bool is_wrong = x >= N;
    float score = alpha[at + 1 + x], inverse = COSINE ? beta[at + 1 + x] : 1.0f;
    float d = score == -INF ? 0.0f : factor * row.unit(row.seen(score, is_wrong), is_wrong ? x - N : x, is_wrong, most);
    if (!is_wrong) d *= row.stays;
    alpha[at + 1 + x] = d * of_score * inverse;
    if (COSINE) beta[at + 1 + x] = score == -INF ? 0.0f : -d * score * inverse * inverse;
  }
  if (!dwrong) return;
  __syncwarp();
  for (u32 slot = query.list; slot < W; slot += LISTS) {
    u64 x = ((u64)r * W + slot) * D;
    Part e = Part::load(wrong + x, query.lane), out = Part::zero();
    e.add(1.0f, target);
    out.add(alpha[at + 1 + N + slot], query.p);
    if (COSINE) out.add(beta[at + 1 + N + slot], e);
    out.store(dwrong + x, query.lane);
  }
}
