// cuBLASLt, as far as products of two matrices with a bias go: column-major, f16 or f32, summed in f32, rounded once.

#include <cstdint>
#include <cstring>
#include <vector>

#include "settings.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

using emulated::log_line;

namespace {

enum Status { SUCCESS = 0, INVALID_VALUE = 7, NOT_SUPPORTED = 15 };
enum Type { F32 = 0, F16 = 2 };
enum Operation { AS_IT_IS = 0, TRANSPOSED = 1 };
enum Epilogue { NOTHING = 1, BIAS = 4 };
// Numbers of attributes that are looked at.
enum { TRANS_A = 3, TRANS_B = 4, EPILOGUE = 7, BIAS_POINTER = 8, BIAS_TYPE = 26 };
constexpr int COMPUTE_F32 = 68;

struct Product {
    int operation_a = AS_IT_IS, operation_b = AS_IT_IS, epilogue = NOTHING, bias_type = -1;
    const void* bias = nullptr;
};

struct Layout {
    int type;
    uint64_t rows, columns;
    int64_t stride;
};

// As far as callers look into it.
struct Found {
    uint64_t algorithm[8];
    size_t workspace;
    int status;
    float waves;
    int reserved[4];
};

float load(const void* from, int type, size_t at) {
    if (type == F32)
        return static_cast<const float*>(from)[at];
    return static_cast<const _Float16*>(from)[at];
}

void store(void* to, int type, size_t at, float value) {
    if (type == F32)
        static_cast<float*>(to)[at] = value;
    else
        static_cast<_Float16*>(to)[at] = static_cast<_Float16>(value); // beyond the range: infinity
}

bool is_sound(const Layout& layout) {
    return (layout.type == F16 || layout.type == F32) && layout.rows && layout.columns &&
           layout.stride >= static_cast<int64_t>(layout.rows);
}

// The real library's fast kernels want this much, and ours are chosen for it.
bool is_aligned(const void* at) { return at && reinterpret_cast<uintptr_t>(at) % 16 == 0; }

// A vector for each column of op(A)ᵀ or op(B): what is multiplied element by element.
std::vector<float> depth_first(const void* from, const Layout& layout, bool columns_are_depth, size_t vectors, size_t depth) {
    std::vector<float> out(vectors * depth);
    for (size_t v = 0; v < vectors; v++)
        for (size_t d = 0; d < depth; d++) {
            const size_t row = columns_are_depth ? v : d, column = columns_are_depth ? d : v;
            out[v * depth + d] = load(from, layout.type, row + column * layout.stride);
        }
    return out;
}

float dot(const float* a, const float* b, size_t depth) {
    float sums[8] = {};
    size_t d = 0;
    for (; d + 8 <= depth; d += 8)
        for (size_t i = 0; i < 8; i++)
            sums[i] += a[d + i] * b[d + i];
    for (; d < depth; d++)
        sums[0] += a[d] * b[d];
    return ((sums[0] + sums[4]) + (sums[1] + sums[5])) + ((sums[2] + sums[6]) + (sums[3] + sums[7]));
}

} // namespace

EXPORT int cublasLtCreate(void** handle) {
    *handle = new char;
    return SUCCESS;
}

EXPORT int cublasLtDestroy(void* handle) {
    delete static_cast<char*>(handle);
    return SUCCESS;
}

EXPORT size_t cublasLtGetVersion() { return 120205; }
EXPORT const char* cublasLtGetStatusName(int status) { return status == SUCCESS ? "CUBLAS_STATUS_SUCCESS" : "CUBLAS_STATUS_ERROR"; }
EXPORT const char* cublasLtGetStatusString(int status) { return status == SUCCESS ? "success" : "an error"; }

EXPORT int cublasLtMatmulDescCreate(void** to, int compute, int scale) {
    if (compute != COMPUTE_F32 || scale != F32)
        return NOT_SUPPORTED;
    *to = new Product;
    return SUCCESS;
}

EXPORT int cublasLtMatmulDescDestroy(void* handle) {
    delete static_cast<Product*>(handle);
    return SUCCESS;
}

