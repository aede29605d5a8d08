// One visit of a block of examples by the SVMs of several classes: scores, dual variables, weights. ../example_blocks.py
// does the same with numpy and torch where nothing was compiled. A row of features is read twice, as it is kept.
#include "../../../pooling/kernels/native/exported.h"
#include "../../../pooling/kernels/native/lanes.h"
#include "../../../pooling/kernels/native/parallel.h"

namespace {

constexpr int N = LANES<float>;
constexpr int64_t CHUNK = 1024;      // numbers of a row; what a thread works on at a time, whatever the threads
constexpr int ROWS = 4;              // that are multiplied by the same numbers at a time
constexpr int64_t WORTH = 1 << 17;  // products from which on a second thread pays

int64_t chunks_of(int64_t length) { return (length + CHUNK - 1) / CHUNK; }
int64_t at_most(int64_t a, int64_t b) { return a < b ? a : b; }

double sum_lanes(Vec<float> v) {
    double sum = 0;
    for (int i = 0; i < N; i++) sum += v[i];
    return sum;
}

// Products of R rows with the same numbers, from one place to another.
template <int R, class T>
void multiply(const Half* const* rows, const T* numbers, int64_t begin, int64_t end, double* products) {
    Vec<float> sums[R] = {};
    int64_t i = begin;
    for (; i + N <= end; i += N) {
        Vec<float> factor = load(numbers + i);
        for (int r = 0; r < R; r++) sums[r] += load(rows[r] + i) * factor;
    }
    if (i < end) {
        Vec<float> factor = load_some(numbers + i, int(end - i));
        for (int r = 0; r < R; r++) sums[r] += load_some(rows[r] + i, int(end - i)) * factor;
    }
    for (int r = 0; r < R; r++) products[r] = sum_lanes(sums[r]);
}

struct Nothing {
    bool ready() const { return true; }
};

// Products of rows and weights, each chunk of numbers by itself, so that threads do not change the sums. Few rows are
// wanted by more than one class, so each class takes its own, some at a time.
struct Scores {
    const Half* const* rows;
    int64_t count, length, classes;
    const float* weights;
    const bool* wanted;  // (rows, classes)
    double* parts;       // (chunks, rows, classes)

    Nothing start() const { return {}; }

    template <int R> void tile(const int64_t* chosen, const float* from, int64_t begin, int64_t end, double* part) const {
        const Half* some[R];
        double products[R];
        for (int r = 0; r < R; r++) some[r] = rows[chosen[r]];
        multiply<R>(some, from, begin, end, products);
        for (int r = 0; r < R; r++) part[chosen[r] * classes] = products[r];
    }

    bool run(int64_t chunk, Nothing&) const {
        int64_t begin = chunk * CHUNK, end = at_most(begin + CHUNK, length), chosen[ROWS];
        for (int64_t c = 0; c < classes; c++) {
            const float* from = weights + c * length;
            double* part = parts + chunk * count * classes + c;
            int64_t some = 0;
            for (int64_t r = 0; r < count; r++) {
                if (wanted[r * classes + c]) chosen[some++] = r;
                if (some == ROWS) tile<ROWS>(chosen, from, begin, end, part), some = 0;
            }
            for (int64_t k = 0; k < some; k++) tile<1>(chosen + k, from, begin, end, part);
        }
        return true;
    }
};

// Weights get the rows times what was added to their dual variables, one row after the other.
struct Weights {
    const Half* const* rows;
    int64_t count, length, classes;
    float* weights;
    const double* added;  // (rows, classes)

    Nothing start() const { return {}; }

    template <int R> void tile(const int64_t* chosen, float* to, int64_t c, int64_t begin, int64_t end) const {
        Vec<float> factors[R];
        for (int r = 0; r < R; r++) factors[r] = Vec<float>{} + float(added[chosen[r] * classes + c]);
        int64_t i = begin;
        for (; i + N <= end; i += N) {
            Vec<float> sum = load(to + i);
            for (int r = 0; r < R; r++) sum += factors[r] * load(rows[chosen[r]] + i);
            store(to + i, sum);
        }
        if (i < end) {
            int some = int(end - i);
            Vec<float> sum = load_some(to + i, some);
            for (int r = 0; r < R; r++) sum += factors[r] * load_some(rows[chosen[r]] + i, some);
            store_some(to + i, sum, some);
        }
    }

