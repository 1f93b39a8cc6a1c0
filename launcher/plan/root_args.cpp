#include <array>
#include <string_view>

#include "launcher/plan/arguments.hpp"

namespace vmlaunch::launcher::plan {

namespace {

/// Programs, libraries and data of any distribution, how libraries are found in them, and where
/// QEMU and its libraries count CPUs and memory.
constexpr std::array kShared = {"/usr",
                                "/bin",
                                "/sbin",
                                "/lib",
                                "/lib32",
                                "/lib64",
                                "/libx32",
                                "/nix/store",
                                "/gnu/store",
                                "/etc/ld.so.cache",
                                "/etc/alternatives",
                                "/etc/localtime",
                                "/sys/devices/system/cpu",
                                "/sys/devices/system/node"};

/// A QEMU of its own, as /opt/qemu/bin/qemu, has its libraries and firmware beside that: it looks
/// for them from its own place. What else is there, perhaps in a person's home, is none of it.
void share_installation(Arguments& args) {
  constexpr std::string_view kPrograms = "/bin";
  const std::string& binary = args.spec.qemu_binary;
  const std::string folder = binary.substr(0, binary.rfind('/'));
  if (!folder.ends_with(kPrograms) || folder == kPrograms || binary.starts_with("/usr/")) {
    return;
  }
  const std::string prefix = folder.substr(0, folder.size() - kPrograms.size());
  args.share(binary);
  for (const char* name : {"/lib", "/lib64", "/share/qemu"}) {
    args.share(prefix + name);
  }
}

}  // namespace

void share_devices(Arguments& args) {
  args.share("/sys");
  args.plan.qemu.root.hidden = {
      "/sys/firmware", "/sys/fs", "/sys/hypervisor", "/sys/kernel", "/sys/module", "/sys/power"};
}

void add_root(Arguments& args) {
  if (args.spec.sandbox == config::Sandbox::off) {
    args.plan.qemu.root.whole_host = true;
    args.plan.qemu.root.network = true;
    return;
  }
  for (const char* path : kShared) {
    args.share(path);
  }
  share_installation(args);
  if (!args.spec.extra_args.empty()) {
    args.need_network();  // whatever they are
  }
}

}  // namespace vmlaunch::launcher::plan