EXPORT int cublasLtMatmulDescSetAttribute(void* handle, int attribute, const void* value, size_t size) {
    Product& product = *static_cast<Product*>(handle);
    int* numbers[32] = {};
    numbers[TRANS_A] = &product.operation_a;
    numbers[TRANS_B] = &product.operation_b;
    numbers[EPILOGUE] = &product.epilogue;
    numbers[BIAS_TYPE] = &product.bias_type;
    if (attribute == BIAS_POINTER && size == sizeof product.bias)
        memcpy(&product.bias, value, size);
    else if (attribute >= 0 && attribute < 32 && numbers[attribute] && size == sizeof(int))
        memcpy(numbers[attribute], value, size);
    else
        return INVALID_VALUE;
    return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutCreate(void** to, int type, uint64_t rows, uint64_t columns, int64_t stride) {
    *to = new Layout{type, rows, columns, stride};
    return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutDestroy(void* handle) {
    delete static_cast<Layout*>(handle);
    return SUCCESS;
}

EXPORT int cublasLtMatrixLayoutSetAttribute(void*, int, const void*, size_t) { return NOT_SUPPORTED; }

EXPORT int cublasLtMatmulPreferenceCreate(void** to) {
    *to = new char;
    return SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceDestroy(void* handle) {
    delete static_cast<char*>(handle);
    return SUCCESS;
}

EXPORT int cublasLtMatmulPreferenceSetAttribute(void*, int, const void*, size_t) { return SUCCESS; }

EXPORT int cublasLtMatmulAlgoGetHeuristic(void*, void*, void* a, void* b, void* c, void* d, void*, int asked, Found* found, int* count) {
    *count = 0;
    for (const void* layout : {a, b, c, d})
        if (!is_sound(*static_cast<const Layout*>(layout)))
            return INVALID_VALUE;
    if (asked < 1)
        return INVALID_VALUE;
    *found = {};
    *count = 1;
    return SUCCESS;
}

EXPORT int cublasLtMatmul(void*, void* description, const float* alpha, const void* a, void* a_layout, const void* b, void* b_layout,
                          const float* beta, const void* c, void* c_layout, void* d, void* d_layout, const void*, void*, size_t, void*) {
    const Product& product = *static_cast<const Product*>(description);
    const Layout &la = *static_cast<Layout*>(a_layout), &lb = *static_cast<Layout*>(b_layout);
    const Layout &lc = *static_cast<Layout*>(c_layout), &ld = *static_cast<Layout*>(d_layout);
    const bool at = product.operation_a == TRANSPOSED, bt = product.operation_b == TRANSPOSED;
    const size_t m = at ? la.columns : la.rows, depth = at ? la.rows : la.columns, n = bt ? lb.rows : lb.columns;
    const bool biased = product.epilogue == BIAS;
    if (!is_sound(la) || !is_sound(lb) || !is_sound(ld) || (bt ? lb.columns : lb.rows) != depth || ld.rows != m || ld.columns != n)
        return INVALID_VALUE;
    if (!is_aligned(a) || !is_aligned(b) || !is_aligned(d) || (biased && !product.bias))
        return INVALID_VALUE;
    if (la.type != lb.type || (product.epilogue != NOTHING && !biased))
        return NOT_SUPPORTED;
    log_line("matmul %zu %zu %zu types %d %d epilogue %d", m, n, depth, la.type, ld.type, product.epilogue);

    const std::vector<float> left = depth_first(a, la, !at, m, depth), right = depth_first(b, lb, bt, n, depth);
    const int bias_type = product.bias_type < 0 ? ld.type : product.bias_type;
    for (size_t column = 0; column < n; column++)
        for (size_t row = 0; row < m; row++) {
            float value = *alpha * dot(&left[row * depth], &right[column * depth], depth);
            if (*beta != 0)
                value += *beta * load(c, lc.type, row + column * lc.stride);
            if (biased)
                value += load(product.bias, bias_type, row);
            store(d, ld.type, row + column * ld.stride, value);
        }
    return SUCCESS;
}
