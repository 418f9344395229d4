// Device memory and pinned host memory, between pages that fault, and copies to and from it.

#include <sys/mman.h>
#include <unistd.h>

#include <cstdio>
#include <cstring>
#include <deque>
#include <map>
#include <mutex>

#include "driver.h"

using namespace emulated;

namespace {

constexpr size_t PAGE = 4096, ALIGNMENT = 256, TILE = 16 << 20;
constexpr size_t MOST_FREED = 256; // mappings of freed memory that stay reserved

struct Mapping {
    char* at;
    size_t size;
};

struct Allocation {
    Mapping mapping;
    char* start;
    size_t size;
    Device* device; // null for host memory

    char* pages() const { return mapping.at + PAGE; }
    char* end() const { return mapping.at + mapping.size - PAGE; }
};

std::mutex lock;
auto& allocations = *new std::map<Address, Allocation>; // by their start
auto& freed = *new std::deque<Mapping>;

Address address_of(const void* at) { return reinterpret_cast<Address>(at); }
void* pointer(Address address) { return reinterpret_cast<void*>(address); }

size_t round_up(size_t size, size_t to) { return (size + to - 1) / to * to; }

// A file of nothing but 0xFF, so that large memory costs only what is written to it.
int tile_file() {
    static const int file = [] {
        const int made = memfd_create("emulated GPU", MFD_CLOEXEC);
        if (made < 0 || ftruncate(made, TILE))
            fail("no file for large memory");
        void* at = mmap(nullptr, TILE, PROT_READ | PROT_WRITE, MAP_SHARED, made, 0);
        if (at == MAP_FAILED)
            fail("no memory for large memory");
        memset(at, 0xFF, TILE);
        munmap(at, TILE);
        return made;
    }();
    return file;
}

// NaN in 16 and in 32 bits. Whole tiles are mapped, the rest is written.
bool fill(char* from, size_t size) {
    for (; size >= TILE; from += TILE, size -= TILE)
        if (mmap(from, TILE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, tile_file(), 0) == MAP_FAILED)
            return false;
    memset(from, 0xFF, size);
    return true;
}

// The end is as near to the page that faults as the alignment lets it.
bool map_allocation(Allocation& a, size_t size) {
    a.size = size;
    a.mapping.size = round_up(size, PAGE) + 2 * PAGE;
    void* at = mmap(nullptr, a.mapping.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        return false;
    a.mapping.at = static_cast<char*>(at);
    a.start = a.end() - round_up(size, ALIGNMENT);
    if (!mprotect(a.pages(), a.end() - a.pages(), PROT_READ | PROT_WRITE) && fill(a.pages(), a.end() - a.pages()))
        return true;
    munmap(a.mapping.at, a.mapping.size);
    return false;
}

// What was freed stays out of reach for a while, so that its use faults.
void unmap_allocation(const Allocation& a) {
    void* at = mmap(a.mapping.at, a.mapping.size, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0);
    if (at == MAP_FAILED)
        fail("memory could not be freed");
    freed.push_back(a.mapping);
    if (freed.size() <= MOST_FREED)
        return;
    munmap(freed.front().at, freed.front().size);
    freed.pop_front();
}

bool is_untouched(const char* from, const char* to) {
    for (; from < to; from++)
        if (*from != '\xFF')
            return false;
    return true;
}

void check_border(const Allocation& a) {
    if (!is_untouched(a.pages(), a.start))
        fail("something was written before an allocation of %zu bytes", a.size);
    if (!is_untouched(a.start + a.size, a.end()))
        fail("something was written behind an allocation of %zu bytes", a.size);
}

Result allocate(Address* to, size_t size) {
    if (const Result bad = check_context())
        return bad;
    if (!size)
        return INVALID_VALUE;
    const size_t counted = round_up(size, ALIGNMENT);
    const std::lock_guard guard(lock);
    Allocation made = {};
    made.device = current;
    if (counted > settings().memory - current->used || !map_allocation(made, size)) {
        log_line("alloc %zu refused", size);
        return OUT_OF_MEMORY;
    }
    current->used += counted;
    *to = address_of(made.start);
    allocations[*to] = made;
    log_line("alloc %zu device %d", size, current->number);
    return SUCCESS;
}

Result release(Address at, bool of_host) {
    const std::lock_guard guard(lock);
    const auto found = allocations.find(at);
    if (found == allocations.end() || !found->second.device != of_host)
        return INVALID_VALUE;
    const Allocation a = found->second;
    check_border(a);
    if (a.device)
        a.device->used -= round_up(a.size, ALIGNMENT);
    log_line(of_host ? "free_host %zu" : "free %zu", a.size);
    unmap_allocation(a);
    allocations.erase(found);
    return SUCCESS;
}

// The last allocation that starts at or before the address.
const Allocation* allocation_before(Address at) {
    auto next = allocations.upper_bound(at);
    return next == allocations.begin() ? nullptr : &(--next)->second;
}

bool is_device_memory(Address at, size_t size) {
    const std::lock_guard guard(lock);
    const Allocation* a = allocation_before(at);
    return a && a->device && at + size <= address_of(a->start) + a->size;
}

Result check_device_memory(Address at, size_t size) {
    if (const Result bad = check_context())
        return bad;
    return is_device_memory(at, size) ? SUCCESS : INVALID_VALUE;
}

Result copy(const char* what, void* to, const void* from, size_t size) {
    log_line("%s %zu", what, size);
    memmove(to, from, size);
    return SUCCESS;
}

template <class T> Result set_all(Address to, T value, size_t count) {
    if (!count)
        return check_context();
    if (const Result bad = check_device_memory(to, count * sizeof(T)))
        return bad;
    if (to % sizeof(T))
        return INVALID_VALUE;
    log_line("memset %zu", count * sizeof(T));
    for (size_t i = 0; i < count; i++)
        static_cast<T*>(pointer(to))[i] = value;
    return SUCCESS;
}

} // namespace

void emulated::check_borders() {
    const std::lock_guard guard(lock);
    for (const auto& [start, allocation] : allocations)
        check_border(allocation);
}

// Without waiting for the lock: whoever has it may be the one who faulted.
void emulated::describe_address(const void* address, char* to, size_t size) {
    const char* at = static_cast<const char*>(address);
    const std::unique_lock guard(lock, std::try_to_lock);
    const Allocation* before = guard ? allocation_before(address_of(at)) : nullptr;
    const auto next = guard ? allocations.upper_bound(address_of(at)) : allocations.end();
    if (before && at < before->end() + PAGE)
        snprintf(to, size, "%zd bytes from the start of an allocation of %zu bytes", at - before->start, before->size);
    else if (guard && next != allocations.end() && at >= next->second.mapping.at)
        snprintf(to, size, "%zd bytes before an allocation of %zu bytes", next->second.start - at, next->second.size);
    else
        snprintf(to, size, "in no allocation; perhaps in one that was freed");
}

EXPORT Result cuMemAlloc_v2(Address* to, size_t size) { return allocate(to, size); }

EXPORT Result cuMemAllocAsync(Address* to, size_t size, void* stream) {
    return find_stream(stream) ? allocate(to, size) : INVALID_HANDLE;
}

EXPORT Result cuMemFree_v2(Address at) {
    if (const Result bad = check_context())
        return bad;
    return at ? release(at, false) : SUCCESS;
}

EXPORT Result cuMemFreeAsync(Address at, void* stream) { return find_stream(stream) ? cuMemFree_v2(at) : INVALID_HANDLE; }

EXPORT Result cuMemGetInfo_v2(size_t* free, size_t* total) {
    if (const Result bad = check_context())
        return bad;
    const std::lock_guard guard(lock);
    *total = settings().memory;
    *free = settings().memory - current->used;
    return SUCCESS;
}

EXPORT Result cuMemHostAlloc(void** to, size_t size, unsigned) {
    if (const Result bad = check_context())
        return bad;
    if (!size)
        return INVALID_VALUE;
    const std::lock_guard guard(lock);
    Allocation made = {};
    if (!map_allocation(made, size))
        return OUT_OF_MEMORY;
    *to = made.start;
    allocations[address_of(made.start)] = made;
    log_line("alloc_host %zu", size);
    return SUCCESS;
}

EXPORT Result cuMemAllocHost_v2(void** to, size_t size) { return cuMemHostAlloc(to, size, 0); }

EXPORT Result cuMemFreeHost(void* at) {
    if (const Result bad = check_context())
        return bad;
    return release(address_of(at), true);
}

EXPORT Result cuMemHostRegister_v2(void*, size_t, unsigned) { return check_context(); }
EXPORT Result cuMemHostUnregister(void*) { return check_context(); }

EXPORT Result cuMemcpyHtoD_v2(Address to, const void* from, size_t size) {
    if (!size)
        return check_context();
    if (const Result bad = check_device_memory(to, size))
        return bad;
    return copy("htod", pointer(to), from, size);
}

EXPORT Result cuMemcpyDtoH_v2(void* to, Address from, size_t size) {
    if (!size)
        return check_context();
    if (const Result bad = check_device_memory(from, size))
        return bad;
    return copy("dtoh", to, pointer(from), size);
}

EXPORT Result cuMemcpyDtoD_v2(Address to, Address from, size_t size) {
    if (!size)
        return check_context();
    if (const Result bad = check_device_memory(to, size))
        return bad;
    if (const Result bad = check_device_memory(from, size))
        return bad;
    return copy("dtod", pointer(to), pointer(from), size);
}

EXPORT Result cuMemcpyHtoDAsync_v2(Address to, const void* from, size_t size, void* stream) {
    return find_stream(stream) ? cuMemcpyHtoD_v2(to, from, size) : INVALID_HANDLE;
}

EXPORT Result cuMemcpyDtoHAsync_v2(void* to, Address from, size_t size, void* stream) {
    return find_stream(stream) ? cuMemcpyDtoH_v2(to, from, size) : INVALID_HANDLE;
}

EXPORT Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t size, void* stream) {
    return find_stream(stream) ? cuMemcpyDtoD_v2(to, from, size) : INVALID_HANDLE;
}

