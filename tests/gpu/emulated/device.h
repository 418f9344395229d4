// The vocabulary of CUDA C++ for kernels that g++ compiles for the host; included ahead of their sources by the build.
//
// A thread is a fiber, so plain code needs nothing. What threads do together goes to the runtime. The functions that the
// project has as inline PTX in device.cuh are here in plain C++.
#pragma once

#include <cmath>
#include <cstdint>
#include <cstring>
#include <type_traits>

#include "runtime.h"

#define __global__
#define __device__
#define __host__
#define __constant__
#define __forceinline__ inline __attribute__((always_inline))
#define __launch_bounds__(...)
#define __align__(bytes) alignas(bytes)
// Blocks run one at a time, so one copy does for all. The linker gathers these, to be poisoned between blocks: shared.ld.
#define __shared__ static

// Of the thread that runs now; the runtime sets them.
extern uint3 threadIdx, blockIdx;
extern dim3 blockDim, gridDim;
constexpr int warpSize = 32;

// ---- Threads together

inline void __syncthreads() { emulated::meet_block(); }

inline void __syncwarp(unsigned mask = 0xffffffff) { emulated::meet_warp(emulated::meeting, mask, nullptr); }

namespace emulated {
template <class T> T shuffle_from(unsigned mask, T value, unsigned from) {
    static_assert(sizeof(T) == 4, "shuffles are of 32 bits here");
    Shuffle slot = {0, from, 0};
    memcpy(&slot.value, &value, 4);
    meet_warp(shuffle, mask, &slot);
    memcpy(&value, &slot.result, 4);
    return value;
}
} // namespace emulated

// A lane whose source is outside its segment of `width` lanes keeps its own value, as the PTX ISA says of shfl.
template <class T> T __shfl_sync(unsigned mask, T value, int from, int width = 32) {
    return emulated::shuffle_from(mask, value, (emulated::own_lane() & ~(width - 1u)) | (from & (width - 1u)));
}

template <class T> T __shfl_xor_sync(unsigned mask, T value, int lane_mask, int width = 32) {
    const unsigned lane = emulated::own_lane(), from = lane ^ lane_mask, last = lane | (width - 1u);
    return emulated::shuffle_from(mask, value, from <= last ? from : lane);
}

template <class T> T __shfl_down_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const unsigned lane = emulated::own_lane(), last = lane | (width - 1u);
    return emulated::shuffle_from(mask, value, lane + lanes <= last ? lane + lanes : lane);
}

template <class T> T __shfl_up_sync(unsigned mask, T value, unsigned lanes, int width = 32) {
    const unsigned lane = emulated::own_lane(), first = lane & ~(width - 1u);
    return emulated::shuffle_from(mask, value, lane >= first + lanes ? lane - lanes : lane);
}

inline unsigned __ballot_sync(unsigned mask, int vote) {
    emulated::Ballot slot = {vote != 0, 0};
    emulated::meet_warp(emulated::ballot, mask, &slot);
    return slot.result;
}

inline int __any_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) != 0; }
inline int __all_sync(unsigned mask, int vote) { return __ballot_sync(mask, vote) == mask; }

// Blocks and threads take turns, so what one wrote the others see.
inline void __threadfence() {}
inline void __threadfence_block() {}

[[noreturn]] inline void __trap() { emulated::fail("the kernel trapped"); }

// ---- Memory

template <class T> T __ldg(const T* from) { return *from; }
template <class T> T __ldcs(const T* from) { return *from; }
template <class T> void __stcs(T* to, std::common_type_t<T> value) { *to = value; }

