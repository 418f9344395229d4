// Streams, events and launches. All work is done before the call that asks for it returns.

#include <signal.h>

#include <chrono>
#include <cstdlib>
#include <memory>
#include <mutex>
#include <set>

#include "driver.h"
#include "fibers.h"

using namespace emulated;

namespace {

using Clock = std::chrono::steady_clock;

constexpr unsigned DISABLE_TIMING = 2;

struct Event {
    Device* device;
    bool timed, recorded;
    Clock::time_point at;
};

std::mutex lock;      // of the two below
auto& streams = *new std::set<Stream*>;
auto& events = *new std::set<Event*>;

std::mutex launching; // there is one block of fibers, and one copy of shared memory
size_t launches;

Event* find_event(void* handle) {
    const std::lock_guard guard(lock);
    const auto found = events.find(static_cast<Event*>(handle));
    return found == events.end() ? nullptr : *found;
}

// Says where a kernel was when it touched what it must not.
[[noreturn]] void report_fault(int signal, siginfo_t* info, void*) {
    char place[256];
    describe_address(info->si_addr, place, sizeof place);
    if (is_stack(info->si_addr))
        fail("a thread's stack is full");
    if (!info->si_addr)
        fail("signal %d without an address: null, or 16 bytes read or written at an address that is not a multiple of 16", signal);
    fail("illegal address %p: %s", info->si_addr, place);
}

// While it lives, faults are reported; on a stack of their own, since a fiber's may be what ran out.
class FaultReports {
    struct sigaction segv, bus;
    stack_t stack;
    char own_stack[64 * 1024];

public:
    FaultReports() {
        stack_t own = {};
        own.ss_sp = own_stack;
        own.ss_size = sizeof own_stack;
        sigaltstack(&own, &stack);
        struct sigaction action = {};
        action.sa_sigaction = report_fault;
        action.sa_flags = SA_SIGINFO | SA_ONSTACK;
        sigaction(SIGSEGV, &action, &segv);
        sigaction(SIGBUS, &action, &bus);
    }
    ~FaultReports() {
        sigaction(SIGSEGV, &segv, nullptr);
        sigaction(SIGBUS, &bus, nullptr);
        sigaltstack(&stack, nullptr);
    }
    FaultReports(const FaultReports&) = delete;
    FaultReports& operator=(const FaultReports&) = delete;
};

bool is_launchable(const Function& function, dim3 grid, dim3 block, unsigned shared) {
    if (!grid.x || !grid.y || !grid.z || !block.x || !block.y || !block.z)
        return false;
    if (grid.x > 0x7fffffff || grid.y > 65535 || grid.z > 65535 || block.x > 1024 || block.y > 1024 || block.z > 64)
        return false;
    return block.x * block.y * block.z <= function.kernel->most_threads && shared <= function.dynamic_shared;
}

// The launch that the environment wants to fail does so without having run.
bool fails(Device& device) {
    if (++launches != settings().fail_launch)
        return false;
    if (settings().fail_for_good)
        device.failed = LAUNCH_FAILED;
    return true;
}

Result launch(const Function* function, dim3 grid, dim3 block, unsigned shared, void* handle, void** arguments) {
    if (const Result bad = check_context())
        return bad;
    const Stream* stream = find_stream(handle);
    if (!stream || !function || stream->device != function->device)
        return INVALID_HANDLE;
    if (!is_launchable(*function, grid, block, shared) || (!arguments && function->kernel->arguments))
        return INVALID_VALUE;
    const std::lock_guard guard(launching);
    log_line("launch %s grid %u %u %u block %u %u %u", function->kernel->name, grid.x, grid.y, grid.z, block.x, block.y, block.z);
    if (fails(*function->device))
        return LAUNCH_FAILED;
    const auto reports = std::make_unique<FaultReports>(); // its stack is too large for this one
    run_grid(*function->kernel, grid, block, arguments);
    check_borders();
    return SUCCESS;
}

} // namespace

