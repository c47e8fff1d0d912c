/* What the C kernels share: vectors of the widest kind, a few functions on them, and threads that share out items.
 *
 * A kernel is compiled once per instruction set (KERNEL_ISA names it, see hatch_build.py); the unit "base" also tells
 * which one to use (KERNEL_MAIN).
 */
#include <errno.h>
#include <pthread.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#if defined(__SSE__)
#include <xmmintrin.h>
#endif

#define PASTE2(a, b) a##_##b
#define PASTE(a, b) PASTE2(a, b)
#define NAME(x) PASTE(x, KERNEL_ISA)
#define INLINE static inline __attribute__((always_inline))
#define UNROLL _Pragma("GCC unroll 16")

#if defined(__AVX512F__)
#define LANES 16
#define SLAB 4 /* vectors of K channels whose three sums stay in registers */
#define LOW1 0, 16, 2, 18, 4, 20, 6, 22, 8, 24, 10, 26, 12, 28, 14, 30
#define HIGH1 1, 17, 3, 19, 5, 21, 7, 23, 9, 25, 11, 27, 13, 29, 15, 31
#define LOW2 0, 1, 16, 17, 4, 5, 20, 21, 8, 9, 24, 25, 12, 13, 28, 29
#define HIGH2 2, 3, 18, 19, 6, 7, 22, 23, 10, 11, 26, 27, 14, 15, 30, 31
#define LOW4 0, 1, 2, 3, 16, 17, 18, 19, 8, 9, 10, 11, 24, 25, 26, 27
#define HIGH4 4, 5, 6, 7, 20, 21, 22, 23, 12, 13, 14, 15, 28, 29, 30, 31
#define LOW8 0, 1, 2, 3, 4, 5, 6, 7, 16, 17, 18, 19, 20, 21, 22, 23
#define HIGH8 8, 9, 10, 11, 12, 13, 14, 15, 24, 25, 26, 27, 28, 29, 30, 31
#elif defined(__AVX2__)
#define LANES 8
#define SLAB 2
#define LOW1 0, 8, 2, 10, 4, 12, 6, 14
#define HIGH1 1, 9, 3, 11, 5, 13, 7, 15
#define LOW2 0, 1, 8, 9, 4, 5, 12, 13
#define HIGH2 2, 3, 10, 11, 6, 7, 14, 15
#define LOW4 0, 1, 2, 3, 8, 9, 10, 11
#define HIGH4 4, 5, 6, 7, 12, 13, 14, 15
#else
#define LANES 4
#define SLAB 2
#define LOW1 0, 4, 2, 6
#define HIGH1 1, 5, 3, 7
#define LOW2 0, 1, 4, 5
#define HIGH2 2, 3, 6, 7
#endif

typedef float vec __attribute__((vector_size(4 * LANES), may_alias));
typedef float vec_any __attribute__((vector_size(4 * LANES), aligned(4), may_alias));
typedef uint32_t uvec __attribute__((vector_size(4 * LANES), may_alias));
#if defined(__clang__)
#define SHUFFLE(a, b, ...) __builtin_shufflevector(a, b, __VA_ARGS__)
#else
#define SHUFFLE(a, b, ...) __builtin_shuffle(a, b, (uvec){__VA_ARGS__})
#endif

INLINE void interleave(vec *a, vec *b, int s) {
    vec x = *a, y = *b;
    if (s == 1) *a = SHUFFLE(x, y, LOW1), *b = SHUFFLE(x, y, HIGH1);
    if (s == 2) *a = SHUFFLE(x, y, LOW2), *b = SHUFFLE(x, y, HIGH2);
#if LANES >= 8
    if (s == 4) *a = SHUFFLE(x, y, LOW4), *b = SHUFFLE(x, y, HIGH4);
#endif
#if LANES >= 16
    if (s == 8) *a = SHUFFLE(x, y, LOW8), *b = SHUFFLE(x, y, HIGH8);
#endif
}

#if LANES == 16
#define LEVELS(f) f(1) f(2) f(4) f(8)
#elif LANES == 8
#define LEVELS(f) f(1) f(2) f(4)
#else
#define LEVELS(f) f(1) f(2)
#endif

