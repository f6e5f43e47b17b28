/* One sweep over rows of features: widen, standardise, multiply, loss, slopes, while a tile of rows lies in the cache.
 *
 * Compiled by heads/linear/kernel.py, which names the precision of the arithmetic: -DREAL=float or -DREAL=double. Vectors are
 * those of gcc and clang, which they have for every processor, at the width of this one.
 *
 * Axes as in heads/linear/objective.py. Columns come in G groups of W, as many as a vector has floats: weights and slopes are
 * (G, D, W), scores and residuals of a tile of T rows (G, T, W). D is padded with zeros to a multiple of 16, so that no
 * loop has a remainder.
 */
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <tgmath.h>
#ifdef __F16C__
#include <immintrin.h>
#endif

#if defined(__AVX512F__)
enum { WIDTH = 64, SUMS = 16 }; /* bytes of a vector; vectors of sums that registers hold beside the factors */
#elif defined(__AVX__)
enum { WIDTH = 32, SUMS = 8 };
#else
enum { WIDTH = 16, SUMS = 8 };
#endif

typedef REAL real;
typedef real vector __attribute__((vector_size(WIDTH)));
typedef __typeof__((vector){0} < (vector){0}) bits; /* integers as wide as the values: -1 where a comparison holds */

enum {
    COLUMNS = WIDTH / sizeof(float), /* of a group */
    LANES = WIDTH / sizeof(real),
    PARTS = COLUMNS / LANES,        /* vectors in a group of columns */
    SINGLE = sizeof(real) == 4,
    MOST_ROWS = 64,                 /* of a tile */
    TILE_BYTES = 200 << 10,         /* of a tile: the larger part of a core's second cache */
};

struct sweep {
    int64_t bytes;                  /* of a stored value: 2, 4 or 8 */
    int64_t dim, padded_dim;        /* D, and the next multiple of 16 */
    int64_t groups;                 /* G */
    int64_t heads;                  /* k; for two classes one column each, padded to G * W */
    int64_t outputs;                /* M columns of a head; 1: two classes */
    int64_t labels;                 /* columns of `codes` */
    const double *centre;           /* (padded D,) */
    const float *single_centre;     /* the same in float32 */
    const float *factor;            /* (padded D,), 0 beyond D */
    const real *weights;            /* (G, padded D, W) */
    const real *intercepts;         /* (G * W,) */
    const real *class_weights;      /* (classes, heads) */
    const int32_t *label_of;        /* (heads,) the column of `codes` that a head learns */
    const real *axes;               /* (heads, M, M): the axes of a head's curvature are its columns */
};

struct sums {
    real *slopes;                   /* (G, padded D, W) */
    double *losses;                 /* (heads,) */
    double *intercept_slopes;       /* (G * W,) */
    double *curvatures;             /* (G * W,) */
};

/* ---- rows ------------------------------------------------------------------------------------------------------- */

enum { EIGHT = 8 };
typedef float eight __attribute__((vector_size(EIGHT * sizeof(float))));
typedef real eight_reals __attribute__((vector_size(EIGHT * sizeof(real))));

/* Eight float16 values, of which `count` are there and the others 0. */
static inline eight widen(const uint16_t *halves, int64_t count)
{
    uint16_t all[EIGHT] = {0};
    if (count < EIGHT)
        halves = memcpy(all, halves, count * sizeof *halves);
#ifdef __F16C__
    return (eight)_mm256_cvtph_ps(_mm_loadu_si128((const __m128i *)halves));
#else
    _Float16 values[EIGHT];
    memcpy(values, halves, sizeof values);
    eight wide;
    for (int i = 0; i < EIGHT; i++)
        wide[i] = (float)values[i];
    return wide;
#endif
}

/* (x - centre) * factor, rounded as heads.data.features.Standardisation does it: float64 is centred in float64. */
static void standardise(const struct sweep *s, const void *stored, real *row)
{
    if (s->bytes == 8)
        for (int64_t d = 0; d < s->dim; d++)
            row[d] = (float)((((const double *)stored)[d] - s->centre[d]) * s->factor[d]);
    else if (s->bytes == 4)
        for (int64_t d = 0; d < s->dim; d++)
            row[d] = (((const float *)stored)[d] - s->single_centre[d]) * s->factor[d];
    else
        for (int64_t d = 0; d < s->dim; d += EIGHT) {
            eight centre, factor;
            memcpy(&centre, s->single_centre + d, sizeof centre);
            memcpy(&factor, s->factor + d, sizeof factor);
            const eight values = (widen((const uint16_t *)stored + d, s->dim - d) - centre) * factor;
            const eight_reals converted = __builtin_convertvector(values, eight_reals);
            memcpy(row + d, &converted, sizeof converted);
        }
}