    bool run(int64_t chunk, Nothing&) const {
        int64_t begin = chunk * CHUNK, end = at_most(begin + CHUNK, length), chosen[ROWS];
        for (int64_t c = 0; c < classes; c++) {
            float* to = weights + c * length;
            int64_t some = 0;
            for (int64_t r = 0; r < count; r++) {
                if (added[r * classes + c]) chosen[some++] = r;
                if (some == ROWS) tile<ROWS>(chosen, to, c, begin, end), some = 0;
            }
            for (int64_t k = 0; k < some; k++) tile<1>(chosen + k, to, c, begin, end);
        }
        return true;
    }
};

// Products of the rows of a block with each other; a task is all pairs of one row and the later ones.
struct Products {
    const Half* const* rows;
    int64_t count, length;
    double constant;
    double* products;  // (rows, rows)

    Nothing start() const { return {}; }

    template <int R> void tile(int64_t first, int64_t other) const {
        double totals[R] = {}, products_of_chunk[R];
        for (int64_t begin = 0; begin < length; begin += CHUNK) {
            multiply<R>(rows + other, rows[first], begin, at_most(begin + CHUNK, length), products_of_chunk);
            for (int r = 0; r < R; r++) totals[r] += products_of_chunk[r];
        }
        for (int r = 0; r < R; r++)
            products[first * count + other + r] = products[(other + r) * count + first] = totals[r] + constant;
    }

    bool run(int64_t first, Nothing&) const {
        int64_t other = first;
        for (; other + ROWS <= count; other += ROWS) tile<ROWS>(first, other);
        for (; other < count; other++) tile<1>(first, other);
        return true;
    }
};

double best_dual(double dual, double step, double low, double high) {
    double best = dual + step;
    best = best > low ? best : low;
    return best < high ? best : high;
}

// Set the dual variables (rows, classes) to their best values, one row after the other. `steps` is how far each would
// move if it were free, `bounds` where it ends on the other side of 0.
void ascend(
    double* duals, double* steps, const double* bounds, const double* products, const double* curvature, double* change,
    const int32_t* places, int64_t size, int64_t rows, int64_t classes, int64_t passes
) {
    auto moved = [&](int64_t i) {
        double bound = bounds[i];
        return best_dual(duals[i], steps[i], bound < 0 ? bound : 0, bound > 0 ? bound : 0);
    };
    for (; passes > 0; passes--)
        for (int64_t r = 0; r < rows; r++) {
            bool any = false;
            for (int64_t c = 0, i = r * classes; c < classes; c++, i++) {
                double best = moved(i);
                change[c] = best - duals[i];
                any |= change[c] != 0;
                duals[i] = best;
            }
            if (!any) continue;
            for (int64_t k = 0; k < rows; k++) {
                double factor = products[places[k] * size + places[r]] / curvature[k];
                double* of = steps + k * classes;
                for (int64_t c = 0; c < classes; c++) of[c] -= factor * change[c];
            }
        }
}

}  // namespace

