/* Kimi Delta Attention on a CPU: the recurrence and its adjoint, fp32 (Kimi Linear technical report, section 3, Eq. 1).
 *
 *   S^_t = Diag(exp g_t) S_{t-1};  r_t = v_t - S^_t^T k_t;  e_t = beta_t r_t;  S_t = S^_t + k_t e_t^T;  o_t = s S_t^T q_t
 *
 * Axes: N sequences, t time, H key heads, HV value heads, K key channels, V value channels, C tokens between checkpoints.
 * The columns of S never mix, so every column is computed with one order of operations: rows 0..K-1, one after the other.
 * Which tile, thread, batch or call a column falls into therefore changes no bit of o, of the state or of a gradient.
 * The sums of the adjoint over V run over groups of GROUP columns, and over groups in their order.
 *
 * Compiled once per instruction set (see vectors.h).
 * No product may be followed by a sum whose form depends on the path: contraction to FMA would round it differently.
 */
#include "vectors.h"
#if defined(__linux__)
#include <sys/mman.h>
#endif

enum { CHUNK = 32, GROUP = 32, MAX_NV = 4, STATE_BYTES = 16384 };

struct kda_args {
    int64_t n, t, h, hv, k, v, threads, parts;
    double scale;
    const int64_t *cu; /* [N+1] token offsets, or NULL: sequence i is tokens i*t to (i+1)*t */
    const float *q, *key, *val, *g, *beta, *s0;
    float *o, *s1, *r, *checkpoints; /* r, checkpoints: NULL where no gradient is wanted */
    const float *dout, *ds1;
    float *dq, *dkey, *dval, *dg, *dbeta, *ds0;
    int64_t group_k, group_1; /* floats from one group's dq, dkey, dg (dbeta) to the next one's; 0: added up in place */
};

/* alpha_t = exp(g_t) for one token, into a row padded with zeros. Never inlined: one code for every caller. */
static __attribute__((noinline)) void decay_row(float *alpha, const float *g, int64_t k) {
    int64_t i = 0;
    for (; i + LANES <= k; i += LANES) *(vec *)(alpha + i) = exponential(*(const vec_any *)(g + i));
    if (i < k) {
        float last[LANES] __attribute__((aligned(64))) = {0};
        memcpy(last, g + i, (size_t)(k - i) * 4);
        vec y = exponential(*(vec *)last);
        memset(alpha + i, 0, sizeof last);
        memcpy(alpha + i, &y, (size_t)(k - i) * 4);
    }
}

/* n floats into a row of `width`, the rest zero; and n floats of such a row out again */
INLINE void row_in(float *to, const float *from, int64_t n, int64_t width) {
    if (n == width)
        for (int64_t i = 0; i < n; i += LANES) store(to + i, *(const vec_any *)(from + i));
    else {
        memcpy(to, from, (size_t)n * 4);
        memset(to + n, 0, (size_t)(width - n) * 4);
    }
}

INLINE void row_out(float *to, const float *from, int64_t n, int64_t width) {
    if (n == width)
        for (int64_t i = 0; i < n; i += LANES) *(vec_any *)(to + i) = load(from + i);
    else memcpy(to, from, (size_t)n * 4);
}

static void bounds(const struct kda_args *a, int64_t n, int64_t *first, int64_t *len) {
    *first = a->cu ? a->cu[n] : n * a->t;
    *len = a->cu ? a->cu[n + 1] - *first : a->t;
}

/* Where a chunk's checkpoint stands, in floats: floor(first / C) + n leaves room for the sequences before. */
static int64_t checkpoint(const struct kda_args *a, int64_t first, int64_t n, int64_t chunk, int64_t hv) {
    return ((first / CHUNK + n + chunk) * a->hv + hv) * a->k * a->v;
}

/* ---- forward ---- */

/* Columns [col, col + cols) of value head hv, kept as rows of nv vectors: the state s, and p = S^^T k of the next token. */
struct tile {
    int64_t hv, col, cols, nv;
    vec *s, *p;
};

