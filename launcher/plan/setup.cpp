#include "launcher/plan/setup.hpp"

#include <algorithm>
#include <string_view>
#include <utility>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/host_steps.hpp"
#include "launcher/plan/memory.hpp"
#include "launcher/plan/passthrough.hpp"
#include "launcher/plan/placement.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Json;
using config::VmSpec;

/// A setup while it grows.
struct Draft {
  const VmSpec& spec;
  const survey::Survey& survey;
  const User& user;
  Setup& setup;

  [[nodiscard]] std::string file(const std::string& folder, const std::string& ending) const {
    return folder + "/70-vmlaunch-" + spec.name + ending;
  }
  void add(Setup::File file) { setup.files.push_back(std::move(file)); }
  void then(const std::string& command, const std::string& reason) {
    setup.commands.push_back({command, reason});
  }
  void miss(const std::string& what) { setup.missed.push_back(what + " needs root at each start"); }
};

std::vector<GroupMember> taken_functions(const Group& group) {
  std::vector<GroupMember> taken;
  for (const GroupMember& member : group.members) {
    if (member.verdict == Verdict::must_bind || member.verdict == Verdict::vfio) {
      taken.push_back(member);
    }
  }
  return taken;
}

/// A number may be another group's after a change of the hardware: its devices tell it.
std::string rule_for_group(const base::PciAddress& member, const std::string& user) {
  return "SUBSYSTEM==\"vfio\", KERNEL==\"[0-9]*\", PROGRAM==\"/usr/bin/test -e "
         "/sys/kernel/iommu_groups/%k/devices/" +
         base::to_string(member) + "\", OWNER=\"" + user + "\"";
}

/// By address, since another device may have the same ids. The driver that loads for the device
/// does not match it then, and vfio-pci does.
void devices(Draft& draft, const Passthrough& passthrough) {
  Setup::File rules{
      draft.file("/etc/udev/rules.d", "-pci.rules"),
      {"vfio-pci takes these at boot in the place of their drivers, and " + draft.user.name +
           " may open their groups; the host",
       "has them no more. A driver that the initramfs loads comes before this rule: take it out of "
       "there."},
      {}};
  for (const Group& group : passthrough.groups) {
    const std::vector<GroupMember> taken = taken_functions(group);
    for (const GroupMember& member : taken) {
      rules.lines.push_back("ACTION==\"add\", SUBSYSTEM==\"pci\", KERNEL==\"" +
                            base::to_string(member.address) + "\", ATTR{driver_override}=\"" +
                            member.taker + "\", RUN{builtin}+=\"kmod load " + member.taker +
                            "\", RUN+=\"/bin/sh -c 'echo %k > /sys/bus/pci/drivers_probe'\"");
    }
    if (group.given() && !taken.empty()) {
      rules.lines.push_back(rule_for_group(taken.front().address, draft.user.name));
    }
  }
  if (!rules.lines.empty() && !draft.spec.single_gpu) {
    draft.add(std::move(rules));
  }
}

void usb(Draft& draft) {
  std::vector<std::string> lines;
  for (const VmSpec::Usb& entry : draft.spec.usb) {
    const std::string rule =
        "ACTION!=\"remove\", SUBSYSTEM==\"usb\", ENV{DEVTYPE}==\"usb_device\", ";
    const std::string owner = ", OWNER=\"" + draft.user.name + "\"";
    const std::string text = to_string(entry.device);
    if (std::holds_alternative<config::UsbIds>(entry.device)) {
      lines.push_back(rule + "ATTR{idVendor}==\"" + text.substr(0, 4) + "\", ATTR{idProduct}==\"" +
                      text.substr(5) + "\"" + owner);
    } else if (std::holds_alternative<config::UsbPort>(entry.device)) {
      lines.push_back(rule + "KERNEL==\"" + text + "\"" + owner);
    } else {
      draft.setup.missed.push_back("the USB device " + text +
                                   " has another number at each plugging in: name it by \"device\" "
                                   "or \"port\"");
    }
  }
  if (!lines.empty()) {
    draft.add({draft.file("/etc/udev/rules.d", "-usb.rules"),
               {draft.user.name + " may open these USB devices"},
               lines});
  }
}

