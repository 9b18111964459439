/* Names and texts of error codes. */
#include "simdriver/drv.h"

static const struct {
    int code;
    const char *name, *text;
} errors[] = {
#define E(code, name, text)                                                                        \
    {                                                                                              \
        code, "CUDA_" #name, text                                                                  \
    }
    {0, "CUDA_SUCCESS", "no error"},
    E(1, ERROR_INVALID_VALUE, "invalid argument"),
    E(2, ERROR_OUT_OF_MEMORY, "out of memory"),
    E(3, ERROR_NOT_INITIALIZED, "initialization error"),
    E(4, ERROR_DEINITIALIZED, "driver shutting down"),
    E(34, ERROR_STUB_LIBRARY, "CUDA driver is a stub library"),
    E(100, ERROR_NO_DEVICE, "no CUDA-capable device is detected"),
    E(101, ERROR_INVALID_DEVICE, "invalid device ordinal"),
    E(200, ERROR_INVALID_IMAGE, "device kernel image is invalid"),
    E(201, ERROR_INVALID_CONTEXT, "invalid device context"),
    E(202, ERROR_CONTEXT_ALREADY_CURRENT, "context already current"),
    E(205, ERROR_MAP_FAILED, "mapping of buffer object failed"),
    E(206, ERROR_UNMAP_FAILED, "unmapping of buffer object failed"),
    E(208, ERROR_ALREADY_MAPPED, "resource already mapped"),
    E(209, ERROR_NO_BINARY_FOR_GPU, "no kernel image is available for execution on the device"),
    E(211, ERROR_NOT_MAPPED, "resource not mapped"),
    E(215, ERROR_UNSUPPORTED_LIMIT, "limit is not supported on this architecture"),
    E(216, ERROR_CONTEXT_ALREADY_IN_USE,
      "exclusive-thread device already in use by a different thread"),
    E(218, ERROR_INVALID_PTX, "a PTX JIT compilation failed"),
    E(224, ERROR_UNSUPPORTED_EXEC_AFFINITY, "the specified execution affinity is not supported"),
    E(301, ERROR_FILE_NOT_FOUND, "file not found"),
    E(304, ERROR_OPERATING_SYSTEM, "OS call failed or operation not supported on this OS"),
    E(400, ERROR_INVALID_HANDLE, "invalid resource handle"),
    E(401, ERROR_ILLEGAL_STATE, "the operation cannot be performed in the present state"),
    E(500, ERROR_NOT_FOUND, "named symbol not found"),
    E(600, ERROR_NOT_READY, "device not ready"),
    E(700, ERROR_ILLEGAL_ADDRESS, "an illegal memory access was encountered"),
    E(701, ERROR_LAUNCH_OUT_OF_RESOURCES, "too many resources requested for launch"),
    E(702, ERROR_LAUNCH_TIMEOUT, "the launch timed out and was terminated"),
    E(708, ERROR_PRIMARY_CONTEXT_ACTIVE, "cannot set while device is active in this process"),
    E(709, ERROR_CONTEXT_IS_DESTROYED, "context is destroyed"),
    E(712, ERROR_HOST_MEMORY_ALREADY_REGISTERED,
      "part or all of the requested memory range is already mapped"),
    E(713, ERROR_HOST_MEMORY_NOT_REGISTERED,
      "pointer does not correspond to a registered memory region"),
    E(719, ERROR_LAUNCH_FAILED, "unspecified launch failure"),
    E(720, ERROR_COOPERATIVE_LAUNCH_TOO_LARGE, "too many blocks in cooperative launch"),
    E(800, ERROR_NOT_PERMITTED, "operation not permitted"),
    E(801, ERROR_NOT_SUPPORTED, "operation not supported"),
    E(802, ERROR_SYSTEM_NOT_READY, "system not yet initialized"),
    E(805, ERROR_MPS_CONNECTION_FAILED,
      "MPS client failed to connect to the MPS control daemon or the MPS server"),
    E(806, ERROR_MPS_RPC_FAILURE,
      "the remote procedural call between the MPS server and the MPS client failed"),
    E(807, ERROR_MPS_SERVER_NOT_READY, "MPS server is not ready to accept new MPS client requests"),
    E(808, ERROR_MPS_MAX_CLIENTS_REACHED,
      "the hardware resources required to create MPS client have been exhausted"),
    E(809, ERROR_MPS_MAX_CONNECTIONS_REACHED,
      "the hardware resources required to device connections have been exhausted"),
    E(810, ERROR_MPS_CLIENT_TERMINATED, "the MPS client has been terminated by the server"),
    E(900, ERROR_STREAM_CAPTURE_UNSUPPORTED, "operation not permitted when stream is capturing"),
    E(901, ERROR_STREAM_CAPTURE_INVALIDATED,
      "operation failed due to a previous error during capture"),
    E(902, ERROR_STREAM_CAPTURE_MERGE,
      "operation would result in a merge of separate capture sequences"),
    E(903, ERROR_STREAM_CAPTURE_UNMATCHED, "capture was not ended in the same stream as it began"),
    E(904, ERROR_STREAM_CAPTURE_UNJOINED, "capturing stream has unjoined work"),
    E(905, ERROR_STREAM_CAPTURE_ISOLATION,
      "dependency created on uncaptured work in another stream"),
    E(906, ERROR_STREAM_CAPTURE_IMPLICIT,
      "operation would make the legacy stream depend on a capturing blocking stream"),
    E(907, ERROR_CAPTURED_EVENT,
      "operation not permitted on an event last recorded in a capturing stream"),
    E(908, ERROR_STREAM_CAPTURE_WRONG_THREAD,
      "attempt to terminate a thread-local capture sequence from another thread"),
    E(909, ERROR_TIMEOUT, "wait operation timed out"),
    E(910, ERROR_GRAPH_EXEC_UPDATE_FAILURE,
      "the graph update was not performed because it included changes which violated constraints "
      "specific to instantiated graph update"),
    E(999, ERROR_UNKNOWN, "unknown error"),
#undef E
};

#define COUNT (sizeof(errors) / sizeof(errors[0]))

static size_t find(CUresult code)
{
    size_t i = 0;
    while (i < COUNT && errors[i].code != (int)code)
        i++;
    return i;
}

CUAPI cuGetErrorName(CUresult code, const char **ret)
{
    size_t i = find(code);
    if (!ret)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = i < COUNT ? errors[i].name : NULL;
    return i < COUNT ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}

CUAPI cuGetErrorString(CUresult code, const char **ret)
{
    size_t i = find(code);
    if (!ret)
        return CUDA_ERROR_INVALID_VALUE;
    *ret = i < COUNT ? errors[i].text : NULL;
    return i < COUNT ? CUDA_SUCCESS : CUDA_ERROR_INVALID_VALUE;
}