/* One sweep over a state: write token t (if `prev`), then decay by token t+1 and read with k_{t+1} (if `next`). */
INLINE void sweep(const int nv, const int prev, const int next, int64_t k, vec *s, const vec *e, const float *kt,
                  const float *qt, const float *an, const float *kn, vec *o, vec *p) {
    vec oo[MAX_NV], pp[MAX_NV], ee[MAX_NV];
    UNROLL for (int j = 0; j < nv; j++) {
        oo[j] = pp[j] = (vec){0};
        if (prev) ee[j] = e[j];
    }
    for (int64_t d = 0; d < k; d++, s += nv) {
        UNROLL for (int j = 0; j < nv; j++) {
            vec x = s[j];
            if (prev) {
                x = x + kt[d] * ee[j];
                oo[j] = oo[j] + qt[d] * x;
            }
            if (next) {
                x = an[d] * x;
                pp[j] = pp[j] + kn[d] * x;
            }
            s[j] = x;
        }
    }
    UNROLL for (int j = 0; j < nv; j++) {
        if (prev) o[j] = oo[j];
        if (next) p[j] = pp[j];
    }
}

static void state_in(const struct tile *x, const float *from, const struct kda_args *a) {
    const int64_t width = x->nv * LANES;
    float *s = (float *)x->s;
    if (!from) memset(s, 0, (size_t)(a->k * width) * 4);
    else for (int64_t d = 0; d < a->k; d++) row_in(s + d * width, from + d * a->v + x->col, x->cols, width);
}

static void state_out(const struct tile *x, float *to, const struct kda_args *a) {
    const int64_t width = x->nv * LANES;
    const float *s = (const float *)x->s;
    for (int64_t d = 0; d < a->k; d++) row_out(to + d * a->v + x->col, s + d * width, x->cols, width);
}

/* A tile through tokens [t0, t1) of a sequence of `len` tokens; alpha has rows t0..t1. */
INLINE void tile_chunk(const int nv, const struct kda_args *a, const struct tile *x, int64_t first, int64_t t0,
                       int64_t t1, int64_t len, const float *alpha, int64_t kp, float *saved) {
    const int64_t k = a->k, head = x->hv / (a->hv / a->h);
    vec v[MAX_NV], r[MAX_NV], e[MAX_NV], o[MAX_NV];
    if (t0 == 0) sweep(nv, 0, 1, k, x->s, 0, 0, 0, alpha, a->key + (first * a->h + head) * k, 0, x->p);
    if (saved) state_out(x, saved, a);
    for (int64_t t = t0; t < t1; t++) {
        const int64_t at = ((first + t) * a->hv + x->hv) * a->v + x->col, row = ((first + t) * a->h + head) * k;
        const float *kt = a->key + row, *qt = a->q + row;
        const float beta = a->beta[(first + t) * a->hv + x->hv];
        row_in((float *)v, a->val + at, x->cols, nv * LANES);
        UNROLL for (int j = 0; j < nv; j++) {
            r[j] = v[j] - x->p[j];
            e[j] = beta * r[j];
        }
        if (a->r) row_out(a->r + at, (float *)r, x->cols, nv * LANES);
        if (t + 1 < len) sweep(nv, 1, 1, k, x->s, e, kt, qt, alpha + (t + 1 - t0) * kp, kt + a->h * k, o, x->p);
        else sweep(nv, 1, 0, k, x->s, e, kt, qt, 0, 0, o, 0);
        UNROLL for (int j = 0; j < nv; j++) o[j] = (float)a->scale * o[j];
        row_out(a->o + at, (float *)o, x->cols, nv * LANES);
    }
}

static int64_t tile_vectors(const struct kda_args *a) {
    int64_t nv = MAX_NV;
    while (nv > 2 && a->k * nv * LANES * 4 > STATE_BYTES) nv /= 2;
    return nv;
}

static int64_t forward_tiles(const struct kda_args *a) {
    const int64_t width = tile_vectors(a) * LANES;
    return (a->v + width - 1) / width;
}

static size_t forward_floats(const struct kda_args *a) {
    const int64_t tiles = (forward_tiles(a) + a->parts - 1) / a->parts;
    return (size_t)((CHUNK + 1) * rounded(a->k, LANES) + tiles * (a->k + 1) * tile_vectors(a) * LANES);
}

static struct tile tile_at(const struct kda_args *a, int64_t hv, int64_t index, float *memory) {
    const int64_t width = tile_vectors(a) * LANES, col = index * width;
    struct tile x = {hv, col, a->v - col < width ? a->v - col : width, width / LANES, (vec *)memory, 0};
    while (x.nv > 1 && x.nv / 2 * LANES >= x.cols) x.nv /= 2;
    x.p = x.s + a->k * x.nv;
    return x;
}

