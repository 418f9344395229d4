// Every kernel by the name that src/ops/cuda/kernels.rs loads it by. Those for both types of activations end in the type's name.
#include "attention.cuh"
#include "rows.cuh"

extern "C" __global__ void embed_f16_f16(const half_t* words, const float* positions, const unsigned* ids,
                                         const unsigned* position_ids, const float* norm, half_t* out, int rows, int width,
                                         float eps) {
    embed(words, positions, ids, position_ids, norm, out, rows, width, eps);
}

// Weights in f16, activations in f32: for a batch that overflowed.
extern "C" __global__ void embed_f16_f32(const half_t* words, const float* positions, const unsigned* ids,
                                         const unsigned* position_ids, const float* norm, float* out, int rows, int width,
                                         float eps) {
    embed(words, positions, ids, position_ids, norm, out, rows, width, eps);
}

extern "C" __global__ void embed_f32_f32(const float* words, const float* positions, const unsigned* ids,
                                         const unsigned* position_ids, const float* norm, float* out, int rows, int width,
                                         float eps) {
    embed(words, positions, ids, position_ids, norm, out, rows, width, eps);
}

extern "C" __global__ void add_norm_f16(const float* product, const float* bias, const float* norm, half_t* x, int rows,
                                        int width, float eps) {
    add_norm(product, bias, norm, x, rows, width, eps);
}

extern "C" __global__ void add_norm_f32(const float* product, const float* bias, const float* norm, float* x, int rows,
                                        int width, float eps) {
    add_norm(product, bias, norm, x, rows, width, eps);
}

extern "C" __global__ void gelu_f16(half_t* x, unsigned long long count) { gelu_all(x, count); }

extern "C" __global__ void gelu_f32(float* x, unsigned long long count) { gelu_all(x, count); }

extern "C" __global__ void gather_f16(const half_t* x, const unsigned* indices, half_t* out, int rows, int width) {
    gather(x, indices, out, rows, width);
}

extern "C" __global__ void gather_f32(const float* x, const unsigned* indices, float* out, int rows, int width) {
    gather(x, indices, out, rows, width);
}

extern "C" __global__ void head(const float* product, const float* bias, const float* output, const float* output_bias,
                                float* logits, int rows, int width) {
    head_logit(product, bias, output, output_bias, logits, rows, width);
}

extern "C" __global__ void attention_plain_f16(const half_t* queries, int query_stride, const half_t* keys,
                                               const half_t* values, int key_stride, const Tile* tiles, half_t* out,
                                               int out_stride, int size) {
    attention_plain(queries, query_stride, keys, values, key_stride, tiles, out, out_stride, size);
}

extern "C" __global__ void attention_plain_f32(const float* queries, int query_stride, const float* keys,
                                               const float* values, int key_stride, const Tile* tiles, float* out,
                                               int out_stride, int size) {
    attention_plain(queries, query_stride, keys, values, key_stride, tiles, out, out_stride, size);
}

// A weight on its way into f16; `lost` is set if one does not fit.
extern "C" __global__ void narrow(const float* from, half_t* to, unsigned long long count, unsigned* lost) {
    const unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i >= count)
        return;
    to[i] = to_half(from[i]);
    if (!(fabsf(from[i]) <= 65504.0f))
        *lost = 1;
}

// The way back, for products in f32.
extern "C" __global__ void widen(const half_t* from, float* to, unsigned long long count) {
    const unsigned long long i = (unsigned long long)blockIdx.x * blockDim.x + threadIdx.x;
    if (i < count)
        to[i] = to_float(from[i]);
}
