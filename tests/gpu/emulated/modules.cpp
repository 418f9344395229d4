// Modules: is the image one that this device and this driver would take, and which kernels does it have?

#include <elf.h>

#include <cstdio>
#include <cstdlib>
#include <cstring>
#include <deque>
#include <fstream>
#include <iterator>
#include <mutex>
#include <set>

#include "driver.h"

using namespace emulated;

namespace {

struct Module {
    Device* device;
    std::set<std::string> names; // of the image's kernels; empty if it tells none
    std::deque<Function> functions;
};

std::mutex lock;
auto& modules = *new std::set<Module*>;

constexpr unsigned EM_CUDA_MACHINE = 190, ARCHITECTURE_ONLY = 0x800;

// Flags of a cubin: since CUDA 13 (ABI version 8) the architecture is in the second byte, before in the first.
unsigned capability_of(const Elf64_Ehdr& header) {
    return header.e_ident[EI_ABIVERSION] >= 8 ? header.e_flags >> 8 & 0xff : header.e_flags & 0xff;
}

// Cubins run on their own architecture and on later ones of the same generation; those for sm_90a and the like on no other.
bool fits(const Elf64_Ehdr& header) {
    const unsigned own = settings().capability, asked = capability_of(header);
    const bool only = header.e_ident[EI_ABIVERSION] < 8 && header.e_flags & ARCHITECTURE_ONLY;
    return asked / 10 == own / 10 && asked % 10 <= own % 10 && (!only || asked == own);
}

// A kernel has a section .text.NAME.
void read_sections(const char* image, const Elf64_Ehdr& header, std::set<std::string>& names) {
    if (!header.e_shoff || header.e_shstrndx >= header.e_shnum)
        return;
    const auto* sections = reinterpret_cast<const Elf64_Shdr*>(image + header.e_shoff);
    const char* texts = image + sections[header.e_shstrndx].sh_offset;
    for (unsigned i = 0; i < header.e_shnum; i++) {
        const char* name = texts + sections[i].sh_name;
        if (!strncmp(name, ".text.", 6))
            names.insert(name + 6);
    }
}

Result read_cubin(const char* image, std::set<std::string>& names) {
    Elf64_Ehdr header;
    memcpy(&header, image, sizeof header);
    if (header.e_ident[EI_CLASS] != ELFCLASS64 || header.e_machine != EM_CUDA_MACHINE)
        return INVALID_IMAGE;
    if (!fits(header))
        return NO_BINARY_FOR_GPU;
    read_sections(image, header, names);
    return SUCCESS;
}

// The newest PTX that came with a version of CUDA, 82 for 8.2. CUDA 12.6 brought none, so later ones lag behind.
int newest_ptx() {
    const int major = settings().driver / 1000, minor = settings().driver % 1000 / 10;
    if (major >= 13)
        return (major - 4) * 10 + minor;
    return (major - 4) * 10 + minor - (major == 12 && minor >= 6);
}

// The word after a directive that begins a line; empty if there is none.
std::string word_after(const std::string& text, const std::string& directive) {
    const size_t at = text.find("\n" + directive + " ");
    if (at == std::string::npos)
        return "";
    const size_t from = text.find_first_not_of(" \t", at + 1 + directive.size());
    return text.substr(from, text.find_first_of(" \t\r\n,;", from) - from);
}

void read_entries(const std::string& text, std::set<std::string>& names) {
    for (size_t at = 0; (at = text.find(".entry", at)) != std::string::npos;) {
        const size_t from = text.find_first_not_of(" \t\r\n", at + 6);
        if (from == std::string::npos)
            return;
        at = text.find_first_of(" \t\r\n(", from);
        names.insert(text.substr(from, at - from));
    }
}

Result read_ptx(const char* image, std::set<std::string>& names) {
    const std::string text = std::string("\n") + image;
    const std::string version = word_after(text, ".version"), target = word_after(text, ".target");
    int major, minor, capability;
    char only = 0; // the a of sm_90a
    if (sscanf(version.c_str(), "%d.%d", &major, &minor) != 2 || sscanf(target.c_str(), "sm_%d%c", &capability, &only) < 1)
        return INVALID_PTX;
    if (major * 10 + minor > newest_ptx())
        return UNSUPPORTED_PTX_VERSION;
    if (only ? capability != settings().capability : capability > settings().capability)
        return INVALID_PTX;
    read_entries(text, names);
    return SUCCESS;
}

Result read_image(const char* image, std::set<std::string>& names) {
    if (!memcmp(image, ELFMAG, SELFMAG))
        return read_cubin(image, names);
    if (std::string(image, strnlen(image, 65536)).find(".version") != std::string::npos)
        return read_ptx(image, names);
    return INVALID_IMAGE;
}

const Kernel* find_kernel(const char* name) {
    for (size_t i = 0; i < kernel_count; i++)
        if (!strcmp(kernels[i].name, name))
            return &kernels[i];
    return nullptr;
}

// By the numbers of CUfunction_attribute.
int attribute_of(int attribute, const Function& function) {
    switch (attribute) {
    case 0: return function.kernel->most_threads;
    case 4: return 64; // registers
    case 5: case 6: return settings().capability;
    case 8: return function.dynamic_shared;
    default: return 0;
    }
}

} // namespace

