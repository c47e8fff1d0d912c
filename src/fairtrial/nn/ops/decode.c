/* The work of one decode step on a CPU, fp32: products with few rows, attention of one new token, the likeliest token.
 *
 * Every output is computed in one order of operations that depends on its own sequence alone, so which rows share a
 * call, and how many threads there are, changes no bit. Compiled once per instruction set (see vectors.h).
 */
#include "vectors.h"

#define PANEL 32 /* columns of a weight that lie side by side; as in decode_c.py */
#define WIDE (PANEL / LANES)
#if LANES == 16
#define ROWS 12 /* rows that share one pass over a panel: ROWS * WIDE sums stay in registers */
#elif LANES == 8
#define ROWS 3
#else
#define ROWS 1
#endif

/* The sum over a vector's lanes, in one fixed tree. */
INLINE float lanes_sum(vec x) {
    float part[LANES] __attribute__((aligned(64)));
    *(vec *)part = x;
    for (int s = LANES / 2; s > 0; s /= 2)
        for (int i = 0; i < s; i++) part[i] = part[i] + part[i + s];
    return part[0];
}

INLINE vec larger(vec x, vec y) {
    const uvec first = (uvec)(x > y);
    return (vec)(((uvec)x & first) | ((uvec)y & ~first));
}

INLINE float lanes_max(vec x) {
    float most = x[0];
    for (int i = 1; i < LANES; i++) most = x[i] > most ? x[i] : most;
    return most;
}

/* ---- out = x W, or out += x W ---- */

struct product_args {
    int64_t rows, inner, outer, stride, add, threads; /* stride: floats from one row of x to the next */
    double eps;                                       /* >= 0: rows are taken as x / sqrt(mean(x^2) + eps) */
    const float *x, *w;                               /* w: [panels][inner][PANEL], zeros beyond `outer` */
    float *out, *scales;                              /* out: [rows][outer]; scales: room for `rows` floats */
};

static void scale_rows(const struct product_args *a) {
    for (int64_t row = 0; row < a->rows; row++) {
        const float *x = a->x + row * a->stride;
        vec sum = (vec){0};
        int64_t i = 0;
        for (; i + LANES <= a->inner; i += LANES) {
            const vec some = *(const vec_any *)(x + i);
            sum = sum + some * some;
        }
        float total = lanes_sum(sum);
        for (; i < a->inner; i++) total += x[i] * x[i];
        a->scales[row] = 1.0f / __builtin_sqrtf(total / (float)a->inner + (float)a->eps);
    }
}

INLINE void block(const int rows, const struct product_args *a, const float *w, int64_t row, int64_t col) {
    vec sums[ROWS][WIDE];
    const float *x = a->x + row * a->stride;
    const int64_t stride = a->stride;
    UNROLL for (int r = 0; r < rows; r++)
        UNROLL for (int j = 0; j < WIDE; j++) sums[r][j] = (vec){0};
    for (int64_t k = 0; k < a->inner; k++, w += PANEL) {
        UNROLL for (int r = 0; r < rows; r++)
            UNROLL for (int j = 0; j < WIDE; j++)
                sums[r][j] = sums[r][j] + x[r * stride + k] * *(const vec_any *)(w + j * LANES);
    }
    const int64_t cols = a->outer - col;
    UNROLL for (int r = 0; r < rows; r++) {
        float *out = a->out + (row + r) * a->outer + col;
        float last[PANEL] __attribute__((aligned(64)));
        UNROLL for (int j = 0; j < WIDE; j++) {
            vec sum = sums[r][j];
            if (a->eps >= 0) sum = sum * a->scales[row + r];
            if (cols >= PANEL) {
                if (a->add) sum = *(vec_any *)(out + j * LANES) + sum;
                *(vec_any *)(out + j * LANES) = sum;
            } else store(last + j * LANES, sum);
        }
        if (cols < PANEL)
            for (int64_t i = 0; i < cols; i++) out[i] = a->add ? out[i] + last[i] : last[i];
    }
}

static void product_item(const void *args, int64_t item, float *scratch) {
    const struct product_args *a = args;
    const float *w = a->w + item * a->inner * PANEL;
    int64_t row = 0;
    (void)scratch;
    for (; row + ROWS <= a->rows; row += ROWS) block(ROWS, a, w, row, item * PANEL);
#if ROWS > 8
    if (row + 8 <= a->rows) block(8, a, w, row, item * PANEL), row += 8;
#endif
#if ROWS > 4
    if (row + 4 <= a->rows) block(4, a, w, row, item * PANEL), row += 4;
#endif
#if ROWS > 2
    if (row + 2 <= a->rows) block(2, a, w, row, item * PANEL), row += 2;
#endif
    for (; row < a->rows; row++) block(1, a, w, row, item * PANEL);
}

int NAME(product)(const struct product_args *a) {
    if (a->eps >= 0) scale_rows(a);
    struct crew crew = {a, product_item, LANES, (a->outer + PANEL - 1) / PANEL, 0, 0};
    return run(&crew, a->threads);
}