EXPORT Result cuMemsetD8_v2(Address to, unsigned char value, size_t count) { return set_all(to, value, count); }
EXPORT Result cuMemsetD16_v2(Address to, unsigned short value, size_t count) { return set_all(to, value, count); }
EXPORT Result cuMemsetD32_v2(Address to, unsigned value, size_t count) { return set_all(to, value, count); }

EXPORT Result cuMemsetD8Async(Address to, unsigned char value, size_t count, void* stream) {
    return find_stream(stream) ? set_all(to, value, count) : INVALID_HANDLE;
}

EXPORT Result cuMemsetD16Async(Address to, unsigned short value, size_t count, void* stream) {
    return find_stream(stream) ? set_all(to, value, count) : INVALID_HANDLE;
}

EXPORT Result cuMemsetD32Async(Address to, unsigned value, size_t count, void* stream) {
    return find_stream(stream) ? set_all(to, value, count) : INVALID_HANDLE;
}

// There is one pool per device, which keeps nothing that was freed.
EXPORT Result cuDeviceGetDefaultMemPool(void** pool, int device) {
    *pool = device_at(device);
    return *pool ? SUCCESS : INVALID_DEVICE;
}

EXPORT Result cuDeviceGetMemPool(void** pool, int device) { return cuDeviceGetDefaultMemPool(pool, device); }
EXPORT Result cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
EXPORT Result cuMemPoolTrimTo(void*, size_t) { return SUCCESS; }
