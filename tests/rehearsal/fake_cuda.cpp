// A CUDA backend without a GPU: what torch's C++ side asks a backend for when *fake* tensors are on cuda devices.
//
// Fake tensors hold no data and launch no kernels, but autograd still wants a device guard (streams and events of the
// backward pass), hooks (how many devices are there, is there a context), and generators. CPU builds of torch have none
// of them for CUDA and abort. Everything here does nothing and succeeds. No `override`: a method that a torch version
// does not have yet, or no longer has, is then merely unused.

#include <ATen/core/Generator.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/CPUAllocator.h>
#include <c10/core/GeneratorImpl.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <atomic>
#include <utility>

namespace {

using c10::Device;
using c10::DeviceIndex;
using c10::DeviceType;
using c10::Stream;

constexpr DeviceIndex kDevices = 2;
thread_local DeviceIndex current_index = 0;

Device device_at(DeviceIndex index) {
  return Device(DeviceType::CUDA, index < 0 ? current_index : index);
}

DeviceIndex exchange(DeviceIndex index) {
  return index < 0 ? current_index : std::exchange(current_index, index);
}

// Seeds are kept, numbers are never drawn: fake tensors have none.
struct FakeGenerator final : c10::GeneratorImpl {
  explicit FakeGenerator(Device device) : GeneratorImpl(device, c10::DispatchKeySet(c10::DispatchKey::CUDA)) {}
  void set_current_seed(uint64_t seed) { seed_ = seed; }
  uint64_t current_seed() const { return seed_; }
  uint64_t seed() { return seed_; }
  void set_offset(uint64_t offset) { offset_ = offset; }
  uint64_t get_offset() const { return offset_; }
  void set_state(const c10::TensorImpl&) {}
  c10::intrusive_ptr<c10::TensorImpl> get_state() const { TORCH_CHECK(false, "a fake generator has no state"); }
  FakeGenerator* clone_impl() const { return new FakeGenerator(device()); }

 private:
  uint64_t seed_ = 0;
  uint64_t offset_ = 0;
};

struct FakeGuard final : c10::impl::DeviceGuardImplInterface {
  DeviceType type() const { return DeviceType::CUDA; }
  Device exchangeDevice(Device device) const { return device_at(exchange(device.index())); }
  Device getDevice() const { return device_at(-1); }
  void setDevice(Device device) const { exchange(device.index()); }
  void uncheckedSetDevice(Device device) const noexcept { exchange(device.index()); }
  DeviceIndex deviceCount() const noexcept { return kDevices; }

  Stream stream_of(Device device) const noexcept { return Stream(Stream::DEFAULT, device_at(device.index())); }
  Stream getStream(Device device) const { return stream_of(device); }
  Stream getDefaultStream(Device device) const { return stream_of(device); }
  Stream getStreamFromGlobalPool(Device device, bool = false) const { return stream_of(device); }
  Stream getNewStream(Device device, int = 0) const { return stream_of(device); }
  Stream exchangeStream(Stream stream) const { return stream_of(stream.device()); }
  bool queryStream(const Stream&) const { return true; }
  void synchronizeStream(const Stream&) const {}
  bool isStreamCapturing(const Stream&) const { return false; }

  void record(void** event, const Stream&, const DeviceIndex, const c10::EventFlag) const {
    static char any_event;
    *event = &any_event;
  }
  void block(void*, const Stream&) const {}
  bool queryEvent(void*) const { return true; }
  void destroyEvent(void*, const DeviceIndex) const noexcept {}
  void synchronizeEvent(void*) const {}
  void synchronizeDevice(const DeviceIndex) const {}
  void recordDataPtrOnStream(const c10::DataPtr&, const Stream&) const {}
};

C10_REGISTER_GUARD_IMPL(CUDA, FakeGuard)

}  // namespace

namespace at {

struct CUDAHooks final : CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  void init() const {}
  bool isBuilt() const { return true; }
  bool isAvailable() const { return true; }
  bool hasCUDA() const { return true; }
  bool hasCUDART() const { return true; }
  bool hasPrimaryContext(DeviceIndex) const { return true; }
  DeviceIndex deviceCount() const { return kDevices; }
  int getNumGPUs() const { return kDevices; }
  DeviceIndex current_device() const { return current_index; }
  DeviceIndex getCurrentDevice() const { return current_index; }
  void setCurrentDevice(DeviceIndex index) const { exchange(index); }
  DeviceIndex exchangeDevice(DeviceIndex index) const { return exchange(index); }
  DeviceIndex maybeExchangeDevice(DeviceIndex index) const { return exchange(index); }
  void deviceSynchronize(DeviceIndex) const {}
  Allocator* getPinnedMemoryAllocator() const { return c10::GetCPUAllocator(); }
  Generator getNewGenerator(DeviceIndex index = -1) const { return make_generator<FakeGenerator>(device_at(index)); }
  const Generator& getDefaultGenerator(DeviceIndex index = -1) const {
    static Generator first = make_generator<FakeGenerator>(device_at(0)), second = make_generator<FakeGenerator>(device_at(1));
    return device_at(index).index() == 0 ? first : second;
  }
};

REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