// The block: `size` rows at `addresses`, `length` halves each, with their `products`; for each of `entries` its class,
// its row, where its dual variable ends on the other side of 0, the variable, whether it moved last time, its score.
// The classes that are fitted: `columns` gives each class its place among them, or -1; (classes, length) weights, biases.
// With no pass the scores are written down and `gains` get the losses, else the rise of the dual objectives.
EXPORTED int sppnet_visit(
    const int64_t* addresses, const double* products, int64_t size, int64_t length, const int32_t* labels,
    const int32_t* rows, const double* bounds, double* duals, uint8_t* active, double* scores, int64_t entries,
    const int32_t* columns, float* weights, double* biases, double* gains, int64_t classes, double bias_square,
    int64_t passes, int64_t only_active, int64_t threads
) {
    Arena arena;
    int32_t *places = arena.take<int32_t>(size), *row_of = arena.take<int32_t>(size);
    if (arena.failed) return 1;
    for (int64_t b = 0; b < size; b++) row_of[b] = -1;
    auto visited = [&](int64_t e) { return columns[labels[e]] >= 0 && (active[e] || !only_active); };
    for (int64_t e = 0; e < entries; e++)
        if (visited(e)) row_of[rows[e]] = 0;
    int64_t count = 0;
    for (int64_t b = 0; b < size; b++)
        if (row_of[b] == 0) row_of[b] = int32_t(count), places[count++] = int32_t(b);
    if (!count) return 0;

    int64_t cells = count * classes, chunks = chunks_of(length);
    const Half** values = arena.take<const Half*>(count);
    bool* wanted = arena.take<bool>(cells);
    double *bound = arena.take<double>(cells), *dual = arena.take<double>(cells), *added = arena.take<double>(cells);
    double *missing = arena.take<double>(cells), *steps = arena.take<double>(cells);
    double *change = arena.take<double>(classes), *curvature = arena.take<double>(count);
    double* parts = arena.take<double>(chunks * cells);
    if (arena.failed) return 1;
    for (int64_t r = 0; r < count; r++) values[r] = (const Half*)addresses[places[r]];
    for (int64_t i = 0; i < cells; i++) wanted[i] = false, bound[i] = dual[i] = 0;
    auto cell_of = [&](int64_t e) { return row_of[rows[e]] * classes + columns[labels[e]]; };
    for (int64_t e = 0; e < entries; e++)
        if (visited(e)) {
            int64_t i = cell_of(e);
            wanted[i] = true, bound[i] = bounds[e], dual[i] = duals[e];
        }

    if (cells * length < WORTH) threads = 1;
    Scores work = {values, count, length, classes, weights, wanted, parts};
    if (run_parallel(work, chunks, threads)) return 1;
    for (int64_t i = 0; i < cells; i++) {
        double score = biases[i % classes];
        for (int64_t k = 0; wanted[i] && k < chunks; k++) score += parts[k * cells + i];
        missing[i] = (bound[i] > 0) - (bound[i] < 0) - score;
    }
    if (!passes) {
        for (int64_t e = 0; e < entries; e++) {
            if (!visited(e)) continue;
            int64_t i = cell_of(e);
            double sign = bounds[e] < 0 ? -1 : 1, loss = sign * missing[i];
            scores[e] = sign - missing[i];
            if (loss > 0) gains[i % classes] += sign * bounds[e] * loss;
        }
        return 0;
    }

    for (int64_t r = 0; r < count; r++) {
        double own = products[places[r] * size + places[r]];
        curvature[r] = own > 1e-12 ? own : 1e-12;
        for (int64_t i = r * classes; i < (r + 1) * classes; i++) added[i] = dual[i], steps[i] = missing[i] / curvature[r];
    }
    ascend(dual, steps, bound, products, curvature, change, places, size, count, classes, passes);
    for (int64_t i = 0; i < cells; i++) added[i] = dual[i] - added[i];
    for (int64_t c = 0; c < classes; c++) {
        double gain = 0, sum = 0;
        for (int64_t r = 0; r < count; r++) {
            double own = added[r * classes + c];
            if (!own) continue;
            double product = 0;
            for (int64_t k = 0; k < count; k++) product += products[places[r] * size + places[k]] * added[k * classes + c];
            gain += own * (missing[r * classes + c] - 0.5 * product);
            sum += own;
        }
        if (gain > 0) gains[c] += gain;
        biases[c] += bias_square * sum;
    }
    for (int64_t e = 0; e < entries; e++)
        if (visited(e)) {
            int64_t i = cell_of(e);
            duals[e] = dual[i];
            active[e] = added[i] != 0;
        }
    Weights update = {values, count, length, classes, weights, added};
    return run_parallel(update, chunks, threads);
}

// (count, count) products of rows with each other, to which a constant is added.
EXPORTED int sppnet_row_products(
    const int64_t* addresses, int64_t count, int64_t length, double constant, double* products, int64_t threads
) {
    Products work = {(const Half* const*)addresses, count, length, constant, products};
    if (count * count * length < 2 * WORTH) threads = 1;
    return run_parallel(work, count, threads);
}
