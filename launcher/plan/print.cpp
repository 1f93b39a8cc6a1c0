#include <algorithm>

#include "base/text.hpp"
#include "launcher/plan/plan.hpp"
#include "launcher/steps/steps.hpp"
#include "sandbox/policy.hpp"
#include "sandbox/private_dev.hpp"

namespace vmlaunch::launcher::plan {

namespace {

using config::Json;

/// Under a name in QEMU's root folder, and not by descriptor.
bool has_name(const FileUse& file, const Root& root) {
  return file.reopened && !root.whole_host;
}

std::string describe(const FileUse& file, const Root& root) {
  std::string text = file.purpose + ": " + base::printable(file.path) + " (" +
                     to_string(file.access) + (file.direct ? ", past the page cache" : "") +
                     (has_name(file, root) ? ", seen as " + name_in_root(file.fd)
                                           : ", descriptor " + std::to_string(file.fd)) +
                     ")";
  switch (file.create) {
    case FileUse::Create::never:
      break;
    case FileUse::Create::empty:
      text += "; made if missing, and kept";
      break;
    case FileUse::Create::from_template:
      text += "; made from " + base::printable(file.template_path) + " if missing, and kept";
      break;
  }
  return text;
}

std::string describe(const QemuUser& user) {
  std::string text = user.name;
  if (user.credentials) {
    text += " (uid " + std::to_string(user.credentials->uid) + ", gid " +
            std::to_string(user.credentials->gid) + ")";
  }
  return text + "; no capabilities, no_new_privs";
}

/// As the IOMMU groups are now.
std::vector<std::string> nodes_of(const Plan& plan) {
  std::vector<std::string> nodes = plan.qemu.dev->nodes;
  for (const Group& group : plan.passthrough.groups) {
    if (group.given()) {
      nodes.push_back("vfio/" + std::to_string(group.number));
    }
  }
  if (plan.qemu.root.user_namespace && !plan.qemu.dev->usb.empty()) {
    nodes.emplace_back("bus/usb");
    return nodes;
  }
  for (const config::UsbRule& rule : plan.qemu.dev->usb) {
    nodes.push_back("bus/usb of " + to_string(rule));
  }
  return nodes;
}

std::string describe_dev(const Plan& plan) {
  if (!plan.qemu.dev) {
    return "the host's";
  }
  return base::join({sandbox::kCommonNodes.begin(), sandbox::kCommonNodes.end()}, " ") + " " +
         base::join(nodes_of(plan), " ") + (nodes_of(plan).empty() ? "" : " ") + "and nothing else";
}

/// Those that are not the host's.
std::vector<std::string> namespaces_of(const Qemu& qemu) {
  std::vector<std::string> namespaces;
  if (qemu.dev) {
    namespaces = {"mount", "ipc", "uts"};
    if (!qemu.root.network) {
      namespaces.emplace_back("network");
    }
    if (qemu.root.user_namespace) {
      namespaces.emplace_back("user");
    }
  }
  return namespaces;
}

std::vector<std::string> names_in_root(const Plan& plan) {
  std::vector<std::string> names;
  for (const FileUse& file : plan.files) {
    if (has_name(file, plan.qemu.root)) {
      names.push_back(name_in_root(file.fd));
    }
  }
  return names;
}

std::string describe_root(const Plan& plan) {
  const Root& root = plan.qemu.root;
  if (root.whole_host) {
    return "  sees all files of the host\n";
  }
  std::vector<std::string> seen = names_in_root(plan);
  seen.insert(seen.begin(), root.shared.begin(), root.shared.end());
  std::string text = "  sees, to read, what the host has of:\n";
  for (const std::string& path : seen) {
    text += "    " + base::printable(path) + "\n";
  }
  if (!root.hidden.empty()) {
    text += "    and nothing in " + base::join(root.hidden, " ") + "\n";
  }
  return text;
}

std::string describe_namespaces(const Qemu& qemu) {
  const std::vector<std::string> namespaces = namespaces_of(qemu);
  return namespaces.empty() ? "none" : base::join(namespaces, " ");
}

/// The program that the kernel gets, with 0 for QEMU's own number.
struct Program {
  std::size_t instructions;
  std::string fingerprint;
};

Program program_of(const Calls& calls) {
  constexpr std::size_t kInstruction = 8;  // bytes of a sock_filter
  const std::string bytes = filter_of(calls).program(0);
  return {bytes.size() / kInstruction, base::hex(base::fingerprint(bytes), 16)};
}

std::string describe(const Calls& calls) {
  if (calls.mode == config::Sandbox::off) {
    return "all";
  }
  std::string text = "those of " + std::string(sandbox::kBaseSection);
  for (const std::string& section : calls.sections) {
    text += ", " + section;
  }
  const Program program = program_of(calls);
  return text + (calls.mode == config::Sandbox::log ? "; others are told" : "; no others") +
         " (a filter of " + std::to_string(program.instructions) + " instructions, " +
         program.fingerprint + ")";
}

/// Nothing, for most.
std::string describe(const std::set<config::Hotplug>& hotplug) {
  const std::vector<std::string> names = names_of(hotplug);
  return names.empty() ? ""
                       : "  to plug in (" + base::join(names, ", ") +
                             "): those of the start again, at most " +
                             base::to_string(kHotplugLimit) + " at a time\n";
}

Json filter_json(const Calls& calls) {
  if (calls.mode == config::Sandbox::off) {
    return nullptr;
  }
  const Program program = program_of(calls);
  return {{"instructions", program.instructions}, {"fingerprint", program.fingerprint}};
}

/// One option with its value a line; what follows "\" in a shell.
std::string command_text(const Qemu& qemu) {
  std::string text = base::shell_quote(qemu.binary);
  for (const std::string& argument : qemu.arguments) {
    text += argument.starts_with('-') ? " \\\n    " : " ";
    text += base::shell_quote(argument);
  }
  return text;
}

/// Nothing without CPUs of its own.
Json placement_json(const Placement& placement) {
  if (!placement.pinned()) {
    return nullptr;
  }
  Json vcpus = Json::array();
  for (const base::CpuSet& cpus : placement.vcpus) {
    vcpus.push_back(base::to_string(cpus));
  }
  return {{"vcpus", vcpus},
          {"emulator", base::to_string(placement.rest)},
          {"policy", to_string(placement.policy)},
          {"priority", placement.priority},
          {"from", placement.from_start ? "start" : "started"},
          {"reason", placement.reason}};
}

/// All that a run changes: QEMU's start is the last, and asked for by itself. Where it is born
/// makes no difference to what is printed.
std::vector<steps::Step> changes_of(const Plan& plan) {
  std::vector<steps::Step> changes = plan.steps;
  changes.push_back(steps::start_qemu(false));
  return changes;
}

std::string ladder_text(const Deadlines& deadlines) {
  return "power button (again every " + base::to_string(deadlines.powerdown_again) + "), after " +
         base::to_string(deadlines.powerdown) + " quit, after " + base::to_string(deadlines.quit) +
         " SIGTERM, after " + base::to_string(deadlines.terminate) + " SIGKILL";
}

}  // namespace

const char* to_string(FileUse::Access access) {
  switch (access) {
    case FileUse::Access::read:
      return "read only";
    case FileUse::Access::read_write:
      return "read and write";
    case FileUse::Access::append:
      return "append";
  }
  return "";
}

const char* to_string(FileUse::Create create) {
  switch (create) {
    case FileUse::Create::never:
      return "never";
    case FileUse::Create::empty:
      return "empty";
    case FileUse::Create::from_template:
      return "from template";
  }
  return "";
}

std::string to_text(const Plan& plan) {
  std::string text = "VM " + plan.name + ", accelerator " + plan.accel + "\n";
  for (const std::string& warning : plan.warnings) {
    text += "warning: " + warning + "\n";
  }
  for (const Group& group : plan.passthrough.groups) {
    text += "\nIOMMU group " + std::to_string(group.number) + "\n";
    for (const GroupMember& member : group.members) {
      text += "  " + describe(member) + "\n";
    }
  }
  text += plan.passthrough.cards.empty() ? "" : "\nHow devices are reset, going by sysfs\n";
  for (const Card& card : plan.passthrough.cards) {
    text += "  " + describe(card) + "\n";
  }
  if (plan.placement.pinned()) {
    text += "\nCPUs\n";
    for (const std::string& line : plan.placement.picture) {
      text += "  " + line + "\n";
    }
  }
  text += plan.tuning.empty() ? "" : "\nWhat makes the guest fast\n";
  for (const std::string& line : plan.tuning) {
    text += "  " + line + "\n";
  }
  text += "\nChanges to the host, in this order; undone in reverse\n";
  const std::vector<steps::Step> changes = changes_of(plan);
  for (std::size_t i = 0; i < changes.size(); ++i) {
    text += "  " + std::to_string(i + 1) + ". " + changes[i]->describe() +
            "; undone: " + changes[i]->describe_undo() + "\n";
  }
  text += "\nFiles\n";
  for (const FileUse& file : plan.files) {
    text += "  " + describe(file, plan.qemu.root) + "\n";
  }
  text += plan.files.empty() ? "  none\n" : "";
  text += "\nQEMU runs as " + describe(plan.qemu.user) + "\n";
  text += describe_root(plan);
  text += "  its /dev: " + describe_dev(plan) + "\n";
  text += "  namespaces of its own: " + describe_namespaces(plan.qemu) + "\n";
  text += "  system calls: " + describe(plan.qemu.calls) + "\n";
  text += describe(plan.qemu.hotplug);
  if (plan.qemu.memlock) {
    text += "  may lock " + base::to_string(*plan.qemu.memlock) + " of memory\n";
  }
  text += "  environment: " + base::printable(base::join(plan.qemu.environment, " ")) + "\n";
  text += "  monitor on descriptor " + std::to_string(kQmpFd);
  text += plan.qemu.serial_stdio ? ", serial port on descriptor " + std::to_string(kSerialFd) + "\n"
                                 : "\n";
  text += "  " + command_text(plan.qemu) + "\n";
  text += "\nDeadlines\n  until QEMU greets, and then until it answers: " +
          base::to_string(plan.deadlines.handshake) + "\n";
  text += "  to stop: " + ladder_text(plan.deadlines) + "\n";
  return text + (plan.restarts
                     ? "\nA guest that reboots: QEMU is ended, devices are reset, and QEMU "
                       "is started anew\n"
                     : "");
}

Json resets_json(const std::vector<Card>& cards) {
  Json resets = Json::array();
  for (const Card& card : cards) {
    Json functions = Json::array();
    for (const base::PciAddress& function : card.functions) {
      functions.push_back(base::to_string(function));
    }
    resets.push_back({{"functions", functions},
                      {"reset", to_string(card.outlook.kind)},
                      {"obstacles", card.outlook.obstacles}});
  }
  return resets;
}

Json to_json(const Plan& plan) {
  Json files = Json::array();
  for (const FileUse& file : plan.files) {
    files.push_back(
        {{"purpose", file.purpose},
         {"path", file.path},
         {"access", to_string(file.access)},
         {"create", to_string(file.create)},
         {"template", file.template_path},
         {"direct", file.direct},
         {"descriptor", has_name(file, plan.qemu.root) ? Json(nullptr) : Json(file.fd)},
         {"seen_as",
          has_name(file, plan.qemu.root) ? Json(name_in_root(file.fd)) : Json(nullptr)}});
  }
  Json groups = Json::array();
  for (const Group& group : plan.passthrough.groups) {
    Json members = Json::array();
    for (const GroupMember& member : group.members) {
      members.push_back({{"address", base::to_string(member.address)},
                         {"verdict", to_string(member.verdict)},
                         {"driver", member.driver},
                         {"given", member.given}});
    }
    groups.push_back({{"number", group.number}, {"members", members}});
  }
  Json changes = Json::array();
  for (const steps::Step& step : changes_of(plan)) {
    changes.push_back({{"change", step->describe()}, {"undo", step->describe_undo()}});
  }
  const QemuUser& user = plan.qemu.user;
  Json qemu_user = {{"name", user.name}};
  if (user.credentials) {
    qemu_user["uid"] = user.credentials->uid;
    qemu_user["gid"] = user.credentials->gid;
  }
  return {{"name", plan.name},
          {"accel", plan.accel},
          {"warnings", plan.warnings},
          {"iommu_groups", groups},
          {"resets", resets_json(plan.passthrough.cards)},
          {"cpus", placement_json(plan.placement)},
          {"tuning", plan.tuning},
          {"restarts", plan.restarts},
          {"host_changes", changes},
          {"files", files},
          {"qemu",
           {{"binary", plan.qemu.binary},
            {"arguments", plan.qemu.arguments},
            {"environment", plan.qemu.environment},
            {"memlock", plan.qemu.memlock ? Json(plan.qemu.memlock->bytes) : Json(nullptr)},
            {"sandbox", to_string(plan.qemu.calls.mode)},
            {"system_calls", plan.qemu.calls.sections},
            {"filter", filter_json(plan.qemu.calls)},
            {"hotplug", names_of(plan.qemu.hotplug)},
            {"root",
             {{"whole_host", plan.qemu.root.whole_host},
              {"shared", plan.qemu.root.shared},
              {"hidden", plan.qemu.root.hidden},
              {"files", names_in_root(plan)}}},
            {"namespaces", namespaces_of(plan.qemu)},
            {"nodes", plan.qemu.dev ? Json(nodes_of(plan)) : Json(nullptr)},
            {"user", qemu_user}}},
          {"deadlines_ms",
           {{"handshake", plan.deadlines.handshake.count()},
            {"powerdown", plan.deadlines.powerdown.count()},
            {"quit", plan.deadlines.quit.count()},
            {"terminate", plan.deadlines.terminate.count()},
            {"kill", plan.deadlines.kill.count()}}}};
}

}  // namespace vmlaunch::launcher::plan