// Threads switch only where they wait, so plain code is atomic. The second argument's type is the first's.
namespace emulated {
template <class T> T exchange(T* at, T value) {
    T old = *at;
    *at = value;
    return old;
}
} // namespace emulated
template <class T> T atomicExch(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, value); }
template <class T> T atomicAdd(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at + value); }
template <class T> T atomicSub(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at - value); }
template <class T> T atomicMax(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at < value ? value : *at); }
template <class T> T atomicMin(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, value < *at ? value : *at); }
template <class T> T atomicOr(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at | value); }
template <class T> T atomicAnd(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at & value); }
template <class T> T atomicXor(T* at, std::common_type_t<T> value) { return emulated::exchange<T>(at, *at ^ value); }
template <class T> T atomicCAS(T* at, std::common_type_t<T> expected, std::common_type_t<T> value) {
    return emulated::exchange<T>(at, *at == expected ? value : *at);
}

// ---- Arithmetic that <cmath> has not or has otherwise

// Floats as fminf and fmaxf: a NaN loses.
template <class A, class B> std::common_type_t<A, B> min(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmin(T(a), T(b));
    else
        return T(a) < T(b) ? T(a) : T(b);
}

template <class A, class B> std::common_type_t<A, B> max(A a, B b) {
    using T = std::common_type_t<A, B>;
    if constexpr (std::is_floating_point_v<T>)
        return std::fmax(T(a), T(b));
    else
        return T(a) < T(b) ? T(b) : T(a);
}

namespace emulated {
template <class To, class From> To bits_as(From from) {
    static_assert(sizeof(To) == sizeof(From), "of the same size");
    To to;
    memcpy(&to, &from, sizeof(To));
    return to;
}
} // namespace emulated

inline float rsqrtf(float x) { return 1.0f / sqrtf(x); }
inline float __expf(float x) { return expf(x); }
inline float __logf(float x) { return logf(x); }
inline float __fdividef(float x, float y) { return x / y; }
inline float __frcp_rn(float x) { return 1.0f / x; }
inline float __fmaf_rn(float x, float y, float z) { return fmaf(x, y, z); }
inline float __saturatef(float x) { return x > 0 ? (x < 1 ? x : 1.0f) : 0.0f; }
inline int __float_as_int(float x) { return emulated::bits_as<int>(x); }
inline unsigned __float_as_uint(float x) { return emulated::bits_as<unsigned>(x); }
inline float __int_as_float(int x) { return emulated::bits_as<float>(x); }
inline float __uint_as_float(unsigned x) { return emulated::bits_as<float>(x); }
inline int __popc(unsigned x) { return __builtin_popcount(x); }
inline int __clz(int x) { return x ? __builtin_clz(x) : 32; }
inline int __ffs(int x) { return __builtin_ffs(x); }

// ---- What device.cuh has in PTX

inline unsigned short to_half(float x) { return emulated::bits_as<unsigned short>(static_cast<_Float16>(x)); }
inline float to_float(unsigned short half) { return emulated::bits_as<_Float16>(half); }
inline unsigned pack_half2(float low, float high) { return to_half(low) | static_cast<unsigned>(to_half(high)) << 16; }
inline float2 unpack_half2(unsigned pair) { return {to_float(pair & 0xffff), to_float(pair >> 16)}; }

inline float exp2_fast(float x) { return exp2f(x); }

inline void mma_16x8x16(float (&c)[4], const unsigned (&a)[4], unsigned b0, unsigned b1) {
    emulated::Product slot = {c, a, b0, b1};
    emulated::meet_warp(emulated::product, 0xffffffff, &slot);
}

inline void ldmatrix_x4(unsigned (&r)[4], const void* row) {
    emulated::MatrixRows slot = {row, r};
    emulated::meet_warp(emulated::load_matrices, 0xffffffff, &slot);
}

inline void ldmatrix_x4_trans(unsigned (&r)[4], const void* row) {
    emulated::MatrixRows slot = {row, r};
    emulated::meet_warp(emulated::load_matrices_transposed, 0xffffffff, &slot);
}

inline void copy_async_16(void* shared, const void* global, bool valid) { emulated::copy_later(shared, global, valid); }
inline void copy_async_commit() { emulated::end_copy_group(); }
template <int N> void copy_async_wait() {
    static_assert(N >= 0, "a number of groups");
    emulated::wait_for_copies(N);
}
