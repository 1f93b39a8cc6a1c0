#include "launcher/run/guardian_unit.hpp"

#include <systemd/sd-daemon.h>
#include <unistd.h>

#include <algorithm>
#include <array>
#include <cerrno>
#include <chrono>
#include <filesystem>
#include <memory>
#include <string>
#include <system_error>
#include <vector>

#include "launcher/guardian/guardian.hpp"
#include "launcher/guardian/protocol.hpp"
#include "launcher/systemd/bus.hpp"

namespace vmlaunch::launcher::run {

namespace {

/// When the machine goes down: for the guest, which the supervisor shuts down then, and for all
/// that the guardian puts back after it.
constexpr std::chrono::microseconds kStopDeadline = std::chrono::minutes(10);

/// libsystemd returns negative error numbers.
void require(int result) {
  systemd::require(result, "ask systemd for the guardian");
}

/// The properties of a unit that is being described; their names are those of unit files.
class Properties {
 public:
  explicit Properties(sd_bus_message* message) : message_(message) {
    require(sd_bus_message_open_container(message_, 'a', "(sv)"));
  }
  void text(const char* name, const char* value) {
    require(sd_bus_message_append(message_, "(sv)", name, "s", value));
  }
  void descriptor(const char* name, int fd) {
    require(sd_bus_message_append(message_, "(sv)", name, "h", fd));
  }
  void flag(const char* name) { require(sd_bus_message_append(message_, "(sv)", name, "b", 1)); }
  void no_texts(const char* name) {
    require(sd_bus_message_append(message_, "(sv)", name, "as", 0));
  }
  void time(const char* name, std::chrono::microseconds value) {
    require(sd_bus_message_append(message_, "(sv)", name, "t", value.count()));
  }
  /// A program by its path, with its arguments behind its name.
  void command(const char* name, std::vector<std::string> arguments) {
    std::vector<char*> words;
    words.reserve(arguments.size() + 1);
    for (std::string& argument : arguments) {
      words.push_back(argument.data());
    }
    words.push_back(nullptr);
    require(sd_bus_message_open_container(message_, 'r', "sv"));
    require(sd_bus_message_append(message_, "s", name));
    require(sd_bus_message_open_container(message_, 'v', "a(sasb)"));
    require(sd_bus_message_open_container(message_, 'a', "(sasb)"));
    require(sd_bus_message_open_container(message_, 'r', "sasb"));
    require(sd_bus_message_append(message_, "s", words.front()));
    require(sd_bus_message_append_strv(message_, words.data()));
    require(sd_bus_message_append(message_, "b", 0));  // its failure is the unit's
    for (int container = 0; container < 4; ++container) {
      require(sd_bus_message_close_container(message_));
    }
  }
  void end() { require(sd_bus_message_close_container(message_)); }

 private:
  sd_bus_message* message_;
};

void describe_unit(sd_bus_message* message, const Identity& identity, int control) {
  const std::string program = std::filesystem::read_symlink("/proc/self/exe");
  Properties unit(message);
  unit.text("Description", "Host changes of a virtual machine (vmlaunch)");
  unit.text("Type", "exec");
  // Beside the slices: a VM's weight counts among those, and no cpuset of one limits it.
  unit.text("Slice", "-.slice");
  unit.command("ExecStart", {program, guardian::kVerb, guardian::encode(identity)});
  unit.command("ExecStopPost", {program, "recover", "--after-guardian"});
  unit.descriptor("StandardInputFileDescriptor", control);
  unit.text("StandardOutput", "null");
  unit.descriptor("StandardErrorFileDescriptor", STDERR_FILENO);
  // What is stuck in the kernel must not hold `recover` up; QEMU dies with the guardian.
  unit.text("KillMode", "process");
  unit.time("TimeoutStopUSec", kStopDeadline);
  // It ends with its run, and not by itself.
  unit.flag("RefuseManualStop");
  unit.flag("IgnoreOnIsolate");
  unit.text("CollectMode", "inactive-or-failed");
  // The cgroups below the unit's are the guardian's to make, which sets Delegate=yes. Each
  // controller that came with them would be turned on for other units too.
  unit.no_texts("DelegateControllers");
  unit.end();
}

/// No unit had it in this boot: process numbers come again, moments do not.
std::string unit_name() {
  const auto now = std::chrono::steady_clock::now().time_since_epoch();
  return "vmlaunch-guardian-" + std::to_string(::getpid()) + "-" + std::to_string(now.count()) +
         ".service";
}

/// A unit has those of process 1, and a run in another network or tree must not leave it.
bool shares_namespaces_with_systemd() {
  const std::array names = {"mnt", "net", "pid", "user", "ipc", "uts", "cgroup"};
  return std::all_of(names.begin(), names.end(), [](const std::string& name) {
    std::error_code error;
    return std::filesystem::read_symlink("/proc/self/ns/" + name, error) ==
           std::filesystem::read_symlink("/proc/1/ns/" + name, error);
  });
}

}  // namespace

bool can_start_unit(const Identity& identity) {
  return identity.privileged && sd_booted() > 0;
}

bool will_start_unit(const Identity& identity) {
  return can_start_unit(identity) && shares_namespaces_with_systemd();
}

void start_guardian_unit(const Identity& identity, int control) {
  if (!shares_namespaces_with_systemd()) {
    throw std::system_error(EXDEV, std::generic_category(), "it would leave this namespace");
  }
  const systemd::Bus bus = systemd::open_bus();
  sd_bus_message* raw = nullptr;
  require(sd_bus_message_new_method_call(bus.get(),
                                         &raw,
                                         systemd::kService,
                                         systemd::kManagerPath,
                                         systemd::kManager,
                                         "StartTransientUnit"));
  const systemd::Message call(raw, sd_bus_message_unref);
  require(sd_bus_message_append(raw, "ss", unit_name().c_str(), "fail"));
  describe_unit(raw, identity, control);
  require(sd_bus_message_append(raw, "a(sa(sv))", 0));  // no other units with it
  require(sd_bus_call(bus.get(), raw, 0, nullptr, nullptr));
}

}  // namespace vmlaunch::launcher::run
