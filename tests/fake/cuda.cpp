// A CUDA driver, compiler and matrix library that need no GPU: the entry points that src/device/cuda calls, on top of the
// emulator. One shared library answers to all three names (libcuda.so.1, libnvrtc.so.13, libcublasLt.so.13), so that the
// CUDA runtime's own code (search, probe, compilation, cache, module loading, copies, launches, products, recording, replay,
// events, freeing) is executed by tests and not only type-checked.
//
// Work is queued as on a real stream: launches, copies and fills run at the next synchronisation (of an event, only what was queued
// before it), copy to the host or `FAKE_EAGER=1`. A host that frees or reads too early is thus found out. So is what a real driver
// refuses: calls on a thread without the context, anything but work while a stream is recorded, time of an event that nobody set,
// more shared memory than was asked for, operands of products less aligned than was said.
//
// Faults are asked for by environment variables:
//   FAKE_INIT=code            cuInit answers with this error          FAKE_DEVICES=n        number of devices
//   FAKE_CAPABILITY=75        compute capability                      FAKE_DRIVER=12080     CUDA version of the driver
//   FAKE_OOM_AFTER=k          the k-th allocation fails, and all after it
//   FAKE_FAULT_AFTER=n        launch n and everything after it fails with an illegal address (sticky, as on a GPU)
//   FAKE_CONTEXT=code, FAKE_STREAM=code, FAKE_MODULE=code, FAKE_COPY=code: that call fails
//   FAKE_GRAPH=code           nothing can be recorded                 FAKE_AMEND=n          change n of a recording fails, and all after
//   FAKE_INSTANTIATE=code     what is recorded cannot be replayed     FAKE_REPLAY=code      no replay begins
//   FAKE_SLOW=ms              a replay takes so much longer           FAKE_FORGET=1         changes of launches are taken and not made
//   FAKE_PIN=code             no memory can be pinned                 FAKE_FREE_MIB=n       so much memory is free
//   FAKE_TRACE=file           every mark, wait, copy to the host, time read, recording, change of one and replay, a line each, is
//                             added to this file
//   FAKE_COMPILE=1            NVRTC refuses every program             FAKE_BLAS=1           cuBLASLt knows no algorithm
//   FAKE_KNOWS=90             no newer architecture is known to it    FAKE_BLAS=2           none that adds a row
//                                                                   FAKE_BLAS_VERSION=n   cuBLASLt's own version

#include <dlfcn.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include <functional>
#include <map>
#include <mutex>
#include <string>
#include <vector>

#include "inside.h"

using namespace machine;

#define API extern "C" __attribute__((visibility("default")))

extern "C" {
Machine* machine_make(u64 heap_bytes, bool checked);
u64 machine_allocate(Machine*, u64);
bool machine_release(Machine*, u64);
void machine_written(Machine*, u64, u64);
const machine::Kernel* machine_find(const machine::Kernel*, const char*);
bool machine_launch(Machine*, const Launch*);
const char* machine_error(Machine*);
}

static int asked(const char* name, int otherwise) {
  const char* value = getenv(name);
  return value ? atoi(value) : otherwise;
}

constexpr int SUCCESS = 0, INVALID_VALUE = 1, OUT_OF_MEMORY = 2, NOT_FOUND = 500, ILLEGAL_ADDRESS = 700, LAUNCH_FAILED = 719;

// ---- The driver ----------------------------------------------------------------------------------------------------

static std::recursive_mutex lock;
static Machine* gpu;
static int sticky;  // an error after which nothing works any more
static int allocations, launches;
static std::vector<std::function<int()>> queue;
static u64 enqueued;  // so much work was ever queued; the last of it is `queue`
static double clock_ms;
static thread_local void* entered;  // the context of this thread

// A recording: what its nodes do, in order. A node is known by its place and by what it is, so that a change of one to
// something else is found out.
struct Node {
  size_t place;
  char kind;
};
struct Event {
  double at = -1;  // passed at, milliseconds
  u64 place = 0;   // what must be done for that, counted like `enqueued`
};
struct Graph {
  std::vector<std::function<int()>> work;
  std::vector<Event*> events;  // those that are set, at their places
  std::vector<Node*> nodes;
};
static Graph* recording;
static bool invalid;  // the recording: something was done meanwhile that none can hold

