// What the parts of the driver library share. Names and numbers of the interface are those of the CUDA driver API.
//
// What these files keep in containers is never destroyed: the program's threads still free memory and destroy streams
// while the process ends, when objects of static lifetime are gone.
#pragma once

#include <cstddef>
#include <cstdint>

#include "runtime.h"
#include "settings.h"

#define EXPORT extern "C" __attribute__((visibility("default")))

enum Result : int {
    SUCCESS = 0,
    INVALID_VALUE = 1,
    OUT_OF_MEMORY = 2,
    NOT_INITIALIZED = 3,
    NO_DEVICE = 100,
    INVALID_DEVICE = 101,
    INVALID_IMAGE = 200,
    INVALID_CONTEXT = 201,
    NO_BINARY_FOR_GPU = 209,
    INVALID_PTX = 218,
    UNSUPPORTED_PTX_VERSION = 222,
    FILE_NOT_FOUND = 301,
    INVALID_HANDLE = 400,
    NOT_FOUND = 500,
    LAUNCH_FAILED = 719,
    NOT_SUPPORTED = 801,
};

typedef uint64_t Address;

namespace emulated {

// A device is its own primary context.
struct Device {
    int number; // in the machine
    int retained;
    size_t used; // bytes of its memory
    Result failed; // what everything answers from now on, if it failed for good
};

// The device that the calling thread has made current, null if none.
extern thread_local Device* current;

// The device with this number among those visible, null if there is none.
Device* device_at(int ordinal);
// SUCCESS if cuInit was called and the current device works.
Result check_context();

struct Stream {
    Device* device;
};

// The stream behind a handle: default streams are the current device's. Null if it is none, or destroyed.
Stream* find_stream(void* handle);

struct Function {
    const Kernel* kernel;
    Device* device;
    unsigned dynamic_shared; // bytes that it may ask for
};

// Static and dynamic shared memory of a block at most, if asked for.
int most_shared_memory();

// Ends the process if anybody wrote beside an allocation.
void check_borders();
// For messages: where an address lies relative to allocations.
void describe_address(const void* address, char* to, size_t size);

} // namespace emulated
