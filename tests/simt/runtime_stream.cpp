// runtime_stream.cpp - the runtime's stand-in: queued work, launches, streams, captures, graphs, events.
#include "runtime_parts.h"

#include "simt_device.h"

#include <string.h>
#include <time.h>

using namespace runtime;

namespace runtime
{
std::set<cudaStream_t> streams;
std::set<cudaEvent_t> events;
std::set<cudaGraph_t> graphs;
std::set<cudaGraphExec_t> execs;
CUstream_st default_stream;
uint64_t n_launches, n_graph_launches, n_syncs;
} // namespace runtime

namespace
{
std::map<const void *, size_t> allowed; // shared memory of kernels
} // namespace

cudaStream_t runtime::stream_of(cudaStream_t stream)
{
    if (stream == NULL || stream == &default_stream) {
        return &default_stream;
    }
    return streams.count(stream) > 0 ? stream : NULL;
}

void runtime::drop_work()
{
    for (cudaStream_t s : streams) {
        s->queue.clear();
    }
    default_stream.queue.clear();
}

// ---- captures ----

cudaError_t runtime::not_in_capture(const char *what)
{
    for (cudaStream_t s : streams) {
        if (s->capture == NULL || s->mode == cudaStreamCaptureModeRelaxed ||
            (s->mode == cudaStreamCaptureModeThreadLocal &&
             s->capturer != std::this_thread::get_id())) {
            continue;
        }
        s->invalidated = true;
        return wrong(cudaErrorStreamCaptureUnsupported, "%s while a stream is captured", what);
    }
    return cudaSuccess;
}

static cudaError_t not_captured(cudaStream_t s, const char *what)
{
    if (s->capture == NULL) {
        return cudaSuccess;
    }
    s->invalidated = true;
    return wrong(cudaErrorStreamCaptureUnsupported, "%s on a stream that is captured", what);
}

// ---- running what is queued ----

// Runs a stream's work: all of it, or until the event has happened.
static cudaError_t run_stream(cudaStream_t s, const event_state *until = NULL)
{
    n_syncs++;
    if (s->queue.empty()) {
        return cudaSuccess;
    }
    cudaError_t rc = cudaSuccess;
    show_device_memory(true);
    while (!s->queue.empty() && (until == NULL || !until->done) && rc == cudaSuccess) {
        simt_work work = std::move(s->queue.front());
        s->queue.pop_front();
        rc = work();
    }
    show_device_memory(false);
    return rc != cudaSuccess ? failed(rc) : cudaSuccess;
}

cudaError_t runtime::run_all()
{
    cudaError_t rc = run_stream(&default_stream);
    for (cudaStream_t s : streams) {
        cudaError_t next = s->capture == NULL ? run_stream(s) : cudaSuccess;
        rc = rc == cudaSuccess ? next : rc;
    }
    return rc;
}

static double now_ms()
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec * 1e3 + (double)t.tv_nsec * 1e-6;
}
cudaError_t simt_push(cudaStream_t stream, simt_work work)
{
    cudaStream_t s = stream_of(stream);
    if (s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "work on a stream that does not exist");
    }
    if (s->capture == NULL) {
        s->queue.push_back(std::move(work));
        return cudaSuccess;
    }
    if (s->invalidated) {
        return failed(cudaErrorStreamCaptureInvalidated);
    }
    s->capture->nodes.push_back(std::move(work));
    return cudaSuccess;
}

cudaError_t cudaDeviceSynchronize(void)
{
    simt_call call;
    cudaError_t rc = call.rc == cudaSuccess ? not_in_capture("cudaDeviceSynchronize") : call.rc;
    return rc == cudaSuccess ? run_all() : rc;
}

// ---- launches ----

cudaError_t simt_allow(const void *kernel, int nbytes)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (nbytes < 0 || (size_t)nbytes > simt_shared_max()) {
        return failed(cudaErrorInvalidValue);
    }
    allowed[kernel] = (size_t)nbytes;
    return cudaSuccess;
}