/* One part of the tiles of one value head of one sequence, from its first token to its last. */
static void forward_item(const void *args, int64_t item, float *scratch) {
    const struct kda_args *a = args;
    const int64_t part = item % a->parts, hv = item / a->parts % a->hv, n = item / a->parts / a->hv;
    const int64_t tiles = forward_tiles(a), from = tiles * part / a->parts, to = tiles * (part + 1) / a->parts;
    const int64_t kp = rounded(a->k, LANES), state = (n * a->hv + hv) * a->k * a->v;
    const int64_t step = (a->k + 1) * tile_vectors(a) * LANES;
    float *alpha = scratch, *memory = scratch + (CHUNK + 1) * kp;
    int64_t first, len;
    bounds(a, n, &first, &len);
    for (int64_t i = from; i < to; i++) {
        struct tile x = tile_at(a, hv, i, memory + (i - from) * step);
        state_in(&x, a->s0 ? a->s0 + state : 0, a);
    }
    if (len > 0) decay_row(alpha, a->g + (first * a->hv + hv) * a->k, a->k);
    for (int64_t t0 = 0; t0 < len; t0 += CHUNK) {
        const int64_t t1 = t0 + CHUNK < len ? t0 + CHUNK : len;
        float *saved = a->checkpoints ? a->checkpoints + checkpoint(a, first, n, t0 / CHUNK, hv) : 0;
        if (t0) memcpy(alpha, alpha + CHUNK * kp, (size_t)kp * 4);
        for (int64_t t = t0 + 1; t <= t1 && t < len; t++)
            decay_row(alpha + (t - t0) * kp, a->g + ((first + t) * a->hv + hv) * a->k, a->k);
        for (int64_t i = from; i < to; i++) {
            struct tile x = tile_at(a, hv, i, memory + (i - from) * step);
            if (x.nv == 4) tile_chunk(4, a, &x, first, t0, t1, len, alpha, kp, saved);
            else if (x.nv == 2) tile_chunk(2, a, &x, first, t0, t1, len, alpha, kp, saved);
            else tile_chunk(1, a, &x, first, t0, t1, len, alpha, kp, saved);
        }
    }
    for (int64_t i = from; i < to; i++) {
        struct tile x = tile_at(a, hv, i, memory + (i - from) * step);
        state_out(&x, a->s1 + state, a);
    }
}

/* ---- backward: the adjoint of the recurrence, states kept transposed [GROUP][K] ---- */

static int64_t groups(const struct kda_args *a) { return (a->v + GROUP - 1) / GROUP; }

/* Columns of a state [K][V] in memory to rows of `kp` floats; what is beyond K or `cols` is zero. */
static void columns_in(float *to, int64_t kp, const float *from, const struct kda_args *a, int64_t cols) {
    memset(to, 0, (size_t)(GROUP * kp) * 4);
    if (!from) return;
    for (int64_t d = 0; d < a->k; d += LANES)
        for (int64_t c = 0; c < cols; c += LANES) {
            if (d + LANES <= a->k && c + LANES <= cols) {
                vec x[LANES];
                UNROLL for (int i = 0; i < LANES; i++) x[i] = *(const vec_any *)(from + (d + i) * a->v + c);
                transpose(x);
                UNROLL for (int i = 0; i < LANES; i++) *(vec *)(to + (c + i) * kp + d) = x[i];
            } else {
                for (int64_t i = d; i < a->k && i < d + LANES; i++)
                    for (int64_t j = c; j < cols && j < c + LANES; j++) to[j * kp + i] = from[i * a->v + j];
            }
        }
}

static void columns_out(float *to, const float *from, int64_t kp, const struct kda_args *a, int64_t cols) {
    for (int64_t d = 0; d < a->k; d++)
        for (int64_t c = 0; c < cols; c++) to[d * a->v + c] = from[c * kp + d];
}

/* The sum of x[i] * y[i] over GROUP floats, in one fixed tree. */
INLINE float dot(const float *x, const float *y) {
    float part[LANES] __attribute__((aligned(64)));
    vec sum = (vec){0};
    for (int c = 0; c < GROUP; c += LANES) sum = sum + *(const vec *)(x + c) * *(const vec *)(y + c);
    *(vec *)part = sum;
    for (int s = LANES / 2; s > 0; s /= 2)
        for (int i = 0; i < s; i++) part[i] = part[i] + part[i + s];
    return part[0];
}

