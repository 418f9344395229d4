#include "settings.h"

#include <fcntl.h>
#include <unistd.h>

#include <algorithm>
#include <cstdarg>
#include <cstdio>
#include <cstdlib>
#include <cstring>

namespace emulated {

namespace {

std::string text(const char* name, const char* otherwise) {
    const char* value = getenv(name);
    return value && *value ? value : otherwise;
}

double number(const char* name, const char* otherwise) { return strtod(text(name, otherwise).c_str(), nullptr); }

// As CUDA_VISIBLE_DEVICES says: a list of numbers, up to the first that is none of a device.
std::vector<int> visible_devices(int count) {
    std::vector<int> devices;
    const char* list = getenv("CUDA_VISIBLE_DEVICES");
    if (!list) {
        for (int i = 0; i < count; i++)
            devices.push_back(i);
        return devices;
    }
    for (char* end; *list; list = *end == ',' ? end + 1 : end) {
        const long device = strtol(list, &end, 10);
        if (end == list || device < 0 || device >= count)
            break;
        if (std::find(devices.begin(), devices.end(), device) != devices.end())
            return {}; // one that is named twice hides all
        devices.push_back(device);
    }
    return devices;
}

Order read_order() {
    const std::string order = text("EMULATED_GPU_ORDER", "alternate");
    return order == "forward" ? Order::forward : order == "backward" ? Order::backward : Order::alternate;
}

Settings read_settings() {
    Settings s;
    s.devices = visible_devices(number("EMULATED_GPU_COUNT", "1"));
    s.memory = number("EMULATED_GPU_MEMORY", "16e9");
    s.capability = number("EMULATED_GPU_CAPABILITY", "7.5") * 10 + 0.5;
    s.name = text("EMULATED_GPU_NAME", "Emulated T4");
    s.driver = number("EMULATED_GPU_DRIVER", "12020");
    s.fail_launch = number("EMULATED_GPU_FAIL_LAUNCH", "0");
    s.fail_for_good = number("EMULATED_GPU_FAIL_FOR_GOOD", "0") != 0;
    s.order = read_order();
    return s;
}

int open_log() {
    const char* path = getenv("EMULATED_GPU_LOG");
    return path && *path ? open(path, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644) : -1;
}

} // namespace

const Settings& settings() {
    static const Settings& read = *new Settings(read_settings());
    return read;
}

void log_line(const char* format, ...) {
    static const int log = open_log();
    if (log < 0)
        return;
    char line[512];
    va_list arguments;
    va_start(arguments, format);
    int length = vsnprintf(line, sizeof line - 1, format, arguments);
    va_end(arguments);
    length = std::min(length, static_cast<int>(sizeof line) - 2);
    line[length] = '\n';
    // One write, so that lines of several threads and of both libraries do not mix.
    if (write(log, line, length + 1) < 0)
        perror("emulated GPU: log");
}

void write_uuid(unsigned char* to, int number) {
    memcpy(to, "EMULATED GPU NO", 15);
    to[15] = static_cast<unsigned char>(number);
}

} // namespace emulated
