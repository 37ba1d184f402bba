// A simulated accelerator behind torch's own device interface (PrivateUse1). Only its own kernels may use its memory. A
// copy to the host arrives only once it is waited for. Like CUDA's sync debug mode, it warns about each operation that
// makes the host wait. The kernels are the CPU's, on the same memory.

#include <ATen/ATen.h>
#include <ATen/EmptyTensor.h>
#include <ATen/detail/PrivateUse1HooksInterface.h>
#include <ATen/ops/as_strided_native.h>
#include <ATen/ops/view_native.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>
#include <torch/library.h>

#include <cstdlib>
#include <cstring>
#include <deque>
#include <functional>
#include <unordered_map>
#include <vector>

namespace {

constexpr auto kDevice = c10::DeviceType::PrivateUse1;
bool warns_of_waits = false;
std::deque<std::function<void()>> on_their_way;  // copies to the host
intptr_t arrived = 0;                            // copies so far

void arrive(intptr_t until) {
  for (; arrived < until && !on_their_way.empty(); ++arrived) {
    on_their_way.front()();
    on_their_way.pop_front();
  }
}

intptr_t sent() { return arrived + static_cast<intptr_t>(on_their_way.size()); }

void wait(const char* why) {
  if (warns_of_waits) TORCH_WARN("the host waited for ", why);
  arrive(sent());
}

// -- memory ----------------------------------------------------------------------------------------------------------

struct Memory final : c10::Allocator {
  c10::DataPtr allocate(size_t bytes) override {
    void* data = bytes ? std::aligned_alloc(64, (bytes + 63) / 64 * 64) : nullptr;
    if (data) std::memset(data, 0xff, bytes);  // NaN: new memory is uninitialized
    return {data, data, &std::free, c10::Device(kDevice, 0)};
  }
  c10::DeleterFnPtr raw_deleter() const override { return &std::free; }
  void copy_data(void* to, const void* from, std::size_t bytes) const override { std::memcpy(to, from, bytes); }
};
Memory memory;
REGISTER_ALLOCATOR(kDevice, &memory);

// -- streams and events ----------------------------------------------------------------------------------------------

struct Guard final : c10::impl::DeviceGuardImplInterface {
  c10::DeviceType type() const override { return kDevice; }
  c10::Device exchangeDevice(c10::Device) const override { return {kDevice, 0}; }
  c10::Device getDevice() const override { return {kDevice, 0}; }
  void setDevice(c10::Device) const override {}
  void uncheckedSetDevice(c10::Device) const noexcept override {}
  c10::Stream getStream(c10::Device) const override { return c10::Stream(c10::Stream::DEFAULT, {kDevice, 0}); }
  c10::Stream getDefaultStream(c10::Device device) const override { return getStream(device); }
  c10::Stream exchangeStream(c10::Stream stream) const override { return stream; }
  c10::DeviceIndex deviceCount() const noexcept override { return 1; }
  void record(void** event, const c10::Stream&, const c10::DeviceIndex, const c10::EventFlag) const override {
    *event = reinterpret_cast<void*>(sent());  // an event stands for the copies sent before it
  }
  void block(void*, const c10::Stream&) const override {}
  bool queryEvent(void* event) const override { return reinterpret_cast<intptr_t>(event) <= arrived; }
  bool queryStream(const c10::Stream&) const override { return on_their_way.empty(); }
  void synchronizeEvent(void* event) const override { arrive(reinterpret_cast<intptr_t>(event)); }
  void synchronizeStream(const c10::Stream&) const override { wait("a stream"); }
  void synchronizeDevice(const c10::DeviceIndex) const override { wait("the device"); }
};
C10_REGISTER_GUARD_IMPL(PrivateUse1, Guard);

struct Hooks final : at::PrivateUse1HooksInterface {
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return true; }
  c10::DeviceIndex deviceCount() const override { return 1; }
  c10::DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(c10::DeviceIndex) const override {}
  c10::DeviceIndex exchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::DeviceIndex maybeExchangeDevice(c10::DeviceIndex) const override { return 0; }
  c10::Allocator* getPinnedMemoryAllocator() const override { return c10::GetAllocator(c10::kCPU); }
  void resizePrivateUse1Bytes(const c10::Storage& storage, size_t bytes) const override {
    auto data = memory.allocate(bytes);
    if (storage.data()) std::memcpy(data.get(), storage.data(), std::min(bytes, storage.nbytes()));
    storage.set_data_ptr_noswap(std::move(data));
    storage.set_nbytes(bytes);
  }
};