/// Of the user's systemd.
std::string manager_folder(const Draft& draft) {
  return "/etc/systemd/system/user@" + std::to_string(draft.user.credentials.uid) + ".service.d";
}

void locked_memory(Draft& draft, const Passthrough& passthrough) {
  const auto memlock = memlock_of(draft.spec, passthrough);
  if (!memlock) {
    return;
  }
  // One file for all VMs, whose names' order must not decide.
  const std::string reason =
      draft.user.name +
      " may lock the guest's memory and a GiB for its devices (of several VMs "
      "the largest number is to stand here)";
  draft.add({"/etc/security/limits.d/70-vmlaunch-" + draft.user.name + ".conf",
             {reason + ", in a login"},
             {draft.user.name + " - memlock " + std::to_string(memlock->bytes / base::kKiB)}});
  draft.add({manager_folder(draft) + "/70-vmlaunch-memlock.conf",
             {reason + ", in a service of the user's"},
             {"[Service]", "LimitMEMLOCK=" + std::to_string(memlock->bytes)}});
}

/// As a run as root would do it that isolates nothing.
void real_time(Draft& draft, const Passthrough& passthrough) {
  std::vector<std::string> ignored;
  VmSpec::Cpu cpu = draft.spec.cpu;
  cpu.isolate.clear();
  cpu.weight.reset();
  const Placement placement = choose_placement(cpu, draft.survey, passthrough, true, ignored);
  if (!placement.realtime()) {
    return;
  }
  const std::string priority = std::to_string(placement.priority);
  const std::string reason = draft.user.name + " may run vCPUs in real time, up to this priority";
  draft.add({"/etc/security/limits.d/70-vmlaunch-" + draft.user.name + "-rtprio.conf",
             {reason + ", in a login"},
             {draft.user.name + " - rtprio " + priority}});
  draft.add({manager_folder(draft) + "/70-vmlaunch-rtprio.conf",
             {reason + ", in a service of the user's"},
             {"[Service]", "LimitRTPRIO=" + priority}});
  if (draft.survey.realtime.throttled) {
    draft.add({draft.file("/etc/sysctl.d", "-realtime.conf"),
               {"a busy vCPU is not stopped for a part of each second; nor is any other "
                "real-time thread of the host"},
               {"kernel.sched_rt_runtime_us = -1"}});
  }
}

void cgroups(Draft& draft) {
  draft.add({manager_folder(draft) + "/70-vmlaunch-delegate.conf",
             {"a VM in a service of " + draft.user.name +
              "'s has a cgroup of its own, with CPUs of its own"},
             {"[Service]", "Delegate=cpu cpuset io memory pids"}});
}

void huge_pages(Draft& draft, const Passthrough& passthrough) {
  const Memory memory = choose_memory(draft.spec.memory, draft.survey, passthrough, true);
  if (!memory.page) {
    return;
  }
  Setup::File file{draft.file("/etc/tmpfiles.d", ".conf"),
                   {"huge pages for the guest's " + base::to_string(draft.spec.memory.size) +
                    ": with several VMs, the sum of theirs"},
                   {}};
  for (std::size_t i = 0; i < memory.nodes.size(); ++i) {
    file.lines.push_back("w /sys/devices/system/node/node" + std::to_string(memory.nodes[i]) +
                         "/hugepages/hugepages-" + std::to_string(memory.page->bytes / base::kKiB) +
                         "kB/nr_hugepages - - - - " +
                         std::to_string(memory.pages_of(i, draft.spec.memory.size)));
  }
  draft.add(std::move(file));
}