/* ---- out = silu(gate) * up, for rows of both side by side ---- */

struct gated_args {
    int64_t rows, width; /* width: a multiple of LANES, of one half */
    const float *x;      /* [rows][2 width] */
    float *out;          /* [rows][width] */
};

int NAME(gated)(const struct gated_args *a) {
    for (int64_t row = 0; row < a->rows; row++) {
        const float *gate = a->x + row * 2 * a->width, *up = gate + a->width;
        float *out = a->out + row * a->width;
        for (int64_t i = 0; i < a->width; i += LANES) {
            const vec g = *(const vec_any *)(gate + i);
            *(vec_any *)(out + i) = g / (exponential(-g) + 1.0f) * *(const vec_any *)(up + i);
        }
    }
    return 0;
}

/* ---- attention of one new token for each sequence, over a cache where all sequences end at one column ---- */

struct attend_args {
    int64_t rows, heads, key_heads, width, columns, now, window, threads; /* window: 0 for all; width: of LANES */
    const int64_t *lengths; /* [rows] tokens before the new one, in columns [now - length, now) */
    const float *p;         /* [rows][heads + 2 key_heads][width]: queries (scaled), keys, values */
    const float *cos, *sin; /* [position][width], the sines with their signs; NULL: nothing is turned */
    float *cache;           /* [rows][columns][2 key_heads][width]: a column's keys, then its values */
    float *out;             /* [rows][heads][width] */
};

#define MIXED 32 /* columns that are mixed for one head before the next head's turn: memory is read nearly in order */

/* A query or key, turned to its position (c, s: NULL for none) */
static void turned(float *restrict to, const float *restrict x, const float *restrict c, const float *restrict s,
                   int64_t width) {
    const int64_t half = width / 2;
    if (!c) memcpy(to, x, (size_t)width * 4);
    else
        for (int64_t i = 0; i < half; i++) {
            to[i] = x[i] * c[i] + x[i + half] * s[i];
            to[i + half] = x[i + half] * c[i + half] + x[i] * s[i + half];
        }
}

/* sums[i] += q . column i, before the sum over lanes, for `wide` vectors. LANES columns at a time: many loads run. */
INLINE void met(const int wide, vec *sums, const vec *q, const float *k, int64_t count, int64_t stride) {
    UNROLL for (int i = 0; i < LANES; i++) {
        const int64_t at = (i < count ? i : count - 1) * stride;
        UNROLL for (int d = 0; d < wide; d++) sums[i] = sums[i] + q[d] * *(const vec_any *)(k + at + d * LANES);
    }
}

/* scores[s] = q . k_s for the next LANES columns, -inf for those behind the last */
static void scored(float *scores, const vec *q, const float *k, int64_t count, int64_t width, int64_t stride) {
    vec sums[LANES];
    UNROLL for (int i = 0; i < LANES; i++) sums[i] = (vec){0};
    int64_t d = 0;
    for (; d + 4 * LANES <= width; d += 4 * LANES) met(4, sums, q + d / LANES, k + d, count, stride);
    for (; d < width; d += LANES) met(1, sums, q + d / LANES, k + d, count, stride);
    store(scores, row_sums(sums));
    for (int64_t i = count; i < LANES; i++) scores[i] = -__builtin_inff();
}

/* Scores become weights, which sum up to 1. */
static void weighed(float *scores, int64_t room) {
    vec most = all(-__builtin_inff()), sum = (vec){0};
    for (int64_t s = 0; s < room; s += LANES) most = larger(most, load(scores + s));
    most = all(lanes_max(most));
    for (int64_t s = 0; s < room; s += LANES) {
        const vec weight = exponential(load(scores + s) - most);
        sum = sum + weight;
        store(scores + s, weight);
    }
    const vec share = all(1.0f / lanes_sum(sum));
    for (int64_t s = 0; s < room; s += LANES) store(scores + s, load(scores + s) * share);
}

/* Add the weighted sum of values to `wide` vectors; as many columns at `next` are asked for meanwhile. */
INLINE void mixed(const int wide, float *out, const float *weights, const float *v, const float *next, int64_t count,
                  int64_t stride) {
    vec sums[4];
    UNROLL for (int j = 0; j < wide; j++) sums[j] = *(const vec_any *)(out + j * LANES);
    for (int64_t s = 0; s < count; s++, v += stride, next += stride)
        UNROLL for (int j = 0; j < wide; j++) {
            sums[j] = sums[j] + weights[s] * *(const vec_any *)(v + j * LANES);
            __builtin_prefetch(next + j * LANES, 0, 2);
        }
    UNROLL for (int j = 0; j < wide; j++) *(vec_any *)(out + j * LANES) = sums[j];
}