static cudaError_t check_launch(const simt_kernel &k)
{
    const dim3 &g = k.grid, &b = k.block;
    uint64_t threads = (uint64_t)b.x * b.y * b.z;
    if (g.x == 0 || g.y == 0 || g.z == 0 || g.x > 0x7fffffffu || g.y > 65535 || g.z > 65535) {
        return wrong(cudaErrorInvalidConfiguration, "%s: a grid of %u x %u x %u", k.name, g.x, g.y,
                     g.z);
    }
    if (threads == 0 || threads > 1024 || b.x > 1024 || b.y > 1024 || b.z > 64) {
        return wrong(cudaErrorInvalidConfiguration, "%s: blocks of %u x %u x %u", k.name, b.x, b.y,
                     b.z);
    }
    auto it = allowed.find(k.kernel);
    size_t most = it != allowed.end() && it->second > 48 * 1024 ? it->second : 48 * 1024;
    if (k.shared_bytes > most) {
        return wrong(cudaErrorInvalidValue, "%s: %zu bytes of shared memory, %zu are allowed",
                     k.name, k.shared_bytes, most);
    }
    return cudaSuccess;
}

cudaError_t simt_queue(const simt_kernel *kernel, const void *args, size_t nbytes,
                       cudaStream_t stream)
{
    simt_call call;
    if (call.rc == cudaSuccess && check_launch(*kernel) == cudaSuccess) {
        simt_kernel k = *kernel;
        std::vector<uint64_t> copy(nbytes / 8 + 4); // 16-byte aligned somewhere in it
        auto bytes = std::make_shared<std::vector<uint64_t>>(std::move(copy));
        void *at = (void *)(((uintptr_t)bytes->data() + 15) & ~(uintptr_t)15);
        memcpy(at, args, nbytes);
        simt_push(stream, [k, bytes, at]() -> cudaError_t {
            n_launches++;
            simt_run(k, at, simt_now.seed, n_launches);
            return cudaSuccess;
        });
    }
    return cudaGetLastError(); // as GDK_LAUNCH on a device: an error nobody asked for, too
}

// ---- streams and graphs ----

cudaError_t cudaStreamCreateWithFlags(cudaStream_t *pStream, unsigned int flags)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (flags > cudaStreamNonBlocking) {
        return wrong(cudaErrorInvalidValue, "cudaStreamCreateWithFlags: flags %u", flags);
    }
    *pStream = new CUstream_st();
    streams.insert(*pStream);
    return cudaSuccess;
}

cudaError_t cudaStreamDestroy(cudaStream_t stream)
{
    simt_call call;
    if (streams.count(stream) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaStreamDestroy of no stream");
    }
    cudaError_t rc = call.rc == cudaSuccess ? run_stream(stream) : call.rc;
    streams.erase(stream);
    delete stream->capture;
    delete stream;
    return rc;
}

cudaError_t cudaStreamSynchronize(cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    cudaStream_t s = stream_of(stream);
    if (s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaStreamSynchronize of no stream");
    }
    cudaError_t rc = not_captured(s, "cudaStreamSynchronize");
    return rc == cudaSuccess ? run_stream(s) : rc;
}

cudaError_t cudaStreamBeginCapture(cudaStream_t stream, enum cudaStreamCaptureMode mode)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (stream == NULL) {
        return wrong(cudaErrorStreamCaptureUnsupported, "capture of the default stream");
    }
    if (streams.count(stream) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "capture of no stream");
    }
    if (stream->capture != NULL) {
        return wrong(cudaErrorIllegalState, "the stream is captured already");
    }
    stream->capture = new CUgraph_st();
    stream->invalidated = false;
    stream->mode = mode;
    stream->capturer = std::this_thread::get_id();
    return cudaSuccess;
}

cudaError_t cudaStreamEndCapture(cudaStream_t stream, cudaGraph_t *pGraph)
{
    simt_call call;
    if (streams.count(stream) == 0 || stream->capture == NULL) {
        return call.rc != cudaSuccess ? call.rc
                                      : wrong(cudaErrorIllegalState, "the stream is not captured");
    }
    if (stream->mode != cudaStreamCaptureModeRelaxed &&
        stream->capturer != std::this_thread::get_id()) {
        return wrong(cudaErrorStreamCaptureWrongThread, "the capture ends in another thread");
    }
    CUgraph_st *graph = stream->capture;
    stream->capture = NULL;
    *pGraph = NULL;
    if (call.rc != cudaSuccess || stream->invalidated) {
        delete graph;
        return call.rc != cudaSuccess ? call.rc : failed(cudaErrorStreamCaptureInvalidated);
    }
    graphs.insert(graph);
    *pGraph = graph;
    return cudaSuccess;
}

