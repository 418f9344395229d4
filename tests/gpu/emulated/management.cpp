// libnvidia-ml.so.1 of the emulated machine: the functions that the program's metrics need. A GPU is
// known by the UUID that the driver gives it; it has a fixed load, temperature and memory, and no
// sensor for its power.
#include "driver.h"
#include "settings.h"

#include <cstdio>
#include <cstring>

namespace {

enum Answer { NVML_SUCCESS = 0, NVML_NOT_SUPPORTED = 3, NVML_NOT_FOUND = 6 };

struct Memory {
    unsigned int version;
    unsigned long long total, reserved, free, used;
};

struct Utilization {
    unsigned int gpu, memory;
};

// As nvidia-smi shows it.
void shown_uuid(char* text, size_t size, int number) {
    unsigned char uuid[16];
    emulated::write_uuid(uuid, number);
    int length = snprintf(text, size, "GPU-");
    for (int i = 0; i < 16; i++)
        length += snprintf(text + length, size - length, i == 4 || i == 6 || i == 8 || i == 10 ? "-%02x" : "%02x", uuid[i]);
}

} // namespace

EXPORT int nvmlInit_v2() { return NVML_SUCCESS; }
EXPORT int nvmlShutdown() { return NVML_SUCCESS; }
EXPORT const char* nvmlErrorString(int) { return "an error of the emulated machine"; }

EXPORT int nvmlDeviceGetHandleByUUID(const char* uuid, void** device) {
    const auto& numbers = emulated::settings().devices;
    for (size_t i = numbers.size(); i-- > 0;) {
        char text[64];
        shown_uuid(text, sizeof text, numbers[i]);
        if (!strcmp(text, uuid)) {
            *device = reinterpret_cast<void*>(static_cast<size_t>(numbers[i]) + 1);
            return NVML_SUCCESS;
        }
    }
    return NVML_NOT_FOUND;
}

EXPORT int nvmlDeviceGetMemoryInfo_v2(void* device, Memory* memory) {
    size_t number = reinterpret_cast<size_t>(device);
    memory->total = emulated::settings().memory;
    memory->used = number * 1000000;
    memory->free = memory->total - memory->used;
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetUtilizationRates(void*, Utilization* rates) {
    *rates = {42, 7};
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetTemperature(void* device, int, unsigned int* celsius) {
    *celsius = 50 + static_cast<unsigned int>(reinterpret_cast<size_t>(device));
    return NVML_SUCCESS;
}

EXPORT int nvmlDeviceGetPowerUsage(void*, unsigned int*) { return NVML_NOT_SUPPORTED; }