static void trace(const char* what, double number = 0) {
  const char* path = getenv("FAKE_TRACE");
  if (FILE* file = path ? fopen(path, "a") : nullptr) {
    fprintf(file, "%s %g\n", what, number);
    fclose(file);
  }
}

#define GUARD                                        \
  std::lock_guard<std::recursive_mutex> held(lock); \
  if (sticky) return sticky
// Of calls that need the context on their thread.
#define INSIDE \
  GUARD;       \
  if (!entered) return 201
// Of calls that no recording can hold.
#define UNRECORDED \
  INSIDE;          \
  if (recording) return invalid = true, 900

// Does what was queued as the first `until` pieces of work.
static int flush(u64 until = ~0ull) {
  u64 done = enqueued - queue.size(), n = until < enqueued ? until - (until < done ? until : done) : queue.size();
  int e = SUCCESS;
  for (u64 i = 0; i < n && !e; ++i) e = queue[i]();
  if (e) sticky = e, n = queue.size();
  queue.erase(queue.begin(), queue.begin() + i64(n));
  return e;
}

// `kind` is that of the node it becomes in a recording: kernel, event, or any other.
static int enqueue(std::function<int()> work, char kind = '-', Event* event = nullptr) {
  if (recording) {
    recording->nodes.push_back(new Node{recording->work.size(), kind});
    recording->work.push_back(work);
    recording->events.push_back(event);
    return SUCCESS;
  }
  queue.push_back(work);
  ++enqueued;
  if (event) event->place = enqueued;
  return asked("FAKE_EAGER", 0) ? flush() : SUCCESS;
}

API int cuInit(unsigned) { return asked("FAKE_INIT", SUCCESS); }
API int cuDriverGetVersion(int* v) { *v = asked("FAKE_DRIVER", 13000); return SUCCESS; }
API int cuDeviceGetCount(int* n) { *n = asked("FAKE_DEVICES", 1); return SUCCESS; }
API int cuDeviceGet(int* device, int ordinal) { *device = ordinal; return SUCCESS; }
API int cuDeviceGetName(char* name, int length, int) { snprintf(name, length, "Fake GPU"); return SUCCESS; }
API int cuDeviceGetAttribute(int* value, int attribute, int) {
  int capability = asked("FAKE_CAPABILITY", 90);
  *value = attribute == 75 ? capability / 10 : attribute == 76 ? capability % 10 : attribute == 16 ? 132 : 0;
  return SUCCESS;
}
API int cuDeviceGetDefaultMemPool(void** pool, int) { *pool = &gpu; return SUCCESS; }
API int cuMemPoolSetAttribute(void*, int, void*) { return SUCCESS; }
API int cuMemPoolTrimTo(void*, size_t) { INSIDE; return SUCCESS; }
API int cuDevicePrimaryCtxRetain(void** context, int) {
  GUARD;
  if (int e = asked("FAKE_CONTEXT", 0)) return e;
  if (!gpu) gpu = machine_make(u64(8) << 30, asked("FAKE_CHECKED", 0));
  *context = gpu;
  return gpu ? SUCCESS : OUT_OF_MEMORY;
}
API int cuDevicePrimaryCtxRelease_v2(int) { return SUCCESS; }
API int cuCtxSetCurrent(void* context) { entered = context; return sticky; }
API int cuStreamCreate(void** stream, unsigned) {
  INSIDE;
  *stream = &queue;
  return asked("FAKE_STREAM", SUCCESS);
}
API int cuStreamSynchronize(void*) { UNRECORDED; trace("wait"); return flush(); }
API int cuGetErrorName(int e, const char** text) {
  *text = e == 700 ? "CUDA_ERROR_ILLEGAL_ADDRESS" : e == 2 ? "CUDA_ERROR_OUT_OF_MEMORY" : e == 100 ? "CUDA_ERROR_NO_DEVICE"
        : e == 803 ? "CUDA_ERROR_SYSTEM_DRIVER_MISMATCH" : "CUDA_ERROR_FAKE";
  return SUCCESS;
}
API int cuGetErrorString(int, const char** text) {
  static char words[256];
  snprintf(words, sizeof words, "%s", gpu && *machine_error(gpu) ? machine_error(gpu) : "as asked for");
  *text = words;
  return SUCCESS;
}