/* D += q do^T; de = D^T k (one token, all columns of a group). */
INLINE void adjoint_read(int64_t kp, float *d, const float *q, const float *k, const float *dout, float *de) {
    vec sums[GROUP];
    UNROLL for (int c = 0; c < GROUP; c += 4) {
        const vec o0 = all(dout[c]), o1 = all(dout[c + 1]), o2 = all(dout[c + 2]), o3 = all(dout[c + 3]);
        vec s0 = (vec){0}, s1 = s0, s2 = s0, s3 = s0;
        float *x = d + c * kp;
        for (int64_t i = 0; i < kp; i += LANES, x += LANES) {
            const vec qi = load(q + i), ki = load(k + i);
            const vec a0 = load(x) + qi * o0, a1 = load(x + kp) + qi * o1;
            const vec a2 = load(x + 2 * kp) + qi * o2, a3 = load(x + 3 * kp) + qi * o3;
            store(x, a0), store(x + kp, a1), store(x + 2 * kp, a2), store(x + 3 * kp, a3);
            s0 = s0 + a0 * ki, s1 = s1 + a1 * ki, s2 = s2 + a2 * ki, s3 = s3 + a3 * ki;
        }
        sums[c] = s0, sums[c + 1] = s1, sums[c + 2] = s2, sums[c + 3] = s3;
    }
    UNROLL for (int c = 0; c < GROUP; c += LANES) store(de + c, row_sums(sums + c));
}

/* dq = S do + k (e.do), dk = D e - S^ (beta de), D -= k (beta de)^T, dg = rowsum(D S^), D = alpha D; `ns` vectors of K. */
INLINE void adjoint_write(const int ns, int64_t kp, float *d, const float *s, const float *k, const float *alpha,
                          const float *dout, const float *e, const float *bde, float edo, float *dq, float *dk, float *dg) {
    vec qq[SLAB], kk[SLAB], gg[SLAB], key[SLAB], decay[SLAB];
    UNROLL for (int u = 0; u < ns; u++) {
        qq[u] = kk[u] = gg[u] = (vec){0};
        key[u] = load(k + u * LANES), decay[u] = load(alpha + u * LANES);
    }
    for (int c = 0; c < GROUP; c++, d += kp, s += kp) {
        const vec oc = all(dout[c]), ec = all(e[c]), bc = all(bde[c]);
        UNROLL for (int u = 0; u < ns; u++) {
            const vec sv = load(s + u * LANES);
            vec x = load(d + u * LANES);
            qq[u] = qq[u] + sv * oc;
            kk[u] = kk[u] + x * ec;
            kk[u] = kk[u] - sv * bc;
            x = x - key[u] * bc;
            gg[u] = gg[u] + x * sv;
            store(d + u * LANES, decay[u] * x);
        }
    }
    UNROLL for (int u = 0; u < ns; u++) {
        store(dq + u * LANES, qq[u] + key[u] * edo);
        store(dk + u * LANES, kk[u]);
        store(dg + u * LANES, gg[u]);
    }
}

/* S^_{t+1} = alpha_{t+1} (S^_t + k_t e_t^T), `ns` vectors of K, all columns of a group. */
INLINE void replay(const int ns, int64_t kp, float *to, const float *from, const float *k, const float *e, const float *alpha) {
    vec key[SLAB], decay[SLAB];
    UNROLL for (int u = 0; u < ns; u++) key[u] = load(k + u * LANES), decay[u] = load(alpha + u * LANES);
    for (int c = 0; c < GROUP; c++, to += kp, from += kp) {
        const vec ec = all(e[c]);
        UNROLL for (int u = 0; u < ns; u++) store(to + u * LANES, decay[u] * (load(from + u * LANES) + key[u] * ec));
    }
}

struct adjoint { /* one thread's memory, rows of kp or GROUP floats */
    float *d, *states, *q, *k, *alpha, *r, *e, *dout, *de, *bde, *sums;
};

static int64_t groups_of_item(const struct kda_args *a) { return (groups(a) + a->parts - 1) / a->parts; }

static size_t backward_floats(const struct kda_args *a) {
    const int64_t states = (groups_of_item(a) + CHUNK) * GROUP, rows = 3 * CHUNK + 3;
    return (size_t)((states + rows) * rounded(a->k, LANES) + (3 * CHUNK + 2) * GROUP);
}