// -- tensors ---------------------------------------------------------------------------------------------------------

bool is_ours(const at::Tensor& tensor) { return tensor.defined() && tensor.device().type() == kDevice; }

at::Tensor empty(
    c10::SymIntArrayRef size, std::optional<at::ScalarType> dtype, std::optional<at::Layout>, std::optional<at::Device>,
    std::optional<bool>, std::optional<at::MemoryFormat> format) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_generic(
      C10_AS_INTARRAYREF_SLOW(size), &memory, keys, c10::dtype_or_default(dtype), format);
}

at::Tensor empty_strided(
    c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<at::ScalarType> dtype,
    std::optional<at::Layout>, std::optional<at::Device>, std::optional<bool>) {
  constexpr c10::DispatchKeySet keys(c10::DispatchKey::PrivateUse1);
  return at::detail::empty_strided_generic(
      C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), &memory, keys, c10::dtype_or_default(dtype));
}

at::Tensor as_strided(
    const at::Tensor& self, c10::SymIntArrayRef size, c10::SymIntArrayRef stride, std::optional<c10::SymInt> offset) {
  auto at_offset = offset ? std::optional<int64_t>(offset->guard_int(__FILE__, __LINE__)) : std::nullopt;
  return at::native::as_strided_tensorimpl(
      self, C10_AS_INTARRAYREF_SLOW(size), C10_AS_INTARRAYREF_SLOW(stride), at_offset);
}

at::Tensor view(const at::Tensor& self, c10::SymIntArrayRef size) {
  return at::native::view(self, C10_AS_INTARRAYREF_SLOW(size));
}

const at::Tensor& resize_(const at::Tensor& self, c10::SymIntArrayRef size, std::optional<at::MemoryFormat>) {
  auto* impl = self.unsafeGetTensorImpl();
  const auto sizes = C10_AS_INTARRAYREF_SLOW(size);
  const auto bytes = (c10::multiply_integers(sizes) + impl->storage_offset()) * impl->itemsize();
  if (bytes > impl->storage().nbytes()) at::detail::getPrivateUse1Hooks().resizePrivateUse1Bytes(impl->storage(), bytes);
  impl->set_sizes_contiguous(sizes);
  return self;
}

// The same memory as a CPU tensor, for the CPU's kernels.
at::Tensor on_cpu(const at::Tensor& tensor) {
  if (!is_ours(tensor)) return tensor;
  return at::from_blob(
      tensor.data_ptr(), tensor.sizes(), tensor.strides(), tensor.options().device(at::kCPU).requires_grad(false));
}

at::Tensor from_cpu(const at::Tensor& tensor) {
  auto ours = at::empty_like(tensor, tensor.options().device(kDevice));
  on_cpu(ours).copy_(tensor);
  return ours;
}

at::Tensor copy_from(const at::Tensor& self, const at::Tensor& dst, bool non_blocking) {
  if (is_ours(self) && is_ours(dst)) {
    on_cpu(dst).copy_(on_cpu(self));
  } else if (is_ours(dst)) {
    if (!non_blocking) wait("a copy from the host");
    on_cpu(dst).copy_(self);
  } else if (non_blocking) {
    on_their_way.emplace_back([dst, sent = on_cpu(self).clone()] { dst.copy_(sent); });
  } else {
    wait("a copy to the host");
    dst.copy_(on_cpu(self));
  }
  return dst;
}

at::Scalar read_number(const at::Tensor& self) {
  wait("a number that the host reads");
  return at::_local_scalar_dense(on_cpu(self));
}

at::Tensor copy_and_resize(const at::Tensor& self, const at::Tensor& dst) {
  dst.resize_(self.sizes());
  return copy_from(self, dst, false);
}

// -- all other operators: the CPU's kernel on the same memory --------------------------------------------------------

bool result_depends_on_values(const std::string& name) {
  for (const char* one : {"aten::nonzero", "aten::masked_select", "aten::_unique2", "aten::equal"})
    if (name == one) return true;
  return false;
}