API int cuMemGetInfo_v2(size_t* free, size_t* total) {
  INSIDE;
  *total = size_t(8) << 30;
  *free = size_t(asked("FAKE_FREE_MIB", 8 << 10)) << 20;
  return SUCCESS;
}
API int cuMemAllocAsync(u64* address, size_t bytes, void*) {
  UNRECORDED;
  int most = asked("FAKE_OOM_AFTER", -1);
  if (most >= 0 && allocations >= most) return OUT_OF_MEMORY;
  ++allocations;
  *address = machine_allocate(gpu, bytes);
  return *address ? SUCCESS : OUT_OF_MEMORY;
}
API int cuMemFreeAsync(u64 address, void*) {
  UNRECORDED;
  return enqueue([=] { return machine_release(gpu, address) ? SUCCESS : INVALID_VALUE; });
}
// Whether the bytes are of one piece that is allocated now.
static bool allocated(u64 address, size_t bytes) {
  const Allocation* a = heap_find(*gpu, address);
  return a && address + bytes <= a->from + a->bytes;
}
API int cuMemsetD8Async(u64 address, unsigned char byte, size_t bytes, void*) {
  INSIDE;
  if (!bytes) return INVALID_VALUE;
  return enqueue([=] {
    if (!allocated(address, bytes)) return ILLEGAL_ADDRESS;
    memset((void*)address, byte, bytes);
    machine_written(gpu, address, bytes);
    return SUCCESS;
  });
}
// Pinned memory: copies out of it are made when their turn comes, so that a host that overwrites it too early is found out.
static std::map<const char*, size_t> pinned;
API int cuMemHostAlloc(void** memory, size_t bytes, unsigned) {
  UNRECORDED;
  if (int e = asked("FAKE_PIN", 0)) return e;
  *memory = malloc(bytes);
  pinned[(const char*)*memory] = bytes;
  return SUCCESS;
}
API int cuMemFreeHost(void* memory) {
  GUARD;
  if (!pinned.erase((const char*)memory)) return INVALID_VALUE;
  free(memory);
  return SUCCESS;
}
static bool is_pinned(const char* from, size_t bytes) {
  auto after = pinned.upper_bound(from);
  if (after == pinned.begin()) return false;
  auto [start, length] = *--after;
  return from + bytes <= start + length;
}
API int cuMemcpyHtoDAsync_v2(u64 to, const void* from, size_t bytes, void*) {
  UNRECORDED;
  if (int e = asked("FAKE_COPY", 0)) return e;
  if (is_pinned((const char*)from, bytes))
    return enqueue([=] {
      if (!allocated(to, bytes)) return ILLEGAL_ADDRESS;
      memcpy((void*)to, from, bytes);
      machine_written(gpu, to, bytes);
      return SUCCESS;
    });
  // Pageable memory: the GPU may read it by itself, as late as it likes.
  return enqueue([=] {
    if (!allocated(to, bytes)) return ILLEGAL_ADDRESS;
    memcpy((void*)to, from, bytes);
    machine_written(gpu, to, bytes);
    return SUCCESS;
  });
}
API int cuMemcpyDtoHAsync_v2(void* to, u64 from, size_t bytes, void*) {
  UNRECORDED;
  trace("copy", bytes);
  if (int e = flush()) return e;
  if (!allocated(from, bytes)) return sticky = ILLEGAL_ADDRESS;
  memcpy(to, (void*)from, bytes);
  return SUCCESS;
}

struct Module {
  const machine::Kernel* table;
};
struct Entry {
  const machine::Kernel* kernel;
  unsigned asked;  // dynamic shared memory, or 0
};
constexpr unsigned SHARED_WITHOUT_ASKING = 48 << 10, SHARED_AT_MOST = 227 << 10;  // with what a kernel declares