static struct adjoint adjoint_memory(const struct kda_args *a, float *m) {
    const int64_t kp = rounded(a->k, LANES);
    struct adjoint w;
    w.d = m, m += groups_of_item(a) * GROUP * kp;
    w.states = m, m += CHUNK * GROUP * kp;
    w.q = m, m += CHUNK * kp;
    w.k = m, m += CHUNK * kp;
    w.alpha = m, m += CHUNK * kp;
    w.sums = m, m += 3 * kp;
    w.r = m, m += CHUNK * GROUP;
    w.e = m, m += CHUNK * GROUP;
    w.dout = m, m += CHUNK * GROUP;
    w.de = m, m += GROUP;
    w.bde = m;
    return w;
}

/* Tokens [t0, t1) of value head hv: rows of q, k and alpha. */
static void load_rows(const struct kda_args *a, const struct adjoint *w, int64_t first, int64_t t0, int64_t t1, int64_t hv) {
    const int64_t kp = rounded(a->k, LANES), head = hv / (a->hv / a->h);
    for (int64_t t = t0; t < t1; t++) {
        const int64_t at = (t - t0) * kp, row = ((first + t) * a->h + head) * a->k;
        row_in(w->q + at, a->q + row, a->k, kp);
        row_in(w->k + at, a->key + row, a->k, kp);
        decay_row(w->alpha + at, a->g + ((first + t) * a->hv + hv) * a->k, a->k);
    }
}

/* The same tokens for one group: r, e, s do, and every S^_t from the chunk's checkpoint on. */
static void load_group(const struct kda_args *a, const struct adjoint *w, int64_t first, int64_t t0, int64_t t1,
                       int64_t hv, int64_t col, int64_t cols, const float *saved) {
    const int64_t kp = rounded(a->k, LANES);
    columns_in(w->states, kp, saved + col, a, cols);
    for (int64_t t = t0; t < t1; t++) {
        const int64_t i = t - t0, unit = (first + t) * a->hv + hv;
        const vec beta = all(a->beta[unit]), scale = all((float)a->scale);
        row_in(w->r + i * GROUP, a->r + unit * a->v + col, cols, GROUP);
        row_in(w->dout + i * GROUP, a->dout + unit * a->v + col, cols, GROUP);
        for (int64_t c = i * GROUP; c < (i + 1) * GROUP; c += LANES) {
            store(w->e + c, beta * load(w->r + c));
            store(w->dout + c, scale * load(w->dout + c));
        }
        if (i) {
            float *to = w->states + i * GROUP * kp, *from = to - GROUP * kp;
            const float *k = w->k + (i - 1) * kp, *alpha = w->alpha + i * kp, *e = w->e + (i - 1) * GROUP;
            int64_t at = 0;
            for (; at + SLAB * LANES <= kp; at += SLAB * LANES) replay(SLAB, kp, to + at, from + at, k + at, e, alpha + at);
            for (; at < kp; at += LANES) replay(1, kp, to + at, from + at, k + at, e, alpha + at);
        }
    }
}

/* `to` = x, or `to` += x for a group that is added up in place */
static void deliver(float *to, const float *x, int64_t n, int add) {
    for (; n >= LANES; n -= LANES, to += LANES, x += LANES) {
        vec sum = load(x);
        if (add) sum = *(vec_any *)to + sum;
        *(vec_any *)to = sum;
    }
    for (int64_t i = 0; i < n; i++) to[i] = add ? to[i] + x[i] : x[i];
}

/* Token i of the chunk in `w`: its gradients, and D moved to the token before. */
static void adjoint_token(const struct kda_args *a, const struct adjoint *w, float *d, int64_t i, int64_t unit, int64_t group) {
    const int64_t kp = rounded(a->k, LANES), col = group * GROUP, cols = a->v - col < GROUP ? a->v - col : GROUP;
    const float *k = w->k + i * kp, *alpha = w->alpha + i * kp, *s = w->states + i * GROUP * kp;
    const float *e = w->e + i * GROUP, *dout = w->dout + i * GROUP;
    const int add = a->group_k == 0 && group > 0;
    float *dq = w->sums, *dk = dq + kp, *dg = dk + kp;
    adjoint_read(kp, d, w->q + i * kp, k, dout, w->de);
    for (int c = 0; c < GROUP; c++) w->bde[c] = a->beta[unit] * w->de[c];
    row_out(a->dval + unit * a->v + col, w->bde, cols, GROUP);
    const float dbeta = dot(w->de, w->r + i * GROUP), edo = dot(e, dout);
    int64_t at = 0;
    for (; at + SLAB * LANES <= kp; at += SLAB * LANES)
        adjoint_write(SLAB, kp, d + at, s + at, k + at, alpha + at, dout, e, w->bde, edo, dq + at, dk + at, dg + at);
    for (; at < kp; at += LANES)
        adjoint_write(1, kp, d + at, s + at, k + at, alpha + at, dout, e, w->bde, edo, dq + at, dk + at, dg + at);
    const int64_t to = group * a->group_k + unit * a->k;
    deliver(a->dq + to, dq, a->k, add);
    deliver(a->dkey + to, dk, a->k, add);
    deliver(a->dg + to, dg, a->k, add);
    deliver(a->dbeta + group * a->group_1 + unit, &dbeta, 1, add);
}

