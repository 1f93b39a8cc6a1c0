#include "launcher/plan/setup.hpp"

#include <algorithm>
#include <set>
#include <utility>

#include "base/text.hpp"
#include "launcher/exit_code.hpp"
#include "launcher/plan/host_steps.hpp"
#include "launcher/plan/memory.hpp"
#include "launcher/plan/passthrough.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Json;
using config::VmSpec;

/// What udev, PAM and systemd take without quotes.
bool is_plain(const std::string& name) {
  return config::is_vm_name(name);
}

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

std::string hex_ids(const survey::PciFunction& function) {
  return config::to_string(config::PciIds{function.vendor, function.device});
}

std::string name_of(const survey::PciFunction& function) {
  return base::to_string(function.address) + " (" + hex_ids(function) + ")";
}

std::vector<const survey::PciFunction*> taken_functions(const Draft& draft,
                                                        const Passthrough& passthrough) {
  std::vector<const survey::PciFunction*> taken;
  for (const Group& group : passthrough.groups) {
    for (const GroupMember& member : group.members) {
      const bool is_taken = member.verdict == Verdict::must_bind || member.verdict == Verdict::vfio;
      if (is_taken) {
        taken.push_back(draft.survey.pci.find(member.address));
      }
    }
  }
  return taken;
}

/// vfio-pci is told of ids, not of addresses: a twin that the host keeps would go too.
void tell_of_twins(Draft& draft, const std::vector<const survey::PciFunction*>& taken) {
  for (const survey::PciFunction& function : draft.survey.pci.functions) {
    const auto has = [&](auto same) { return std::any_of(taken.begin(), taken.end(), same); };
    const bool is_taken =
        has([&](const auto* other) { return other->address == function.address; });
    const bool is_twin =
        has([&](const auto* other) { return hex_ids(*other) == hex_ids(function); });
    if (is_twin && !is_taken) {
      draft.setup.missed.push_back(name_of(function) +
                                   " cannot be told from a device that the VM gets: vfio-pci takes "
                                   "it from the host too");
    }
  }
}

void devices(Draft& draft, const Passthrough& passthrough) {
  const auto taken = taken_functions(draft, passthrough);
  if (taken.empty() || draft.spec.single_gpu) {
    return;
  }
  std::set<std::string> ids;
  std::set<std::string> drivers;
  Setup::File modules{
      draft.file("/etc/modprobe.d", ".conf"),
      {"vfio-pci takes these at boot, before their drivers do; the host has them no "
       "more:"},
      {}};
  for (const survey::PciFunction* function : taken) {
    modules.reasons.push_back("  " + name_of(*function));
    ids.insert(hex_ids(*function));
    const std::string driver = function->driver.value_or("");
    if (!driver.empty() && driver != config::kVfioDriver && driver != config::kStubDriver) {
      drivers.insert(driver);
    }
  }
  modules.lines.push_back("options vfio-pci ids=" + base::join({ids.begin(), ids.end()}, ","));
  for (const std::string& driver : drivers) {
    modules.lines.push_back("softdep " + driver + " pre: vfio-pci");
  }
  draft.add(std::move(modules));
  draft.add({draft.file("/etc/modules-load.d", ".conf"),
             {"vfio-pci is loaded at boot, whether another driver is or not"},
             {"vfio-pci"}});
  draft.add({draft.file("/etc/udev/rules.d", "-vfio.rules"),
             {draft.user.name + " may open what vfio-pci has"},
             {"SUBSYSTEM==\"vfio\", KERNEL!=\"vfio\", OWNER=\"" + draft.user.name + "\""}});
  draft.then(
      "if command -v update-initramfs; then update-initramfs -u; "
      "elif command -v dracut; then dracut --force; fi",
      "drivers are loaded before the disk with these files can be read");
  tell_of_twins(draft, taken);
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

void locked_memory(Draft& draft, const Passthrough& passthrough) {
  const auto memlock = memlock_of(draft.spec, passthrough);
  if (!memlock) {
    return;
  }
  const std::string reason =
      draft.user.name + " may lock the guest's memory and a GiB for its devices";
  draft.add({draft.file("/etc/security/limits.d", ".conf"),
             {reason + ", in a login"},
             {draft.user.name + " - memlock " + std::to_string(memlock->bytes / base::kKiB)}});
  draft.add({draft.file("/etc/systemd/system/user@" + std::to_string(draft.user.credentials.uid) +
                            ".service.d",
                        ".conf"),
             {reason + ", in a service of the user's"},
             {"[Service]", "LimitMEMLOCK=" + std::to_string(memlock->bytes)}});
}

void cgroups(Draft& draft) {
  draft.add({draft.file("/etc/systemd/system/user@" + std::to_string(draft.user.credentials.uid) +
                            ".service.d",
                        "-delegate.conf"),
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
  const std::string name = "vmtap" + std::to_string(index);
  draft.add({draft.file("/etc/systemd/network", "-" + name + ".netdev"),
             {"a tap of " + draft.user.name +
              "'s, in the place of one that root makes: say { \"tap\": \"" + name +
              "\" } for { \"bridge\": \"" + nic.link + "\" } in the config"},
             {"[NetDev]",
              "Name=" + name,
              "Kind=tap",
              "[Tap]",
              "User=" + draft.user.name,
              "VNetHeader=yes"}});
  draft.add({draft.file("/etc/systemd/network", "-" + name + ".network"),
             {"the tap is a port of " + nic.link},
             {"[Match]", "Name=" + name, "[Network]", "Bridge=" + nic.link}});
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

/// A user's QEMU has its root folder in a user namespace.
void namespaces(Draft& draft, const std::string& program) {
  const std::string reason = "vmlaunch may make the user namespace that QEMU is confined in";
  const std::string sysctl = draft.file("/etc/sysctl.d", ".conf");
  switch (draft.survey.namespaces) {
    case survey::NamespaceLimit::none:
      return;
    case survey::NamespaceLimit::apparmor:
      draft.add({"/etc/apparmor.d/vmlaunch",
                 {reason},
                 {"abi <abi/4.0>,",
                  "include <tunables/global>",
                  "profile vmlaunch \"" + program + "\" flags=(unconfined) {",
                  "  userns,",
                  "}"}});
      return draft.then("apparmor_parser --replace /etc/apparmor.d/vmlaunch", "the same, at once");
    case survey::NamespaceLimit::forbidden:
      return draft.add({sysctl, {reason}, {"kernel.unprivileged_userns_clone = 1"}});
    case survey::NamespaceLimit::exhausted:
      return draft.add({sysctl, {reason}, {"user.max_user_namespaces = 16384"}});
  }
}

void what_root_alone_may(Draft& draft, const Passthrough& passthrough) {
  if (draft.spec.single_gpu) {
    draft.miss("single_gpu, which ends the desktop,");
  }
  if (!draft.spec.stop_units.empty()) {
    draft.miss("stop_units");
  }
  if (!passthrough.rescanned.empty()) {
    draft.miss("pci's rescan");
  }
}

}  // namespace

Setup make_setup(const VmSpec& spec,
                 const survey::Survey& survey,
                 const User& user,
                 const std::string& program) {
  if (!is_plain(user.name)) {
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
  std::string text = "# Gives " + setup.user + " what " + setup.vm +
                     " needs to run without root. Nothing is changed yet: when you agree,\n"
                     "# pipe this into \"sudo sh\", and boot. To take it back, remove the files.\n";
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
