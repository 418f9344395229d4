// Softmax attention over packed sequences of different lengths, without padding.
//
// The work is cut into tiles: some queries of one sequence, against all keys of that sequence. A block takes one tile and
// one head, so it needs to know nothing of other sequences. Scores and their softmax are in f32, rescaled as larger scores
// turn up (Milakov and Gimelshein 2018; Dao et al. 2022).
//
// A score of -inf is an overflow of a key beyond f16's range, not a word to leave out: `overflow_is_nan` makes it NaN, so that it
// reaches the logit and the batch is computed again in f32. What leaves words out, here, is the end of the sequence alone.
#pragma once
#include "device.cuh"

constexpr float LOG2_E = 1.44269504f;
constexpr int TILE_QUERIES = 64; // as the host cuts them

// Where a tile's rows lie.
struct Tile {
    unsigned query_row, queries, key_row, keys;
};

__device__ __forceinline__ float overflow_is_nan(float score) { return fmaf(score, 0.0f, score); }

// ---- On the tensor cores, for heads of 64 numbers in f16. A warp has 16 queries.

constexpr int HEAD = 64;
constexpr int KEYS = 64;         // in shared memory at a time
constexpr int STRIDE = HEAD + 8; // so that the rows of an 8 x 8 matrix lie in different banks

#ifndef STAGES
#if defined(EMULATED) || __CUDA_ARCH__ >= 800
#define STAGES 2 // the next keys arrive while these are used
#else
#define STAGES 1 // copies are not asynchronous; several blocks take turns instead
#endif
#endif

struct alignas(16) KeysValues {
    half_t k[KEYS][STRIDE];
    half_t v[KEYS][STRIDE];
};

__device__ __forceinline__ void load_keys_values(KeysValues& to, const half_t* k, const half_t* v, int stride, int left) {
    constexpr int PIECES = HEAD / 8; // of 16 bytes, in a row
    for (int i = threadIdx.x; i < KEYS * PIECES; i += blockDim.x) {
        int row = i / PIECES, column = i % PIECES * 8;
        unsigned long long from = (unsigned long long)row * stride + column;
        copy_async_16(&to.k[row][column], k + from, row < left);
        copy_async_16(&to.v[row][column], v + from, row < left);
    }
    copy_async_commit();
}

// What a warp carries from keys to keys. Every fourth of a row belongs to a lane, of two rows: lane / 4 and 8 below.
struct Running {
    float out[HEAD / 8][4];
    float max[2], sum[2];
};

// Scores of 16 queries against the keys: eight columns at a time.
__device__ __forceinline__ void score(float (&s)[KEYS / 8][4], const unsigned (&q)[HEAD / 16][4], const KeysValues& kv) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 8; n++)
        s[n][0] = s[n][1] = s[n][2] = s[n][3] = 0;
#pragma unroll
    for (int d = 0; d < HEAD / 16; d++) {
#pragma unroll
        for (int n = 0; n < KEYS / 16; n++) {
            unsigned b[4]; // keys 0-7 with numbers 0-7 and 8-15, then keys 8-15
            ldmatrix_x4(b, &kv.k[n * 16 + lane % 8 + lane / 16 * 8][d * 16 + lane / 8 % 2 * 8]);
            mma_16x8x16(s[2 * n], q[d], b[0], b[1]);
            mma_16x8x16(s[2 * n + 1], q[d], b[2], b[3]);
        }
    }
}

// Scores to probabilities, not yet divided by their sum; what was summed before is rescaled to the new maximum.
__device__ __forceinline__ void soften(float (&s)[KEYS / 8][4], Running& r, int left, float scale) {
    const int first = threadIdx.x % 4 * 2;
#pragma unroll
    for (int half = 0; half < 2; half++) {
        float max = r.max[half];
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& x = s[n][2 * half + i];
                x = n * 8 + first + i < left ? overflow_is_nan(x) : -INFINITY;
                max = fmaxf(max, x);
            }
        }
        max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, 1));
        max = fmaxf(max, __shfl_xor_sync(0xffffffff, max, 2));
        const float rescale = exp2_fast((r.max[half] - max) * scale);
        float sum = 0;
