// The innermost loop of the SVMs: dual variables of a block of rows, of many classes at once. See ../dual_svm.py, whose
// loop in numpy this one repeats operation by operation, so that both give the same bits.
#include "../../../pooling/kernels/native/exported.h"
#include "../../../pooling/kernels/native/parallel.h"

namespace {

inline double best_dual(double dual, double step, double low, double high) {
    double best = dual + step;
    best = best > low ? best : low;
    return best < high ? best : high;
}

}  // namespace

// All arrays are (rows, classes), but for `effect` (rows, rows): what a change of one dual variable does to the steps of
// all. `duals` and `step` are changed in place; `change` (classes) is scratch.
EXPORTED int sppnet_ascend(
    double* duals, double* step, const double* low, const double* high, const double* effect, double* change,
    int64_t rows, int64_t classes, int64_t passes
) {
    constexpr int64_t MOST_ROWS = 1024;
    if (rows > MOST_ROWS) return 1;
    for (; passes > 0; passes--) {
        bool moves[MOST_ROWS];
        for (int64_t r = 0; r < rows; r++) {
            bool any = false;
            for (int64_t i = r * classes; i < (r + 1) * classes; i++)
                any |= best_dual(duals[i], step[i], low[i], high[i]) != duals[i];
            moves[r] = any;
        }
        for (int64_t r = 0; r < rows; r++) {
            if (!moves[r]) continue;
            for (int64_t c = 0, i = r * classes; c < classes; c++, i++) {
                double best = best_dual(duals[i], step[i], low[i], high[i]);
                change[c] = best - duals[i];
                duals[i] = best;
            }
            for (int64_t k = 0; k < rows; k++) {
                double factor = effect[k * rows + r], *steps = step + k * classes;
                for (int64_t c = 0; c < classes; c++) steps[c] -= factor * change[c];
            }
        }
    }
    return 0;
}
