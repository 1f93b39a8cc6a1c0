#include "launcher/steps/step.hpp"

#include <vector>

#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// One of each kind, with any parameters, to read others.
std::vector<Step> all_kinds() {
  return {
      make_cgroup(""),
      enable_controllers(),
      weigh_cgroup("", 0),
      isolate_cpus("", {}),
      confine_host({}),
      take_cpus({}),
      move_interrupts({}),
      move_work_queues({}),
      move_kernel_threads({}),
      tune_cpus(CpuTuning::frequency, {}),
      set_parameter("", false),
      set_tunable(Tunable::rt_throttling),
      fill_pool({}),
      load_driver(""),
      keep_awake({}),
      set_reset_method({}),
      override_driver({}, "", ""),
      await_release({}, {}),
      bind_driver({}, "", ""),
      rescan_card({}),
      reset_card({}, {}),
      stop_unit("", {}),
      release_console(),
      release_framebuffer("", {}),
      make_tap("", {}, ""),
      use_tap({}),
      make_macvtap("", {}, ""),
      lend_usb({}, false),
      start_qemu(false),
  };
}

}  // namespace

bool Step::operator==(const Step& other) const {
  return to_json(*this) == to_json(other);
}

Json to_json(const Step& step) {
  Json json = {{"kind", step->kind()}};
  step->write(json);
  return json;
}

Step read_step(const Json& json) {
  Fields fields(json);
  const std::string kind = fields.text("kind");
  for (const Step& one : all_kinds()) {
    if (kind == one->kind()) {
      Step step = one->read(fields);
      fields.finish();
      return step;
    }
  }
  throw FormError("an unknown step");
}

}  // namespace vmlaunch::launcher::steps
