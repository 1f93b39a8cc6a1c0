#include <linux/capability.h>

#include <chrono>
#include <ctime>
#include <memory>
#include <string>
#include <vector>

#include "launcher/steps/device_change.hpp"
#include "launcher/steps/holders.hpp"
#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using Clock = std::chrono::steady_clock;

constexpr std::chrono::milliseconds kPause{50};
constexpr int kQuietLooks = 4;
constexpr std::chrono::seconds kNewsInterval{5};
constexpr base::Milliseconds kLongest = std::chrono::hours(1000);

void pause() {
  const timespec time{0, std::chrono::nanoseconds(kPause).count()};
  ::nanosleep(&time, nullptr);
}

/// What a wait tells: anew when the holders change, and from time to time.
class News {
 public:
  const std::string& text(const std::vector<Holder>& holders, Clock::time_point end) {
    const auto now = Clock::now();
    const std::string names = names_of(holders);
    if (names != names_ || now >= next_) {
      names_ = names;
      next_ = now + kNewsInterval;
      const auto left = std::chrono::ceil<std::chrono::seconds>(end - now).count();
      text_ = "waiting for " + names + " to close " + nodes_held(holders) + ", " +
              std::to_string(left) + "s left";
    }
    return text_;
  }

 private:
  std::string names_;
  std::string text_;
  Clock::time_point next_;
};

/// Waits until no process has a device open any more: an unbind under an open node sleeps in the
/// kernel, or takes the driver with it. Comes when the device is reserved for vfio-pci, so that
/// nobody can take it up anew.
class AwaitRelease final : public DeviceChange {
 public:
  AwaitRelease(const base::PciAddress& device, base::Milliseconds limit)
      : DeviceChange(device), limit_(limit) {}

  const char* kind() const override { return "await-release"; }
  std::vector<int> capabilities() const override { return {CAP_SYS_PTRACE}; }

  Step read(Fields& fields) const override {
    const base::PciAddress device = read_address(fields, "device");
    const auto limit = fields.number("limit_ms", 0, static_cast<std::uint64_t>(kLongest.count()));
    return await_release(device, base::Milliseconds(limit));
  }
  void write(Json& json) const override {
    DeviceChange::write(json);
    json["limit_ms"] = static_cast<std::uint64_t>(limit_.count());
  }

  std::string describe() const override {
    return "wait until nobody has " + base::to_string(device()) + " open, at most " +
           base::to_string(limit_);
  }
  std::string describe_undo() const override { return "nothing to undo"; }

  Json capture(const Host& /*host*/, const Context& /*context*/) const override {
    return Json::object();
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    const auto end = Clock::now() + limit_;
    News news;
    std::vector<Holder> holders = host.holders(device());
    // Some programs close a node and open it again: it counts as closed when it has stayed so.
    for (int free = holders.empty() ? kQuietLooks : 0; free < kQuietLooks;) {
      if (!holders.empty()) {
        if (Clock::now() >= end) {
          refuse_held(device(), holders);
        }
        context.waiting(news.text(holders, end));
      }
      pause();
      holders = host.holders(device());
      free = holders.empty() ? free + 1 : 0;
    }
  }

  void undo(Host& /*host*/, const Json& /*found*/) const override {}

 private:
  base::Milliseconds limit_;
};

}  // namespace

Step await_release(const base::PciAddress& device, base::Milliseconds limit) {
  return Step(std::make_shared<AwaitRelease>(device, limit));
}

}  // namespace vmlaunch::launcher::steps