void parameters(Draft& draft) {
  std::vector<std::string> lines;
  for (const auto& [name, on] : draft.spec.module_parameters) {
    const std::size_t dot = name.find('.');
    lines.push_back("options " + name.substr(0, dot) + " " + name.substr(dot + 1) + "=" +
                    (on ? "1" : "0"));
  }
  if (!lines.empty()) {
    draft.add({draft.file("/etc/modprobe.d", "-parameters.conf"),
               {"module parameters that the config asks for, for all VMs of the host"},
               lines});
  }
}

void tap(Draft& draft, const VmSpec::Nic& nic, std::size_t index) {
  // Another VM's has another one; the kernel takes 15 characters.
  const std::string name =
      "vm" + base::hex(base::fingerprint(draft.spec.name) >> 32U, 8) + "n" + std::to_string(index);
  draft.add(
      {draft.file("/etc/systemd/network", "-" + name + ".netdev"),
       {"a tap of " + draft.user.name +
            "'s in the place of one that root makes, where systemd-networkd runs; say",
        "{ \"tap\": \"" + name + "\" } for { \"bridge\": \"" + nic.link + "\" } in the config"},
       {"[NetDev]",
        "Name=" + name,
        "Kind=tap",
        "[Tap]",
        "User=" + draft.user.name,
        "VNetHeader=yes"}});
  draft.add({draft.file("/etc/systemd/network", "-" + name + ".network"),
             {"the tap is a port of " + nic.link},
             {"[Match]",
              "Name=" + name,
              "[Link]",
              "RequiredForOnline=no",
              "[Network]",
              "Bridge=" + nic.link}});
}

void network(Draft& draft) {
  const auto& nics = draft.spec.network;
  for (std::size_t i = 0; i < nics.size(); ++i) {
    if (nics[i].kind == config::NicKind::bridge) {
      tap(draft, nics[i], i);
    } else if (nics[i].kind == config::NicKind::macvtap) {
      draft.miss("a macvtap on " + nics[i].link);
    }
  }
}

/// The group is what udev of systemd gives kvm's and vhost's nodes to.
void kvm(Draft& draft) {
  if (draft.spec.accel != config::Accel::tcg) {
    draft.then("usermod --append --groups kvm " + draft.user.name,
               "whose members may open /dev/kvm and /dev/vhost-net");
  }
}

/// Whose content only root can change, and that a profile can name.
bool is_installed(const std::string& program) {
  const auto is_plain_character = [](char c) {
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') ||
           std::string_view("/._+-").find(c) != std::string_view::npos;
  };
  return (program.starts_with("/usr/") || program.starts_with("/opt/")) &&
         std::all_of(program.begin(), program.end(), is_plain_character);
}

void apparmor(Draft& draft, const std::string& program) {
  if (!is_installed(program)) {
    draft.setup.missed.push_back(
        "AppArmor lets only programs with a profile make user namespaces, "
        "and only one in /usr or /opt can have it: install vmlaunch first");
    return;
  }
  draft.add({"/etc/apparmor.d/vmlaunch",
             {"vmlaunch may make the user namespace that QEMU is confined in"},
             {"abi <abi/4.0>,",
              "include <tunables/global>",
              "profile vmlaunch " + program + " flags=(unconfined) {",
              "  userns,",
              "}"}});
  draft.then("apparmor_parser --replace /etc/apparmor.d/vmlaunch", "the same, at once");
}

/// A user's QEMU has its root folder in a user namespace.
void namespaces(Draft& draft, const std::string& program) {
  const survey::NamespaceLimits& limits = draft.survey.namespaces;
  std::vector<std::string> lines;
  if (limits.forbidden) {
    lines.emplace_back("kernel.unprivileged_userns_clone = 1");
  }
  if (limits.exhausted) {
    lines.emplace_back("user.max_user_namespaces = 16384");
  }
  if (!lines.empty()) {
    draft.add({draft.file("/etc/sysctl.d", ".conf"),
               {"vmlaunch may make the user namespace that QEMU is confined in"},
               lines});
  }
  if (limits.apparmor) {
    apparmor(draft, program);
  }
}

