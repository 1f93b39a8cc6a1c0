#include "tests/component/vm.hpp"

#include <unistd.h>

#include <filesystem>
#include <sstream>
#include <stdexcept>

#include "base/file.hpp"
#include "base/text.hpp"

namespace vmlaunch::tests {

namespace {

/// Writes SLP_EN to the chipset's PM1 control register, which SeaBIOS puts at 0x604: soft off.
/// Boot code at 0x7c00: mov dx, 0x604; mov ax, 0x2000; out dx, ax; hlt.
std::string boot_sector() {
  std::string sector = {'\xba', '\x04', '\x06', '\xb8', '\x00', '\x20', '\xef', '\xf4'};
  sector.resize(510);
  sector += "\x55\xaa";
  sector.resize(std::size_t{1} << 20U);  // the firmware takes no disk without a cylinder
  return sector;
}

/// For kill(2) -1 is everybody.
pid_t some_process(pid_t pid) {
  if (pid <= 1) {
    throw std::runtime_error("there is no such process");
  }
  return pid;
}

/// One run has a VM's name at a time, and tests may run several VMs.
std::string own_name(const std::string& kind) {
  static int count = 0;
  return kind + "-" + std::to_string(::getpid()) + "-" + std::to_string(++count);
}

/// Texts of a file that each end with `end`.
std::vector<std::string> texts_of(const std::string& path, char end) {
  std::vector<std::string> texts = base::split(base::read_file(path), end);
  if (!texts.empty() && texts.back().empty()) {
    texts.pop_back();
  }
  return texts;
}

/// Target by name.
Json links_in(const std::string& folder) {
  Json links = Json::object();
  for (const auto& entry : std::filesystem::directory_iterator(folder)) {
    links[entry.path().filename().string()] = std::filesystem::read_symlink(entry.path()).string();
  }
  return links;
}

}  // namespace

Json probe_config(const std::vector<std::string>& words) {
  return {{"name", own_name("probe")},
          {"accel", "tcg"},
          {"qemu", {{"binary", PROBE_PROGRAM}, {"extra_args", words}}},
          {"stop", {{"timeout", "1s"}}}};
}

Json idle_config() {
  return {{"name", own_name("idle")},
          {"accel", "tcg"},
          {"memory", {{"size", "32M"}}},
          {"stop", {{"timeout", "1s"}}}};
}

Json brief_config(const Folder& folder) {
  folder.write("boot.img", boot_sector());
  return {{"name", own_name("brief")},
          {"accel", "tcg"},
          {"memory", {{"size", "32M"}}},
          {"disks", {{{"path", "boot.img"}, {"format", "raw"}}}}};
}

Json guest_config(const std::string& words) {
  return {{"name", own_name("guest")},
          {"accel", "auto"},
          {"cpu", {{"cores", 2}}},
          {"memory", {{"size", "256M"}}},
          {"kernel", GUEST_DIR "/vmlinux"},
          {"initrd", GUEST_DIR "/demo.cpio.gz"},
          {"append", "console=ttyS0 quiet panic=-1 " + words},
          {"serial", "stdio"}};
}

Launch command_of(const std::vector<std::string>& arguments) {
  Launch launch;
  launch.arguments = {VMLAUNCH_PROGRAM};
  launch.arguments.insert(launch.arguments.end(), arguments.begin(), arguments.end());
  return launch;
}

Launch run_of(const Folder& folder, const Json& config, const std::string& name) {
  return command_of({folder.write(name, config.dump(2))});
}

Json facts_of(pid_t pid) {
  const std::string place = "/proc/" + std::to_string(pid);
  std::string core_limit;
  Json facts = {{"status", Json::object()}, {"mounts", Json::object()}};
  for (const std::string& line : texts_of(place + "/status", '\n')) {
    const std::size_t value = line.find_first_not_of("\t ", line.find(':') + 1);
    facts["status"][line.substr(0, line.find(':'))] =
        value == std::string::npos ? "" : line.substr(value);
  }
  for (const std::string& line : texts_of(place + "/mountinfo", '\n')) {
    const std::vector<std::string> fields = base::split(line, ' ');
    facts["mounts"][fields.at(4)] = fields.at(5);
  }
  for (const std::string& line : texts_of(place + "/limits", '\n')) {
    const std::string name = "Max core file size";
    if (line.starts_with(name)) {
      std::istringstream words(line.substr(name.size()));
      words >> core_limit >> core_limit;  // the soft one, then the hard one
    }
  }
  facts["core"] = core_limit;
  facts["fds"] = links_in(place + "/fd");
  facts["namespaces"] = links_in(place + "/ns");
  facts["environment"] = texts_of(place + "/environ", '\0');
  facts["session_leader"] = ::getsid(pid) == pid;
  return facts;
}

pid_t qemu_pid(const Program& program) {
  return some_process(static_cast<pid_t>(program.number_after("paused: pid ")));
}

pid_t guardian_pid(const Program& program) {
  const auto children = children_of(program.pid());
  // Under systemd it is no child of the supervisor's, but still QEMU's parent.
  return some_process(children.size() == 1 ? children.front() : parent_of(qemu_pid(program)));
}

bool is_root() {
  return ::geteuid() == 0;
}

}  // namespace vmlaunch::tests