/* ---- products --------------------------------------------------------------------------------------------------- */

/* Both products take one or two groups of columns at once: two need fewer loads for the same sums. `together` is known
 * to the compiler where they are called, and makes them two functions each. */
#define SPECIALISED static inline __attribute__((always_inline))

/* scores (groups, T, W) = x (rows, dim) weights (groups, dim, W) + intercepts (groups, W) */
SPECIALISED void multiply(
    const int together, const real *x, int64_t stride, int tile, int rows, int64_t dim, const real *weights,
    const real *intercepts, real *scores)
{
    const int vectors = together * PARTS, block = SUMS / vectors;
    const int64_t next_weights = dim * COLUMNS, next_scores = tile * COLUMNS;
    for (int r = 0; r < rows; r += block) {
        const real *row[SUMS];
        vector sum[SUMS];
        for (int i = 0; i < block; i++) {
            row[i] = x + (r + i) * stride;
            for (int v = 0; v < vectors; v++)
                sum[i * vectors + v] = ((const vector *)intercepts)[v];
        }
        for (int64_t d = 0; d < dim; d++)
            for (int v = 0; v < vectors; v++) {
                const real *of_group = weights + v / PARTS * next_weights + d * COLUMNS;
                const vector weight = ((const vector *)of_group)[v % PARTS];
                for (int i = 0; i < block; i++)
                    sum[i * vectors + v] += row[i][d] * weight;
            }
        for (int i = 0; i < block; i++)
            for (int v = 0; v < vectors; v++) {
                real *of_group = scores + v / PARTS * next_scores + (r + i) * COLUMNS;
                ((vector *)of_group)[v % PARTS] = sum[i * vectors + v];
            }
    }
}

/* slopes (groups, dim, W) += x' (dim, rows) residuals (groups, T, W) */
SPECIALISED void add_slopes(
    const int together, const real *x, int64_t stride, int tile, int rows, int64_t dim, const real *residuals,
    real *slopes)
{
    const int vectors = together * PARTS, block = SUMS / vectors;
    const int64_t next_slopes = dim * COLUMNS, next_residuals = tile * COLUMNS;
    for (int64_t d = 0; d < dim; d += block) {
        vector sum[SUMS];
        for (int i = 0; i < block; i++)
            for (int v = 0; v < vectors; v++)
                sum[i * vectors + v] = ((vector *)(slopes + v / PARTS * next_slopes + (d + i) * COLUMNS))[v % PARTS];
        for (int r = 0; r < rows; r++)
            for (int v = 0; v < vectors; v++) {
                const real *of_group = residuals + v / PARTS * next_residuals + r * COLUMNS;
                const vector residual = ((const vector *)of_group)[v % PARTS];
                for (int i = 0; i < block; i++)
                    sum[i * vectors + v] += x[r * stride + d + i] * residual;
            }
        for (int i = 0; i < block; i++)
            for (int v = 0; v < vectors; v++)
                ((vector *)(slopes + v / PARTS * next_slopes + (d + i) * COLUMNS))[v % PARTS] = sum[i * vectors + v];
    }
}

/* ---- losses ----------------------------------------------------------------------------------------------------- */

static inline vector choose(bits condition, vector yes, vector no)
{
    return (vector)((condition & (bits)yes) | (~condition & (bits)no));
}

/* exp(x) of x <= 0: 2^n exp(r) with |r| <= ln 2 / 2, the latter by its series. */
static inline vector exponential(vector x)
{
    const vector zero = {0}, least = zero + (SINGLE ? -87 : -700);
    x = choose(x < least, least, x);
    /* added to 1.5 * 2^23 (float; 2^52 double) a number is rounded to a whole one, which its lowest bits then are */
    const real large = SINGLE ? (real)0x1.8p23 : (real)0x1.8p52;
    const vector shifted = x * (real)1.4426950408889634 + large;
    const vector n = shifted - large;
    const vector power = (vector)(((bits)shifted + (SINGLE ? 127 : 1023)) << (SINGLE ? 23 : 52));
    /* ln 2 in two parts, of which n times the first is exact */
    const vector r = (x - n * (SINGLE ? (real)0x1.62e4p-1 : (real)0x1.62e42fefa38p-1))
                     - n * (SINGLE ? (real)0x1.7f7d1cp-20 : (real)0x1.ef35793c7673p-45);
    vector sum = zero + 1;
    for (int term = SINGLE ? 7 : 13; term > 0; term--)
        sum = 1 + sum * (r * (1 / (real)term));
    return sum * power;
}