// An image is this, the length of a shared library, and the library.
static const char MAGIC[8] = {'f', 'a', 'k', 'e', 'c', 'u', 'b', 'n'};

static std::string file(const std::string& text, const char* suffix) {
  char path[64];
  snprintf(path, sizeof path, "/tmp/fake-cuda-XXXXXX%s", suffix);
  int handle = mkstemps(path, int(strlen(suffix)));
  bool whole = handle >= 0 && write(handle, text.data(), text.size()) == ssize_t(text.size());
  if (handle >= 0) close(handle);
  return whole ? path : "";
}

API int cuModuleLoadData(void** module, const void* image) {
  UNRECORDED;
  if (int e = asked("FAKE_MODULE", 0)) return e;
  const char* bytes = static_cast<const char*>(image);
  u64 length;
  if (memcmp(bytes, MAGIC, 8)) return 200;
  memcpy(&length, bytes + 8, 8);
  // The kernels' library needs the machine's names, which this library holds.
  Dl_info self;
  if (dladdr((void*)cuModuleLoadData, &self)) dlopen(self.dli_fname, RTLD_NOW | RTLD_GLOBAL | RTLD_NOLOAD);
  std::string path = file(std::string(bytes + 16, length), ".so");
  void* library = dlopen(path.c_str(), RTLD_NOW);
  unlink(path.c_str());
  if (!library) {
    fprintf(stderr, "fake driver: %s\n", dlerror());
    return 200;
  }
  *module = new Module{reinterpret_cast<const machine::Kernel* (*)()>(dlsym(library, "hardneg_kernels"))()};
  return SUCCESS;
}

static int fake_launch(const Entry* entry, std::vector<u32> blocks, u32 threads, u32 shared, const std::vector<u64>& values) {
  const machine::Kernel* kernel = entry->kernel;
  std::vector<Argument> arguments;
  for (u32 i = 0; i < kernel->count; ++i) {
    const Parameter& p = kernel->parameters[i];
    if (!p.pointer) {
      arguments.push_back({values[i], p.bytes, p.real ? Use::scalar_real : Use::scalar_integer});
    } else if (!values[i]) {
      arguments.push_back({0, 0, Use::none});
    } else {
      const Allocation* a = heap_find(*gpu, values[i]);
      u64 left = a ? a->from + a->bytes - values[i] : 0;
      arguments.push_back({values[i], left, p.constant ? Use::in : Use::out});
    }
  }
  Launch launch = {kernel, {blocks[0], blocks[1], blocks[2]}, threads, shared, Order::forward, 1, arguments.data(), arguments.size()};
  bool done = machine_launch(gpu, &launch);
  // Only a run tells what the kernel declares.
  u64 declared = gpu->shared_static, granted = entry->asked ? SHARED_AT_MOST : SHARED_WITHOUT_ASKING;
  if (done && declared + (entry->asked > shared ? entry->asked : shared) > granted) {
    fprintf(stderr, "fake driver: %s: %u bytes of shared memory beside %llu, %u were asked for\n", kernel->name, shared, declared, entry->asked);
    return INVALID_VALUE;
  }
  if (done) return SUCCESS;
  fprintf(stderr, "fake driver: %s: %s\n", kernel->name, machine_error(gpu));
  return LAUNCH_FAILED;
}

