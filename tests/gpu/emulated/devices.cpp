// Devices and contexts.

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <map>
#include <mutex>

#include "driver.h"

using namespace emulated;

namespace emulated {

thread_local Device* current;

namespace {

bool initialized;
std::mutex lock;

std::vector<Device>& all_devices() {
    static auto& devices = *[] {
        auto made = new std::vector<Device>;
        for (int number : settings().devices)
            made->push_back({number, 0, 0, SUCCESS});
        return made;
    }();
    return devices;
}

// Per block, of which the second needs to be asked for, and per multiprocessor.
constexpr int SHARED = 48 * 1024;

int shared_per_multiprocessor() {
    switch (settings().capability) {
    case 75: return 64 << 10;
    case 80: case 87: return 164 << 10;
    case 90: case 100: return 228 << 10;
    default: return 100 << 10;
    }
}

int threads_per_multiprocessor() {
    switch (settings().capability) {
    case 75: return 1024;
    case 80: case 90: case 100: return 2048;
    default: return 1536;
    }
}

// By the numbers of CUdevice_attribute; what is not here is 0.
int attribute_of(int attribute, const Device& device) {
    switch (attribute) {
    case 1: case 2: case 3: return 1024;      // threads per block, and along x and y
    case 4: return 64;                        // along z
    case 5: return 0x7fffffff;                // blocks along x
    case 6: case 7: return 65535;             // and along y and z
    case 8: return SHARED;                    // shared memory per block
    case 9: return 65536;                     // constant memory
    case 10: return 32;                       // lanes per warp
    case 11: return 0x7fffffff;               // pitch
    case 12: case 82: return 65536;           // registers per block and per multiprocessor
    case 13: case 36: return 1000000;         // clock rates, kHz
    case 16: return 40;                       // multiprocessors
    case 31: return 1;                        // concurrent kernels
    case 33: return device.number + 1;        // bus
    case 37: return 256;                      // width of the memory bus
    case 38: return 4 << 20;                  // cache
    case 39: return threads_per_multiprocessor();
    case 40: return 3;                        // copy engines
    case 41: case 78: case 79: case 83: return 1; // unified addresses, priorities, caches, managed memory
    case 75: return settings().capability / 10;
    case 76: return settings().capability % 10;
    case 81: return shared_per_multiprocessor();
    case 95: return 1;                        // cooperative launches
    case 97: return most_shared_memory();
    case 106: return 16;                      // blocks per multiprocessor
    case 111: return settings().capability < 80 ? 0 : 1024; // shared memory that the system keeps, per block
    case 115: return 1;                       // memory pools
    default: return 0;
    }
}

} // namespace

int most_shared_memory() {
    return settings().capability < 80 ? shared_per_multiprocessor() : shared_per_multiprocessor() - 1024;
}

Device* device_at(int ordinal) {
    std::vector<Device>& devices = all_devices();
    return initialized && ordinal >= 0 && ordinal < static_cast<int>(devices.size()) ? &devices[ordinal] : nullptr;
}

Result check_context() {
    if (!initialized)
        return NOT_INITIALIZED;
    return current ? current->failed : INVALID_CONTEXT;
}

} // namespace emulated

EXPORT Result cuInit(unsigned flags) {
    if (flags)
        return INVALID_VALUE;
    if (all_devices().empty())
        return NO_DEVICE;
    initialized = true;
    return SUCCESS;
}

EXPORT Result cuDriverGetVersion(int* version) {
    *version = settings().driver;
    return SUCCESS;
}

EXPORT Result cuDeviceGetCount(int* count) {
    *count = all_devices().size();
    return initialized ? SUCCESS : NOT_INITIALIZED;
}

EXPORT Result cuDeviceGet(int* device, int ordinal) {
    *device = ordinal;
    if (!initialized)
        return NOT_INITIALIZED;
    return device_at(ordinal) ? SUCCESS : INVALID_DEVICE;
}

EXPORT Result cuDeviceGetName(char* name, int size, int device) {
    if (!device_at(device))
        return INVALID_DEVICE;
    snprintf(name, size, "%s", settings().name.c_str());
    return SUCCESS;
}