/* log(1 + u) of 0 <= u <= 1 as 2 artanh(u / (2 + u)): exact to the last digits for a small u too */
static inline vector log_of_one_plus(vector u)
{
    const vector s = u / (2 + u), square = s * s;
    vector sum = {0};
    for (int odd = SINGLE ? 15 : 33; odd > 0; odd -= 2)
        sum = sum * square + 1 / (real)odd;
    return 2 * s * sum;
}

/* Scores (G, T, W) of a tile of two-class heads become residuals. */
static void two_class_losses(
    const struct sweep *s, int tile, int rows, const int32_t *codes, const real *row_weights, real *scores,
    struct sums *sums)
{
    for (int64_t g = 0; g < s->groups; g++) {
        const int32_t *label_of = s->label_of + g * COLUMNS;
        vector losses[PARTS] = {0}, slopes[PARTS] = {0}, curvatures[PARTS] = {0};
        for (int r = 0; r < rows; r++) {
            real sign_of[COLUMNS], weight_of[COLUMNS];
            for (int c = 0; c < COLUMNS; c++) {
                const int32_t code = codes[r * s->labels + label_of[c]];
                sign_of[c] = 1 - 2 * code;
                weight_of[c] = row_weights[r] * s->class_weights[code * s->heads + g * COLUMNS + c];
            }
            for (int p = 0; p < PARTS; p++) {
                vector *score = (vector *)(scores + (g * tile + r) * COLUMNS) + p, sign, weight;
                memcpy(&sign, sign_of + p * LANES, sizeof sign);
                memcpy(&weight, weight_of + p * LANES, sizeof weight);
                const vector wrong = *score * sign;
                const vector size = choose(wrong < 0, -wrong, wrong);
                const vector u = exponential(-size), likelier = 1 / (1 + u), rarer = u * likelier;
                const vector residual = weight * sign * choose(wrong < 0, rarer, likelier);
                losses[p] += weight * ((real)0.5 * (wrong + size) + log_of_one_plus(u));
                curvatures[p] += weight * likelier * rarer;
                slopes[p] += residual;
                *score = residual;
            }
        }
        for (int c = 0; c < COLUMNS; c++) {
            sums->losses[g * COLUMNS + c] += losses[c / LANES][c % LANES];
            sums->intercept_slopes[g * COLUMNS + c] += slopes[c / LANES][c % LANES];
            sums->curvatures[g * COLUMNS + c] += curvatures[c / LANES][c % LANES];
        }
    }
}

/* One head of one row: scores (M,) become residuals. The loss is that of two classes, the own one against the rest:
 * log(1 + exp(lse(others) - own)) keeps its digits where the own class is all but certain; 1 - p would lose them. */
static real softmax_loss(int64_t outputs, int64_t own, real weight, const real *axes, real *score, double *curvature)
{
    const real own_score = score[own];
    real most = -INFINITY, total = 0;
    score[own] = -INFINITY;
    for (int64_t m = 0; m < outputs; m++)
        most = fmax(most, score[m]);
    for (int64_t m = 0; m < outputs; m++)
        total += score[m] = exp(score[m] - most);
    const real wrong = most + log(total) - own_score;
    const real u = exp(-fabs(wrong)), error = (wrong < 0 ? u : 1) / (1 + u);
    for (int64_t m = 0; m < outputs; m++)
        score[m] *= error / total;
    score[own] = (wrong < 0 ? 1 : u) / (1 + u);
    /* along each axis a: a' (diag(p) - pp') a */
    for (int64_t j = 0; j < outputs; j++) {
        real mean = 0, mean_square = 0;
        for (int64_t m = 0; m < outputs; m++) {
            const real along = axes[m * outputs + j];
            mean += score[m] * along;
            mean_square += score[m] * along * along;
        }
        curvature[j] += weight * fmax(mean_square - mean * mean, (real)0); /* below 0 by rounding alone */
    }
    for (int64_t m = 0; m < outputs; m++)
        score[m] *= weight;
    score[own] = -weight * error;
    return weight * ((real)0.5 * (wrong + fabs(wrong)) + log1p(u));
}