/* x[i][j] <-> x[j][i] */
INLINE void transpose(vec *x) {
#define LEVEL(s) UNROLL for (int i = 0; i < LANES; i++) if (!(i & s)) interleave(x + i, x + i + s, s);
    LEVELS(LEVEL)
#undef LEVEL
}

/* Lane i of the result is the sum of x[i]: LANES horizontal sums at once, each in the same tree. x is overwritten. */
INLINE vec row_sums(vec *x) {
#define LEVEL(s) UNROLL for (int i = 0; i < LANES; i += 2 * s) { interleave(x + i, x + i + s, s); x[i] = x[i] + x[i + s]; }
    LEVELS(LEVEL)
#undef LEVEL
    return x[0];
}

INLINE vec exponential(vec x) {
    const float round = 12582912.0f;
    vec z = x * 1.44269504f + round;
    vec n = z - round;
    vec r = x - n * 0.693145752f;
    r = r - n * 1.42860677e-6f;
    vec y = r * 1.3888889e-3f + 8.3333333e-3f;
    y = y * r + 4.1666667e-2f;
    y = y * r + 1.6666667e-1f;
    y = y * r + 0.5f;
    y = y * r + 1.0f;
    y = y * r + 1.0f;
    uvec bits = (uvec)y + ((uvec)z << 23);
    uvec under = (uvec)(x < -87.0f), over = (uvec)(x > 88.0f);
    return (vec)((bits & ~under & ~over) | (over & 0x7f800000u));
}

INLINE vec all(float x) { return x - (vec){0}; }

INLINE vec load(const float *x) { return *(const vec *)x; }

INLINE void store(float *to, vec x) { *(vec *)to = x; }

static int64_t rounded(int64_t n, int64_t unit) { return (n + unit - 1) / unit * unit; }

/* ---- threads: items are taken one by one, each is computed whole by whoever takes it ---- */

struct crew {
    const void *args;
    void (*item)(const void *, int64_t, float *);
    size_t floats;
    int64_t items, next;
    int failed;
};

static void *work(void *context) {
    struct crew *crew = context;
    void *scratch = 0;
    if (posix_memalign(&scratch, 64, crew->floats * 4)) {
        __atomic_store_n(&crew->failed, ENOMEM, __ATOMIC_RELAXED);
        return 0;
    }
#if defined(__SSE__) /* denormals are zero, whatever the caller's setting: they are slow and carry nothing here */
    const unsigned mode = _mm_getcsr();
    _mm_setcsr(mode | 0x8040u);
#elif defined(__aarch64__)
    uint64_t mode;
    __asm__ volatile("mrs %0, fpcr" : "=r"(mode));
    __asm__ volatile("msr fpcr, %0" : : "r"(mode | (1u << 24)));
#endif
    for (;;) {
        const int64_t i = __atomic_fetch_add(&crew->next, 1, __ATOMIC_RELAXED);
        if (i >= crew->items) break;
        crew->item(crew->args, i, scratch);
    }
#if defined(__SSE__)
    _mm_setcsr(mode);
#elif defined(__aarch64__)
    __asm__ volatile("msr fpcr, %0" : : "r"(mode));
#endif
    free(scratch);
    return 0;
}

/* 0, or ENOMEM. The caller works too; a thread that cannot be started is done without. */
static int run(struct crew *crew, int64_t threads) {
    pthread_t started[63];
    int64_t n = 0, want = threads < crew->items ? threads : crew->items;
    while (n + 1 < want && n < 63 && pthread_create(&started[n], 0, work, crew) == 0) n++;
    work(crew);
    while (n > 0) pthread_join(started[--n], 0);
    return crew->failed;
}

#if defined(KERNEL_MAIN)
/* The sources this library was built from (see hatch_build.py), and the widest instruction set that this machine runs. */
const char *kernel_source(void) { return KERNEL_SOURCE; }

const char *kernel_isa(void) {
#if defined(__x86_64__)
    __builtin_cpu_init();
    if (__builtin_cpu_supports("avx512f") && __builtin_cpu_supports("avx512dq") && __builtin_cpu_supports("avx512bw") && __builtin_cpu_supports("avx512vl")) return "avx512";
    if (__builtin_cpu_supports("avx2") && __builtin_cpu_supports("fma")) return "avx2";
#endif
    return "base";
}
#endif
