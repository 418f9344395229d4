// The block that runs now, thread by thread.
#pragma once

#include <vector>

#include "runtime.h"

namespace emulated {

constexpr unsigned WARP = 32, MOST_THREADS = 1024, MOST_WARPS = MOST_THREADS / WARP;

struct Copy {
    void* shared;
    const void* global; // null for zeros
};

// Copies of one thread, oldest first. `ends` has the number of copies up to the end of each group.
struct CopyQueue {
    std::vector<Copy> copies;
    std::vector<size_t> ends;
};

enum class State { ready, at_warp, at_block, done };

struct Fiber {
    void* stack_pointer; // while it does not run
    uint3 index;
    unsigned number; // in the block
    State state;
    const WarpOperation* operation; // what it waits for, at_warp
    unsigned mask;
    void* slot;
    CopyQueue copies;
};

// The thread that runs now.
Fiber& own_fiber();

// For messages: what runs now, empty if nothing does.
bool describe_running(char* to, size_t size);
// Whether an address lies in the stacks of the threads or in the pages that guard them.
bool is_stack(const void* address);

} // namespace emulated
