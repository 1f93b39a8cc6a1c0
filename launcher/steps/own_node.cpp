#include <linux/capability.h>

#include <chrono>
#include <cstdint>
#include <ctime>
#include <memory>

#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

using std::chrono::steady_clock;

constexpr std::chrono::seconds kUdevDeadline{5};
constexpr mode_t kOwnerOnly = 0600;

std::string node_of(unsigned group) {
  return "/dev/vfio/" + std::to_string(group);
}

/// udev sets owner and mode of a new node when it comes to its event: not after us.
void wait_for_udev(const Host& host) {
  const auto until = steady_clock::now() + kUdevDeadline;
  while (host.tree().exists("/run/udev/queue") && steady_clock::now() < until) {
    const timespec pause{0, 5'000'000};
    ::nanosleep(&pause, nullptr);
  }
}

/// Gives QEMU's user the node of an IOMMU group.
class OwnNode final : public Change {
 public:
  explicit OwnNode(unsigned group) : group_(group) {}

  const char* kind() const override { return "own-node"; }
  int capability() const override { return CAP_CHOWN; }

  Step read(Fields& fields) const override {
    return own_node(static_cast<unsigned>(fields.number("group", 0, INT32_MAX)));
  }
  void write(Json& json) const override { json["group"] = group_; }

  std::string describe() const override { return "let QEMU's user alone open " + node_of(group_); }
  std::string describe_undo() const override { return "its owner and mode as they were"; }
  std::string object() const override { return node_of(group_); }

  Json capture(const Host& host, const Context& context) const override {
    wait_for_udev(host);
    const auto owner = host.owner(node_of(group_));
    if (!owner) {
      throw Failure(ExitCode::failed,
                    "Cannot find " + node_of(group_) +
                        ", which belongs to a bound IOMMU group; type: ls -l /dev/vfio");
    }
    return {
        {"uid", owner->uid}, {"gid", owner->gid}, {"mode", owner->mode}, {"to", context.qemu.uid}};
  }

  void apply(Host& host,
             const Context& context,
             const Json& /*found*/,
             const Note& /*note*/) const override {
    host.set_owner(node_of(group_), {context.qemu.uid, context.qemu.gid, kOwnerOnly});
  }

  void undo(Host& host, const Json& found) const override {
    Fields fields(found);
    const Owner before{static_cast<uid_t>(fields.number("uid", 0, UINT32_MAX)),
                       static_cast<gid_t>(fields.number("gid", 0, UINT32_MAX)),
                       static_cast<mode_t>(fields.number("mode", 0, 07777))};
    const auto to = static_cast<uid_t>(fields.number("to", 0, UINT32_MAX));
    const auto now = host.owner(node_of(group_));
    if (!now || *now == before) {
      return;  // it goes with the last device of the group
    }
    if (now->uid != to && now->uid != before.uid) {
      throw ChangedMeanwhile(node_of(group_) + " belongs to uid " + std::to_string(now->uid) +
                             ", belonged to uid " + std::to_string(before.uid));
    }
    host.set_owner(node_of(group_), before);
  }

 private:
  unsigned group_;
};

}  // namespace

Step own_node(unsigned group) {
  return Step(std::make_shared<OwnNode>(group));
}

}  // namespace vmlaunch::launcher::steps