cudaError_t cudaGraphInstantiate(cudaGraphExec_t *pGraphExec, cudaGraph_t graph,
                                 unsigned long long flags)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (graphs.count(graph) == 0 || flags != 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphInstantiate: no graph, or flags");
    }
    *pGraphExec = new CUgraphExec_st();
    (*pGraphExec)->nodes = std::make_shared<std::vector<simt_work>>(graph->nodes);
    execs.insert(*pGraphExec);
    return cudaSuccess;
}

cudaError_t cudaGraphLaunch(cudaGraphExec_t graphExec, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (execs.count(graphExec) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphLaunch of no graph");
    }
    n_graph_launches++;
    auto nodes = graphExec->nodes;
    return simt_push(stream, [nodes]() -> cudaError_t {
        cudaError_t rc = cudaSuccess;
        for (size_t i = 0; i < nodes->size() && rc == cudaSuccess; i++) {
            rc = (*nodes)[i]();
        }
        return rc;
    });
}

cudaError_t cudaGraphExecDestroy(cudaGraphExec_t graphExec)
{
    simt_call call;
    if (execs.erase(graphExec) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphExecDestroy of no graph");
    }
    delete graphExec;
    return call.rc;
}

cudaError_t cudaGraphDestroy(cudaGraph_t graph)
{
    simt_call call;
    if (graphs.erase(graph) == 0) {
        return wrong(cudaErrorInvalidValue, "cudaGraphDestroy of no graph");
    }
    delete graph;
    return call.rc;
}

// ---- events ----

cudaError_t cudaEventCreate(cudaEvent_t *event)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    *event = new CUevent_st();
    (*event)->state = std::make_shared<event_state>();
    events.insert(*event);
    return cudaSuccess;
}

cudaError_t cudaEventDestroy(cudaEvent_t event)
{
    simt_call call;
    if (events.erase(event) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventDestroy of no event");
    }
    delete event;
    return call.rc;
}

cudaError_t cudaEventRecord(cudaEvent_t event, cudaStream_t stream)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    cudaStream_t s = stream_of(stream);
    if (events.count(event) == 0 || s == NULL) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventRecord: no event or no stream");
    }
    auto state = std::make_shared<event_state>();
    event->state = state;
    state->recorded = true;
    state->captured = s->capture != NULL;
    state->stream = s;
    return simt_push(stream, [state]() -> cudaError_t {
        state->done = true;
        state->at_ms = now_ms();
        return cudaSuccess;
    });
}

cudaError_t cudaEventSynchronize(cudaEvent_t event)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (events.count(event) == 0) {
        return wrong(cudaErrorInvalidResourceHandle, "cudaEventSynchronize of no event");
    }
    auto state = event->state;
    if (state->captured) {
        if (stream_of(state->stream) != NULL && state->stream->capture != NULL) {
            state->stream->invalidated = true;
        }
        return wrong(cudaErrorCapturedEvent, "cudaEventSynchronize: the event is part of a graph");
    }
    if (!state->recorded || state->done || stream_of(state->stream) == NULL) {
        return cudaSuccess;
    }
    return run_stream(state->stream, state.get());
}

cudaError_t cudaEventElapsedTime(float *ms, cudaEvent_t start, cudaEvent_t end)
{
    simt_call call;
    if (call.rc != cudaSuccess) {
        return call.rc;
    }
    if (events.count(start) == 0 || events.count(end) == 0 || !start->state->recorded ||
        !end->state->recorded) {
        return wrong(cudaErrorInvalidResourceHandle,
                     "cudaEventElapsedTime: an event is not recorded");
    }
    if (!start->state->done || !end->state->done) {
        return failed(cudaErrorNotReady);
    }
    *ms = (float)(end->state->at_ms - start->state->at_ms);
    return cudaSuccess;
}