void what_root_alone_may(Draft& draft, const Passthrough& passthrough) {
  for (const std::string& disk : draft.survey.block_devices) {
    draft.miss("the disk " + disk + ", unless a rule of yours lets " + draft.user.name +
               " open it,");
  }
  if (draft.spec.run_as && *draft.spec.run_as != draft.user.name &&
      *draft.spec.run_as != std::to_string(draft.user.credentials.uid)) {
    draft.miss("run_as of somebody else");
  }
  if (draft.spec.single_gpu) {
    draft.miss("single_gpu, which ends the desktop,");
  }
  if (!draft.spec.stop_units.empty()) {
    draft.miss("stop_units");
  }
  if (!passthrough.rescanned.empty()) {
    draft.miss("pci's rescan");
  }
  if (!draft.spec.cpu.isolate.empty()) {
    draft.miss("cpu.isolate, which is about what the whole host does,");
  }
  if (!draft.spec.cpu.halt_polling) {
    draft.miss("cpu.halt_polling");
  }
  if (draft.spec.cpu.weight) {
    draft.miss("cpu.weight");
  }
}

}  // namespace

Setup make_setup(const VmSpec& spec,
                 const survey::Survey& survey,
                 const User& user,
                 const std::string& program) {
  // What udev, PAM and systemd take without quotes.
  if (!config::is_vm_name(user.name)) {
    throw Failure(ExitCode::preflight,
                  "Cannot write rules for " + base::printable(user.name) +
                      ": the name does not fit into them; type: vmlaunch --as USER setup FILE");
  }
  Setup setup{spec.name, user.name, {}, {}, {}};
  Draft draft{spec, survey, user, setup};
  const Passthrough passthrough = choose_devices(spec, survey);
  devices(draft, passthrough);
  usb(draft);
  locked_memory(draft, passthrough);
  real_time(draft, passthrough);
  cgroups(draft);
  huge_pages(draft, passthrough);
  parameters(draft);
  network(draft);
  kvm(draft);
  namespaces(draft, program);
  what_root_alone_may(draft, passthrough);
  draft.then("systemctl daemon-reload; udevadm control --reload",
             "the rest is there after the next boot");
  return setup;
}

std::string to_text(const Setup& setup) {
  std::string text =
      "# Gives " + setup.user + " what " + setup.vm +
      " needs to run without root. Nothing is changed yet: when you agree,\n"
      "# pipe this into \"sudo sh\", and boot. To take it back, remove the files and\n"
      "# the user from the group, and boot.\nset -e\n";
  for (const std::string& line : setup.missed) {
    text += "\n# Not to be had: " + base::printable(line) + "\n";
  }
  for (const Setup::File& file : setup.files) {
    text += "\n# " + base::join(file.reasons, "\n# ") + "\n";
    text += "mkdir -p " + file.path.substr(0, file.path.rfind('/')) + "\n";
    text += "cat > " + file.path + " << 'END'\n" + base::join(file.lines, "\n") + "\nEND\n";
  }
  for (const Setup::Command& command : setup.commands) {
    text += "\n# " + command.reason + "\n" + command.text + "\n";
  }
  return text;
}

Json to_json(const Setup& setup) {
  Json files = Json::array();
  for (const Setup::File& file : setup.files) {
    files.push_back({{"path", file.path},
                     {"reason", base::join(file.reasons, "\n")},
                     {"content", base::join(file.lines, "\n") + "\n"}});
  }
  Json commands = Json::array();
  for (const Setup::Command& command : setup.commands) {
    commands.push_back({{"command", command.text}, {"reason", command.reason}});
  }
  return {{"name", setup.vm},
          {"user", setup.user},
          {"files", files},
          {"commands", commands},
          {"missed", setup.missed}};
}

}  // namespace vmlaunch::launcher::plan
