// The engine as Python sees it: SharedMemory, Engine and Plan. A Plan is called through CPython's vectorcall and reads
// NumPy's own fields, because at 8 bytes the passage through pybind11 would take longer than the all-reduce.
#pragma once
#include <structmember.h>

#include <algorithm>
#include <cstddef>
#include <map>
#include <memory>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

#include "allreduce/check.h"
#include "allreduce/play.h"
#include "allreduce/play_far.h"
#include "allreduce/play_windows.h"
#include "core/bind.h"

namespace pyhpc::allreduce {
namespace engine_bind {

// Shorter calls keep Python's lock: to release and take it again would take as long as they do.
constexpr int64_t least_released_bytes = 16 << 10;

struct EngineOwner {
  std::unique_ptr<Engine> engine;
  bool busy = false;                                          // read and written under Python's lock
  uint64_t token = 0;                                         // others try to read it in this process's memory
  std::map<int64_t, std::shared_ptr<SharedMemory>> memories;  // of the engine's areas
};

// Lets Ctrl-C end a wait, and other threads of Python run meanwhile, whoever holds Python's lock.
inline void attend() {
  const bool held = PyGILState_Check();
  const py::gil_scoped_acquire lock;
  if (held) {
    const py::gil_scoped_release others;
    sched_yield();
  }
  if (PyErr_CheckSignals() != 0) throw py::error_already_set();
}

struct PlanObject {
  PyObject_HEAD vectorcallfunc call;
  Plan* plan;
  PyObject* owner;      // keeps the engine
  EngineOwner* engine;  // the same
  PyObject* dtype;
  bool far;
};

// The engine is counters in shared memory: one call at a time.
class Busy {
 public:
  explicit Busy(EngineOwner& owner) : owner_(owner) {
    require(!std::exchange(owner.busy, true), "this all-reduce engine is at work in another thread");
  }
  ~Busy() { owner_.busy = false; }