void by_cpu(const c10::OperatorHandle& op, torch::jit::Stack* stack) {
  if (result_depends_on_values(op.schema().name())) wait(op.schema().name().c_str());
  const auto count = op.schema().arguments().size();
  const auto begin = stack->size() - count;
  std::unordered_map<at::TensorImpl*, at::Tensor> ours;  // by the tensor that the kernel gets
  auto replace = [&](const at::Tensor& tensor, bool is_out = false) {
    if (tensor.defined() && !is_ours(tensor))
      TORCH_CHECK(
          tensor.dim() == 0 || tensor.device().type() == kDevice, "Expected all tensors to be on the same device, in ",
          op.schema().name());
    auto seen = is_out ? at::empty({0}, tensor.options().device(at::kCPU)) : on_cpu(tensor);  // the kernel may resize it
    if (is_ours(tensor)) ours.emplace(seen.unsafeGetTensorImpl(), tensor);
    return seen;
  };
  for (auto i = begin; i < stack->size(); ++i) {
    auto& value = (*stack)[i];
    if (value.isTensor()) {
      value = replace(value.toTensor(), op.schema().arguments()[i - begin].is_out());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(replace(tensor));
      value = list;
    } else if (value.isOptionalTensorList()) {
      c10::List<std::optional<at::Tensor>> list;
      for (const std::optional<at::Tensor>& tensor : value.toOptionalTensorVector())
        list.push_back(tensor ? std::optional<at::Tensor>(replace(*tensor)) : std::nullopt);
      value = list;
    } else if (value.isDevice()) {
      value = c10::Device(at::kCPU);
    }
  }
  op.redispatchBoxed(c10::DispatchKeySet(c10::DispatchKey::CPU), stack);
  auto give = [&](const at::Tensor& tensor) {
    if (!tensor.defined()) return tensor;
    auto found = ours.find(tensor.unsafeGetTensorImpl());
    if (found == ours.end()) return from_cpu(tensor);
    const auto& given = found->second;
    if (!given.sizes().equals(tensor.sizes())) given.resize_(tensor.sizes());
    if (tensor.data_ptr() != given.data_ptr()) on_cpu(given).copy_(tensor);
    return given;
  };
  for (auto& value : *stack) {
    if (value.isTensor()) {
      value = give(value.toTensor());
    } else if (value.isTensorList()) {
      std::vector<at::Tensor> list;
      for (const at::Tensor& tensor : value.toTensorVector()) list.push_back(give(tensor));
      value = list;
    }
  }
}

}  // namespace

TORCH_LIBRARY_IMPL(_, PrivateUse1, m) { m.fallback(torch::CppFunction::makeFromBoxedFunction<&by_cpu>()); }

TORCH_LIBRARY_IMPL(_, AutocastPrivateUse1, m) { m.fallback(torch::CppFunction::makeFallthrough()); }

TORCH_LIBRARY_IMPL(aten, PrivateUse1, m) {
  m.impl("empty.memory_format", &empty);
  m.impl("empty_strided", &empty_strided);
  m.impl("as_strided", &as_strided);
  m.impl("view", &view);
  m.impl("resize_", &resize_);
  m.impl("_copy_from", &copy_from);
  m.impl("_copy_from_and_resize", &copy_and_resize);
  m.impl("_local_scalar_dense", &read_number);
  // A GPU has kernels for these; without them torch would process tensors one by one and read factors on the host.
  for (const char* name :
       {"_foreach_norm.Scalar", "_foreach_mul_.Tensor", "_foreach_mul_.Scalar", "_foreach_div_.Tensor",
        "_foreach_clamp_min_.Scalar", "_foreach_clamp_max_.Scalar", "_foreach_add_.Scalar", "_foreach_add_.List",
        "_foreach_lerp_.Scalar", "_foreach_addcmul_.Scalar", "_foreach_addcdiv_.ScalarList", "_foreach_sqrt",
        "_foreach_div_.ScalarList", "_foreach_add.List", "_amp_foreach_non_finite_check_and_unscale_"})
    m.impl(name, torch::CppFunction::makeFromBoxedFunction<&by_cpu>());
}

extern "C" {
__attribute__((visibility("default"))) void start_device() {
  static Hooks hooks;
  if (!at::isPrivateUse1HooksRegistered()) at::RegisterPrivateUse1HooksInterface(&hooks);
}
__attribute__((visibility("default"))) void warn_of_waits(int warn) { warns_of_waits = warn; }
}