API int cuModuleGetFunction(void** function, void* module, const char* name) {
  GUARD;
  auto* kernel = machine_find(static_cast<Module*>(module)->table, name);
  if (!kernel) return NOT_FOUND;
  *function = new Entry{kernel, 0};
  return SUCCESS;
}
API int cuFuncSetAttribute(void* function, int attribute, int value) {
  GUARD;
  if (attribute != 8 || unsigned(value) > SHARED_AT_MOST) return INVALID_VALUE;
  static_cast<Entry*>(function)->asked = value;
  return SUCCESS;
}
struct KernelParams {
  void* function;
  unsigned bx, by, bz, tx, ty, tz, shared;
  void** arguments;
  void **extra, *kernel, *context;
};
// What a launch does, or why it cannot be.
static int work_of_launch(const KernelParams& p, std::function<int()>& work) {
  auto* entry = static_cast<Entry*>(p.function);
  if (p.shared > (entry->asked ? entry->asked : SHARED_WITHOUT_ASKING) || p.tx * p.ty * p.tz > entry->kernel->threads) return INVALID_VALUE;
  if (!p.bx || !p.by || !p.bz || p.by > 65535 || p.bz > 65535) return INVALID_VALUE;
  int most = asked("FAKE_FAULT_AFTER", -1);
  std::vector<u64> values;
  for (u32 i = 0; i < entry->kernel->count; ++i) {
    u64 value = 0;
    memcpy(&value, p.arguments[i], entry->kernel->parameters[i].bytes);
    values.push_back(value);
  }
  std::vector<u32> blocks = {p.bx, p.by, p.bz};
  u32 threads = p.tx * p.ty * p.tz, shared = p.shared;
  work = [=] {
    if (most >= 0 && launches++ >= most) return ILLEGAL_ADDRESS;
    return fake_launch(entry, blocks, threads, shared, values);
  };
  return SUCCESS;
}
API int cuLaunchKernel(void* function, unsigned bx, unsigned by, unsigned bz, unsigned tx, unsigned ty, unsigned tz,
                       unsigned shared, void*, void** arguments, void**) {
  INSIDE;
  std::function<int()> work;
  if (int e = work_of_launch({function, bx, by, bz, tx, ty, tz, shared, arguments, nullptr, nullptr, nullptr}, work)) return e;
  return enqueue(work, 'k');
}

static std::function<int()> work_of_event(Event* event) {
  return [=] { event->at = clock_ms += 1; return SUCCESS; };
}

API int cuStreamBeginCapture_v2(void*, int) {
  INSIDE;
  if (recording) return 901;
  if (int e = asked("FAKE_GRAPH", SUCCESS)) return e;
  recording = new Graph;
  invalid = false;
  return SUCCESS;
}
API int cuStreamGetCaptureInfo_v3(void*, int* status, u64*, void** graph, void*** last, void** edges, size_t* count) {
  GUARD;
  *status = recording ? 1 : 0;
  if (!recording || recording->nodes.empty()) return *count = 0, SUCCESS;
  static Node* node;
  node = recording->nodes.back();
  *graph = recording, *last = (void**)&node, *edges = nullptr, *count = 1;
  return SUCCESS;
}
API int cuStreamEndCapture(void*, void** graph) {
  INSIDE;
  if (!recording) return 900;
  *graph = recording;
  recording = nullptr;
  return invalid ? 901 : SUCCESS;
}
API int cuGraphInstantiateWithFlags(void** executable, void* graph, u64) {
  INSIDE;
  if (int e = asked("FAKE_INSTANTIATE", SUCCESS)) return e;
  auto* from = static_cast<Graph*>(graph);
  trace("recorded", double(from->work.size()));
  *executable = new Graph{from->work, from->events, {}};
  return SUCCESS;
}
API int cuGraphLaunch(void* executable, void*) {
  INSIDE;
  if (int e = asked("FAKE_REPLAY", SUCCESS)) return e;
  trace("replayed");
  double longer = asked("FAKE_SLOW", 0);
  if (int e = enqueue([=] { clock_ms += longer; return SUCCESS; }, '-')) return e;
  auto* graph = static_cast<Graph*>(executable);
  for (size_t i = 0; i < graph->work.size(); ++i) if (int e = enqueue(graph->work[i], '-', graph->events[i])) return e;
  return SUCCESS;
}
static int amend(void* executable, Node* node, char kind, std::function<int()> work, Event* event = nullptr) {
  static int amended;
  int most = asked("FAKE_AMEND", -1);
  if (most >= 0 && ++amended >= most) return 801;
  if (kind == 'k' && asked("FAKE_FORGET", 0)) return SUCCESS;
  auto* graph = static_cast<Graph*>(executable);
  if (node->kind != kind || node->place >= graph->work.size()) return INVALID_VALUE;
  graph->work[node->place] = work;
  graph->events[node->place] = event;
  trace("amended");
  return SUCCESS;
}
API int cuGraphExecKernelNodeSetParams_v2(void* executable, Node* node, const KernelParams* p) {
  INSIDE;
  std::function<int()> work;
  if (int e = work_of_launch(*p, work)) return e;
  return amend(executable, node, 'k', work);
}
API int cuGraphExecEventRecordNodeSetEvent(void* executable, Node* node, Event* event) {
  INSIDE;
  return amend(executable, node, 'e', work_of_event(event), event);
}
API int cuGraphExecDestroy(void* executable) {
  std::lock_guard<std::recursive_mutex> held(lock);
  delete static_cast<Graph*>(executable);
  return SUCCESS;
}
API int cuGraphDestroy(void* graph) {
  std::lock_guard<std::recursive_mutex> held(lock);
  for (Node* node : static_cast<Graph*>(graph)->nodes) delete node;
  delete static_cast<Graph*>(graph);
  return SUCCESS;
}