 private:
  EngineOwner& owner_;
};

inline char* memory_of(PyObject* object, const PlanObject& self, const char* argument, bool writable) {
  const auto& numpy = py::detail::npy_api::get();
  require(numpy.PyArray_Check_(object),
          [&] { return std::string(argument) + " is a " + Py_TYPE(object)->tp_name + "; a plan takes NumPy arrays"; });
  const auto* array = py::detail::array_proxy(object);
  require(array->descr == self.dtype || PyObject_RichCompareBool(array->descr, self.dtype, Py_EQ) == 1,
          [&] { return std::string(argument) + " has another dtype than the plan"; });
  int64_t elements = 1;
  for (int i = 0; i < array->nd; ++i) elements *= array->dimensions[i];
  require(elements * itemsize(self.plan->dtype) == self.plan->bytes, [&] {
    return std::string(argument) + " has " + std::to_string(elements) + " elements, the plan " +
           std::to_string(self.plan->bytes / itemsize(self.plan->dtype));
  });
  constexpr int c_contiguous = 1, aligned = 0x100, writeable = 0x400;
  require((array->flags & c_contiguous) && (array->flags & aligned),
          [&] { return std::string(argument) + " is not C-contiguous and aligned"; });
  require(!writable || (array->flags & writeable), [&] { return std::string(argument) + " is read-only"; });
  return array->data;
}

// After an error MPI may still read and write the arrays.
inline void keep_for_ever(const PlanObject& self, PyObject* x, PyObject* out) {
  if (!self.far) return;
  Py_INCREF(x);
  Py_INCREF(out);
}

inline void play(PlanObject& self, PyObject* x, PyObject* out) {
  EngineOwner& owner = *self.engine;
  Engine& engine = *owner.engine;
  const char* from = memory_of(x, self, "x", false);
  char* to = memory_of(out, self, "out", true);
  const Plan& plan = *self.plan;
  require(from == to || from + plan.bytes <= to || to + plan.bytes <= from, "x and out overlap in part");
  engine.refuse_after_failure(engine.calls + 1);
  const Busy busy(owner);
  try {
    if (plan.bytes > least_released_bytes) {
      const py::gil_scoped_release released;
      Play(engine, plan, from, to).run();
    } else {
      Play(engine, plan, from, to).run();
    }
  } catch (const Error& error) {
    engine.fail(error.kind, error.what());
    keep_for_ever(self, x, out);
    throw;
  } catch (const py::error_already_set&) {
    engine.fail(ErrorKind::communication, "all-reduce: rank " + std::to_string(engine.rank) + " was interrupted");
    keep_for_ever(self, x, out);
    throw;
  }
}

inline PyObject* plan_call(PyObject* callable, PyObject* const* arguments, size_t count, PyObject* names) {
  PlanObject& self = *reinterpret_cast<PlanObject*>(callable);
  if (PyVectorcall_NARGS(count) != 2 || names) {
    PyErr_SetString(PyExc_TypeError, "a plan is called with two arrays: plan(x, out)");
    return nullptr;
  }
  try {
    play(self, arguments[0], arguments[1]);
  } catch (py::error_already_set& error) {
    error.restore();
    return nullptr;
  } catch (const Error& error) {
    set_error(error);
    return nullptr;
  }
  Py_INCREF(arguments[1]);
  return arguments[1];
}

inline void plan_free(PyObject* object) {
  PlanObject& self = *reinterpret_cast<PlanObject*>(object);
  delete self.plan;
  Py_CLEAR(self.owner);
  Py_CLEAR(self.dtype);
  PyTypeObject* type = Py_TYPE(object);
  type->tp_free(object);
  Py_DECREF(type);
}

inline DType dtype_named(const std::string& wanted) {
  for (int i = 0; i <= static_cast<int>(DType::uint8); ++i)
    if (wanted == name(static_cast<DType>(i))) return static_cast<DType>(i);
  throw Error(ErrorKind::invalid, "there is no dtype " + wanted);
}

inline PyTypeObject* plan_type() {
  static PyMemberDef members[] = {{"__vectorcalloffset__", T_PYSSIZET, offsetof(PlanObject, call), READONLY, nullptr},
                                  {nullptr, 0, 0, 0, nullptr}};
  static PyType_Slot slots[] = {{Py_tp_dealloc, reinterpret_cast<void*>(plan_free)},
                                {Py_tp_call, reinterpret_cast<void*>(PyVectorcall_Call)},
                                {Py_tp_members, members},
                                {Py_tp_doc, const_cast<char*>("plan(x, out): one all-reduce. Returns out.")},
                                {0, nullptr}};
  static PyType_Spec spec = {"pyhpc._cpu.allreduce.Plan", sizeof(PlanObject), 0,
                             Py_TPFLAGS_DEFAULT | Py_TPFLAGS_HAVE_VECTORCALL, slots};
  static PyObject* type = PyType_FromSpec(&spec);
  if (!type) throw py::error_already_set();
  return reinterpret_cast<PyTypeObject*>(type);
}

// kind, peer, low, high, input, own is left, gather
using PyAction = std::tuple<int, int, int64_t, int64_t, bool, bool, int>;

inline void add_round(Program& program, const std::vector<PyAction>& actions, int64_t step_bytes) {
  program.begin_round();
  for (const auto& [kind, peer, low, high, input, left, gather] : actions)
    program.add({static_cast<Action::Kind>(kind), peer, low, high, input, left, static_cast<Gather>(gather)},
                step_bytes);
}

inline py::object make_plan(py::object owner, const std::vector<std::vector<PyAction>>& rounds,
                            const std::vector<PyAction>& windows, const Choice& choice, py::object dtype,
                            const std::string& type, const std::string& op, int64_t bytes, uint32_t signature) {
  EngineOwner* const engine_owner = owner.cast<EngineOwner*>();
  const Engine& engine = *engine_owner->engine;
  auto plan = std::make_unique<Plan>();
  for (const auto& actions : rounds) add_round(plan->program, actions, choice.step_bytes);
  add_round(plan->windows, windows, window_piece_bytes);
  require(choice.lines_bytes <= longest_in_lines && choice.network_bytes > 0 && choice.piece_bytes > 0 &&
              (!engine.segment || choice.piece_bytes <= engine.segment->layout.slot_bytes || choice.single_copy),
          "this choice does not fit the engine's rings and slots");
  require(plan->program.covered_by(choice), [&] {
    return "an action of this schedule is longer than its " + std::to_string(choice.strips) + " strips of " +
           std::to_string(choice.step_bytes) + " bytes";
  });
  plan->choice = choice, plan->operation = operation_of(op), plan->bytes = bytes, plan->signature = signature;
  plan->dtype = dtype_named(type);
  bool far = false;
  for (int other = 0; other < engine.ranks; ++other) far |= other != engine.rank && !engine.links[other];
  plan->measure(far);
  PlanObject* self = PyObject_New(PlanObject, plan_type());
  if (!self) throw py::error_already_set();
  self->call = plan_call, self->plan = plan.release(), self->far = far;
  self->owner = owner.release().ptr(), self->engine = engine_owner, self->dtype = dtype.release().ptr();
  return py::reinterpret_steal<py::object>(reinterpret_cast<PyObject*>(self));
}

// `bounces` there and back of one cache line between two ranks of the node; `begin` counts those before.
inline void bounce(EngineOwner& owner, bool first, uint64_t begin, uint64_t bounces) {
  std::atomic<uint64_t>& line = owner.engine->segment->bounce();
  const py::gil_scoped_release released;
  const auto wait_for = [&](uint64_t value) {
    for (int64_t polls = 0; line.load(std::memory_order_acquire) != value; ++polls)
      if (polls > owner.engine->spin) sched_yield();
  };
  for (uint64_t at = 2 * begin; at < 2 * (begin + bounces); at += 2) {
    if (first) {
      line.store(at + 1, std::memory_order_release);
      wait_for(at + 2);
    } else {
      wait_for(at + 1);
      line.store(at + 2, std::memory_order_release);
    }
  }
}

inline void join(EngineOwner& owner, SharedMemory& memory, const SegmentLayout& layout, const std::vector<int>& members,
                 const std::vector<int64_t>& processes, uint64_t token) {
  Engine& engine = *owner.engine;
  engine.join(std::make_unique<Segment>(std::move(memory), layout), members, processes);
  owner.token = token;
  int own = 0;
  while (members[own] != engine.rank) ++own;
  engine.segment->record(own).token_address = reinterpret_cast<uintptr_t>(&owner.token);
  engine.segment->record(own).token = token;
}

// Whether the records of all ranks of the node are where this rank sees them.
inline bool sees(EngineOwner& owner, const std::vector<uint64_t>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i)
    if (owner.engine->segment->record(static_cast<int>(i)).token != tokens[i]) return false;
  return true;
}

// Whether the private memory of all ranks of the node can be read.
inline bool pulls(EngineOwner& owner, const std::vector<int64_t>& processes, const std::vector<uint64_t>& tokens) {
  for (size_t i = 0; i < tokens.size(); ++i) {
    uint64_t found = 0;
    const uintptr_t address = owner.engine->segment->record(static_cast<int>(i)).token_address;
    if (!processes[i] || !pull(processes[i], address, reinterpret_cast<char*>(&found), sizeof found)) return false;
    if (found != tokens[i]) return false;
  }
  return true;
}

// One rank's share of an area. The area begins with a byte a rank that says whether its array is gone.
struct Share {
  std::shared_ptr<SharedMemory> memory;
  std::atomic<uint8_t>* gone;
  char* begin;
  int64_t bytes;

