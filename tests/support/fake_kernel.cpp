#include "tests/support/fake_kernel.hpp"

#include <fcntl.h>

#include <filesystem>
#include <fstream>
#include <iterator>
#include <system_error>

#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::tests {

namespace {

namespace fs = std::filesystem;
using launcher::steps::Stuck;

constexpr const char* kDevices = "/sys/bus/pci/devices/";

[[noreturn]] void fail() {
  throw std::system_error(EIO, std::generic_category(), "a fault that the test made");
}

/// "0000:01:00.0" of a path below kDevices.
std::string address_of(const std::string& path) {
  const std::string rest = path.substr(std::string(kDevices).size());
  return rest.substr(0, rest.find('/'));
}

}  // namespace

template <typename Change>
void FakeKernel::meet(Change change) {
  const bool now = ++count_ == fail_at_;
  if (now && fault_ == Fault::fails) {
    fail();
  }
  if (now && fault_ == Fault::killed) {
    throw Killed{};
  }
  if (now && fault_ == Fault::stuck) {
    throw Stuck("Cannot do what the test asked: the kernel does not come back");
  }
  change();
  if (now && fault_ == Fault::fails_after) {
    fail();
  }
  if (now && fault_ == Fault::killed_after) {
    throw Killed{};
  }
}

void FakeKernel::write(const std::string& path, const std::string& value) {
  meet([&] {
    const std::string real =
        path.starts_with(kDevices)
            ? tree_.device(address_of(path)) +
                  path.substr(std::string(kDevices).size() + address_of(path).size())
            : path;
    tree_.write(real, (value.empty() ? "(null)" : value) + "\n");
  });
}

void FakeKernel::write_to_driver(const std::string& path, const std::string& value) {
  meet([&] { path.ends_with("/unbind") ? bind(value, "") : probe(value); });
}

void FakeKernel::probe(const std::string& address) {
  const std::string folder = kDevices + address;
  const std::string wanted = tree().read(folder + "/driver_override").value_or("");
  if (wanted != "(null)" && !tree().link_name(folder + "/driver") &&
      tree().exists("/sys/bus/pci/drivers/" + wanted)) {
    bind(address, wanted);
  }
}

/// A group has a node as long as vfio-pci has a device of it.
void FakeKernel::bind(const std::string& address, const std::string& driver) {
  tree_.bind(address, driver);
  const auto group = tree().link_name(kDevices + address + "/iommu_group");
  if (!group) {
    return;
  }
  const std::string members = "/sys/kernel/iommu_groups/" + *group + "/devices";
  bool has_vfio = false;
  for (const std::string& member : tree().list(members)) {
    has_vfio = has_vfio || tree().link_name(kDevices + member + "/driver") == "vfio-pci";
  }
  const std::string node = "/dev/vfio/" + *group;
  if (!has_vfio) {
    tree_.remove(node);
  } else if (!tree().exists(node)) {
    tree_.write(node, "");
  }
}

void FakeKernel::make_folder(const std::string& path) {
  meet([&] {
    tree_.write(path + "/cgroup.events", "populated 0\nfrozen 0\n");
    tree_.write(path + "/cgroup.procs", "");
  });
}

void FakeKernel::remove_folder(const std::string& path) {
  meet([&] { tree_.remove(path); });
}

base::UniqueFd FakeKernel::make_tap(const std::string& name,
                                    const std::string& /*bridge*/,
                                    const std::string& /*guest_mac*/) {
  return open_tap(name, false);
}

base::UniqueFd FakeKernel::open_tap(const std::string& /*name*/, bool /*multi_queue*/) {
  base::UniqueFd tap;
  meet([&] { tap = base::open_file("/dev/null", O_RDWR); });
  return tap;
}

void FakeKernel::add_macvtap(const std::string& name,
                             const std::string& /*link*/,
                             const std::string& mac) {
  meet([&] {
    const std::string index = std::to_string(++last_link_);
    tree_.write("/sys/class/net/" + name + "/ifindex", index + "\n");
    tree_.write("/sys/class/net/" + name + "/address", mac + "\n");
    tree_.folder("/sys/class/net/" + name + "/macvtap/tap" + index);
    tree_.write("/dev/tap" + index, "");
  });
}

void FakeKernel::remove_link(unsigned index) {
  meet([&] {
    for (const std::string& name : tree().list("/sys/class/net")) {
      if (tree().read("/sys/class/net/" + name + "/ifindex") == std::to_string(index)) {
        tree_.remove("/sys/class/net/" + name);
        tree_.remove("/dev/tap" + std::to_string(index));
      }
    }
  });
}

void FakeKernel::load_module(const std::string& name) {
  meet([&] {
    tree_.folder("/sys/bus/pci/drivers/" + name);
    tree_.folder("/sys/module/" + name);
  });
}

void add_system(PciTree& tree) {
  tree.write("/proc/self/mountinfo",
             "31 23 0:28 / /sys/fs/cgroup rw,relatime - cgroup2 cgroup2 rw\n");
  tree.write("/proc/self/cgroup", "0::/\n");
  tree.write("/sys/fs/cgroup/cgroup.procs", "");
  tree.folder("/lib/modules");
  tree.folder("/dev/vfio");
  tree.write("/dev/net/tun", "");
  tree.write("/dev/vhost-net", "");
  tree.write("/sys/class/net/br0/ifindex", "2\n");
  tree.write("/sys/class/net/enp3s0/ifindex", "3\n");
  // Loaded modules stay loaded: from the start, so that they are no difference.
  tree.folder("/sys/bus/pci/drivers/vfio-pci");
}

std::map<std::string, std::string> snapshot(const PciTree& tree) {
  std::map<std::string, std::string> all;
  for (const auto& entry : fs::recursive_directory_iterator(tree.root())) {
    const std::string path = entry.path().string().substr(tree.root().size());
    if (entry.is_symlink()) {
      all[path] = "-> " + fs::read_symlink(entry.path()).string();
    } else if (entry.is_regular_file()) {
      std::ifstream file(entry.path(), std::ios::binary);
      all[path] = std::string(std::istreambuf_iterator<char>(file), {});
    } else {
      all[path] = "folder";
    }
  }
  return all;
}

std::string difference(const std::map<std::string, std::string>& before,
                       const std::map<std::string, std::string>& after) {
  std::string text;
  for (const auto& [path, content] : before) {
    const auto now = after.find(path);
    if (now == after.end()) {
      text += path + " is gone\n";
    } else if (now->second != content) {
      text += base::join({path, ": \"", content, "\" became \"", now->second, "\"\n"}, "");
    }
  }
  for (const auto& [path, content] : after) {
    if (!before.contains(path)) {
      text += base::join({path, " is new: \"", content, "\"\n"}, "");
    }
  }
  return text;
}

}  // namespace vmlaunch::tests