EXPORT Result cuModuleLoadData(void** to, const void* image) {
    if (const Result bad = check_context())
        return bad;
    if (!image)
        return INVALID_VALUE;
    Module made = {current, {}, {}};
    if (const Result bad = read_image(static_cast<const char*>(image), made.names))
        return bad;
    const std::lock_guard guard(lock);
    *to = *modules.insert(new Module(made)).first;
    log_line("module device %d", current->number);
    return SUCCESS;
}

EXPORT Result cuModuleLoadDataEx(void** to, const void* image, unsigned, void*, void**) { return cuModuleLoadData(to, image); }
EXPORT Result cuModuleLoadFatBinary(void** to, const void* image) { return cuModuleLoadData(to, image); }

EXPORT Result cuModuleLoad(void** to, const char* path) {
    std::ifstream file(path, std::ios::binary);
    if (!file)
        return FILE_NOT_FOUND;
    const std::string image{std::istreambuf_iterator<char>(file), {}};
    return cuModuleLoadData(to, image.c_str());
}

EXPORT Result cuModuleUnload(void* handle) {
    if (const Result bad = check_context())
        return bad;
    const std::lock_guard guard(lock);
    Module* module = static_cast<Module*>(handle);
    if (!modules.erase(module))
        return INVALID_HANDLE;
    delete module;
    return SUCCESS;
}

EXPORT Result cuModuleGetLoadingMode(int* mode) {
    *mode = 1; // all at once
    return SUCCESS;
}

EXPORT Result cuModuleGetFunction(void** to, void* handle, const char* name) {
    if (const Result bad = check_context())
        return bad;
    const std::lock_guard guard(lock);
    Module* module = static_cast<Module*>(handle);
    if (!modules.count(module))
        return INVALID_HANDLE;
    const Kernel* kernel = find_kernel(name);
    if (!kernel || (!module->names.empty() && !module->names.count(name)))
        return NOT_FOUND;
    module->functions.push_back({kernel, module->device, 48 << 10});
    *to = &module->functions.back();
    return SUCCESS;
}

EXPORT Result cuFuncGetAttribute(int* value, int attribute, const Function* function) {
    *value = attribute_of(attribute, *function);
    return check_context();
}

EXPORT Result cuFuncSetAttribute(Function* function, int attribute, int value) {
    if (attribute == 8 && (value < 0 || value > most_shared_memory()))
        return INVALID_VALUE;
    if (attribute == 8)
        function->dynamic_shared = value;
    return check_context();
}

EXPORT Result cuFuncSetCacheConfig(void*, int) { return check_context(); }

// As many blocks as the threads of a multiprocessor allow, since registers and shared memory are not known here.
EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessor(int* blocks, const Function*, int threads, size_t) {
    *blocks = threads > 0 ? 1024 / threads : 0;
    return check_context();
}

EXPORT Result cuOccupancyMaxActiveBlocksPerMultiprocessorWithFlags(int* blocks, const Function* function, int threads,
                                                                   size_t shared, unsigned) {
    return cuOccupancyMaxActiveBlocksPerMultiprocessor(blocks, function, threads, shared);
}

EXPORT Result cuOccupancyMaxPotentialBlockSize(int* grid, int* block, const Function* function, void*, size_t, int limit) {
    const int most = function->kernel->most_threads;
    *grid = 40;
    *block = limit > 0 && limit < most ? limit : most;
    return check_context();
}

EXPORT Result cuOccupancyMaxPotentialBlockSizeWithFlags(int* grid, int* block, const Function* function, void* shared_of,
                                                        size_t shared, int limit, unsigned) {
    return cuOccupancyMaxPotentialBlockSize(grid, block, function, shared_of, shared, limit);
}

EXPORT Result cuOccupancyAvailableDynamicSMemPerBlock(size_t* bytes, const Function* function, int, int) {
    *bytes = function->dynamic_shared;
    return check_context();
}
