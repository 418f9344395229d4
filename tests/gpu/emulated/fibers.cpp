// Threads of a block as fibers on one operating system thread: each runs until it has to wait for others.

#include "fibers.h"

#include <sys/mman.h>

#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

#include "settings.h"

uint3 threadIdx, blockIdx;
dim3 blockDim, gridDim;

// Where the linker put the shared memory of all kernels.
extern "C" __attribute__((visibility("hidden"))) char emulated_shared_begin[], emulated_shared_end[];

// Saves the registers that a function must keep, and goes on where `to` was saved.
extern "C" __attribute__((visibility("hidden"))) void emulated_switch(void** from, void* to);
asm(R"(
    .text
    .hidden emulated_switch
    .globl emulated_switch
    .type emulated_switch, @function
emulated_switch:
    pushq %rbp
    pushq %rbx
    pushq %r12
    pushq %r13
    pushq %r14
    pushq %r15
    movq %rsp, (%rdi)
    movq %rsi, %rsp
    popq %r15
    popq %r14
    popq %r13
    popq %r12
    popq %rbx
    popq %rbp
    ret
    .size emulated_switch, . - emulated_switch
)");

namespace emulated {

namespace {

constexpr size_t PAGE = 4096, STACK = 256 * 1024, STACK_STRIDE = STACK + PAGE;

// The block under way. One at a time: run_grid's caller sees to that.
struct Block {
    const Kernel* kernel;
    void** arguments;
    unsigned threads, warps;
    unsigned alive, at_barrier;
    bool backwards; // the last thread goes first
    unsigned ready[MOST_WARPS], waiting[MOST_WARPS], live[MOST_WARPS];
    Fiber fibers[MOST_THREADS];
    Fiber* current;
    void* scheduler; // its stack pointer
};

Block& block = *new Block();
char* stacks;

// Stacks grow down, each towards a page that nobody may touch.
void make_stacks() {
    if (stacks)
        return;
    void* at = mmap(nullptr, STACK_STRIDE * MOST_THREADS, PROT_READ | PROT_WRITE,
                    MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        fail("no memory for the stacks");
    stacks = static_cast<char*>(at);
    for (unsigned i = 0; i < MOST_THREADS; i++)
        mprotect(stacks + i * STACK_STRIDE, PAGE, PROT_NONE);
}

unsigned first_warp() { return block.backwards ? block.warps - 1 : 0; }

// The next thread in order, from a warp on.
Fiber* next_ready(unsigned start) {
    for (unsigned step = 0; step < block.warps; step++) {
        const unsigned warp = (block.backwards ? start + block.warps - step : start + step) % block.warps;
        if (!block.ready[warp])
            continue;
        const unsigned lane = block.backwards ? 31 - __builtin_clz(block.ready[warp]) : __builtin_ctz(block.ready[warp]);
        block.ready[warp] &= ~(1u << lane);
        return &block.fibers[warp * WARP + lane];
    }
    return nullptr;
}

// Lets another thread run, its own warp's first, or ends the block's run if none can.
void leave(Fiber& from, unsigned start) {
    Fiber* next = next_ready(start);
    if (next == &from)
        return;
    block.current = next;
    if (next)
        threadIdx = next->index;
    emulated_switch(&from.stack_pointer, next ? next->stack_pointer : block.scheduler);
}

void release_barrier() {
    for (unsigned i = 0; i < block.threads; i++)
        if (block.fibers[i].state == State::at_block)
            block.fibers[i].state = State::ready;
    for (unsigned warp = 0; warp < block.warps; warp++)
        block.ready[warp] |= block.live[warp];
    block.at_barrier = 0;
}

void fiber_main() {
    Fiber& me = *block.current;
    block.kernel->call(block.arguments);
    me.state = State::done;
    block.live[me.number / WARP] &= ~(1u << me.number % WARP);
    block.alive--;
    // Those that have returned are not waited for.
    if (block.alive && block.at_barrier == block.alive)
        release_barrier();
    leave(me, me.number / WARP);
    abort(); // nobody returns to it
}

// Leaves on the stack what emulated_switch takes from it: six registers and where to go.
void start_fiber(unsigned number) {
    Fiber& fiber = block.fibers[number];
    void** top = reinterpret_cast<void**>(stacks + (number + 1) * STACK_STRIDE);
    top[-1] = nullptr; // the end for whoever walks the stack
    top[-2] = reinterpret_cast<void*>(fiber_main);
    memset(top - 8, 0, 6 * sizeof(void*));
    fiber.stack_pointer = top - 8;
    fiber.number = number;
    fiber.index = {number % blockDim.x, number / blockDim.x % blockDim.y, number / blockDim.x / blockDim.y};
    fiber.state = State::ready;
    fiber.copies.copies.clear();
    fiber.copies.ends.clear();
    block.ready[number / WARP] |= 1u << number % WARP;
}

const char* wait_of(const Fiber& fiber) {
    switch (fiber.state) {
    case State::at_warp: return fiber.operation->name;
    case State::at_block: return "__syncthreads";
    case State::done: return "nothing, having returned";
    default: return "its turn";
    }
}

bool same_wait(const Fiber& a, const Fiber& b) {
    return a.state == b.state && (a.state != State::at_warp || (a.operation == b.operation && a.mask == b.mask));
}

// Nobody can go on: says what each waits for, neighbours together.
[[noreturn]] void report_deadlock() {
    char waits[1024] = "";
    size_t length = 0;
    for (unsigned first = 0, i = 1; i <= block.threads; i++) {
        if (i < block.threads && same_wait(block.fibers[i], block.fibers[first]))
            continue;
        const Fiber& fiber = block.fibers[first];
        if (length < sizeof waits)
            length += snprintf(waits + length, sizeof waits - length, "\n  threads %u-%u wait for %s", first, i - 1, wait_of(fiber));
        if (length < sizeof waits && fiber.state == State::at_warp)
            length += snprintf(waits + length, sizeof waits - length, " of lanes %#x", fiber.mask);
        first = i;
    }
    block.current = nullptr;
    fail("deadlock: no thread can go on%s", waits);
}

void run_block() {
    // NaN in 16 and in 32 bits: whoever reads what nobody wrote shall notice.
    memset(emulated_shared_begin, 0xFF, emulated_shared_end - emulated_shared_begin);
    memset(block.ready, 0, sizeof block.ready);
    memset(block.waiting, 0, sizeof block.waiting);
    for (unsigned i = 0; i < block.threads; i++)
        start_fiber(i);
    memcpy(block.live, block.ready, sizeof block.live);
    block.alive = block.threads;
    block.at_barrier = 0;
    block.current = next_ready(first_warp());
    threadIdx = block.current->index;
    emulated_switch(&block.scheduler, block.current->stack_pointer);
    if (block.alive)
        report_deadlock();
    block.current = nullptr;
}

// Both orders take turns: a missing barrier shows in one of them at least.
bool runs_backwards(size_t number) {
    switch (settings().order) {
    case Order::forward: return false;
    case Order::backward: return true;
    default: return number % 2;
    }
}

} // namespace

Fiber& own_fiber() { return *block.current; }

unsigned own_lane() { return block.current->number % WARP; }

void meet_warp(const WarpOperation& operation, unsigned mask, void* slot) {
    Fiber& me = *block.current;
    const unsigned warp = me.number / WARP, own = 1u << me.number % WARP;
    const unsigned there = block.threads - warp * WARP;
    if (!(mask & own))
        fail("%s of lanes %#x, called by a lane that is not among them", operation.name, mask);
    if (there < WARP && mask >> there)
        fail("%s of lanes %#x, but the block's %u threads leave this warp only %u", operation.name, mask, block.threads, there);
    if (mask & ~block.live[warp])
        fail("%s of lanes %#x, of which %#x have returned", operation.name, mask, mask & ~block.live[warp]);
    me.state = State::at_warp;
    me.operation = &operation;
    me.mask = mask;
    me.slot = slot;
    block.waiting[warp] |= own;

    void* slots[WARP] = {};
    bool complete = (block.waiting[warp] & mask) == mask;
    for (unsigned lane = 0; complete && lane < WARP; lane++) {
        if (!(mask >> lane & 1))
            continue;
        const Fiber& other = block.fibers[warp * WARP + lane];
        complete = other.operation == &operation && other.mask == mask;
        slots[lane] = other.slot;
    }
    if (!complete)
        return leave(me, warp);
    operation.run(slots);
    for (unsigned lane = 0; lane < WARP; lane++)
        if (mask >> lane & 1)
            block.fibers[warp * WARP + lane].state = State::ready;
    block.waiting[warp] &= ~mask;
    block.ready[warp] |= mask;
    leave(me, warp); // the first lane goes on first
}

void meet_block() {
    Fiber& me = *block.current;
    me.state = State::at_block;
    unsigned next = me.number / WARP;
    if (++block.at_barrier == block.alive) {
        release_barrier();
        next = first_warp();
    }
    leave(me, next);
}

bool is_shared(const void* from, size_t size) {
    const char* at = static_cast<const char*>(from);
    return at >= emulated_shared_begin && at + size <= emulated_shared_end;
}

bool is_stack(const void* address) {
    const char* at = static_cast<const char*>(address);
    return stacks && at >= stacks && at < stacks + STACK_STRIDE * MOST_THREADS;
}

bool describe_running(char* to, size_t size) {
    if (!block.kernel)
        return false;
    int length = snprintf(to, size, "kernel %s, block (%u, %u, %u)", block.kernel->name, blockIdx.x, blockIdx.y, blockIdx.z);
    if (block.current && length < static_cast<int>(size))
        snprintf(to + length, size - length, ", thread (%u, %u, %u)", threadIdx.x, threadIdx.y, threadIdx.z);
    return true;
}

void fail(const char* format, ...) {
    char message[2048], where[256];
    va_list arguments;
    va_start(arguments, format);
    vsnprintf(message, sizeof message, format, arguments);
    va_end(arguments);
    const bool running = describe_running(where, sizeof where);
    fprintf(stderr, "emulated GPU: %s%s%s\n", running ? where : "", running ? ": " : "", message);
    abort();
}

void run_grid(const Kernel& kernel, dim3 grid, dim3 threads, void** arguments) {
    static size_t launches;
    make_stacks();
    block.kernel = &kernel;
    block.arguments = arguments;
    block.threads = threads.x * threads.y * threads.z;
    block.warps = (block.threads + WARP - 1) / WARP;
    blockDim = threads;
    gridDim = grid;
    size_t number = launches++;
    for (unsigned z = 0; z < grid.z; z++)
        for (unsigned y = 0; y < grid.y; y++)
            for (unsigned x = 0; x < grid.x; x++) {
                blockIdx = {x, y, z};
                block.backwards = runs_backwards(number++);
                run_block();
            }
    block.kernel = nullptr;
}

} // namespace emulated
