// What the environment asks of the emulated machine, and the log that it may ask for. Both libraries have these.
#pragma once

#include <cstddef>
#include <string>
#include <vector>

namespace emulated {

enum class Order { alternate, forward, backward };

struct Settings {
    std::vector<int> devices; // those visible, by their number in the machine
    size_t memory;            // bytes, of each
    int capability;           // 75 for 7.5
    std::string name;
    int driver;        // 12020 for CUDA 12.2
    size_t fail_launch; // the number of the launch that fails, 0 for none
    bool fail_for_good; // and everything after it
    Order order;
};

// Read once, when first asked for.
const Settings& settings();

// The 16 bytes by which a GPU of this number is known.
void write_uuid(unsigned char* to, int number);

// Appends a line to EMULATED_GPU_LOG, if set.
void log_line(const char* format, ...) __attribute__((format(printf, 1, 2)));

} // namespace emulated