/* Scores (G, T, W) of a tile of heads with a column for each class become residuals; `row` holds G * W values. */
static void softmax_losses(
    const struct sweep *s, int tile, int rows, const int32_t *codes, const real *row_weights, real *scores, real *row,
    struct sums *sums)
{
    for (int r = 0; r < rows; r++) {
        for (int64_t g = 0; g < s->groups; g++)
            memcpy(row + g * COLUMNS, scores + (g * tile + r) * COLUMNS, COLUMNS * sizeof(real));
        for (int64_t k = 0; k < s->heads; k++) {
            const int32_t own = codes[r * s->labels + s->label_of[k]];
            const int64_t first = k * s->outputs;
            sums->losses[k] += softmax_loss(
                s->outputs, own, row_weights[r] * s->class_weights[own * s->heads + k],
                s->axes + first * s->outputs, row + first, sums->curvatures + first);
        }
        for (int64_t c = 0; c < s->groups * COLUMNS; c++)
            sums->intercept_slopes[c] += row[c];
        for (int64_t g = 0; g < s->groups; g++)
            memcpy(scores + (g * tile + r) * COLUMNS, row + g * COLUMNS, COLUMNS * sizeof(real));
    }
}

/* ---- the sweep -------------------------------------------------------------------------------------------------- */

const int32_t columns_of_group = COLUMNS;

static void *allocate(size_t bytes)
{
    return aligned_alloc(64, (bytes + 63) / 64 * 64);
}

/* Add what `count` rows (count, D), their codes (count, labels) and weights (count,) give to `sums`.
 * Returns 0, or 1 where there is no memory. */
int add_rows(
    const struct sweep *s, int64_t count, const char *stored, const int32_t *codes, const real *row_weights,
    struct sums *sums)
{
    /* an odd number of cache lines from row to row, so that the rows of a tile do not compete for the same ones */
    const int64_t line = 64 / sizeof(real), stride = ((s->padded_dim + line - 1) / line | 1) * line;
    int tile = MOST_ROWS;
    while (tile > 16 && tile * stride * (int64_t)sizeof(real) > TILE_BYTES)
        tile /= 2;
    real *x = allocate(tile * stride * sizeof(real));
    real *scores = allocate(s->groups * tile * COLUMNS * sizeof(real));
    real *row = allocate(s->groups * COLUMNS * sizeof(real));
    const int failed = !x || !scores || !row;
    for (int64_t start = 0; start < count && !failed; start += tile) {
        const int rows = count - start < tile ? (int)(count - start) : tile;
        if (start == 0 || rows < tile) {
            memset(x, 0, tile * stride * sizeof(real));
            memset(scores, 0, s->groups * tile * COLUMNS * sizeof(real));
        }
        for (int r = 0; r < rows; r++)
            standardise(s, stored + (start + r) * s->dim * s->bytes, x + r * stride);
        /* rows beyond the last are zero up to the next full block, and so are their residuals */
        const int full = (rows + SUMS - 1) / SUMS * SUMS;
        const int64_t weights_of_group = s->padded_dim * COLUMNS, scores_of_group = tile * COLUMNS;
        for (int64_t g = 0; g < s->groups; g += 2) {
            const real *weights = s->weights + g * weights_of_group, *intercepts = s->intercepts + g * COLUMNS;
            real *of_group = scores + g * scores_of_group;
            if (g + 1 < s->groups)
                multiply(2, x, stride, tile, full, s->padded_dim, weights, intercepts, of_group);
            else
                multiply(1, x, stride, tile, full, s->padded_dim, weights, intercepts, of_group);
        }
        const int32_t *own = codes + start * s->labels;
        if (s->outputs == 1)
            two_class_losses(s, tile, rows, own, row_weights + start, scores, sums);
        else
            softmax_losses(s, tile, rows, own, row_weights + start, scores, row, sums);
        for (int64_t g = 0; g < s->groups; g += 2) {
            real *slopes = sums->slopes + g * weights_of_group;
            const real *of_group = scores + g * scores_of_group;
            if (g + 1 < s->groups)
                add_slopes(2, x, stride, tile, rows, s->padded_dim, of_group, slopes);
            else
                add_slopes(1, x, stride, tile, rows, s->padded_dim, of_group, slopes);
        }
    }
    free(x), free(scores), free(row);
    return failed;
}