/* Query heads [from, to) of sequence n: all scores, then all weights, then the values. */
static void attend_heads(const struct attend_args *a, int64_t n, int64_t from, int64_t to, float *scratch) {
    const int64_t group = a->heads / a->key_heads, e = a->width, half = a->key_heads * e, stride = 2 * half;
    int64_t count = a->lengths[n] + 1;
    if (a->window && count > a->window) count = a->window;
    const int64_t room = rounded(count, LANES);
    const float *p = a->p + n * (a->heads * e + stride), *new = p + a->heads * e;
    const float *c = a->cos ? a->cos + a->lengths[n] * e : 0, *sine = a->cos ? a->sin + a->lengths[n] * e : 0;
    float *keys = a->cache + (n * a->columns + a->now) * stride;
    for (int64_t j = from / group; j < to / group; j++) {
        turned(keys + j * e, new + j * e, c, sine, e);
        memcpy(keys + half + j * e, new + half + j * e, (size_t)e * 4);
    }
    keys -= (count - 1) * stride;
    const float *values = keys + half, *next = n + 1 < a->rows ? keys + a->columns * stride : keys;
    float *queries = scratch, *scores = scratch + a->heads * e, *out = a->out + n * a->heads * e;
    for (int64_t h = from; h < to; h++) turned(queries + h * e, p + h * e, c, sine, e);
    for (int64_t s = 0; s < count; s += LANES)
        for (int64_t h = from; h < to; h++) {
            const float *k = keys + s * stride + h / group * e;
            scored(scores + h * room + s, (vec *)(queries + h * e), k, count - s, e, stride);
        }
    for (int64_t h = from; h < to; h++) weighed(scores + h * room, room);
    memset(out + from * e, 0, (size_t)((to - from) * e) * 4);
    for (int64_t s = 0; s < count; s += MIXED)
        for (int64_t h = from; h < to; h++) {
            const int64_t at = s * stride + h / group * e, some = count - s < MIXED ? count - s : MIXED;
            const float *v = values + at, *after = h % group ? v : next + at, *weights = scores + h * room + s;
            int64_t d = 0;
            for (; d + 4 * LANES <= e; d += 4 * LANES)
                mixed(4, out + h * e + d, weights, v + d, after + d, some, stride);
            for (; d < e; d += LANES) mixed(1, out + h * e + d, weights, v + d, after + d, some, stride);
        }
}

static void attend_row(const void *args, int64_t n, float *scratch) {
    const struct attend_args *a = args;
    attend_heads(a, n, 0, a->heads, scratch);
}

static void attend_head(const void *args, int64_t item, float *scratch) {
    const struct attend_args *a = args;
    const int64_t group = a->heads / a->key_heads, from = item % a->key_heads * group;
    attend_heads(a, item / a->key_heads, from, from + group, scratch);
}

int NAME(attend)(const struct attend_args *a) {
    const size_t floats = (size_t)(a->heads * (a->width + rounded(a->now + 1, LANES)));
    const int few = a->threads > 1 && a->rows < 4 * a->threads; /* then threads share the heads of a sequence */
    struct crew crew = {a, few ? attend_head : attend_row, floats, few ? a->rows * a->key_heads : a->rows, 0, 0};
    return run(&crew, a->threads);
}

/* ---- the likeliest token of each row, and the sum of exp(x - its logit) ---- */

struct likeliest_args {
    int64_t rows, width;
    const float *x; /* [rows][width] */
    int64_t *best;  /* [rows] the lowest id of the largest logit */
    float *sums;    /* [rows] */
};

int NAME(likeliest)(const struct likeliest_args *a) {
    const int64_t whole = a->width / (4 * LANES) * 4 * LANES;
    for (int64_t row = 0; row < a->rows; row++) {
        const float *x = a->x + row * a->width;
        float rest[4 * LANES] __attribute__((aligned(64)));
        vec most[4], sums[4];
        for (int i = 0; i < 4 * LANES; i++) rest[i] = whole + i < a->width ? x[whole + i] : -__builtin_inff();
        UNROLL for (int j = 0; j < 4; j++) most[j] = load(rest + j * LANES);
        for (int64_t i = 0; i < whole; i += 4 * LANES)
            UNROLL for (int j = 0; j < 4; j++) most[j] = larger(most[j], *(const vec_any *)(x + i + j * LANES));
        const float top = lanes_max(larger(larger(most[0], most[1]), larger(most[2], most[3])));
        UNROLL for (int j = 0; j < 4; j++) sums[j] = exponential(load(rest + j * LANES) - top);
        for (int64_t i = 0; i < whole; i += 4 * LANES)
            UNROLL for (int j = 0; j < 4; j++)
                sums[j] = sums[j] + exponential(*(const vec_any *)(x + i + j * LANES) - top);
        int64_t best = 0;
        for (int hit = 0; best < whole; best += 4 * LANES) {
            for (int i = 0; i < 4 * LANES; i++) hit |= x[best + i] == top;
            if (hit) break;
        }
        while (best < a->width - 1 && x[best] != top) best++;
        a->best[row] = best;
        a->sums[row] = lanes_sum((sums[0] + sums[1]) + (sums[2] + sums[3]));
    }
    return 0;
}