// Null and the small numbers are the current device's own streams.
Stream* emulated::find_stream(void* handle) {
    thread_local Stream own;
    own.device = current;
    if (reinterpret_cast<uintptr_t>(handle) <= 2)
        return &own;
    const std::lock_guard guard(lock);
    const auto found = streams.find(static_cast<Stream*>(handle));
    return found == streams.end() ? nullptr : *found;
}

EXPORT Result cuStreamCreate(void** to, unsigned) {
    if (const Result bad = check_context())
        return bad;
    const std::lock_guard guard(lock);
    *to = *streams.insert(new Stream{current}).first;
    return SUCCESS;
}

EXPORT Result cuStreamCreateWithPriority(void** to, unsigned flags, int) { return cuStreamCreate(to, flags); }

EXPORT Result cuStreamDestroy_v2(void* handle) {
    const std::lock_guard guard(lock);
    Stream* stream = static_cast<Stream*>(handle);
    if (!streams.erase(stream))
        return INVALID_HANDLE;
    delete stream;
    return check_context();
}

EXPORT Result cuStreamSynchronize(void* handle) {
    log_line("synchronize stream");
    return find_stream(handle) ? check_context() : INVALID_HANDLE;
}

EXPORT Result cuStreamQuery(void* handle) { return find_stream(handle) ? check_context() : INVALID_HANDLE; }

EXPORT Result cuStreamWaitEvent(void* stream, void* event, unsigned) {
    return find_stream(stream) && find_event(event) ? check_context() : INVALID_HANDLE;
}

EXPORT Result cuEventCreate(void** to, unsigned flags) {
    if (const Result bad = check_context())
        return bad;
    const std::lock_guard guard(lock);
    *to = *events.insert(new Event{current, !(flags & DISABLE_TIMING), false, {}}).first;
    return SUCCESS;
}

EXPORT Result cuEventDestroy_v2(void* handle) {
    const std::lock_guard guard(lock);
    Event* event = static_cast<Event*>(handle);
    if (!events.erase(event))
        return INVALID_HANDLE;
    delete event;
    return check_context();
}

EXPORT Result cuEventRecord(void* handle, void* stream_handle) {
    if (const Result bad = check_context())
        return bad;
    Event* event = find_event(handle);
    const Stream* stream = find_stream(stream_handle);
    if (!event || !stream || event->device != stream->device)
        return INVALID_HANDLE;
    event->at = Clock::now();
    event->recorded = true;
    return SUCCESS;
}

EXPORT Result cuEventSynchronize(void* handle) {
    log_line("synchronize event");
    return find_event(handle) ? check_context() : INVALID_HANDLE;
}

EXPORT Result cuEventQuery(void* handle) { return find_event(handle) ? check_context() : INVALID_HANDLE; }

EXPORT Result cuEventElapsedTime(float* milliseconds, void* from, void* to) {
    const Event *start = find_event(from), *end = find_event(to);
    if (!start || !end || !start->timed || !end->timed || !start->recorded || !end->recorded)
        return INVALID_HANDLE;
    *milliseconds = std::chrono::duration<float, std::milli>(end->at - start->at).count();
    return check_context();
}

EXPORT Result cuEventElapsedTime_v2(float* milliseconds, void* from, void* to) {
    return cuEventElapsedTime(milliseconds, from, to);
}

EXPORT Result cuLaunchKernel(const Function* function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                             unsigned block_y, unsigned block_z, unsigned shared, void* stream, void** arguments, void** extra) {
    if (extra)
        return NOT_SUPPORTED;
    return launch(function, {grid_x, grid_y, grid_z}, {block_x, block_y, block_z}, shared, stream, arguments);
}

// Blocks that wait for each other cannot be had, since they run one after the other.
EXPORT Result cuLaunchCooperativeKernel() { return NOT_SUPPORTED; }

EXPORT Result cuLaunchHostFunc(void* stream, void (*function)(void*), void* argument) {
    if (!find_stream(stream))
        return INVALID_HANDLE;
    if (const Result bad = check_context())
        return bad;
    function(argument);
    return SUCCESS;
}
