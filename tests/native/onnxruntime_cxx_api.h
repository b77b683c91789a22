// Stands in for ONNX Runtime's header of this name where it is not installed: as much of its C++ interface as
// examples/run_model.cpp uses, over the functions of the library by their place in its table. The table only
// ever grows at its end, so places of version 10 hold for all later libraries. Nothing is freed: a program that
// judges one picture and ends has no need of it.
#pragma once
#include <cstddef>
#include <cstdint>
#include <memory>
#include <stdexcept>
#include <string>
#include <vector>

struct OrtAllocator;
struct OrtMemoryInfo;
enum OrtAllocatorType { OrtDeviceAllocator = 0 };
enum OrtMemType { OrtMemTypeDefault = 0 };
struct OrtApiBase {
  void* const* (*GetApi)(uint32_t version);
  const char* (*GetVersionString)();
};
extern "C" const OrtApiBase* OrtGetApiBase();

namespace Ort {

enum Place {
  kGetErrorMessage = 2,
  kCreateEnv = 3,
  kCreateSession = 7,
  kRun = 9,
  kCreateSessionOptions = 10,
  kSessionGetOutputCount = 31,
  kCreateTensorWithDataAsOrtValue = 49,
  kGetTensorMutableData = 51,
  kGetTensorShapeElementCount = 64,
  kGetTensorTypeAndShape = 65,
  kCreateCpuMemoryInfo = 69,
  kAllocatorFree = 76,
  kGetAllocatorWithDefaultOptions = 78,
  kSessionGetModelMetadata = 111,
  kModelMetadataLookupCustomMetadataMap = 116,
};

template <class Result, class... Arguments>
Result Call(Place place, Arguments... arguments) {
  static void* const* table = OrtGetApiBase()->GetApi(10);
  return reinterpret_cast<Result (*)(Arguments...)>(table[place])(arguments...);
}

template <class... Arguments>
void Check(Place place, Arguments... arguments) {
  if (void* status = Call<void*>(place, arguments...))
    throw std::runtime_error(Call<const char*>(kGetErrorMessage, status));
}

struct Env {
  void* p;
  Env() { Check(kCreateEnv, 2, "", &p); }
};

struct SessionOptions {
  void* p;
  SessionOptions() { Check(kCreateSessionOptions, &p); }
};

struct AllocatorWithDefaultOptions {
  OrtAllocator* p;
  AllocatorWithDefaultOptions() { Check(kGetAllocatorWithDefaultOptions, &p); }
  operator OrtAllocator*() { return p; }
};

struct AllocatedFree {
  OrtAllocator* allocator;
  void operator()(void* memory) const { Check(kAllocatorFree, allocator, memory); }
};
using AllocatedStringPtr = std::unique_ptr<char, AllocatedFree>;

struct ModelMetadata {
  void* p;
  AllocatedStringPtr LookupCustomMetadataMapAllocated(const char* key, OrtAllocator* allocator) const {
    char* value = nullptr;
    Check(kModelMetadataLookupCustomMetadataMap, p, allocator, key, &value);
    return AllocatedStringPtr(value, AllocatedFree{allocator});
  }
};

struct RunOptions {
  explicit RunOptions(std::nullptr_t) {}
};

struct MemoryInfo {
  OrtMemoryInfo* p;
  static MemoryInfo CreateCpu(OrtAllocatorType allocator, OrtMemType memory) {
    MemoryInfo info;
    Check(kCreateCpuMemoryInfo, int(allocator), int(memory), &info.p);
    return info;
  }
  operator OrtMemoryInfo*() const { return p; }
};

struct TensorTypeAndShapeInfo {
  void* p;
  size_t GetElementCount() const {
    size_t count;
    Check(kGetTensorShapeElementCount, p, &count);
    return count;
  }
};

struct Value {
  void* p = nullptr;
  template <class T>
  static Value CreateTensor(const OrtMemoryInfo* memory, T* data, size_t count, const int64_t* shape,
                            size_t axes) {
    static_assert(sizeof(T) == sizeof(float));
    void* bytes = data;
    Value made;
    Check(kCreateTensorWithDataAsOrtValue, memory, bytes, count * sizeof(T), shape, axes, 1, &made.p);
    return made;
  }
  template <class T>
  const T* GetTensorData() const {
    void* data;
    Check(kGetTensorMutableData, p, &data);
    return static_cast<T*>(data);
  }
  TensorTypeAndShapeInfo GetTensorTypeAndShapeInfo() const {
    TensorTypeAndShapeInfo info;
    Check(kGetTensorTypeAndShape, p, &info.p);
    return info;
  }
};

struct Session {
  void* p;
  Session(const Env& env, const char* file, const SessionOptions& options) {
    Check(kCreateSession, env.p, file, options.p, &p);
  }
  ModelMetadata GetModelMetadata() const {
    ModelMetadata metadata;
    Check(kSessionGetModelMetadata, p, &metadata.p);
    return metadata;
  }
  size_t GetOutputCount() const {
    size_t count;
    Check(kSessionGetOutputCount, p, &count);
    return count;
  }
  std::vector<Value> Run(const RunOptions&, const char* const* inputs, const Value* values, size_t count,
                         const char* const* outputs, size_t wanted) {
    std::vector<Value> answers(wanted);  // a Value is its pointer, and so are those of the library
    static_assert(sizeof(Value) == sizeof(void*));
    Check(kRun, p, static_cast<void*>(nullptr), inputs, values, count, outputs, wanted, answers.data());
    return answers;
  }
};

}  // namespace Ort
