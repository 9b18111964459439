/* The variants for the per-thread default stream: the same functions, with another meaning of stream
 * 0. The synchronous ones (_ptds) stand beside their namesakes, in copy.c and fill.c. */
#include "simdriver/drv.h"

/* The stream that |s| means in a call compiled for per-thread default streams. */
static CUstream pt(CUstream s)
{
    return s ? s : CU_STREAM_PER_THREAD;
}

#define PTSZ(name, params, args)                                                                   \
    CUresult name params;                                                                          \
    CUAPI name##_ptsz params                                                                       \
    {                                                                                              \
        return name args;                                                                          \
    }

struct batch_op;
typedef unsigned int u32;

PTSZ(cuLaunchKernel,
     (CUfunction f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, CUstream stream,
      void **params, void **extra),
     (f, gx, gy, gz, bx, by, bz, shared, pt(stream), params, extra))
PTSZ(cuLaunchCooperativeKernel,
     (CUfunction f, u32 gx, u32 gy, u32 gz, u32 bx, u32 by, u32 bz, u32 shared, CUstream stream,
      void **params),
     (f, gx, gy, gz, bx, by, bz, shared, pt(stream), params))
PTSZ(cuLaunchHostFunc, (CUstream s, CUhostFn fn, void *arg), (pt(s), fn, arg))

CUAPI cuLaunchKernelEx_ptsz(const CUlaunchConfig *config, CUfunction f, void **params, void **extra)
{
    if (!config)
        return CUDA_ERROR_INVALID_VALUE;
    CUlaunchConfig c = *config;
    c.hStream = pt(c.hStream);
    return cuLaunchKernelEx(&c, f, params, extra);
}

PTSZ(cuEventRecord, (CUevent e, CUstream s), (e, pt(s)))
PTSZ(cuEventRecordWithFlags, (CUevent e, CUstream s, u32 flags), (e, pt(s), flags))

PTSZ(cuGraphLaunch, (CUgraphExec exec, CUstream s), (exec, pt(s)))
PTSZ(cuGraphUpload, (CUgraphExec exec, CUstream s), (exec, pt(s)))
PTSZ(cuGraphInstantiateWithParams,
     (CUgraphExec * ret, CUgraph graph, CUDA_GRAPH_INSTANTIATE_PARAMS *params),
     (ret, graph, params))

PTSZ(cuMemAllocAsync, (CUdeviceptr * ret, size_t bytes, CUstream s), (ret, bytes, pt(s)))
PTSZ(cuMemAllocFromPoolAsync, (CUdeviceptr * ret, size_t bytes, CUmemoryPool pool, CUstream s),
     (ret, bytes, pool, pt(s)))
PTSZ(cuMemFreeAsync, (CUdeviceptr ptr, CUstream s), (ptr, pt(s)))
PTSZ(cuMemPrefetchAsync, (CUdeviceptr ptr, size_t bytes, CUdevice dst, CUstream s),
     (ptr, bytes, dst, pt(s)))
PTSZ(cuMemPrefetchAsync_v2,
     (CUdeviceptr ptr, size_t bytes, CUmemLocation location, u32 flags, CUstream s),
     (ptr, bytes, location, flags, pt(s)))

PTSZ(cuMemcpyAsync, (CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s), (dst, src, n, pt(s)))
PTSZ(cuMemcpyPeerAsync,
     (CUdeviceptr dst, CUcontext dst_ctx, CUdeviceptr src, CUcontext src_ctx, size_t n, CUstream s),
     (dst, dst_ctx, src, src_ctx, n, pt(s)))
PTSZ(cuMemcpyHtoDAsync_v2, (CUdeviceptr dst, const void *src, size_t n, CUstream s),
     (dst, src, n, pt(s)))
PTSZ(cuMemcpyDtoHAsync_v2, (void *dst, CUdeviceptr src, size_t n, CUstream s), (dst, src, n, pt(s)))
PTSZ(cuMemcpyDtoDAsync_v2, (CUdeviceptr dst, CUdeviceptr src, size_t n, CUstream s),
     (dst, src, n, pt(s)))
PTSZ(cuMemcpy2DAsync_v2, (const CUDA_MEMCPY2D *copy, CUstream s), (copy, pt(s)))
PTSZ(cuMemcpy3DAsync_v2, (const CUDA_MEMCPY3D *copy, CUstream s), (copy, pt(s)))
PTSZ(cuMemcpy3DPeerAsync, (const CUDA_MEMCPY3D_PEER *copy, CUstream s), (copy, pt(s)))
PTSZ(cuMemcpyBatchAsync,
     (CUdeviceptr * dsts, CUdeviceptr *srcs, size_t *sizes, size_t count, CUmemcpyAttributes *attrs,
      size_t *attr_at, size_t attr_count, size_t *fail_at, CUstream s),
     (dsts, srcs, sizes, count, attrs, attr_at, attr_count, fail_at, pt(s)))
PTSZ(cuMemcpyBatchAsync_v2,
     (CUdeviceptr * dsts, CUdeviceptr *srcs, size_t *sizes, size_t count, CUmemcpyAttributes *attrs,
      size_t *attr_at, size_t attr_count, CUstream s),
     (dsts, srcs, sizes, count, attrs, attr_at, attr_count, pt(s)))

PTSZ(cuMemsetD8Async, (CUdeviceptr dst, unsigned char value, size_t n, CUstream s),
     (dst, value, n, pt(s)))
PTSZ(cuMemsetD16Async, (CUdeviceptr dst, unsigned short value, size_t n, CUstream s),
     (dst, value, n, pt(s)))