API int cuEventCreate(Event** event, unsigned) { INSIDE; *event = new Event; return SUCCESS; }
API int cuEventRecord(Event* event, void*) {
  UNRECORDED;  // would be an order of streams, and no node
  trace("mark");
  return enqueue(work_of_event(event), '-', event);
}
API int cuEventRecordWithFlags(Event* event, void*, unsigned flags) {
  INSIDE;
  if (flags != 1 || !recording) return INVALID_VALUE;
  return enqueue(work_of_event(event), 'e', event);
}
API int cuEventSynchronize(Event* event) { UNRECORDED; return flush(event->place); }
API int cuEventElapsedTime_v2(float* ms, Event* from, Event* to) {
  INSIDE;
  if (!from->place || !to->place) return 400;
  if (from->at < 0 || to->at < 0) return 600;
  *ms = float(to->at - from->at);
  trace("elapsed", *ms);
  return SUCCESS;
}
API int cuEventDestroy_v2(Event* event) {
  INSIDE;
  // Work that records it may still be queued; a graph that does must be gone.
  queue.push_back([=] { delete event; return SUCCESS; });
  ++enqueued;
  return SUCCESS;
}

// A real NVRTC asks the driver for more than there is in its header, and does without.
API int cuGetExportTable(const void** table, const void*) { *table = nullptr; return INVALID_VALUE; }

// ---- NVRTC ---------------------------------------------------------------------------------------------------------

struct Program {
  std::string source, name, log, image;
  std::vector<std::pair<std::string, std::string>> headers;
};

API int nvrtcVersion(int* major, int* minor) { *major = 13, *minor = 0; return 0; }
// Of the architectures there are, those up to FAKE_KNOWS.
static std::vector<int> known() {
  std::vector<int> all;
  for (int arch : {80, 86, 89, 90, 100, 120})
    if (arch <= asked("FAKE_KNOWS", 120)) all.push_back(arch);
  return all;
}
API int nvrtcGetNumSupportedArchs(int* n) { *n = (int)known().size(); return 0; }
API int nvrtcGetSupportedArchs(int* to) {
  for (int arch : known()) *to++ = arch;
  return 0;
}
API int nvrtcCreateProgram(Program** to, const char* source, const char* name, int n, const char** texts, const char** names) {
  Program* p = new Program{source, name, "", "", {}};
  for (int i = 0; i < n; ++i) p->headers.push_back({names[i], texts[i]});
  *to = p;
  return 0;
}
API int nvrtcDestroyProgram(Program** p) { delete *p; *p = nullptr; return 0; }
API int nvrtcGetCUBINSize(Program* p, size_t* n) { *n = p->image.size(); return 0; }
API int nvrtcGetCUBIN(Program* p, char* to) { memcpy(to, p->image.data(), p->image.size()); return 0; }
API int nvrtcGetProgramLogSize(Program* p, size_t* n) { *n = p->log.size() + 1; return 0; }
API int nvrtcGetProgramLog(Program* p, char* to) { memcpy(to, p->log.c_str(), p->log.size() + 1); return 0; }

