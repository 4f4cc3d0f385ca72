/* runtime_parts.h - what the files of the runtime's stand-in share: its state, and small helpers.
 *
 * runtime.cpp has errors, faults, devices and the calls for tests; runtime_memory.cpp memory and
 * copies; runtime_stream.cpp work that is queued, launches, captures and events. */
#ifndef GUARDIAN_SIMT_RUNTIME_PARTS_H
#define GUARDIAN_SIMT_RUNTIME_PARTS_H

#include "simt_internal.h"

#include <deque>
#include <map>
#include <memory>
#include <set>
#include <thread>
#include <vector>

struct CUgraph_st {
    std::vector<simt_work> nodes;
};
struct CUgraphExec_st {
    std::shared_ptr<std::vector<simt_work>> nodes;
};
struct event_state {
    bool recorded, done, captured;
    double at_ms;
    cudaStream_t stream;
};
struct CUevent_st {
    std::shared_ptr<event_state> state;
};
struct CUstream_st {
    std::deque<simt_work> queue;
    CUgraph_st *capture;
    bool invalidated;
    cudaStreamCaptureMode mode;
    std::thread::id capturer;
};

namespace runtime
{
typedef std::map<uintptr_t, size_t> pieces; // of memory: address, bytes

extern std::recursive_mutex mutex;
extern pieces device_memory, pinned_memory;
extern size_t device_used;
extern std::set<cudaStream_t> streams;
extern std::set<cudaEvent_t> events;
extern std::set<cudaGraph_t> graphs;
extern std::set<cudaGraphExec_t> execs;
extern CUstream_st default_stream;
extern uint64_t n_launches, n_graph_launches, n_syncs;

// The answer of a call that fails; an error that ends the context is the answer from then on.
cudaError_t failed(cudaError_t code);

// The same for what only a mistake of the caller can cause: says it.
__attribute__((format(printf, 2, 3))) cudaError_t wrong(cudaError_t code, const char *format, ...);

cudaStream_t stream_of(cudaStream_t stream); // NULL: there is no such stream
void drop_work();

// What may not be called while a stream is captured ends the capture.
cudaError_t not_in_capture(const char *what);

// Runs what is queued on all streams.
cudaError_t run_all();

// The piece that p lies in, or end; whether all of p[nbytes] is in one.
pieces::const_iterator find(const pieces &memory, const void *p);
bool inside(const pieces &memory, const void *p, size_t nbytes);

// While nothing runs device memory is poisoned for the host.
void show_device_memory(bool show);
} // namespace runtime

#endif