#pragma unroll
        for (int n = 0; n < KEYS / 8; n++) {
#pragma unroll
            for (int i = 0; i < 2; i++) {
                float& x = s[n][2 * half + i];
                x = exp2_fast((x - max) * scale);
                sum += x;
                r.out[n][2 * half + i] *= rescale;
            }
        }
        r.sum[half] = r.sum[half] * rescale + sum;
        r.max[half] = max;
    }
}

// Adds the values, weighted.
__device__ __forceinline__ void weigh(Running& r, const float (&p)[KEYS / 8][4], const KeysValues& kv) {
    const int lane = threadIdx.x % 32;
#pragma unroll
    for (int n = 0; n < KEYS / 16; n++) {
        // What the product of scores leaves in a lane is what the next one wants there.
        const unsigned a[4] = {pack_half2(p[2 * n][0], p[2 * n][1]), pack_half2(p[2 * n][2], p[2 * n][3]),
                               pack_half2(p[2 * n + 1][0], p[2 * n + 1][1]), pack_half2(p[2 * n + 1][2], p[2 * n + 1][3])};
#pragma unroll
        for (int d = 0; d < HEAD / 16; d++) {
            unsigned b[4]; // numbers 0-7 of keys 0-7 and 8-15, then numbers 8-15
            ldmatrix_x4_trans(b, &kv.v[n * 16 + lane % 16][d * 16 + lane / 16 * 8]);
            mma_16x8x16(r.out[2 * d], a, b[0], b[1]);
            mma_16x8x16(r.out[2 * d + 1], a, b[2], b[3]);
        }
    }
}

__device__ __forceinline__ unsigned load_pair(const half_t* row, int column) { return *(const unsigned*)(row + column); }

// Head h has its queries in columns 64 h … of `queries`, its keys and values likewise in `keys` and `values`; strides are in numbers.
extern "C" __global__ void __launch_bounds__(128)
    attention_tensor(const half_t* queries, int query_stride, const half_t* keys, const half_t* values, int key_stride,
                     const Tile* tiles, half_t* out, int out_stride) {
    __shared__ KeysValues kv[STAGES];
    const Tile tile = tiles[blockIdx.x];
    const int lane = threadIdx.x % 32, warp_query = threadIdx.x / 32 * 16, head = blockIdx.y * HEAD;
    const int own_queries = (int)tile.queries - warp_query; // of this warp, 16 at most
    const half_t* k = keys + (unsigned long long)tile.key_row * key_stride + head;
    const half_t* v = values + (unsigned long long)tile.key_row * key_stride + head;
    load_keys_values(kv[0], k, v, key_stride, tile.keys);

    unsigned q[HEAD / 16][4];
    for (int half = 0; half < 2; half++) {
        const int row = lane / 4 + 8 * half;
        const half_t* from = queries + (unsigned long long)(tile.query_row + warp_query + row) * query_stride + head;
#pragma unroll
        for (int d = 0; d < HEAD / 16; d++) {
            const int column = d * 16 + lane % 4 * 2;
            q[d][half] = row < own_queries ? load_pair(from, column) : 0;
            q[d][2 + half] = row < own_queries ? load_pair(from, column + 8) : 0;
        }
    }

    Running r = {{}, {-INFINITY, -INFINITY}, {0, 0}};
    const float scale = LOG2_E * 0.125f; // 1 / sqrt(64)
    for (int first = 0; first < (int)tile.keys; first += KEYS) {
        const int stage = STAGES == 1 ? 0 : first / KEYS % 2;
        const int next = first + KEYS;
        const bool more = next < (int)tile.keys;
        if (STAGES == 2 && more) {
            const unsigned long long from = (unsigned long long)next * key_stride;
            load_keys_values(kv[STAGES - 1 - stage], k + from, v + from, key_stride, tile.keys - next);
            copy_async_wait<1>();
        } else {
            copy_async_wait<0>();
        }
        __syncthreads();
        if (own_queries > 0) {
            float s[KEYS / 8][4];
            score(s, q, kv[stage]);
            soften(s, r, tile.keys - first, scale);
            weigh(r, s, kv[stage]);
        }
        __syncthreads();
        if (STAGES == 1 && more) {
            const unsigned long long from = (unsigned long long)next * key_stride;
            load_keys_values(kv[0], k + from, v + from, key_stride, tile.keys - next);
        }
    }
    if (own_queries <= 0)
        return;

    for (int half = 0; half < 2; half++) {
        float sum = r.sum[half];
        sum += __shfl_xor_sync(0xffffffff, sum, 1);
        sum += __shfl_xor_sync(0xffffffff, sum, 2);
        const int row = lane / 4 + 8 * half;
        if (row >= own_queries)
            continue;
        half_t* to = out + (unsigned long long)(tile.query_row + warp_query + row) * out_stride + head;
#pragma unroll
        for (int n = 0; n < HEAD / 8; n++)
            *(unsigned*)(to + n * 8 + lane % 4 * 2) = pack_half2(r.out[n][2 * half] / sum, r.out[n][2 * half + 1] / sum);
    }
}