static void put(const std::string& path, const std::string& text) {
  FILE* f = fopen(path.c_str(), "wb");
  if (f) fwrite(text.data(), 1, text.size(), f), fclose(f);
}
static std::string get(const std::string& path) {
  std::string text;
  FILE* f = fopen(path.c_str(), "rb");
  char block[1 << 16];
  for (size_t n; f && (n = fread(block, 1, sizeof block, f)) > 0;) text.append(block, n);
  if (f) fclose(f);
  return text;
}

// Names of the kernels a source declares: the word after the comma of KERNEL(threads, name).
static std::vector<std::string> kernels_of(const std::string& source) {
  std::vector<std::string> names;
  for (size_t at = 0; (at = source.find("\nKERNEL(", at)) != std::string::npos; ++at) {
    size_t comma = source.find(',', at), end = source.find(')', comma);
    std::string name = source.substr(comma + 1, end - comma - 1);
    name.erase(0, name.find_first_not_of(" \n"));
    names.push_back(name);
  }
  return names;
}

API int nvrtcCompileProgram(Program* p, int n, const char** options) {
  if (asked("FAKE_COMPILE", 0)) {
    p->log = p->name + "(1): error: refused as asked for";
    return 6;
  }
  char folder[] = "/tmp/fake-nvrtc-XXXXXX";
  if (!mkdtemp(folder)) return 1;
  std::string root = folder, defines;
  for (int i = 0; i < n; ++i) if (!strncmp(options[i], "-D", 2)) defines += std::string(" ") + options[i];
  for (auto& [name, text] : p->headers) put(root + "/" + name, text);
  put(root + "/" + p->name, p->source);
  std::string absent, table;
  for (auto& name : kernels_of(p->source)) {
    absent += "constexpr ::machine::Absent " + name + "{}, " + name + "_threads{};\n";
    table += "    machine::entry<kernels::" + name + ">(\"" + name + "\", kernels::" + name + "_threads),\n";
    p->log += "ptxas info : Compiling entry function '" + name + "' for 'sm_90a'\nptxas info : Used 1 registers\n";
  }
  // As src/device/emulator/compiler.rs wraps a kernel file.
  put(root + "/wrapper.cpp",
      "#include \"emulator/machine.h\"\nnamespace absent {\n" + absent +
          "}\nnamespace kernels {\nusing namespace absent;\n#include \"device.cuh\"\n#include \"" + p->name +
          "\"\n}\nextern \"C\" __attribute__((visibility(\"default\"))) const machine::Kernel* hardneg_kernels() {\n"
          "  static constexpr machine::Kernel table[] = {\n" + table + "    {}};\n  return table;\n}\n");
  std::string command = "c++ -std=c++20 -O1 -fPIC -fno-exceptions -fno-rtti -fno-strict-aliasing -fno-math-errno "
                        "-ffp-contract=off -fvisibility=hidden -w -shared -I " + root + " -I " FAKE_KERNELS + defines +
                        " -o " + root + "/k.so " + root + "/wrapper.cpp 2>" + root + "/log";
  int status = system(command.c_str());
  if (status) p->log = get(root + "/log");
  std::string library = get(root + "/k.so");
  u64 length = library.size();
  p->image = std::string(MAGIC, 8) + std::string((const char*)&length, 8) + library;
  system(("rm -rf " + root).c_str());
  return status ? 6 : 0;
}

// ---- cuBLASLt ------------------------------------------------------------------------------------------------------

struct Layout { u64 rows, columns; i64 stride; };
struct Turns { int a, b, epilogue; const float* row; };
// What an algorithm was chosen for: bytes that A, B, C, D and the row are multiples of.
struct Algorithm { u64 aligned[5], unused[3]; };
struct Heuristic { Algorithm algorithm; size_t workspace; int state; float waves; int reserved[4]; };
struct Preference { u64 aligned[4]; };
static u64 alignment_of(const void* p) { return u64(p) ? u64(p) & -u64(p) : 256; }

