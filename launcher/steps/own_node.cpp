#include <linux/capability.h>
#include <unistd.h>

#include <cstdint>
#include <memory>

#include "launcher/steps/steps.hpp"

namespace vmlaunch::launcher::steps {

namespace {

constexpr mode_t kOwnerOnly = 0600;

std::string node_of(unsigned group) {
  return "/dev/vfio/" + std::to_string(group);
}

std::string octal(mode_t mode) {
  std::string digits;
  for (const unsigned shift : {9U, 6U, 3U, 0U}) {
    digits += static_cast<char>('0' + (mode >> shift & 7U));
  }
  return digits;
}

/// "0:44 mode 0660"
std::string named(const Owner& owner) {
  return std::to_string(owner.uid) + ":" + std::to_string(owner.gid) + " mode " + octal(owner.mode);
}

std::string by_hand(const Owner& owner, const std::string& node) {
  return "chown " + std::to_string(owner.uid) + ":" + std::to_string(owner.gid) + " " + node +
         " && chmod " + octal(owner.mode) + " " + node;
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
    host.settle_udev();  // which sets them for a new node: not after us
    const auto owner = host.owner(node_of(group_));
    if (!owner) {
      throw Failure(ExitCode::failed,
                    "Cannot find " + node_of(group_) +
                        ", which belongs to a bound IOMMU group; type: ls -l /dev/vfio");
    }
    return {{"uid", owner->uid},
            {"gid", owner->gid},
            {"mode", owner->mode},
            {"to_uid", context.qemu.uid},
            {"to_gid", context.qemu.gid}};
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
    const Owner ours{static_cast<uid_t>(fields.number("to_uid", 0, UINT32_MAX)),
                     static_cast<gid_t>(fields.number("to_gid", 0, UINT32_MAX)),
                     kOwnerOnly};
    const auto now = host.owner(node_of(group_));
    if (!now || *now == before) {
      return;  // it goes with the last device of the group
    }
    // Cut off half-way it is ours, and has one part of each.
    const bool by_us =
        (now->uid == ours.uid || now->uid == before.uid || now->uid == ::geteuid()) &&
        (now->gid == ours.gid || now->gid == before.gid) &&
        (now->mode == ours.mode || now->mode == before.mode);
    if (!by_us) {
      throw ChangedMeanwhile(node_of(group_) + " is " + named(*now) + ", was " + named(before) +
                             "; type: " + by_hand(before, node_of(group_)));
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