// ---- Without tensor cores: f32, and heads of other sizes. A warp has one query at a time.

constexpr int MOST_PER_LANE = 8; // heads of up to 256 numbers

template <typename T>
__device__ __forceinline__ void attend(const T* query, const T* keys, const T* values, int key_stride, int count, T* out,
                                       int size) {
    const int lane = threadIdx.x % 32;
    const float scale = LOG2_E * rsqrtf((float)size);
    float sum = 0, max = -INFINITY, weighted[MOST_PER_LANE] = {};
    for (int first = 0; first < count; first += 32) {
        float score = -INFINITY; // of this lane's key
        if (first + lane < count) {
            const T* key = keys + (unsigned long long)(first + lane) * key_stride;
            score = 0;
            for (int d = 0; d < size; d++)
                score += load(query + d) * load(key + d);
            score = overflow_is_nan(score);
        }
        const float new_max = fmaxf(max, warp_max(score));
        const float rescale = exp2f((max - new_max) * scale), p = exp2f((score - new_max) * scale);
        max = new_max;
        sum = sum * rescale + warp_sum(p);
        for (int i = 0; i < MOST_PER_LANE; i++)
            weighted[i] *= rescale;
        for (int key = 0; key < 32 && first + key < count; key++) {
            const float weight = __shfl_sync(0xffffffff, p, key);
            const T* value = values + (unsigned long long)(first + key) * key_stride;
#pragma unroll
            for (int i = 0; i < MOST_PER_LANE; i++)
                if (lane + 32 * i < size)
                    weighted[i] += weight * load(value + lane + 32 * i);
        }
    }
#pragma unroll
    for (int i = 0; i < MOST_PER_LANE; i++)
        if (lane + 32 * i < size)
            store(out + lane + 32 * i, weighted[i] / sum);
}

template <typename T>
__device__ __forceinline__ void attention_plain(const T* queries, int query_stride, const T* keys, const T* values,
                                                int key_stride, const Tile* tiles, T* out, int out_stride, int size) {
    const Tile tile = tiles[blockIdx.x];
    const int head = blockIdx.y * size;
    const unsigned long long from = (unsigned long long)tile.key_row * key_stride + head;
    for (unsigned i = threadIdx.x / 32; i < tile.queries; i += blockDim.x / 32) {
        const unsigned long long row = tile.query_row + i;
        attend(queries + row * query_stride + head, keys + from, values + from, key_stride, tile.keys,
               out + row * out_stride + head, size);
    }
}