PTSZ(cuMemsetD32Async, (CUdeviceptr dst, u32 value, size_t n, CUstream s), (dst, value, n, pt(s)))
PTSZ(cuMemsetD2D8Async,
     (CUdeviceptr dst, size_t pitch, unsigned char value, size_t width, size_t height, CUstream s),
     (dst, pitch, value, width, height, pt(s)))
PTSZ(cuMemsetD2D16Async,
     (CUdeviceptr dst, size_t pitch, unsigned short value, size_t width, size_t height, CUstream s),
     (dst, pitch, value, width, height, pt(s)))
PTSZ(cuMemsetD2D32Async,
     (CUdeviceptr dst, size_t pitch, u32 value, size_t width, size_t height, CUstream s),
     (dst, pitch, value, width, height, pt(s)))

PTSZ(cuStreamSynchronize, (CUstream s), (pt(s)))
PTSZ(cuStreamQuery, (CUstream s), (pt(s)))
PTSZ(cuStreamGetPriority, (CUstream s, int *ret), (pt(s), ret))
PTSZ(cuStreamGetFlags, (CUstream s, u32 *ret), (pt(s), ret))
PTSZ(cuStreamGetId, (CUstream s, unsigned long long *ret), (pt(s), ret))
PTSZ(cuStreamGetCtx, (CUstream s, CUcontext *ret), (pt(s), ret))
PTSZ(cuStreamGetCtx_v2, (CUstream s, CUcontext *ret, void **green), (pt(s), ret, green))
PTSZ(cuStreamGetDevice, (CUstream s, CUdevice *ret), (pt(s), ret))
PTSZ(cuStreamWaitEvent, (CUstream s, CUevent event, u32 flags), (pt(s), event, flags))
PTSZ(cuStreamAddCallback, (CUstream s, CUstreamCallback fn, void *arg, u32 flags),
     (pt(s), fn, arg, flags))
PTSZ(cuStreamAttachMemAsync, (CUstream s, CUdeviceptr ptr, size_t length, u32 flags),
     (pt(s), ptr, length, flags))
PTSZ(cuStreamGetAttribute, (CUstream s, int which, CUlaunchAttributeValue *ret), (pt(s), which, ret))
PTSZ(cuStreamSetAttribute, (CUstream s, int which, const CUlaunchAttributeValue *value), (pt(s), which, value))
PTSZ(cuStreamCopyAttributes, (CUstream dst, CUstream src), (pt(dst), pt(src)))
PTSZ(cuStreamBatchMemOp, (CUstream s, u32 count, struct batch_op *ops, u32 flags),
     (pt(s), count, ops, flags))
PTSZ(cuStreamBatchMemOp_v2, (CUstream s, u32 count, struct batch_op *ops, u32 flags),
     (pt(s), count, ops, flags))

#define MEMOP(name, type)                                                                          \
    PTSZ(name, (CUstream s, CUdeviceptr addr, type value, u32 flags), (pt(s), addr, value, flags))

MEMOP(cuStreamWaitValue32, cuuint32_t)
MEMOP(cuStreamWaitValue32_v2, cuuint32_t)
MEMOP(cuStreamWaitValue64, cuuint64_t)
MEMOP(cuStreamWaitValue64_v2, cuuint64_t)
MEMOP(cuStreamWriteValue32, cuuint32_t)
MEMOP(cuStreamWriteValue32_v2, cuuint32_t)
MEMOP(cuStreamWriteValue64, cuuint64_t)
MEMOP(cuStreamWriteValue64_v2, cuuint64_t)

PTSZ(cuStreamBeginCapture, (CUstream s), (pt(s)))
PTSZ(cuStreamBeginCapture_v2, (CUstream s, CUstreamCaptureMode mode), (pt(s), mode))
PTSZ(cuStreamBeginCaptureToGraph,
     (CUstream s, CUgraph graph, const CUgraphNode *nodes, const CUgraphEdgeData *edges,
      size_t count, CUstreamCaptureMode mode),
     (pt(s), graph, nodes, edges, count, mode))
PTSZ(cuStreamEndCapture, (CUstream s, CUgraph *ret), (pt(s), ret))
PTSZ(cuStreamIsCapturing, (CUstream s, CUstreamCaptureStatus *ret), (pt(s), ret))
PTSZ(cuStreamGetCaptureInfo, (CUstream s, CUstreamCaptureStatus *ret, cuuint64_t *id),
     (pt(s), ret, id))
PTSZ(cuStreamGetCaptureInfo_v2,
     (CUstream s, CUstreamCaptureStatus *ret, cuuint64_t *id, CUgraph *graph,
      const CUgraphNode **nodes, size_t *count),
     (pt(s), ret, id, graph, nodes, count))
PTSZ(cuStreamGetCaptureInfo_v3,
     (CUstream s, CUstreamCaptureStatus *ret, cuuint64_t *id, CUgraph *graph,
      const CUgraphNode **nodes, const CUgraphEdgeData **edges, size_t *count),
     (pt(s), ret, id, graph, nodes, edges, count))
PTSZ(cuStreamUpdateCaptureDependencies, (CUstream s, CUgraphNode *nodes, size_t count, u32 flags),
     (pt(s), nodes, count, flags))
PTSZ(cuStreamUpdateCaptureDependencies_v2,
     (CUstream s, CUgraphNode *nodes, const CUgraphEdgeData *edges, size_t count, u32 flags),
     (pt(s), nodes, edges, count, flags))