API size_t cublasLtGetVersion() { return (size_t)asked("FAKE_BLAS_VERSION", 130000); }
API int cublasLtCreate(void** handle) { *handle = &gpu; return 0; }
API int cublasLtMatmulDescCreate(Turns** to, int, int) { *to = new Turns{0, 0, 1, nullptr}; return 0; }
API int cublasLtMatmulDescSetAttribute(Turns* turns, int which, const void* value, size_t bytes) {
  if (bytes != (which == 8 ? 8 : 4)) return 7;
  if (which == 7) memcpy(&turns->epilogue, value, 4);
  if (which == 8) memcpy(&turns->row, value, 8);
  if (which == 3) memcpy(&turns->a, value, 4);
  if (which == 4) memcpy(&turns->b, value, 4);
  return 0;
}
API int cublasLtMatrixLayoutCreate(Layout** to, int type, u64 rows, u64 columns, i64 stride) {
  if (type != 0 || stride < i64(rows)) return 7;
  *to = new Layout{rows, columns, stride};
  return 0;
}
API int cublasLtMatmulPreferenceCreate(Preference** to) { *to = new Preference{{256, 256, 256, 256}}; return 0; }
API int cublasLtMatmulPreferenceSetAttribute(Preference* p, int which, const void* value, size_t bytes) {
  if (bytes != (which == 1 ? 8 : 4)) return 7;
  unsigned number;
  memcpy(&number, value, 4);
  if (which >= 5 && which <= 8) p->aligned[which - 5] = number;
  return 0;
}
API int cublasLtMatmulPreferenceDestroy(Preference* p) { delete p; return 0; }
API int cublasLtMatmulAlgoGetHeuristic(void*, Turns* turns, Layout*, Layout*, Layout*, Layout*, Preference* p, int, Heuristic* to, int* n) {
  memset((void*)to, 0, sizeof *to);
  memcpy(to->algorithm.aligned, p->aligned, sizeof p->aligned);
  to->algorithm.aligned[4] = alignment_of(turns->row);
  if (to->algorithm.aligned[4] > 256) to->algorithm.aligned[4] = 256;
  // A row that is to be added must be known by now.
  int lacks = asked("FAKE_BLAS", 0);
  *n = lacks == 1 || (turns->epilogue == 4 && (lacks == 2 || !turns->row)) ? 0 : 1;
  return 0;
}
// D = alpha op(A) op(B) + beta C, column-major, and a row of ours to each of its columns (epilogue 4).
API int cublasLtMatmul(void*, Turns* turns, const float* alpha, const float* a, Layout* la, const float* b, Layout* lb,
                       const float* beta, const float* c, Layout* lc, float* d, Layout* ld, const Algorithm* algorithm,
                       void* workspace, size_t, void*) {
  INSIDE;
  const void* operands[] = {a, b, c, d, turns->row};
  for (int i = 0; i < 5; ++i) if (alignment_of(operands[i]) < algorithm->aligned[i]) return 15;
  if (alignment_of(workspace) < 256 || (c == d && lc != ld)) return 7;
  u64 m = ld->rows, n = ld->columns, k = turns->a ? la->rows : la->columns;
  bool fits = (turns->a ? la->columns : la->rows) == m && (turns->b ? lb->rows : lb->columns) == n &&
              (turns->b ? lb->columns : lb->rows) == k;
  if (!fits || turns->epilogue != (turns->row ? 4 : 1)) return 7;
  float by = *alpha, keep = *beta;
  Turns t = *turns;
  Layout x = *la, y = *lb, z = *ld;
  return enqueue([=] {
    auto whole = [](const float* x, const Layout& of) { return allocated((u64)x, 4 * ((of.columns - 1) * of.stride + of.rows)); };
    if (!whole(a, x) || !whole(b, y) || !whole(d, z) || (t.row && !allocated((u64)t.row, 4 * m))) return ILLEGAL_ADDRESS;
    for (u64 j = 0; j < n; ++j) {
      for (u64 i = 0; i < m; ++i) {
        float sum = 0;
        for (u64 l = 0; l < k; ++l)
          sum += (t.a ? a[l + i * x.stride] : a[i + l * x.stride]) * (t.b ? b[j + l * y.stride] : b[l + j * y.stride]);
        float& to = d[i + j * z.stride];
        to = by * sum + (keep != 0 ? keep * c[i + j * z.stride] : 0);
        if (t.row) to += t.row[i];
        machine_written(gpu, (u64)&to, 4);
      }
    }
    return SUCCESS;
  });
}
