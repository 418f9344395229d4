// cp.async: copies take place as late as is allowed, when their thread waits for them.

#include <cstring>

#include "fibers.h"

namespace emulated {

namespace {

bool is_aligned(const void* at) { return reinterpret_cast<uintptr_t>(at) % 16 == 0; }

void check_source(const void* global) {
    if (!is_aligned(global))
        fail("asynchronous copy from %p, which is not a multiple of 16 bytes", global);
    if (is_shared(global, 1) || is_stack(global))
        fail("asynchronous copy from %p, which is not in global memory", global);
    // An address out of bounds shall fault here rather than where it is waited for.
    (void)*static_cast<const volatile char*>(global);
    (void)static_cast<const volatile char*>(global)[15];
}

void run_copy(const Copy& copy) {
    if (copy.global)
        memcpy(copy.shared, copy.global, 16);
    else
        memset(copy.shared, 0, 16);
}

} // namespace

// Until then the place holds NaNs: whoever still needs what was there, or already what comes, shall notice.
void copy_later(void* shared, const void* global, bool valid) {
    if (!is_aligned(shared))
        fail("asynchronous copy to %p, which is not a multiple of 16 bytes", shared);
    if (!is_shared(shared, 16))
        fail("asynchronous copy to %p, which is not in shared memory", shared);
    if (valid)
        check_source(global);
    memset(shared, 0xFF, 16);
    own_fiber().copies.copies.push_back({shared, valid ? global : nullptr});
}

void end_copy_group() {
    CopyQueue& queue = own_fiber().copies;
    queue.ends.push_back(queue.copies.size());
}

// Copies after the last group's end belong to none yet and stay.
void wait_for_copies(unsigned groups_left) {
    CopyQueue& queue = own_fiber().copies;
    if (queue.ends.size() <= groups_left)
        return;
    const size_t groups = queue.ends.size() - groups_left, done = queue.ends[groups - 1];
    for (size_t i = 0; i < done; i++)
        run_copy(queue.copies[i]);
    queue.copies.erase(queue.copies.begin(), queue.copies.begin() + done);
    queue.ends.erase(queue.ends.begin(), queue.ends.begin() + groups);
    for (size_t& end : queue.ends)
        end -= done;
}

} // namespace emulated