/* One part of the groups of one value head of one sequence, from its last token to its first. */
static void backward_item(const void *args, int64_t item, float *scratch) {
    const struct kda_args *a = args;
    const int64_t part = item % a->parts, hv = item / a->parts % a->hv, n = item / a->parts / a->hv;
    const int64_t from = groups(a) * part / a->parts, to = groups(a) * (part + 1) / a->parts;
    const int64_t kp = rounded(a->k, LANES), state = (n * a->hv + hv) * a->k * a->v;
    const struct adjoint w = adjoint_memory(a, scratch);
    int64_t first, len;
    bounds(a, n, &first, &len);
#define EACH_GROUP \
    for (int64_t group = from, col = group * GROUP, cols; \
         cols = a->v - col < GROUP ? a->v - col : GROUP, group < to; group++, col += GROUP)
    EACH_GROUP columns_in(w.d + (group - from) * GROUP * kp, kp, a->ds1 ? a->ds1 + state + col : 0, a, cols);
    for (int64_t t0 = (len - 1) / CHUNK * CHUNK; len > 0 && t0 >= 0; t0 -= CHUNK) {
        const int64_t t1 = t0 + CHUNK < len ? t0 + CHUNK : len;
        const float *saved = a->checkpoints + checkpoint(a, first, n, t0 / CHUNK, hv);
        load_rows(a, &w, first, t0, t1, hv);
        EACH_GROUP {
            float *d = w.d + (group - from) * GROUP * kp;
            load_group(a, &w, first, t0, t1, hv, col, cols, saved);
            for (int64_t t = t1 - 1; t >= t0; t--) adjoint_token(a, &w, d, t - t0, (first + t) * a->hv + hv, group);
        }
    }
    if (a->ds0) EACH_GROUP columns_out(a->ds0 + state + col, w.d + (group - from) * GROUP * kp, kp, a, cols);
#undef EACH_GROUP
}

/* Large pages for a large result that nothing was written to: the first touch of small ones costs more than the work. */
static void large_pages(void *memory, int64_t floats) {
#if defined(__linux__) && defined(MADV_HUGEPAGE)
    const uintptr_t unit = 1u << 21, from = ((uintptr_t)memory + unit - 1) & ~(unit - 1);
    const uintptr_t to = ((uintptr_t)memory + (uintptr_t)floats * 4) & ~(unit - 1);
    if (memory && to > from) (void)madvise((void *)from, to - from, MADV_HUGEPAGE);
#else
    (void)memory, (void)floats;
#endif
}

int NAME(kda_forward)(const struct kda_args *a) {
    const int64_t tokens = a->cu ? a->cu[a->n] : a->n * a->t;
    large_pages(a->o, tokens * a->hv * a->v);
    large_pages(a->r, tokens * a->hv * a->v);
    large_pages(a->checkpoints, (tokens / CHUNK + a->n) * a->hv * a->k * a->v);
    struct crew crew = {a, forward_item, forward_floats(a), a->n * a->hv * a->parts, 0, 0};
    return run(&crew, a->threads);
}

int NAME(kda_backward)(const struct kda_args *a) {
    const int64_t tokens = a->cu ? a->cu[a->n] : a->n * a->t, sums = a->parts > 1 ? groups(a) : 1;
    large_pages(a->dq, sums * tokens * a->hv * a->k);
    large_pages(a->dkey, sums * tokens * a->hv * a->k);
    large_pages(a->dg, sums * tokens * a->hv * a->k);
    large_pages(a->dval, tokens * a->hv * a->v);
    struct crew crew = {a, backward_item, backward_floats(a), a->n * a->hv * a->parts, 0, 0};
    return run(&crew, a->threads);
}
