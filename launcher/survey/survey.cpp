#include "launcher/survey/survey.hpp"

#include <fcntl.h>
#include <grp.h>
#include <sched.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cstdlib>
#include <vector>

#include "base/text.hpp"
#include "launcher/survey/cgroup.hpp"
#include "launcher/survey/kernel.hpp"

namespace vmlaunch::launcher::survey {

namespace {

std::optional<Uefi> find_uefi(const base::Tree& tree) {
  for (const auto& [code, vars] : kUefiBuilds) {
    if (tree.exists(code) && tree.exists(vars)) {
      return Uefi{code, vars};
    }
  }
  return std::nullopt;
}

void look_at_devices(const base::Tree& tree, Survey& survey) {
  survey.pci = look_at_pci(tree);
  survey.screen = look_at_screen(tree, survey.pci);
  for (const std::string& name : tree.list("/dev/vfio")) {
    const auto group = base::parse_number<unsigned>(name);
    if (group && ::access(tree.path_of("/dev/vfio/" + name).c_str(), R_OK | W_OK) == 0) {
      survey.open_groups.insert(*group);
    }
  }
}

void look_at_usb_devices(const base::Tree& tree, Survey& survey) {
  Reader reader(tree);
  survey.usb = look_at_usb(reader, UsbNames::left_out);
  for (const UsbBus& bus : survey.usb.buses) {
    for (const UsbDevice& device : bus.devices) {
      if (::access(tree.path_of("/dev/" + device.node()).c_str(), R_OK | W_OK) == 0) {
        survey.open_usb.insert(device.name());
      }
    }
  }
}

NamespaceLimits find_namespace_limits(const base::Tree& tree) {
  const auto is = [&](const char* name, const char* value) {
    return tree.read(std::string("/proc/sys/") + name) == value;
  };
  return {is("kernel/apparmor_restrict_unprivileged_userns", "1"),
          is("kernel/unprivileged_userns_clone", "0"),
          is("user/max_user_namespaces", "0")};
}

/// DKMS puts it where distributions have modules of third parties.
bool has_vendor_reset_module(const base::Tree& tree) {
  if (tree.exists("/sys/module/vendor_reset")) {
    return true;
  }
  const std::string release = tree.read("/proc/sys/kernel/osrelease").value_or("");
  for (const char* folder : {"/updates/dkms", "/updates", "/extra"}) {
    for (const std::string& name : tree.list("/lib/modules/" + release + folder)) {
      if (name.starts_with("vendor-reset.ko")) {
        return true;
      }
    }
  }
  return false;
}

void look_at_resources(const base::Tree& tree,
                       const config::VmSpec& spec,
                       bool privileged,
                       Survey& survey) {
  Reader reader(tree);
  survey.namespaces = find_namespace_limits(tree);
  survey.cpu_vendor = reader.field("/proc/cpuinfo", "vendor_id").value_or("");
  if (spec.memory.hugepages || !spec.memory.nodes.empty()) {
    survey.nodes = look_at_nodes(reader);
  }
  if (spec.cpu.pin.kind != config::Pin::Kind::none || spec.cpu.weight) {
    survey.host_cpus = look_at_cpus(reader);
    survey.realtime = look_at_realtime(tree);
    survey.cpuset = look_at_cpuset(tree, privileged);
    const CpuControl control = look_at_cpu_control(tree);
    survey.cpu_controllers = control.controllers;
    survey.partitions = control.partitions;
  }
  cpu_set_t cpus;
  if (::sched_getaffinity(0, sizeof cpus, &cpus) == 0) {
    survey.cpus = static_cast<unsigned>(CPU_COUNT(&cpus));
  }
  rlimit limit{};
  if (::getrlimit(RLIMIT_MEMLOCK, &limit) == 0) {
    survey.memlock_limit = limit.rlim_max;
  }
  for (const auto& [name, on] : spec.module_parameters) {
    if (const auto value = tree.read(parameter_file(name))) {
      survey.parameters[name] = *value == "Y";
    }
  }
}

/// Where a user's PulseAudio listens, or PipeWire in its place, and where the config says.
void look_for_sound(const base::Tree& tree, const config::VmSpec::Audio& audio, Survey& survey) {
  std::vector<std::string> candidates;
  for (const std::string& uid : tree.list("/run/user")) {
    candidates.push_back(sound_socket_of(uid));
  }
  if (audio.server) {
    candidates.push_back(*audio.server);
  }
  for (const std::string& path : candidates) {
    const auto node = tree.status(path);
    if (node ? S_ISSOCK(node->st_mode) : tree.is_hidden(path)) {
      survey.sound_servers.insert(path);
    }
  }
}

/// The group whose members may read and write a node; "" for none, and for root's.
std::string group_of(const struct stat& node) {
  constexpr mode_t kBoth = S_IRGRP | S_IWGRP;
  std::vector<char> buffer(65536);
  group entry{};
  group* found = nullptr;
  if (node.st_gid == 0 || (node.st_mode & kBoth) != kBoth ||
      ::getgrgid_r(node.st_gid, &entry, buffer.data(), buffer.size(), &found) != 0 ||
      found == nullptr) {
    return "";
  }
  return entry.gr_name;
}

/// Never waits: what is no file or disk is not opened.
bool begins_as_qcow2(const base::Tree& tree, const std::string& path, const struct stat& file) {
  if (!S_ISREG(file.st_mode) && !S_ISBLK(file.st_mode)) {
    return false;
  }
  const base::UniqueFd fd = tree.open(path, O_RDONLY | O_NONBLOCK | O_NOCTTY);
  std::array<char, kQcow2Magic.size()> head{};
  return fd && ::read(fd.get(), head.data(), head.size()) == static_cast<ssize_t>(head.size()) &&
         std::equal(head.begin(), head.end(), kQcow2Magic.begin());
}

void look_at_image(const base::Tree& tree, const config::VmSpec::Image& image, Survey& survey) {
  const auto file = tree.status(image.path);
  if (file && S_ISBLK(file->st_mode)) {
    survey.block_devices.insert(image.path);
  }
  if (file && image.format == config::DiskFormat::raw && begins_as_qcow2(tree, image.path, *file)) {
    survey.qcow2_heads.insert(image.path);
  }
}

void look_at_disks(const base::Tree& tree, const config::VmSpec& spec, Survey& survey) {
  for (const config::VmSpec::Disk& disk : spec.disks) {
    look_at_image(tree, disk, survey);
    for (const config::VmSpec::Image& image : disk.backing) {
      look_at_image(tree, image, survey);
    }
  }
}

}  // namespace

std::string sound_socket_of(const std::string& uid) {
  return "/run/user/" + uid + "/pulse/native";
}

Kvm look_at_kvm(const base::Tree& tree) {
  Kvm kvm;
  const auto node = tree.status("/dev/kvm");
  kvm.node = node.has_value();
  kvm.group = node ? group_of(*node) : "";
  kvm.usable_by_caller = ::access(tree.path_of("/dev/kvm").c_str(), R_OK | W_OK) == 0;
  kvm.vendor_module = tree.exists("/sys/module/kvm_intel") || tree.exists("/sys/module/kvm_amd");
  kvm.pvm_module = tree.exists("/sys/module/kvm_pvm");
  return kvm;
}

/// Root's guardian opens it whatever it belongs to.
bool can_use(const base::Tree& tree, const std::string& node, bool privileged) {
  return ::access(tree.path_of(node).c_str(), privileged ? F_OK : R_OK | W_OK) == 0;
}

Survey look(const std::string& root, const config::VmSpec& spec, bool privileged) {
  Survey survey;
  const base::Tree tree(root);
  survey.cgroup = find_cgroup_parent(tree, privileged).has_value();
  if (spec.display.is_window()) {
    survey.window_server = look_for_window_server(tree, [](const char* name) {
      const char* value = std::getenv(name);
      return std::string(value != nullptr ? value : "");
    });
  }
  if (!spec.pci.empty()) {
    look_at_devices(tree, survey);
    survey.vendor_reset = has_vendor_reset_module(tree);
  }
  if (!spec.usb.empty()) {
    look_at_usb_devices(tree, survey);
  }
  if (!spec.pci.empty() || !spec.usb.empty()) {
    survey.uses = look_at_uses(tree);
  }
  look_at_resources(tree, spec, privileged, survey);
  if (spec.audio) {
    look_for_sound(tree, *spec.audio, survey);
  }
  if (spec.single_gpu || !spec.stop_units.empty()) {
    survey.session = look_at_session(tree);
  }
  survey.links = look_at_links(tree, spec.network);
  survey.vhost_net = can_use(tree, "/dev/vhost-net", privileged);
  survey.kvm = look_at_kvm(tree);
  survey.uefi = find_uefi(tree);
  if (spec.run_as) {
    survey.run_as = find_user(*spec.run_as);
  }
  look_at_disks(tree, spec, survey);
  return survey;
}

}  // namespace vmlaunch::launcher::survey
