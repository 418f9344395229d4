// Names of results, and functions that are there only to say that they do nothing.

#include "driver.h"

namespace {

struct Name {
    int number;
    const char* name;
    const char* text;
};

const Name names[] = {
    {SUCCESS, "CUDA_SUCCESS", "no error"},
    {INVALID_VALUE, "CUDA_ERROR_INVALID_VALUE", "invalid argument"},
    {OUT_OF_MEMORY, "CUDA_ERROR_OUT_OF_MEMORY", "out of memory"},
    {NOT_INITIALIZED, "CUDA_ERROR_NOT_INITIALIZED", "initialization error"},
    {NO_DEVICE, "CUDA_ERROR_NO_DEVICE", "no CUDA-capable device is detected"},
    {INVALID_DEVICE, "CUDA_ERROR_INVALID_DEVICE", "invalid device ordinal"},
    {INVALID_IMAGE, "CUDA_ERROR_INVALID_IMAGE", "device kernel image is invalid"},
    {INVALID_CONTEXT, "CUDA_ERROR_INVALID_CONTEXT", "invalid device context"},
    {NO_BINARY_FOR_GPU, "CUDA_ERROR_NO_BINARY_FOR_GPU", "no kernel image is available for execution on the device"},
    {INVALID_PTX, "CUDA_ERROR_INVALID_PTX", "a PTX JIT compilation failed"},
    {UNSUPPORTED_PTX_VERSION, "CUDA_ERROR_UNSUPPORTED_PTX_VERSION",
     "the provided PTX was compiled with an unsupported toolchain."},
    {FILE_NOT_FOUND, "CUDA_ERROR_FILE_NOT_FOUND", "file not found"},
    {INVALID_HANDLE, "CUDA_ERROR_INVALID_HANDLE", "invalid resource handle"},
    {NOT_FOUND, "CUDA_ERROR_NOT_FOUND", "named symbol not found"},
    {LAUNCH_FAILED, "CUDA_ERROR_LAUNCH_FAILED", "unspecified launch failure"},
    {NOT_SUPPORTED, "CUDA_ERROR_NOT_SUPPORTED", "operation not supported"},
};

const Name* find(int number) {
    for (const Name& name : names)
        if (name.number == number)
            return &name;
    return nullptr;
}

} // namespace

EXPORT Result cuGetErrorName(int number, const char** name) {
    const Name* found = find(number);
    *name = found ? found->name : nullptr;
    return found ? SUCCESS : INVALID_VALUE;
}

EXPORT Result cuGetErrorString(int number, const char** text) {
    const Name* found = find(number);
    *text = found ? found->text : nullptr;
    return found ? SUCCESS : INVALID_VALUE;
}

// Callers look functions up by name and may not expect one to be missing. Arguments do not matter, by the calling convention.
#define REFUSE(name) \
    EXPORT Result name() { return NOT_SUPPORTED; }

REFUSE(cuCtxCreate_v2)
REFUSE(cuCtxCreate_v3)
REFUSE(cuCtxCreate_v4)
REFUSE(cuCtxDestroy_v2)
REFUSE(cuCtxEnablePeerAccess)
REFUSE(cuDestroyExternalMemory)
REFUSE(cuDeviceSetMemPool)
REFUSE(cuExternalMemoryGetMappedBuffer)
REFUSE(cuGetProcAddress_v2)
REFUSE(cuGraphDestroy)
REFUSE(cuGraphExecDestroy)
REFUSE(cuGraphInstantiateWithFlags)
REFUSE(cuGraphLaunch)
REFUSE(cuGraphUpload)
REFUSE(cuImportExternalMemory)
REFUSE(cuLaunchKernelEx)
REFUSE(cuMemAdvise_v2)
REFUSE(cuMemAllocFromPoolAsync)
REFUSE(cuMemAllocManaged)
REFUSE(cuMemPoolCreate)
REFUSE(cuMemPoolDestroy)
REFUSE(cuMemPoolGetAttribute)
REFUSE(cuMemPrefetchAsync_v2)
REFUSE(cuMemcpyPeerAsync)
REFUSE(cuModuleGetGlobal_v2)
REFUSE(cuOccupancyMaxActiveClusters)
REFUSE(cuOccupancyMaxPotentialClusterSize)
REFUSE(cuStreamAttachMemAsync)
REFUSE(cuStreamBeginCapture_v2)
REFUSE(cuStreamEndCapture)
REFUSE(cuStreamIsCapturing)
