// What stands between a kernel compiled for the host and the driver: threads as fibers, and what they do together.
#pragma once

#include <cstddef>
#include <cstdint>
#include <type_traits>
#include <utility>

#include "vectors.h"

namespace emulated {

// Something that the lanes of a warp do together. `slots[lane]` is what that lane handed over, null outside the mask.
struct WarpOperation {
    const char* name;
    void (*run)(void* const* slots);
};

// Waits for the lanes in `mask`; the last one to come runs the operation for all.
void meet_warp(const WarpOperation& operation, unsigned mask, void* slot);
// __syncthreads
void meet_block();
// The lane of the running thread.
unsigned own_lane();

// Operands of warp operations.
struct Shuffle {
    unsigned value, from, result;
};
struct Ballot {
    bool vote;
    unsigned result;
};
struct Product {
    float* c;
    const unsigned* a;
    unsigned b0, b1;
};
struct MatrixRows {
    const void* row;
    unsigned* out;
};
extern const WarpOperation shuffle, ballot, meeting, product, load_matrices, load_matrices_transposed;

// Copies that wait in a queue of their thread.
void copy_later(void* shared, const void* global, bool valid);
void end_copy_group();
void wait_for_copies(unsigned groups_left);

// Ends the process with a message that says which kernel, block and thread was at work, if one was.
[[noreturn]] void fail(const char* format, ...) __attribute__((format(printf, 1, 2)));

// A kernel by its name, as the build registers it.
struct Kernel {
    const char* name;
    void (*call)(void** arguments); // by one thread
    unsigned arguments;
    unsigned most_threads; // a block's, by __launch_bounds__
};
extern const Kernel kernels[];
extern const size_t kernel_count;

// Runs all blocks of a grid, one after the other, until the last is done.
void run_grid(const Kernel& kernel, dim3 grid, dim3 block, void** arguments);

// Whether all of [from, from + size) is in the shared memory of the kernels.
bool is_shared(const void* from, size_t size);

template <class... T, size_t... I>
void call_with(void (*kernel)(T...), void** arguments, std::index_sequence<I...>) {
    kernel(*static_cast<std::remove_reference_t<T>*>(arguments[I])...);
}

template <class... T> constexpr unsigned count_arguments(void (*)(T...)) { return sizeof...(T); }

template <class... T> void call_kernel(void (*kernel)(T...), void** arguments) {
    call_with(kernel, arguments, std::index_sequence_for<T...>());
}

// Types of the arguments are taken from the kernel's own declaration.
template <auto kernel> constexpr Kernel make_kernel(const char* name, unsigned most_threads, unsigned = 0) {
    return {name, [](void** arguments) { call_kernel(kernel, arguments); }, count_arguments(kernel), most_threads};
}

} // namespace emulated