  // The pages go back at once. The mapping stays until the arrays of all ranks are gone: another rank may still send
  // from its own share, and this rank must be able to read that.
  ~Share() {
    memory->discard(begin, bytes);
    gone->store(1, std::memory_order_release);
  }
};

inline void forget_areas(EngineOwner& owner, size_t members) {
  std::vector<Area>& areas = owner.engine->areas;
  const auto all_gone = [&](const Area& area) {
    const auto* gone = reinterpret_cast<std::atomic<uint8_t>*>(area.begin);
    return std::all_of(gone, gone + members, [](const std::atomic<uint8_t>& flag) { return flag.load() != 0; });
  };
  for (const Area& area : areas)
    if (all_gone(area)) owner.memories.erase(area.number);
  areas.erase(
      std::remove_if(areas.begin(), areas.end(), [&](const Area& area) { return !owner.memories.count(area.number); }),
      areas.end());
}

// The array of this rank's share, `bytes` from `offset` on; it ends with its last view.
inline py::object allocate(EngineOwner& owner, SharedMemory& memory, int64_t number, int member, int64_t members,
                           int64_t offset, int64_t bytes) {
  const Busy busy(owner);
  forget_areas(owner, members);
  const auto shared = std::make_shared<SharedMemory>(std::move(memory));
  owner.memories[number] = shared;
  owner.engine->areas.push_back({number, shared->begin(), shared->bytes()});
  auto* gone = reinterpret_cast<std::atomic<uint8_t>*>(shared->begin()) + member;
  const py::capsule base(new Share{shared, gone, shared->begin() + offset, bytes},
                         [](void* share) { delete static_cast<Share*>(share); });
  return py::array_t<uint8_t>({bytes}, {int64_t{1}}, reinterpret_cast<uint8_t*>(shared->begin() + offset), base);
}

inline void bind_memory(py::module_& module) {
  using namespace pybind11::literals;
  py::class_<SharedMemory>(module, "SharedMemory", "Memory that processes of one node map together.")
      .def_static("create", &SharedMemory::create, "bytes"_a)
      .def_static("open", &SharedMemory::open, "process"_a, "file"_a, "bytes"_a)
      .def_static("at", &SharedMemory::at, "address"_a, "bytes"_a)
      .def_property_readonly("file", &SharedMemory::file)
      .def("close_file", &SharedMemory::close_file);
  py::class_<SegmentLayout>(module, "SegmentLayout")
      .def(py::init(
               [](int ranks, int64_t slot_bytes, int64_t slots) { return SegmentLayout{ranks, slot_bytes, slots}; }),
           "ranks"_a, "slot_bytes"_a, "slots"_a)
      .def_property_readonly("bytes", &SegmentLayout::bytes);
  py::class_<Choice>(module, "Choice", "How a vector travels; see pyhpc.kernels.schedules.rule.")
      .def_readonly("strips", &Choice::strips)
      .def(py::init([](int64_t lines, bool single_copy, int64_t piece, int64_t step, int64_t strips, bool slots,
                       bool results, int64_t network) {
             return Choice{lines, single_copy, piece, step, strips, slots, results, network};
           }),
           "lines_bytes"_a, "single_copy"_a, "piece_bytes"_a, "step_bytes"_a, "strips"_a, "streaming_slots"_a,
           "streaming_results"_a, "network_bytes"_a)
      .def_readonly("lines_bytes", &Choice::lines_bytes)
      .def_readonly("step_bytes", &Choice::step_bytes);
}

inline void bind_engine(py::module_& module, const Variant& (*variant)(std::string_view)) {
  using namespace pybind11::literals;
  bind_memory(module);
  py::class_<EngineOwner>(module, "Engine", "Plays schedules; see pyhpc.kernels.schedules.engine.")
      .def(py::init([variant](int rank, int ranks) {
             auto owner = std::make_unique<EngineOwner>();
             owner->engine = std::make_unique<Engine>(rank, ranks, variant(""));
             owner->engine->attend = attend;
             return owner;
           }),
           "rank"_a, "ranks"_a)
      .def("join", &join, "memory"_a, "layout"_a, "members"_a, "processes"_a, "token"_a)
      .def("sees", &sees, "tokens"_a)
      .def("pulls", &pulls, "processes"_a, "tokens"_a)
      .def("bounce", &bounce, "first"_a, "begin"_a, "bounces"_a)
      .def("allocate", &allocate, "memory"_a, "number"_a, "member"_a, "members"_a, "offset"_a, "bytes"_a)
      .def(
          "connect",
          [](EngineOwner& owner, const std::map<std::string, uintptr_t>& functions, uintptr_t comm, uintptr_t byte,
             int any_source) { owner.engine->network = Network(functions, comm, byte, any_source); },
          "functions"_a, "comm"_a, "byte"_a, "any_source"_a)
      .def_property_readonly("failed", [](const EngineOwner& owner) { return owner.engine->failed(); })
      .def_property(
          "spin", [](const EngineOwner& owner) { return owner.engine->spin; },
          [](EngineOwner& owner, int64_t polls) { owner.engine->spin = polls; })
      .def_property(
          "timeout_seconds", [](const EngineOwner& owner) { return owner.engine->timeout_seconds; },
          [](EngineOwner& owner, double seconds) { owner.engine->timeout_seconds = seconds; });
  module.def("plan", &make_plan, "engine"_a, "rounds"_a, "windows"_a, "choice"_a, "dtype"_a, "name"_a, "op"_a,
             "bytes"_a, "signature"_a);
}

}  // namespace engine_bind
using engine_bind::bind_engine;
}  // namespace pyhpc::allreduce
