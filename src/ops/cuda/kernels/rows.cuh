// Operations on rows: embeddings, layer norm, GELU, the head. A warp has a row to itself; all arithmetic is in f32.
#pragma once
#include "device.cuh"

// Rows of up to WIDEST numbers, a multiple of four, are kept in the registers of a warp.
constexpr int WIDEST = 1024;
constexpr int CHUNKS = WIDEST / (32 * 4);

// The row of this warp, or -1 past the end.
__device__ __forceinline__ int own_row(int rows) {
    int row = blockIdx.x * (blockDim.x / 32) + threadIdx.x / 32;
    return row < rows ? row : -1;
}

__device__ __forceinline__ int own_column(int chunk) { return (chunk * 32 + (int)(threadIdx.x % 32)) * 4; }

// Layer norm of a row in registers, written to `out`. `norm` is gain and shift, `width` numbers each. Columns past
// `width` hold zeros.
template <typename T>
__device__ __forceinline__ void write_norm(float4 (&x)[CHUNKS], const float* norm, T* out, int width, float eps) {
    float sum = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++)
        sum += (x[i].x + x[i].y) + (x[i].z + x[i].w);
    const float mean = warp_sum(sum) / width;
    float squares = 0;
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        x[i] = make_float4(x[i].x - mean, x[i].y - mean, x[i].z - mean, x[i].w - mean);
        if (own_column(i) < width)
            squares += (x[i].x * x[i].x + x[i].y * x[i].y) + (x[i].z * x[i].z + x[i].w * x[i].w);
    }
    const float scale = rsqrtf(warp_sum(squares) / width + eps);
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = own_column(i);
        if (column < width) {
            float4 gain = load4(norm + column), shift = load4(norm + width + column);
            store4(out + column, make_float4(x[i].x * scale * gain.x + shift.x, x[i].y * scale * gain.y + shift.y,
                                             x[i].z * scale * gain.z + shift.z, x[i].w * scale * gain.w + shift.w));
        }
    }
}

__device__ __forceinline__ float4 add(float4 a, float4 b) {
    return make_float4(a.x + b.x, a.y + b.y, a.z + b.z, a.w + b.w);
}

// out[row] = norm(words[ids[row]] + positions[position_ids[row]])
template <typename W, typename T>
__device__ __forceinline__ void embed(const W* words, const float* positions, const unsigned* ids,
                                      const unsigned* position_ids, const float* norm, T* out, int rows, int width,
                                      float eps) {
    const int row = own_row(rows);
    if (row < 0)
        return;
    const W* word = words + (unsigned long long)ids[row] * width;
    const float* position = positions + (unsigned long long)position_ids[row] * width;
    float4 x[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = own_column(i);
        x[i] = column < width ? add(load4(word + column), load4(position + column)) : make_float4(0, 0, 0, 0);
    }
    write_norm(x, norm, out + (unsigned long long)row * width, width, eps);
}

// x[row] = norm(product[row] + bias + x[row]). The product comes in f32: it is what outlier channels take out of f16's range.
template <typename T>
__device__ __forceinline__ void add_norm(const float* product, const float* bias, const float* norm, T* x, int rows,
                                         int width, float eps) {
    const int row = own_row(rows);
    if (row < 0)
        return;
    const unsigned long long start = (unsigned long long)row * width;
    float4 sum[CHUNKS];
#pragma unroll
    for (int i = 0; i < CHUNKS; i++) {
        int column = own_column(i);
        sum[i] = column < width
                     ? add(add(load4(product + start + column), load4(bias + column)), load4(x + start + column))
                     : make_float4(0, 0, 0, 0);
    }
    write_norm(sum, norm, x + start, width, eps);
}

// The exact GELU (Hendrycks and Gimpel 2016), by the error function. It turns -inf into NaN, which is wanted: an infinity here is
// an overflow, and must reach the logit.
__device__ __forceinline__ float gelu(float x) { return 0.5f * x * (1.0f + erff(x * 0.70710678f)); }

// In place, four numbers at a time.
template <typename T> __device__ __forceinline__ void gelu_all(T* x, unsigned long long count) {
    const unsigned long long i = ((unsigned long long)blockIdx.x * blockDim.x + threadIdx.x) * 4;
    if (i >= count)
        return;
    float4 v = load4(x + i);
    store4(x + i, make_float4(gelu(v.x), gelu(v.y), gelu(v.z), gelu(v.w)));
}

// logits[row] = tanh(product[row] + bias) · output + output_bias
__device__ __forceinline__ void head_logit(const float* product, const float* bias, const float* output,
                                           const float* output_bias, float* logits, int rows, int width) {
    const int row = own_row(rows);
    if (row < 0)
        return;
    float sum = 0;
    for (int column = threadIdx.x % 32; column < width; column += 32)
        sum += tanhf(product[(unsigned long long)row * width + column] + bias[column]) * output[column];
    sum = warp_sum(sum);
    if (threadIdx.x % 32 == 0)
        logits[row] = sum + output_bias[0];
}

// out[row] = x[indices[row]]
template <typename T>
__device__ __forceinline__ void gather(const T* x, const unsigned* indices, T* out, int rows, int width) {
    const int row = own_row(rows);
    if (row < 0)
        return;
    const T* from = x + (unsigned long long)indices[row] * width;
    for (int column = (threadIdx.x % 32) * 4; column < width; column += 32 * 4)
        store4(out + (unsigned long long)row * width + column, load4(from + column));
}