EXPORT Result cuDeviceGetUuid(unsigned char* uuid, int device) {
    if (!device_at(device))
        return INVALID_DEVICE;
    write_uuid(uuid, device_at(device)->number);
    return SUCCESS;
}

EXPORT Result cuDeviceGetUuid_v2(unsigned char* uuid, int device) { return cuDeviceGetUuid(uuid, device); }

EXPORT Result cuDeviceGetPCIBusId(char* name, int size, int device) {
    if (!device_at(device))
        return INVALID_DEVICE;
    snprintf(name, size, "0000:%02X:00.0", device_at(device)->number + 1);
    return SUCCESS;
}

EXPORT Result cuDeviceTotalMem_v2(size_t* bytes, int device) {
    *bytes = settings().memory;
    return device_at(device) ? SUCCESS : INVALID_DEVICE;
}

EXPORT Result cuDeviceGetAttribute(int* value, int attribute, int device) {
    if (!device_at(device))
        return INVALID_DEVICE;
    *value = attribute_of(attribute, *device_at(device));
    return SUCCESS;
}

EXPORT Result cuDeviceComputeCapability(int* major, int* minor, int device) {
    *major = settings().capability / 10;
    *minor = settings().capability % 10;
    return device_at(device) ? SUCCESS : INVALID_DEVICE;
}

EXPORT Result cuDeviceCanAccessPeer(int* can, int, int) {
    *can = 0;
    return SUCCESS;
}

EXPORT Result cuDevicePrimaryCtxRetain(void** context, int device) {
    Device* found = device_at(device);
    if (!found)
        return initialized ? INVALID_DEVICE : NOT_INITIALIZED;
    const std::lock_guard guard(lock);
    found->retained++;
    *context = found;
    return SUCCESS;
}

EXPORT Result cuDevicePrimaryCtxRelease_v2(int device) {
    Device* found = device_at(device);
    if (!found)
        return INVALID_DEVICE;
    const std::lock_guard guard(lock);
    if (!found->retained)
        return INVALID_CONTEXT;
    found->retained--;
    return SUCCESS;
}

EXPORT Result cuDevicePrimaryCtxRelease(int device) { return cuDevicePrimaryCtxRelease_v2(device); }

EXPORT Result cuDevicePrimaryCtxGetState(int device, unsigned* flags, int* active) {
    *flags = 0;
    *active = device_at(device) && device_at(device)->retained;
    return device_at(device) ? SUCCESS : INVALID_DEVICE;
}

EXPORT Result cuDevicePrimaryCtxSetFlags_v2(int device, unsigned) { return device_at(device) ? SUCCESS : INVALID_DEVICE; }

EXPORT Result cuCtxSetCurrent(void* context) {
    if (!initialized)
        return NOT_INITIALIZED;
    Device* device = static_cast<Device*>(context);
    if (device && !device->retained)
        return INVALID_CONTEXT;
    current = device;
    return SUCCESS;
}

EXPORT Result cuCtxGetCurrent(void** context) {
    *context = current;
    return initialized ? SUCCESS : NOT_INITIALIZED;
}

EXPORT Result cuCtxGetDevice(int* device) {
    if (!current)
        return INVALID_CONTEXT;
    *device = current - all_devices().data();
    return SUCCESS;
}

EXPORT Result cuCtxGetFlags(unsigned* flags) {
    *flags = 0;
    return check_context();
}

EXPORT Result cuCtxSetFlags(unsigned) { return check_context(); }
EXPORT Result cuCtxSetLimit(int, size_t) { return check_context(); }
EXPORT Result cuCtxSetCacheConfig(int) { return check_context(); }

EXPORT Result cuCtxGetLimit(size_t* value, int) {
    *value = 1024;
    return check_context();
}

EXPORT Result cuCtxGetCacheConfig(int* config) {
    *config = 0;
    return check_context();
}

EXPORT Result cuCtxGetStreamPriorityRange(int* least, int* greatest) {
    *least = *greatest = 0;
    return check_context();
}

EXPORT Result cuCtxSynchronize() {
    log_line("synchronize context");
    return check_context();
}
