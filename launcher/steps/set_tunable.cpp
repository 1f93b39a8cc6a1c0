#include <algorithm>
#include <iterator>
#include <memory>
#include <string_view>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/steps/steps.hpp"
#include "launcher/survey/realtime.hpp"

namespace vmlaunch::launcher::steps {

namespace {

/// A value of the whole host's that a VM may want otherwise.
struct Known {
  Tunable which;
  std::string_view name;
  const char* path;
  const char* value;
  const char* description;
};

constexpr Known kKnown[] = {
    {Tunable::rt_throttling,
     "rt-throttling",
     survey::kThrottling,
     "-1",
     "let real-time threads have all of the time of their CPUs"},
    {Tunable::statistics,
     "statistics",
     "/proc/sys/vm/stat_interval",
     "120",
     "let the kernel add up its memory statistics less often, which stops each CPU for a moment"},
    {Tunable::halt_polling,
     "halt-polling",
     "/sys/module/kvm/parameters/halt_poll_ns",
     "0",
     "let KVM give a CPU back at once when its vCPU has nothing to do"},
};

const Known& known(Tunable which) {
  return *std::find_if(std::begin(kKnown), std::end(kKnown), [which](const Known& one) {
    return one.which == which;
  });
}

/// Sets it for as long as any VM needs it.
class SetTunable final : public Change {
 public:
  explicit SetTunable(Tunable which) : which_(which) {}

  const char* kind() const override { return "set-tunable"; }

  Step read(Fields& fields) const override {
    const std::string name = fields.text("name");
    for (const Known& one : kKnown) {
      if (one.name == name) {
        return set_tunable(one.which);
      }
    }
    throw FormError("not a value that a VM may set");
  }
  void write(Json& json) const override { json["name"] = known(which_).name; }

  std::string describe() const override {
    return std::string(known(which_).description) + ": " + known(which_).value + " to " + object();
  }
  std::string describe_undo() const override { return "the value that it had"; }
  std::string object() const override { return known(which_).path; }
  bool is_free_of_qemu() const override { return true; }
  bool shared() const override { return true; }

  void check(const Host& host) const override { static_cast<void>(value(host)); }

  Json capture(const Host& host, const Context& /*context*/) const override {
    return {{"value", wire_text(value(host))}};
  }

  void apply(Host& host,
             const Context& /*context*/,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    if (value(host) != known(which_).value) {
      host.write(object(), known(which_).value);
    }
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const std::string before = fields.text("value");
    const std::string now = value(host);
    if (now == before) {
      return;
    }
    if (now != known(which_).value) {
      throw ChangedMeanwhile(object() + " is " + base::printable(now) + ", and was " +
                             base::printable(before));
    }
    host.write(object(), before);
  }

 private:
  [[nodiscard]] std::string value(const Host& host) const {
    const auto text = host.tree().read(object());
    if (!text) {
      throw Failure(
          ExitCode::preflight,
          "Cannot " + describe() + ": this kernel has no such file; type: ls " + object());
    }
    return *text;
  }

  Tunable which_;
};

}  // namespace

Step set_tunable(Tunable which) {
  return Step(std::make_shared<SetTunable>(which));
}

}  // namespace vmlaunch::launcher::steps
