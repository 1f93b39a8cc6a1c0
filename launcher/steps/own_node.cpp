#include "launcher/steps/own_node.hpp"

#include <chrono>
#include <ctime>

#include "launcher/steps/pci_paths.hpp"

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

}  // namespace

OwnNode OwnNode::read(Fields& fields) {
  return {static_cast<unsigned>(fields.number("group", 0, INT32_MAX))};
}

void OwnNode::write(Json& json) const {
  json["group"] = group;
}

std::string OwnNode::describe() const {
  return "let QEMU's user alone open " + node_of(group);
}

std::string OwnNode::describe_undo() const {
  return "its owner and mode as they were";
}

std::string OwnNode::object() const {
  return node_of(group);
}

void OwnNode::check(const Host& /*host*/) const {}

Json OwnNode::capture(const Host& host, const Context& context) const {
  wait_for_udev(host);
  const auto owner = host.owner(node_of(group));
  if (!owner) {
    throw Failure(ExitCode::failed,
                  "Cannot find " + node_of(group) +
                      ", which belongs to a bound IOMMU group; type: ls -l /dev/vfio");
  }
  return {
      {"uid", owner->uid}, {"gid", owner->gid}, {"mode", owner->mode}, {"to", context.qemu.uid}};
}

void OwnNode::apply(Host& host,
                    const Context& context,
                    const Json& /*found*/,
                    const Note& /*note*/) const {
  host.set_owner(node_of(group), {context.qemu.uid, context.qemu.gid, kOwnerOnly});
}

void OwnNode::undo(Host& host, const Json& found) const {
  Fields fields(found);
  const Owner before{static_cast<uid_t>(fields.number("uid", 0, UINT32_MAX)),
                     static_cast<gid_t>(fields.number("gid", 0, UINT32_MAX)),
                     static_cast<mode_t>(fields.number("mode", 0, 07777))};
  const auto to = static_cast<uid_t>(fields.number("to", 0, UINT32_MAX));
  const auto now = host.owner(node_of(group));
  if (!now || *now == before) {
    return;  // it goes with the last device of the group
  }
  if (now->uid != to && now->uid != before.uid) {
    throw ChangedMeanwhile(node_of(group) + " belongs to uid " + std::to_string(now->uid) +
                           ", belonged to uid " + std::to_string(before.uid));
  }
  host.set_owner(node_of(group), before);
}

}  // namespace vmlaunch::launcher::steps
